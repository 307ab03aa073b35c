"""Fixtures that stand for all tests."""

import os

# oneDNN chooses its kernels by the processor, and their results differ by up to 0.001: expected values, which were computed on some
# machine, hold on all of them without it. Set before TensorFlow is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

pytest_plugins = ["gcp_fixtures", "saved_models"]
