"""Take staging folders away, all at once for those who still work in them."""

from __future__ import annotations

import contextlib
import os
import uuid

from transforms.specs.job import STAGING
from transforms.storage import files, paths

# How a folder is called while it goes; what a kill leaves of one goes with the next.
REMOVED = "removed-"


def remove(folder: str) -> None:
    """Remove ``folder``, which is a staging folder or lies in one, with all that it holds.

    On a disk it gets another name first. A worker of the launch may still be publishing from it, with a new folder in it that is built
    and about to change places with the output: with its files deleted one by one the output would become a folder of a few of them, or
    of none; without the whole folder the exchange fails, and nothing is changed.
    """
    if paths.is_remote(folder):
        files.delete_folder(folder)
        return
    folder = folder.rstrip("/")
    parent, _, below = folder.rpartition(f"/{STAGING}")
    staging = f"{parent}/{STAGING}"
    if below and os.path.isdir(folder):
        _remove_at_once(folder, staging)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(staging):
            if not below or name.startswith(REMOVED):
                _remove_at_once(os.path.join(staging, name), staging)
    if not below:
        files.delete_empty(staging, parent)


def _remove_at_once(path: str, staging: str) -> None:
    doomed = os.path.join(staging, f"{REMOVED}{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):
        os.rename(path, doomed)
        path = doomed
    files.delete_folder(path)
