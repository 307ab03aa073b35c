"""Which files of an output folder a run replaces or takes away, by their names."""

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
    """Return those of ``names`` that a run gives its files of ``kind``."""
    pattern = re.compile(re.escape(kind) + NUMBERED)
    return {name for name in names if pattern.fullmatch(name)}


def is_published(name: str) -> bool:
    """Return whether a run lists a file of this name, directly in its folder, in its manifest."""
    return PUBLISHED.fullmatch(name) is not None or LISTS.fullmatch(name) is not None or name in REPORT_FILES


def leaves_folder(name: str) -> bool:
    """Return whether a name, joined to a folder, would be elsewhere."""
    return not name or name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/"))
