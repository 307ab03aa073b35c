"""A launch that was interrupted: a mark in its staging keeps it from publishing, also where an engine runs on."""

from __future__ import annotations

from transforms.specs.job import JobSpec
from transforms.specs.run import RunSpec
from transforms.storage import files, paths

MARK = "cancelled"


class CancelledError(Exception):
    """The launch was interrupted, and nothing of it may be published any more."""


def _mark_of(spec: JobSpec | RunSpec) -> str:
    return paths.join(spec.staging_in(spec.folder), MARK)


def mark(spec: JobSpec | RunSpec) -> None:
    """Keep this launch of ``spec`` from publishing.

    Raises:
      OSError, BeamIOError: the staging folder can't be written.
    """
    files.write_bytes(_mark_of(spec), b"")


def check(spec: JobSpec | RunSpec) -> None:
    """Refuse to publish a launch that was interrupted.

    An engine may be slow to cancel a job, or fail to, and a worker that was cut off works on.

    Raises:
      CancelledError: it was.
    """
    if files.exists(_mark_of(spec)):
        raise CancelledError(f"launch {spec.launch} of run {spec.run_id} was interrupted: it publishes nothing")
