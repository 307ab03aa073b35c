"""The reason why a worker could not start, written into staging for the launch to report: some engines say only that one is missing."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator

from transforms.storage import files, paths

PREFIX = "cause-"


@contextlib.contextmanager
def recorded(folder: str) -> Iterator[None]:
    """Write the exception that ends the block into ``folder``, and raise it again."""
    try:
        yield
    except Exception as error:  # any reason that keeps a worker from starting
        text = str(error) or type(error).__name__
        with contextlib.suppress(Exception):  # the first error matters more than a failure to write it
            files.write_bytes(paths.join(folder, f"{PREFIX}{time.time_ns():020d}-{uuid.uuid4().hex}"), text.encode(errors="replace"))
        raise


def first_cause(folder: str) -> str | None:
    """Return the reason that the first worker which could not start wrote into ``folder``, or None."""
    names = sorted(name for name in files.list_children(folder) if name.startswith(PREFIX))
    return files.read_bytes(paths.join(folder, names[0])).decode() if names else None
