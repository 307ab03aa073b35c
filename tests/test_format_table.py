"""The tables of docs/formats.md that say what each format can: every cell of them is tried, in a job of its own."""

from __future__ import annotations

import bz2
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from saved_models import Models
from tf_records import example, write_records

from pipeline.main import main
from transforms.formats.catalog import FORMATS
from transforms.specs.limits import DEFAULT_LIMITS, Limits

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "formats.md"
WORDS = {"yes": True, "no": False, "–": None}
ROWS = 600


def table(name: str) -> dict[tuple[str, str], bool | None]:
    """Gives the cells of a table of the document by format and feature; None where the feature means nothing."""
    (text,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    head, _, *rows = ([cell.strip() for cell in line.strip("|\n ").split("|")] for line in text.strip().splitlines())
    return {(row[0].strip("`"), feature): WORDS[cell] for row in rows for feature, cell in zip(head[1:], row[1:], strict=True)}


def predicted(output: Path | str) -> int | None:
    """How many rows a run predicted, all of what it read; None for one that was refused or failed a row."""
    manifest = Path(output) / "manifest.json"
    if not manifest.exists():
        return None
    report = json.loads(manifest.read_text())
    return report["counts"]["predicted"] if report["counts"]["failed"] == 0 else None


# --- in --------------------------------------------------------------------------------------------------------------------


class Source:
    """600 rows ``{"id": "k7", "x": …, "m": …}`` in a format; of one number, or of a list of two, and a model's name."""

    def __init__(self, format: str, folder: Path, request: pytest.FixtureRequest, models: Models) -> None:
        self.format, self.folder, self.request, self.models = format, folder, request, models
        self.extension = "txt" if format == "file-list" else next(iter(FORMATS[format].extensions), "") if format in FORMATS else ""

    def values(self, lists: bool) -> list[dict[str, Any]]:
        return [{"id": f"k{row}", "x": [row / 4, 1.0] if lists else row / 4, "m": "half_plus_two"} for row in range(ROWS)]

    def write(self, lists: bool = False) -> Path | str:
        """Gives the path of one file, or of a table."""
        rows = self.values(lists)
        columns = {name: pa.array([row[name] for row in rows]) for name in ("id", "x", "m")}
        path = self.folder / f"rows.{self.extension}"
        if self.format == "bigquery":
            service = self.request.getfixturevalue("bigquery")
            table: str = service.load(f"{service.make_dataset()}.rows", pa.table(columns))
            return table
        if self.format == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif self.format == "csv":
            path.write_text("id,x,m\n" + "".join(f"{row['id']},{json.dumps(row['x'])},{row['m']}\n" for row in rows))
        elif self.format == "tf-record":
            write_records(path, [example(**row) for row in rows])
        elif self.format == "parquet":
            pq.write_table(pa.table(columns), path, row_group_size=100)
        elif self.format == "avro":
            kind: Any = {"type": "array", "items": "double"} if lists else "double"
            fields = [{"name": name, "type": kind if name == "x" else "string"} for name in ("id", "x", "m")]
            schema = {"type": "record", "name": "Row", "fields": fields}
            with path.open("wb") as stream:
                fastavro.writer(stream, schema, rows, sync_interval=1000)
        elif self.format == "file-list":
            (self.folder / "files").mkdir(exist_ok=True)
            for row in range(ROWS):
                (self.folder / "files" / f"{row}.bin").write_bytes(b"a" * row)
            path.write_text("".join(f"{self.folder}/files/{row}.bin\n" for row in range(ROWS)))
        return path

    def run(
        self, source: Path | str, *flags: str, keyed: bool = True, output: str | None = None, model: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> int | None:  # fmt: skip
        """Gives how many rows a job on ``source`` predicted, or None."""
        output = output or str(self.folder / "out")
        if self.format == "file-list":
            flags = ("--input_format=file-list", *flags)
        elif keyed:
            flags = ("--key_field=id", *flags)
        name = "text_length" if self.format == "file-list" else "half_plus_two"
        main(["run", f"--model={model or self.models.get(name)}", f"--input={source}", f"--output={output}", *flags], limits)
        return predicted(output)


def is_cut(source: Source) -> bool | None:
    path = source.write()
    if isinstance(path, str):
        return None  # BigQuery cuts a table into streams, as many as it sees fit
    assert source.run(path, limits=Limits(split_bytes=path.stat().st_size // 4)) == ROWS
    return len(list((source.folder / "out").glob("prediction.results-*"))) > 1  # a shard a split


def is_decompressed(source: Source) -> bool | None:
    path = source.write()
    if isinstance(path, str):
        return None
    found = []
    for ending, compress in (("gz", gzip.compress), ("bz2", bz2.compress), ("zst", zstd.compress)):
        packed = path.with_name(f"{path.name}.{ending}")
        packed.write_bytes(compress(path.read_bytes()))
        found.append(source.run(packed, output=str(source.folder / f"out-{ending}")) == ROWS)
    assert len(set(found)) == 1
    return found[0]


def makes_keys(source: Source) -> bool | None:
    return source.run(source.write(), keyed=False) == ROWS


def passes_all_fields(source: Source) -> bool | None:
    if source.run(source.write(), "--passthrough_fields=*") != ROWS:
        return False
    (path,) = (source.folder / "out").glob("prediction.results-*")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return all("x" in row for row in rows)


def feeds_lists(source: Source) -> bool | None:
    if source.format == "file-list":
        return None
    return source.run(source.write(lists=True), model=source.models.get("open_length")) == ROWS


def mirrors(source: Source) -> bool | None:
    return source.run(source.write(), "--output_layout=mirror") == ROWS


def named_models(folder: Path, models: Models) -> str:
    """Gives ``--model`` for rows that name theirs in ``m``."""
    (folder / "models").mkdir()
    (folder / "models" / "half_plus_two").symlink_to(models.get("half_plus_two"))
    return f"{folder}/models/{{m}}"


def has_rows_that_name_models(source: Source) -> bool | None:
    return source.run(source.write(), "--model_field=m", model=named_models(source.folder, source.models)) == ROWS


def is_read_from_a_bucket(source: Source) -> bool | None:
    path = source.write()
    if isinstance(path, str):
        return None
    gcs = source.request.getfixturevalue("gcs")
    bucket = gcs.make_bucket()
    if source.format == "file-list":
        gcs.upload_folder(source.folder / "files", f"{bucket}/files")
        path.write_text(path.read_text().replace(str(source.folder), bucket))
    return source.run(gcs.write(f"{bucket}/in/{path.name}", path.read_bytes())) == ROWS


IN: dict[str, Callable[[Source], bool | None]] = {
    "a large one is cut": is_cut,
    "`.gz`, `.bz2`, `.zst`": is_decompressed,
    "keys made without `--key_field`": makes_keys,
    "`--passthrough_fields=*`": passes_all_fields,
    "inputs of lists": feeds_lists,
    "`--output_layout=mirror`": mirrors,
    "`--model_field`": has_rows_that_name_models,
    "`gs://`": is_read_from_a_bucket,
}


@pytest.mark.parametrize(("format", "feature"), list(table("formats in")))
def test_what_a_format_can_that_is_read(format: str, feature: str, tmp_path: Path, models: Models, request: pytest.FixtureRequest) -> None:
    assert IN[feature](Source(format, tmp_path, request, models)) is table("formats in")[format, feature]


def test_every_format_that_is_read_is_in_the_table() -> None:
    assert {format for format, _ in table("formats in")} == {"bigquery", *(name for name, format in FORMATS.items() if format.make_reader)}


# --- out -------------------------------------------------------------------------------------------------------------------


class Job:
    """Jobs that write one format: flags in, whether all rows were predicted out."""

    def __init__(self, format: str, folder: Path, request: pytest.FixtureRequest, models: Models) -> None:
        self.format, self.folder, self.request, self.models = format, folder, request, models

    def run(self, *flags: str, model: str | None = None, rows: list[dict[str, Any]] | None = None, output: str | None = None) -> bool:
        source = self.folder / "rows.jsonl"
        rows = rows or [{"id": f"k{row}", "x": row / 4, "m": "half_plus_two"} for row in range(ROWS)]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if self.format == "bigquery":
            service = self.request.getfixturevalue("bigquery")
            flags = (*flags, f"--temp_location={service.bucket}/{self.folder.name}")
            output = f"{service.make_dataset()}.predictions"
        else:
            flags = (*flags, f"--output_format={self.format}")
        output = output or str(self.folder / "out")
        model = model or self.models.get("half_plus_two")
        status = main(["run", f"--model={model}", f"--input={source}", "--key_field=id", f"--output={output}", *flags])
        return status == 0


LISTS = [{"id": f"k{row}", "x": [row / 4, 1.0]} for row in range(ROWS)]


def gives_lists(job: Job) -> bool | None:
    return job.run(model=job.models.get("open_length"), rows=LISTS)


def has_styles(job: Job) -> bool | None:
    return job.run("--output_style=vertex")


def is_mirrored(job: Job) -> bool | None:
    return job.run("--output_layout=mirror")


def gives_all_fields(job: Job) -> bool | None:
    return job.run("--passthrough_fields=*")


def takes_rows_that_name_models(job: Job) -> bool | None:
    return job.run("--model_field=m", model=named_models(job.folder, job.models))


def writes_to_a_bucket(job: Job) -> bool | None:
    if job.format == "bigquery":
        return None
    return job.run(output=f"{job.request.getfixturevalue('gcs').make_bucket()}/out")


OUT: dict[str, Callable[[Job], bool | None]] = {
    "outputs of lists": gives_lists,
    "`--output_style`": has_styles,
    "`--output_layout=mirror`": is_mirrored,
    "`--passthrough_fields=*`": gives_all_fields,
    "`--model_field`": takes_rows_that_name_models,
    "`gs://`": writes_to_a_bucket,
}


@pytest.mark.parametrize(("format", "feature"), list(table("formats out")))
def test_what_a_format_can_that_is_written(
    format: str, feature: str, tmp_path: Path, models: Models, request: pytest.FixtureRequest
) -> None:
    assert OUT[feature](Job(format, tmp_path, request, models)) is table("formats out")[format, feature]


def test_every_format_that_is_written_is_in_the_table() -> None:
    assert {format for format, _ in table("formats out")} == {"bigquery", *(name for name, format in FORMATS.items() if format.encoder)}
