"""Why a worker could not start, left in staging for the launch to say: some engines report only that a worker is missing."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator

from transforms.storage import files, paths

PREFIX = "cause-"


@contextlib.contextmanager
def kept(folder: str) -> Iterator[None]:
    """Write what ends the block into ``folder``, and raise it again."""
    try:
        yield
    except Exception as error:  # whatever keeps a worker from starting
        text = str(error) or type(error).__name__
        with contextlib.suppress(Exception):  # the error counts, not that it could not be written down
            files.write_bytes(paths.join(folder, f"{PREFIX}{time.time_ns():020d}-{uuid.uuid4().hex}"), text.encode(errors="replace"))
        raise


def first(folder: str) -> str | None:
    """Return what the first worker that could not start wrote into ``folder``."""
    names = sorted(name for name in files.list_children(folder) if name.startswith(PREFIX))
    return files.read_bytes(paths.join(folder, names[0])).decode() if names else None
