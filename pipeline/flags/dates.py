"""``{date}`` in a flag's value: the day of the run, so that one scheduled launch serves every night.

``{date}`` is 2026-11-26, ``{date:%Y/%m/%d}`` as strftime writes it, ``{date-1}`` and ``{date-1:%Y%m%d}`` are the day before. Other braces
stay as they are.
"""

from __future__ import annotations

import datetime
import re
import zoneinfo

from transforms.specs.errors import SpecError

FILLED = ("model", "model_version", "model_map", "input", "input_query", "row_restriction", "output", "errors", "run_id")
UTC = zoneinfo.ZoneInfo("UTC")
DATE = re.compile(r"\{date([+-]\d{1,4})?(?::([^{}]*))?\}")
LOOKS_LIKE_ONE = re.compile(r"\{\s*date\b[^}]*\}?", re.IGNORECASE)
DIRECTIVES = "YmdyjHMSGVuUWaAbB%"


def read_zone(text: str) -> zoneinfo.ZoneInfo:
    """Read a time zone's name.

    Raises:
      ValueError: no zone has it.
    """
    try:
        return zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, OSError) as error:
        raise ValueError(text) from error


def moment(date: datetime.date | None, zone: datetime.tzinfo) -> datetime.datetime:
    """Return the moment whose day replaces ``{date}``: now in ``zone``, or the beginning of ``date``."""
    if date is None:
        return datetime.datetime.now(zone)
    return datetime.datetime.combine(date, datetime.time(), zone)


def fill(flag: str, text: str, at: datetime.datetime) -> str:
    """Replace the dates in ``text``, the value of ``flag``, by the day of ``at``.

    Raises:
      SpecError: a text in braces looks like a date but is none.
    """
    if flag not in FILLED:
        return text

    def write(match: re.Match[str]) -> str:
        days, form = int(match[1] or 0), match[2] if match[2] is not None else "%Y-%m-%d"
        wrong = [directive for directive in re.findall(r"%(.?)", form.replace("%%", "")) if directive not in DIRECTIVES or not directive]
        if wrong or "%" not in form:
            found = f"%{wrong[0]}" if wrong else "no directive"
            raise SpecError(flag, f"{match[0]} holds {found}; expected {{date:FORMAT}} with some of %{' %'.join(DIRECTIVES)}")
        return (at + datetime.timedelta(days)).strftime(form)

    filled = DATE.sub(write, text)
    rest = LOOKS_LIKE_ONE.search(DATE.sub("", text))
    if rest:
        raise SpecError(flag, f"{rest[0]} is no date; expected {{date}}, {{date:%Y/%m/%d}} or, days before, {{date-1}}")
    return filled
