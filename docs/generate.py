"""Writes what the code itself knows: the tables of README.md and docs/, and the template's metadata; ``make docs``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.dataflow import template  # noqa: E402
from pipeline.flags.help import markdown_table  # noqa: E402
from transforms.rows.codes import EXPLANATIONS  # noqa: E402


def codes_table() -> str:
    rows = [f"| `{code}` | {stage} | {text} |" for code, (stage, text) in EXPLANATIONS.items()]
    return "\n".join(["| code | stage | meaning |", "|---|---|---|", *rows])


TABLES = {"README.md": ("flags", markdown_table), "docs/formats.md": ("codes", codes_table)}


def generate(name: str) -> str:
    """Gives the text of file ``name`` with its table as the code has it now."""
    marker, table = TABLES[name]
    text = (ROOT / name).read_text(encoding="utf-8")
    start, end = f"<!-- {marker}: written by make docs -->\n", f"<!-- end of {marker} -->"
    return re.sub(f"({re.escape(start)}).*?({re.escape(end)})", lambda m: f"{m[1]}{table()}\n{m[2]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    for file in TABLES:
        (ROOT / file).write_text(generate(file), encoding="utf-8")
    (ROOT / template.METADATA).write_text(template.metadata_text(), encoding="utf-8")
