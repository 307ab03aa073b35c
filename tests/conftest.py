"""Fixtures and settings of all tests."""

import atexit
import os
import signal
import sys
from pathlib import Path

import pytest
import quick_beam
import side_by_side

# oneDNN chooses its kernels by the processor, and their results differ by up to 0.001: expected values, which were computed on some
# machine, hold on all of them without it. Set before TensorFlow is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# A shell's background starts with SIGINT ignored, and tests interrupt runs.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["gcp_fixtures", "saved_models"]


def pytest_collection_finish() -> None:
    if "apache_beam" in sys.modules:
        quick_beam.remember()


_claims = side_by_side.Claims(Path(os.environ[side_by_side.CLAIMS])) if side_by_side.CLAIMS in os.environ else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Leave out what a process beside this one runs: True says that the test is dealt with."""
    if _claims is None or _claims.is_ours(item.path):
        return None
    item.session._setupstate.teardown_exact(nextitem)  # of the tests before, what was kept for this one
    return True


@atexit.register
def _say_no_more() -> None:
    """Let pytest's summary be the last line: at its very end nanobind, which datasketches uses, lists hundreds of objects as leaked."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
