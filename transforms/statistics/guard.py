"""The one guard around statistics, drift, report and notices: a failure there becomes a warning and never ends a run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from transforms.specs.manifest import Manifest, listed
from transforms.specs.messages import cut

LOG = logging.getLogger("nightshift")
LONGEST = 300
# What can fail, as the manifest's warnings name it.
STATISTICS, DRIFT, COMPARISON, EFFORT, REPORT, SUMMARY = "statistics", "drift", "comparison", "effort", "report", "summary"

# By name, the first reason why it could not be made completely.
Failures = dict[str, str]


@contextlib.contextmanager
def guarded(what: str, failures: Failures) -> Iterator[None]:
    """Turn any exception of the block into an entry ``what`` of ``failures``: predictions do not depend on the block."""
    try:
        yield
    except Exception as error:
        LOG.debug("%s failed", what, exc_info=True)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        failures.setdefault(what, cut(text, LONGEST))


def warnings(failures: Failures) -> list[str]:
    """Return ``failures`` as lines of the manifest's ``warnings``."""
    return [f"{what}: {text}" for what, text in sorted(failures.items())]


def warn(manifest: Manifest, failures: Failures) -> None:
    """Add to the manifest's ``warnings`` a line for each of ``failures`` that it does not have yet."""
    before = listed(manifest.warnings)
    lines = [line for line in warnings(failures) if line not in before]
    if lines:
        manifest.warnings = [*before, *lines]
