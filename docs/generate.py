"""Write what the code itself knows: the tables of README.md and docs/, and the template's metadata; ``make docs``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.dataflow import template  # noqa: E402
from pipeline.flags.help import markdown_table  # noqa: E402
from transforms.formats.catalog import FORMATS, Format  # noqa: E402
from transforms.rows.codes import EXPLANATIONS  # noqa: E402


def codes_table() -> str:
    rows = [f"| `{code}` | {stage} | {text} |" for code, (stage, text) in EXPLANATIONS.items()]
    return "\n".join(["| code | stage | meaning |", "|---|---|---|", *rows])


def formats_table() -> str:
    """Return what ``FORMATS`` says of each format."""
    head = [
        "| format | extensions | first bytes | read | written | cut into ranges | types of fields | `--model_field` |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(_format_line(format) for format in FORMATS.values())])


def _format_line(format: Format) -> str:
    cut = ("unless it holds a quote" if format.is_uncut else "yes") if format.cuts else "no"
    types = "in the file" if format.field_types else "in each row's text" if format.types_rows else "the signature's"
    cells = (
        f"`{format.name}`",
        ", ".join(f"`.{extension}`" for extension in format.extensions) or "none: give `--input_format`",
        f"`{format.magic.decode('latin-1').encode('unicode_escape').decode()}`" if format.magic else "",
        _yes(format.make_reader is not None),
        _yes(format.encoder is not None),
        cut,
        types,
        _yes(format.keeps_rows),
    )
    return f"| {' | '.join(cells)} |"


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"


TABLES = {
    "README.md": {"flags": markdown_table},
    "docs/formats.md": {"formats": formats_table, "codes": codes_table},
}


def generate(name: str) -> str:
    """Return the text of file ``name`` with its tables as the code has them now."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for marker, table in TABLES[name].items():
        start, end = f"<!-- {marker}: written by make docs -->\n", f"<!-- end of {marker} -->"
        text, count = re.subn(f"({re.escape(start)}).*?({re.escape(end)})", lambda m: f"{m[1]}{table()}\n{m[2]}", text, flags=re.DOTALL)  # noqa: B023
        assert count == 1, f"{name} has no place for {marker}"
    return text


if __name__ == "__main__":
    for file in TABLES:
        (ROOT / file).write_text(generate(file), encoding="utf-8")
    (ROOT / template.METADATA).write_text(template.metadata_text(), encoding="utf-8")
