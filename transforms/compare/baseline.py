"""The statistics of an earlier run, read to compare with."""

from __future__ import annotations

from typing import Any

from transforms.specs.errors import RefusedError
from transforms.specs.own_names import STATISTICS
from transforms.statistics import tf_metadata
from transforms.storage import files, paths


class BaselineError(RefusedError):
    """The baseline can't be read; the message says what was expected and found."""


def baseline_path(baseline: str) -> str:
    """Return the path of the baseline's file: ``baseline`` itself if it ends in ``.json``, else the file in that folder of a run."""
    return baseline if baseline.endswith(".json") else paths.join(baseline, STATISTICS)


def read_baseline(baseline: str) -> Any:
    """Read the statistics of an earlier run.

    Raises:
      BaselineError: the file does not exist, or holds something else.
    """
    path = baseline_path(baseline)
    if not files.exists(path):
        raise BaselineError(f"--baseline={baseline}: there is no {path}; give the folder of a run that wrote a report, or its {STATISTICS}")
    try:
        return tf_metadata.decode(files.read_bytes(path))
    except ValueError as error:
        raise BaselineError(f"--baseline={baseline}: {error}") from None
