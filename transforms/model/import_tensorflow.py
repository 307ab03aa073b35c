"""TensorFlow, imported when first needed: by one thread, without its log lines, and without Keras."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Iterator

_IMPORTING = threading.Lock()
# The last module that TensorFlow's own import imports, where Keras is installed.
_EAGER = "keras.src.optimizers"


def import_tensorflow() -> None:
    """Import TensorFlow without the lines that its libraries print while loading, which TF_CPP_MIN_LOG_LEVEL does not suppress.

    Threads that import parts of TensorFlow at once would see half-made modules: the first imports all of it, the others wait.
    """
    with _IMPORTING:
        if hasattr(sys.modules.get("tensorflow"), "saved_model"):
            return
        with _without_keras(), _quietly() if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3" else contextlib.nullcontext():
            import tensorflow  # noqa: F401


def import_keras() -> None:
    """Import the part of Keras that registers its classes with TensorFlow's loader of objects, if Keras is installed."""
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module(_EAGER)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """Prevent TensorFlow from importing Keras, a third of the import's time and no use to a graph; it can still be imported later."""
    if _EAGER in sys.modules:
        yield
        return
    sys.modules[_EAGER] = None  # type: ignore[assignment]  # makes its import fail, which TensorFlow tolerates
    try:
        yield
    finally:
        del sys.modules[_EAGER]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Discard what C++ libraries write to file descriptor 2."""
    sys.stderr.flush()
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
