"""``RESULTS.md``: one part a benchmark, so that each can be measured anew by itself."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
PARTS = ("rows", "scaling", "w4", "formats", "bigquery", "serve")
PACKAGES = ("apache-beam", "tensorflow", "numpy", "pyarrow", "msgspec")


def versions() -> str:
    """Gives date, machine and versions, as one line."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {packages}."


def read_parts(text: str) -> dict[str, str]:
    """Gives the parts of a RESULTS.md by name."""
    return dict(re.findall(r"<!-- begin (\w+) -->\n(.*?)<!-- end \1 -->\n", text, re.DOTALL))


def write_part(name: str, text: str) -> None:
    """Puts ``text`` in the place of part ``name``; the others stay as they were measured."""
    parts = read_parts(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    parts[name] = f"{text.rstrip()}\n\nMeasured {versions()}\n"
    body = "\n".join(f"<!-- begin {part} -->\n{parts[part]}<!-- end {part} -->\n" for part in PARTS if part in parts)
    RESULTS.write_text(f"# Results of `make bench`\n\n{body}", encoding="utf-8")
