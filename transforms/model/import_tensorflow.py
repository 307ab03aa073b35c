"""TensorFlow, imported when it is first needed: by one thread, without noise, and without Keras."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Iterator

_IMPORTING = threading.Lock()
# What TensorFlow's own import ends with, where Keras is installed.
_EAGER = "keras.src.optimizers"


def import_tensorflow() -> None:
    """Imports TensorFlow, without what its libraries print as they are loaded (TF_CPP_MIN_LOG_LEVEL comes too late for that).

    A worker's threads that import parts of it at once find each other's halves: they wait here, the first imports the whole.
    """
    with _IMPORTING:
        if hasattr(sys.modules.get("tensorflow"), "saved_model"):
            return
        with _without_keras(), _quietly() if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3" else contextlib.nullcontext():
            import tensorflow  # noqa: F401


def import_keras() -> None:
    """Imports what of Keras registers its classes with TensorFlow's loader of objects, if Keras is there."""
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module(_EAGER)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """Keeps Keras from being imported with TensorFlow: a third of the time, and no use to a graph. Later it comes when it is asked for."""
    if _EAGER in sys.modules:
        yield
        return
    sys.modules[_EAGER] = None  # type: ignore[assignment]  # so that importing it fails, which TensorFlow allows for
    try:
        yield
    finally:
        del sys.modules[_EAGER]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
