"""Deletion of staging folders: all at once for a worker that still publishes from one."""

from __future__ import annotations

import contextlib
import os
import uuid

from transforms.specs.job import STAGING
from transforms.storage import files, paths

# How the name of a folder begins while it is deleted, as no run's id does; what a kill leaves of one is deleted with the next.
REMOVED = ".removed-"


def remove(folder: str) -> None:
    """Delete ``folder``, which is a staging folder or in one, with all that it holds.

    On a disk it is renamed first. A worker of the launch may still publish from it, with a new folder inside that is about to be
    exchanged for the output: if its files were deleted one by one, the output would become a folder with a few of them, or with none;
    without the folder the exchange fails and changes nothing.
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
