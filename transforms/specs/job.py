"""The job as frozen, checked values, without Beam, TensorFlow or flags."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from transforms.specs.errors import SpecError, check_choice, check_names
from transforms.specs.models import NO_COMPARISON, CompareSpec, ModelSpec, RouteSpec
from transforms.specs.signature import Signature
from transforms.specs.table_name import is_table, parse_table

if TYPE_CHECKING:
    import pyarrow as pa  # not imported at run time, so that --help and typos answer at once

INPUT_FORMATS = ("jsonl", "csv", "tf-record", "parquet", "avro", "file-list", "bigquery")
OUTPUT_FORMATS = ("jsonl", "parquet", "bigquery", "csv", "tf-record")
OUTPUT_STYLES = ("keyed", "vertex", "aiplatform", "raw")
OUTPUT_LAYOUTS = ("sharded", "mirror")
DUPLICATE_KEYS = ("fail", "allow")
NAN_POLICIES = ("null", "string", "error")
CSV_FORMULAS = ("keep", "escape")
REPORTS = ("true", "tasks", "false")
WRITE_DISPOSITIONS = ("truncate", "append", "empty")
OWN_FIELDS = {
    "keyed": ("key", "prediction"),
    "vertex": ("instance", "key", "prediction"),
    "aiplatform": (),
    "raw": (),
}
STAGING = "_staging"


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What is read: ``patterns`` of files or folders, and which fields feed the model."""

    patterns: tuple[str, ...]
    format: str | None = None
    include_fields: tuple[str, ...] = ()
    exclude_fields: tuple[str, ...] = ()
    query: str | None = None
    row_restriction: str | None = None

    @property
    def is_bigquery(self) -> bool:
        """Return whether rows come from a table or query of BigQuery, not from files."""
        return self.query is not None or any(map(is_table, self.patterns))

    @property
    def source(self) -> str:
        """Return the input's name for messages: the query's flag or the patterns."""
        return "--input_query" if self.query is not None else ",".join(self.patterns)

    def __post_init__(self) -> None:
        if self.is_bigquery or self.format == "bigquery" or self.row_restriction is not None:
            self._check_bigquery()
        elif not self.patterns or not all(self.patterns):
            raise SpecError("input", "is empty; expected files, folders or patterns separated by commas")
        if self.format is not None:
            check_choice("input_format", self.format, INPUT_FORMATS)
        check_names("include_fields", self.include_fields)
        check_names("exclude_fields", self.exclude_fields)
        both = sorted(set(self.include_fields) & set(self.exclude_fields))
        if both:
            raise SpecError("exclude_fields", f"{', '.join(both)} is in --include_fields too")

    def _check_bigquery(self) -> None:
        if self.query is not None and self.patterns:
            raise SpecError("input_query", "is given with --input; give one of them")
        if self.query is not None and not self.query.strip():
            raise SpecError("input_query", "is empty; expected a SELECT of BigQuery's SQL")
        if self.format not in (None, "bigquery"):
            raise SpecError("input_format", f"{self.format!r} is no format of a table; leave it out")
        if not self.is_bigquery:
            flag = "input_format" if self.format == "bigquery" else "row_restriction"
            raise SpecError(flag, "is for tables; expected --input=bq://project.dataset.table")
        if self.query is not None and self.row_restriction is not None:
            raise SpecError("row_restriction", "is for tables; with --input_query put the condition in the query's WHERE")
        if self.query is None:
            if len(self.patterns) > 1:
                raise SpecError("input", "names a table of BigQuery and something else; give one table, or --input_query with a UNION ALL")
            try:
                parse_table(self.patterns[0])
            except ValueError as error:
                raise SpecError("input", str(error)) from None


@dataclasses.dataclass(frozen=True)
class KeySpec:
    """Where an instance's key comes from: ``fields`` of the row, or none (keys are made)."""

    fields: tuple[str, ...] = ()
    duplicates: str = "fail"

    def __post_init__(self) -> None:
        check_names("key_field", self.fields)
        check_choice("duplicate_keys", self.duplicates, DUPLICATE_KEYS)


@dataclasses.dataclass(frozen=True)
class OutputSpec:
    """Where predictions and failed rows go, and in what shape.

    With a ``table`` of BigQuery, ``folder`` stages its shards and keeps the manifest.
    """

    folder: str
    errors_folder: str | None = None
    format: str = "jsonl"
    style: str = "keyed"
    layout: str = "sharded"
    passthrough_fields: tuple[str, ...] = ()
    nan: str = "null"
    write_disposition: str = "truncate"
    table: str | None = None
    csv_formulas: str = "keep"

    def __post_init__(self) -> None:
        if not self.folder:
            raise SpecError("output", "is empty; expected a folder")
        self._check_table()
        check_choice("output_format", self.format, OUTPUT_FORMATS)
        check_choice("output_style", self.style, OUTPUT_STYLES)
        check_choice("output_layout", self.layout, OUTPUT_LAYOUTS)
        check_choice("nan", self.nan, NAN_POLICIES)
        check_choice("csv_formulas", self.csv_formulas, CSV_FORMULAS)
        if self.csv_formulas != "keep" and self.format != "csv":
            raise SpecError(
                "csv_formulas", f"'{self.csv_formulas}' is for --output_format=csv, and the predictions go out as {self.format}"
            )
        check_choice("write_disposition", self.write_disposition, WRITE_DISPOSITIONS)
        check_names("passthrough_fields", self.passthrough_fields)
        if "*" in self.passthrough_fields and len(self.passthrough_fields) > 1:
            raise SpecError("passthrough_fields", "'*' already names all fields; give it alone")
        if self.format != "jsonl":
            self._check_columns()
        if self.style == "raw" and self.passthrough_fields:
            raise SpecError("passthrough_fields", "--output_style=raw has no place for fields; use another style")
        taken = sorted(set(self.passthrough_fields) & set(OWN_FIELDS[self.style]))
        if taken:
            raise SpecError(
                "passthrough_fields",
                f"{', '.join(taken)} is a name that --output_style={self.style} uses itself",
            )

    def _check_table(self) -> None:
        if self.table is None:
            if self.format == "bigquery":
                raise SpecError("output_format", "'bigquery' needs a table: give --output=bq://project.dataset.table")
            if self.write_disposition == "append":
                raise SpecError("write_disposition", "'append' is for tables of BigQuery; a folder is replaced, or refused with 'empty'")
            return
        try:
            parse_table(self.table)
        except ValueError as error:
            raise SpecError("output", str(error)) from None
        if self.format != "bigquery":
            raise SpecError("output_format", f"{self.format!r} is no format of a table; leave it out, or give a folder as --output")
        if self.layout != "sharded":
            raise SpecError("output_layout", f"{self.layout!r} is for folders; leave it out")
        if self.errors_folder is not None:
            raise SpecError("errors", f"the failed rows of a table go to a table beside it, {self.table}_errors: leave it out")

    def _check_columns(self) -> None:
        if self.style != "keyed":
            raise SpecError("output_style", f"{self.style!r} shapes lines of JSON; --output_format={self.format} has columns: leave it out")
        if "*" in self.passthrough_fields:
            raise SpecError(
                "passthrough_fields", f"--output_format={self.format} has the same columns in every row, so '*' can't be; name the fields"
            )

    @property
    def errors(self) -> str:
        """Return the folder of the failed rows."""
        return self.errors_folder or self.folder


@dataclasses.dataclass(frozen=True)
class BigQuerySpec:
    """How BigQuery is used: ``project`` pays for jobs and sessions (None: the credentials' own), ``location`` is where jobs run."""

    project: str | None = None
    location: str | None = None
    create_dataset: bool = False
    partition_field: str | None = None
    cluster_fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_names("cluster_fields", self.cluster_fields)
        if len(self.cluster_fields) > 4:
            raise SpecError("cluster_fields", f"names {len(self.cluster_fields)} fields; BigQuery takes 4 at most")


RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclasses.dataclass(frozen=True)
class JobSpec:
    """The job of one task: ``task`` is its number in its run, 0 where the run has one.

    ``launch`` tells two launches of one ``run_id`` apart. Key hashes are compared in ``key_buckets`` parts.
    Where rows name their models by ``route`` and the results have columns, these are the outputs of ``example``, the signature of one of
    the models. ``field_types`` are the types of the input's fields for a table's columns, as far as they are known before the start.
    With ``report``, statistics of the rows are gathered, and written with a report beside the manifest. ``staging`` is a folder for the
    unfinished files of many tasks; None: the task's own.
    """

    input: InputSpec
    key: KeySpec
    model: ModelSpec
    output: OutputSpec
    run_id: str
    launch: str
    started: str
    max_error_ratio: float = 0.1
    flags: tuple[tuple[str, str], ...] = ()
    bigquery: BigQuerySpec = BigQuerySpec()
    task: int = 0
    key_buckets: int = 64
    route: RouteSpec | None = None
    example: Signature | None = None
    field_types: tuple[tuple[str, pa.DataType], ...] = ()
    report: bool = True
    compare: CompareSpec = NO_COMPARISON
    staging: str | None = None

    def __post_init__(self) -> None:
        check_together(self.input, self.key, self.output)
        if not 0 <= self.max_error_ratio <= 1:
            raise SpecError("max_error_ratio", f"{self.max_error_ratio} is not between 0 and 1 (failed / read)")
        if not RUN_ID.fullmatch(self.run_id):
            raise SpecError("run_id", f"{self.run_id!r} is not 1 to 128 letters, digits, '_', '.' or '-' that begin with a letter or digit")

    @property
    def folder(self) -> str:
        """Return the folder that gets the manifest."""
        return self.output.folder

    @property
    def output_signature(self) -> Signature:
        """Return the signature of the results' outputs: the model's, or an example's where rows name models and results have columns."""
        return self.example or self.model.signature

    def staging_in(self, folder: str) -> str:
        """Return the folder for this launch's unfinished files of ``folder``: inside it, or the one of many tasks."""
        return self.staging or staging_in(folder, self.run_id, self.launch)


def check_together(input: InputSpec, key: KeySpec, output: OutputSpec) -> None:
    """Check what input, key and output of a job require of each other.

    Raises:
      SpecError: naming the flag that does not go with another.
    """
    if input.is_bigquery and not key.fields:
        raise SpecError(
            "key_field", "is missing: the rows of a table have no place that is the same on every run, so no keys can be made from it"
        )
    if input.is_bigquery and output.layout == "mirror":
        raise SpecError("output_layout", "'mirror' makes one output file an input file, and a table has none; leave it out")
    raw_name = set(key.fields) & set(output.passthrough_fields)
    if raw_name and output.style == "aiplatform":
        raise SpecError("passthrough_fields", f"{', '.join(sorted(raw_name))} is in the output already, as the key")


def staging_in(folder: str, run_id: str, launch: str) -> str:
    """Return the folder inside ``folder`` for the unfinished files of one launch of a run."""
    return f"{folder.rstrip('/')}/{STAGING}/{run_id}/{launch}"
