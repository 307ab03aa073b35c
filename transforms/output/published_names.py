"""Names of the files in an output folder that a run replaces or removes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from transforms.formats.catalog import SUFFIXES
from transforms.specs.own_names import COMPARISON, ERRORS, MODELS, REPORT, RESULTS, STATISTICS, STATS, TASKS

REPORT_FILES = (REPORT, STATISTICS)
NUMBERED = rf"-\d+-of-\d+({SUFFIXES})"
PUBLISHED = re.compile(rf"({'|'.join(map(re.escape, (RESULTS, ERRORS, STATS, COMPARISON)))}){NUMBERED}")
LISTS = re.compile(rf"({MODELS}|{TASKS})-\d+-of-\d+\.jsonl")


def of_kind(names: Iterable[str], kind: str) -> set[str]:
    """Return those of ``names`` that are names of a run's files of ``kind``, such as ``prediction.errors``."""
    pattern = re.compile(re.escape(kind) + NUMBERED)
    return {name for name in names if pattern.fullmatch(name)}


def is_published(name: str) -> bool:
    """Return whether ``name`` is one that a manifest lists for a file directly in its folder."""
    return PUBLISHED.fullmatch(name) is not None or LISTS.fullmatch(name) is not None or name in REPORT_FILES


def leaves_folder(name: str) -> bool:
    """Return whether ``name``, joined to a folder, leads out of it."""
    return not name or name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/"))
