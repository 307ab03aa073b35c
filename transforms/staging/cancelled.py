"""The mark of an interrupted launch: a file in its staging that keeps it from publishing, even where its engine runs on."""

from __future__ import annotations

from transforms.specs.errors import NightshiftError
from transforms.specs.run import RunSpec
from transforms.storage import files, paths

MARK = "cancelled"


class CancelledError(NightshiftError):
    """The launch was interrupted, so that it may publish nothing."""


def _mark_of(run: RunSpec) -> str:
    return paths.join(run.staging_in(run.folder), MARK)


def mark(run: RunSpec) -> None:
    """Keep this launch of ``run`` from publishing.

    Raises:
      OSError, BeamIOError: the staging folder can't be written.
    """
    files.write_bytes(_mark_of(run), b"")


def check(run: RunSpec) -> None:
    """Refuse to publish this launch of ``run`` if it was interrupted.

    An engine may be slow to cancel a job, or fail to, and a worker that lost its connection works on.

    Raises:
      CancelledError: the launch was interrupted.
    """
    if files.exists(_mark_of(run)):
        raise CancelledError(f"launch {run.launch} of run {run.run_id} was interrupted: it publishes nothing")
