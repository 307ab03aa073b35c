"""The names that the program gives files of its own in an output folder: no input's results and no task's output may have one."""

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
# Folders: unfinished files; what a run leaves for the next one; what a refused run has to say.
STATE = "_nightshift"
FOLDERS = (STAGING, STATE, "_refused")

# Whatever the extension: those of the formats that results are written in change from version to version.
_NUMBERED = "|".join(map(re.escape, (RESULTS, ERRORS, STATS, COMPARISON, MODELS, TASKS)))
OWN_FILE = re.compile(rf"({'|'.join(map(re.escape, (MANIFEST, SUCCESS, REPORT, STATISTICS)))})|({_NUMBERED})-\d+-of-\d+(\.\w+)?")


def is_own(path: str) -> bool:
    """Return whether ``path``, relative to an output folder, is or lies in what the program writes, replaces or deletes there."""
    first = path.lstrip("/").split("/")[0]
    return first in FOLDERS or OWN_FILE.fullmatch(first) is not None
