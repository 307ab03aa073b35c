"""The one guard around statistics, drift, report and notices: what fails there is said, and never ends a run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from transforms.specs.messages import cut

LOG = logging.getLogger("nightshift")
LONGEST = 300
# What can fail, as the manifest's warnings name it.
STATISTICS, DRIFT, COMPARISON, EFFORT, REPORT, SUMMARY = "statistics", "drift", "comparison", "effort", "report", "summary"

# The first reason why each of them could not be made, or not all of it.
Failures = dict[str, str]


@contextlib.contextmanager
def guarded(what: str, failures: Failures) -> Iterator[None]:
    """Turn whatever the block raises into an entry of ``failures``: rows that were predicted do not depend on it."""
    try:
        yield
    except Exception as error:
        LOG.debug("%s failed", what, exc_info=True)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        failures.setdefault(what, cut(text, LONGEST))


def warnings(failures: Failures) -> list[str]:
    """Return the failures as lines of a manifest."""
    return [f"{what}: {text}" for what, text in sorted(failures.items())]


def warn(report: dict[str, Any], failures: Failures) -> None:
    """Adds to the manifest's ``warnings`` a line for each of ``failures``, none of which it has already."""
    lines = [line for line in warnings(failures) if line not in report.get("warnings", ())]
    if lines:
        report["warnings"] = [*report.get("warnings", ()), *lines]
