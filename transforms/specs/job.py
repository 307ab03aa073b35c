"""The job as frozen, checked values, without Beam, TensorFlow or flags."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from transforms.specs.errors import SpecError, check_choice, check_names
from transforms.specs.limits import DEFAULT_LIMITS, Limits
from transforms.specs.models import NO_COMPARISON, AnyModel, CompareSpec, RouteSpec
from transforms.specs.output import OutputSpec
from transforms.specs.signature import Signature
from transforms.specs.table_name import is_table, parse_table

if TYPE_CHECKING:
    import pyarrow as pa  # not imported at run time, so that --help and typos answer at once

INPUT_FORMATS = ("jsonl", "csv", "tf-record", "parquet", "avro", "file-list", "bigquery")
DUPLICATE_KEYS = ("fail", "allow")
REPORTS = ("true", "tasks", "false")
STAGING = "_staging"


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What is read: ``patterns`` of files or folders, which fields feed the model, and how much is read at once."""

    patterns: tuple[str, ...]
    format: str | None = None
    include_fields: tuple[str, ...] = ()
    exclude_fields: tuple[str, ...] = ()
    query: str | None = None
    row_restriction: str | None = None
    limits: Limits = DEFAULT_LIMITS

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
class BigQuerySpec:
    """How BigQuery is used: ``project`` pays for jobs and sessions (None: the credentials' own), ``location`` is where jobs run."""

    project: str | None = None
    location: str | None = None


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
    model: AnyModel
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
        return self.output_signature_of(self.model)

    def output_signature_of(self, model: AnyModel) -> Signature:
        """Return the signature of the outputs of results of ``model``, the job's or one that rows name."""
        return self.example or model.signature

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
