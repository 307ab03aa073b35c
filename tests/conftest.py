"""Fixtures and settings of all tests."""

import atexit
import os
import signal
import sys
import tempfile

import quick_beam

# oneDNN chooses its kernels by the processor, and their results differ by up to 0.001: expected values, which were computed on some
# machine, hold on all of them without it. Set before TensorFlow is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# A shell's background starts with SIGINT ignored, and tests interrupt runs.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests look at what runs leave in the temporary folder, so each process of pytest-xdist has one of its own.
if "PYTEST_XDIST_WORKER" in os.environ:
    _temporary = tempfile.TemporaryDirectory(prefix="nightshift-tests-")
    os.environ["TMPDIR"] = tempfile.tempdir = _temporary.name

pytest_plugins = ["gcp_fixtures", "saved_models"]


def pytest_collection_finish() -> None:
    if "apache_beam" in sys.modules:
        quick_beam.remember()


@atexit.register
def _say_no_more() -> None:
    """Let pytest's summary be the last line: at its very end nanobind, which datasketches uses, lists hundreds of objects as leaked."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
