"""Where predictions and failed rows go, and in what shape: a folder or a table, as frozen, checked values."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from transforms.specs.errors import SpecError, check_choice, check_names
from transforms.specs.table_name import TableName, parse_table

OUTPUT_FORMATS = ("jsonl", "parquet", "bigquery", "csv", "tf-record")
OUTPUT_STYLES = ("keyed", "vertex", "aiplatform", "raw")
OUTPUT_LAYOUTS = ("sharded", "mirror")
NAN_POLICIES = ("null", "string", "error")
CSV_FORMULAS = ("keep", "escape")
WRITE_DISPOSITIONS = ("truncate", "append", "empty")
OWN_FIELDS = {
    "keyed": ("key", "prediction"),
    "vertex": ("instance", "key", "prediction"),
    "aiplatform": (),
    "raw": (),
}


@dataclasses.dataclass(frozen=True)
class FolderOutput:
    """A folder of files in one format; failed rows go to ``errors_folder`` (None: the same folder)."""

    folder: str
    errors_folder: str | None = None
    format: str = "jsonl"
    style: str = "keyed"
    layout: str = "sharded"
    passthrough_fields: tuple[str, ...] = ()
    nan: str = "null"
    write_disposition: str = "truncate"
    csv_formulas: str = "keep"

    def __post_init__(self) -> None:
        if not self.folder:
            raise SpecError("output", "is empty; expected a folder")
        if self.format == "bigquery":
            raise SpecError("output_format", "'bigquery' needs a table: give --output=bq://project.dataset.table")
        if self.write_disposition == "append":
            raise SpecError("write_disposition", "'append' is for tables of BigQuery; a folder is replaced, or refused with 'empty'")
        check_choice("output_format", self.format, OUTPUT_FORMATS)
        check_choice("output_style", self.style, OUTPUT_STYLES)
        check_choice("output_layout", self.layout, OUTPUT_LAYOUTS)
        check_choice("csv_formulas", self.csv_formulas, CSV_FORMULAS)
        check_shape(self.format, self.style, self.csv_formulas)
        _check_common(self)

    @property
    def errors(self) -> str:
        """Return the folder of the failed rows."""
        return self.errors_folder or self.folder


@dataclasses.dataclass(frozen=True)
class TableOutput:
    """A table of BigQuery, ``bq://project.dataset.table``; failed rows go to a table beside it.

    ``folder`` stages the shards of both and keeps the manifest. ``create_dataset`` makes a dataset that does not exist, and the table is
    partitioned and clustered by the fields named.
    """

    format: ClassVar[str] = "bigquery"
    style: ClassVar[str] = "keyed"
    layout: ClassVar[str] = "sharded"

    table: str
    folder: str
    passthrough_fields: tuple[str, ...] = ()
    nan: str = "null"
    write_disposition: str = "truncate"
    create_dataset: bool = False
    partition_field: str | None = None
    cluster_fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            parse_table(self.table)
        except ValueError as error:
            raise SpecError("output", str(error)) from None
        check_names("cluster_fields", self.cluster_fields)
        if len(self.cluster_fields) > 4:
            raise SpecError("cluster_fields", f"names {len(self.cluster_fields)} fields; BigQuery takes 4 at most")
        _check_common(self)

    @property
    def name(self) -> TableName:
        """Return the table's name."""
        return parse_table(self.table)

    @property
    def errors_name(self) -> TableName:
        """Return the name of the failed rows' table."""
        return dataclasses.replace(self.name, table=f"{self.name.table}_errors")

    @property
    def errors(self) -> str:
        """Return the folder of the failed rows' shards."""
        return self.folder


OutputSpec = FolderOutput | TableOutput


def check_shape(format: str, style: str, csv_formulas: str) -> None:
    """Check that an output's format has a place for what shapes lines of JSON, or cells of CSV.

    Raises:
      SpecError: it has none.
    """
    if csv_formulas != "keep" and format != "csv":
        raise SpecError("csv_formulas", f"'{csv_formulas}' is for --output_format=csv, and the predictions go out as {format}")
    if style != "keyed" and format != "jsonl":
        raise SpecError("output_style", f"{style!r} shapes lines of JSON; --output_format={format} has columns: leave it out")


def _check_common(output: OutputSpec) -> None:
    passthrough = output.passthrough_fields
    check_choice("nan", output.nan, NAN_POLICIES)
    check_choice("write_disposition", output.write_disposition, WRITE_DISPOSITIONS)
    check_names("passthrough_fields", passthrough)
    if "*" in passthrough and len(passthrough) > 1:
        raise SpecError("passthrough_fields", "'*' already names all fields; give it alone")
    if "*" in passthrough and output.format != "jsonl":
        raise SpecError(
            "passthrough_fields", f"--output_format={output.format} has the same columns in every row, so '*' can't be; name the fields"
        )
    if output.style == "raw" and passthrough:
        raise SpecError("passthrough_fields", "--output_style=raw has no place for fields; use another style")
    taken = sorted(set(passthrough) & set(OWN_FIELDS[output.style]))
    if taken:
        raise SpecError("passthrough_fields", f"{', '.join(taken)} is a name that --output_style={output.style} uses itself")
