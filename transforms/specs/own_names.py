"""The names of the program's own files in an output folder: no input's results and no task's output may have one."""

from __future__ import annotations

import re

from transforms.specs.job import STAGING

MANIFEST = "manifest.json"
SUCCESS = "_SUCCESS"
REPORT = "report.html"
STATISTICS = "statistics.json"
RESULTS = "prediction.results"
ERRORS = "prediction.errors"
STATS = "prediction.errors_stats"
COMPARISON = "prediction.comparison"
MODELS = "models"
TASKS = "tasks"
# Folders: unfinished files; a run's state for the next one; the files of a refused run.
STATE = "_nightshift"
FOLDERS = (STAGING, STATE, "_refused")

# Any extension, since versions of the program differ in the formats of results.
_NUMBERED = "|".join(map(re.escape, (RESULTS, ERRORS, STATS, COMPARISON, MODELS, TASKS)))
OWN_FILE = re.compile(rf"({'|'.join(map(re.escape, (MANIFEST, SUCCESS, REPORT, STATISTICS)))})|({_NUMBERED})-\d+-of-\d+(\.\w+)?")


def is_own(path: str) -> bool:
    """Return whether ``path``, relative to an output folder, is or lies in one that the program itself writes, replaces or deletes."""
    first = path.lstrip("/").split("/")[0]
    return first in FOLDERS or OWN_FILE.fullmatch(first) is not None
