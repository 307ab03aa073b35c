"""Fixtures that stand for all tests."""

pytest_plugins = ["gcp_fixtures", "saved_models"]
