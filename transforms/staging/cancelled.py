"""The mark of an interrupted launch: a file in its staging that keeps it from publishing, even where its engine runs on."""

from __future__ import annotations

from transforms.specs.errors import NightshiftError
from transforms.specs.job import JobSpec
from transforms.specs.run import RunSpec
from transforms.storage import files, paths

MARK = "cancelled"


class CancelledError(NightshiftError):
    """The launch was interrupted, so that it may publish nothing."""


def _mark_of(spec: JobSpec | RunSpec) -> str:
    return paths.join(spec.staging_in(spec.folder), MARK)


def mark(spec: JobSpec | RunSpec) -> None:
    """Keep the launch of ``spec`` from publishing.

    Raises:
      OSError, BeamIOError: the staging folder can't be written.
    """
    files.write_bytes(_mark_of(spec), b"")


def check(spec: JobSpec | RunSpec) -> None:
    """Refuse to publish the launch of ``spec`` if it was interrupted.

    An engine may be slow to cancel a job, or fail to, and a worker that lost its connection works on.

    Raises:
      CancelledError: the launch was interrupted.
    """
    if files.exists(_mark_of(spec)):
        raise CancelledError(f"launch {spec.launch} of run {spec.run_id} was interrupted: it publishes nothing")
