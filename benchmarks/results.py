"""``RESULTS.md``: one part a benchmark, so that each can be measured again by itself.

It holds what each benchmark measures with its defaults, which are what ``make bench`` runs. A run with other flags, such as ``--quick``, is
written to ``data/RESULTS-quick.md``.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "RESULTS.md"
QUICK_RESULTS = Path(__file__).parent / "data" / "RESULTS-quick.md"
PARTS = ("rows", "scaling", "w4", "formats", "bigquery", "serve")
PACKAGES = ("apache-beam", "tensorflow", "numpy", "pyarrow", "msgspec")


def versions() -> str:
    """Return date, machine and versions, as one line."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {packages}."


def read_parts(text: str) -> dict[str, str]:
    """Return the parts of a RESULTS.md by name."""
    return dict(re.findall(r"<!-- begin (\w+) -->\n(.*?)<!-- end \1 -->\n", text, re.DOTALL))


def parse_flags(
    parser: argparse.ArgumentParser, quick: Mapping[str, Any], argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, bool]:
    """Return a benchmark's flags, and whether they are the defaults: what ``RESULTS.md`` holds.

    Args:
      parser: the benchmark's own flags.
      quick: values of these that ``--quick`` gives them; a flag that is given wins.
    """
    parser.add_argument("--quick", action="store_true", help="a short run; RESULTS.md stays as it is")
    defaults = vars(parser.parse_args([]))
    if parser.parse_args(argv).quick:
        parser.set_defaults(**quick)
    flags = parser.parse_args(argv)
    return flags, vars(flags) == defaults


def write_part(name: str, text: str, whole: bool) -> Path:
    """Put ``text`` in the place of part ``name``; the others stay as they were measured. Return the file.

    Args:
      whole: it was measured with the defaults; else ``RESULTS.md`` is not touched.
    """
    file = RESULTS if whole else QUICK_RESULTS
    parts = read_parts(file.read_text(encoding="utf-8")) if file.exists() else {}
    parts[name] = f"{text.rstrip()}\n\nMeasured {versions()}\n"
    file.parent.mkdir(exist_ok=True)
    file.write_text(render(parts), encoding="utf-8")
    return file


def render(parts: Mapping[str, str]) -> str:
    """Return the text of a RESULTS.md that holds ``parts``."""
    body = "\n".join(f"<!-- begin {part} -->\n{parts[part]}<!-- end {part} -->\n" for part in PARTS if part in parts)
    return f"# Results of `make bench`\n\n{body}"
