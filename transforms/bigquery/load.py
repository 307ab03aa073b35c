"""Shards → a table of BigQuery, by one load job: all of them or none, once a run."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from google.api_core.exceptions import Conflict, NotFound
from google.cloud import bigquery

from transforms.accounts import by_model as models
from transforms.accounts.differences import with_drift
from transforms.accounts.gate import check_gate
from transforms.bigquery.client import ERRORS, TableError, client, reason
from transforms.bigquery.table_writer import TableEncoder, schema_field
from transforms.convert.content_digest import merge
from transforms.elements.batches import Shard
from transforms.output import manifest
from transforms.output.journal import Locks
from transforms.output.published_names import REPORT_FILES
from transforms.output.publisher import Publisher
from transforms.report.page import report_files
from transforms.specs.job import JobSpec
from transforms.specs.own_names import MANIFEST, SUCCESS
from transforms.specs.table_name import TableName, parse_table
from transforms.staging.failed_row_files import SCHEMA
from transforms.storage import files

DISPOSITIONS = {"truncate": "WRITE_TRUNCATE", "append": "WRITE_APPEND", "empty": "WRITE_EMPTY"}
# Failed rows are loaded also when the gate stays shut: those beside an empty table are of a run that never came to it.
ERRORS_DISPOSITIONS = DISPOSITIONS | {"empty": "WRITE_TRUNCATE"}
RESULTS = "results"
# https://cloud.google.com/bigquery/quotas#load_jobs: source URIs a job; a pattern is one, and may stand for ten million files.
MAX_FILES = 10_000
# How often a load that failed is tried anew, with a new id, over all attempts of the publish step.
ATTEMPTS = 20
# A load's label that holds the digest of what it loaded, of so many digits: with 32 no two contents share one by chance.
LABEL = "nightshift_content"
DIGITS = 32
ERROR_FIELDS = [schema_field(field.name, field.type) for field in SCHEMA]


@dataclasses.dataclass(frozen=True)
class Load:
    """One load: ``shards`` into ``table``, made or added to with ``fields``; ``name`` tells the two of a run apart."""

    name: str
    table: TableName
    shards: Sequence[Shard]
    fields: Sequence[bigquery.SchemaField]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def digest(self, job: JobSpec) -> str:
        """Return what decides the table after the load as one text: rows, whatever their order and files, columns and disposition."""
        decisive = (
            [str(self.table), self.rows, merge(shard.content for shard in self.shards)],
            [field.to_api_repr() for field in self.fields],
            [job.output.write_disposition, job.bigquery.partition_field, list(job.bigquery.cluster_fields)],
        )
        return hashlib.sha256(msgspec.json.encode(decisive)).hexdigest()[:DIGITS]


class TablePublisher(Publisher):
    """Publishes one run to a table; the manifest lies in the staging folder, beside no results."""

    def _prepare(self, locks: Locks) -> tuple[dict[str, Any], None]:
        return self._publish(), None

    def _publish(self) -> dict[str, Any]:
        self.accounts = with_drift(self.job, self.accounts)
        why = check_gate(self.job, self.accounts)
        errors = self._shards("errors")
        results = self._results() if why is None else {}
        placed = {f"prediction.errors-{number:05d}-of-{len(errors):05d}": shard for number, shard in enumerate(errors)}
        report = manifest.make(self.job, self.accounts, why, results, placed, None)
        output = parse_table(self.job.output.table or "")
        by_model, model_lines = models.account(self.job, self.accounts)
        report |= {"table": str(output), "errors_table": str(errors_table(self.job))} | by_model
        self._prepare_dataset(output)
        report |= self._load(output, errors, list(results.values()) if why is None else None)
        described = report_files(self.job, report, self.accounts, model_lines)
        files.delete([files.join(self.folder, name) for name in {*REPORT_FILES} - {*described}])
        for name, content in (model_lines | described).items():
            files.write_bytes(files.join(self.folder, name), content)
        files.write_bytes(files.join(self.folder, MANIFEST), manifest.encode(report))
        if why is None:
            files.write_bytes(files.join(self.folder, SUCCESS), b"")
        return report

    def _load(self, output: TableName, errors: Sequence[Shard], results: Sequence[Shard] | None) -> dict[str, Any]:
        """Load failed rows and, unless the gate is shut, ``results``; return what the manifest says of both loads."""
        said: dict[str, Any] = {}
        encoder = TableEncoder(self.job.output_signature, self.job.output, self.job.key.fields)
        load = Load(RESULTS, output, results or (), encoder.fields)
        if results is not None:
            check_load(self.job, load)
        job_id = self._load_errors(errors)
        if job_id is not None:
            said["errors_load_job"] = job_id
        if results is not None:
            said |= {"load_job": run_load(self.job, load), "load_digest": load.digest(self.job)}
        return said

    def _prepare_dataset(self, output: TableName) -> None:
        if self.job.bigquery.create_dataset:
            dataset = bigquery.Dataset(f"{output.project}.{output.dataset}")
            dataset.location = self.job.bigquery.location
            client(self.job.bigquery.project, None).create_dataset(dataset, exists_ok=True)

    def _load_errors(self, errors: Sequence[Shard]) -> str | None:
        table = errors_table(self.job)
        if errors:
            return run_load(self.job, Load("errors", table, errors, ERROR_FIELDS))
        if self.job.output.write_disposition != "append":  # those of the run before
            client(self.job.bigquery.project, None).delete_table(table.dotted, not_found_ok=True)
        return None


def errors_table(job: JobSpec) -> TableName:
    """Gives the table of the failed rows, beside that of the predictions."""
    output = parse_table(job.output.table or "")
    return dataclasses.replace(output, table=f"{output.table}_errors")


def run_load(job: JobSpec, load: Load) -> str:
    """Load once a content, however often it is tried; return the id of the job that did it.

    Where BigQuery has a job of that id already, an attempt or a launch before made it, and its end is waited for.

    Raises:
      TableError: the load failed, or the run has appended other rows before.
    """
    service = client(job.bigquery.project, job.bigquery.location)
    for attempt in range(ATTEMPTS):
        by_id = _job_id(job, load, attempt)
        try:
            started = service.load_table_from_uri(_uris(job, load), load.table.dotted, job_id=by_id, job_config=_config(job, load))
            mine = True
        except Conflict:
            started, mine = _job(service, job, by_id), False
        try:
            started.result()
        except ERRORS as error:
            if mine:
                raise TableError(f"{load.table} could not be loaded, and is as it was: {reason(error)}") from error
            continue  # that attempt failed and left nothing; this one has an id of its own
        if mine or _is_there(service, started, job, load):
            return by_id
    raise TableError(f"{load.table} could not be loaded in {ATTEMPTS} attempts of run {job.run_id}; give another --run_id")


def check_load(job: JobSpec, load: Load) -> None:
    """Refuse now, before the failed rows are loaded, what the load of the results would refuse after.

    Raises:
      TableError: the run has appended other rows before, or the table was to be empty and is not.
    """
    service = client(job.bigquery.project, job.bigquery.location)
    for attempt in range(ATTEMPTS):
        try:
            started = _job(service, job, _job_id(job, load, attempt))
        except NotFound:
            break
        with contextlib.suppress(*ERRORS):  # that attempt failed and left nothing
            started.result()
            if _is_there(service, started, job, load):
                return
    there = _table(service, load) if job.output.write_disposition == "empty" else None
    if there is not None and there.num_rows:
        raise TableError(f"{load.table} holds {there.num_rows} rows by now, and --write_disposition=empty was given: it is as it was")


def _job(service: bigquery.Client, job: JobSpec, by_id: str) -> bigquery.LoadJob:
    return service.get_job(by_id, location=job.bigquery.location)  # type: ignore[return-value]


def _job_id(job: JobSpec, load: Load, attempt: int) -> str:
    """Return the id of an attempt: of one content, but where a run appends, which it does once, whatever the content."""
    table = hashlib.sha256(str(load.table).encode()).hexdigest()[:8]
    what = "append" if _appends_once(job, load) else load.digest(job)
    return f"nightshift-{job.run_id.replace('.', '_')}-{table}-{load.name}-{what}-{attempt}"


def _appends_once(job: JobSpec, load: Load) -> bool:
    """Return whether other rows of the same run are refused: rows that a launch predicted again would stand beside its first ones.

    Failed rows of another content are appended all the same: they are of another launch, whose gate stayed shut or which failed.
    """
    return load.name == RESULTS and job.output.write_disposition == "append"


def _is_there(service: bigquery.Client, started: bigquery.LoadJob, job: JobSpec, load: Load) -> bool:
    """Return whether the table still has what ``started``, a job that is done, loaded; False if it has to be loaded anew.

    Raises:
      TableError: that job appended other rows.
    """
    there = _table(service, load)
    if there is None:
        return False
    if job.output.write_disposition != "append":  # loading once more than needed only replaces the same rows
        return there.num_rows == load.rows and _is_before(there.modified, started.ended)
    if not _is_before(there.created, started.ended):
        return False  # dropped since, and made anew
    if _appends_once(job, load) and (started.labels or {}).get(LABEL) != load.digest(job):
        raise TableError(
            f"run {job.run_id} has appended other rows to {load.table} already: {started.output_rows} rows by job {started.job_id}, and "
            f"these {load.rows} are not the same. The table is as it was: a run appends once, so that no row is there twice. To add these "
            "too give another --run_id; rows that they correct have to be deleted first"
        )
    return True


def _table(service: bigquery.Client, load: Load) -> bigquery.Table | None:
    try:
        return service.get_table(load.table.dotted)
    except NotFound:
        return None


def _is_before(one: datetime.datetime | None, other: datetime.datetime | None) -> bool:
    return one is not None and other is not None and one <= other


def _uris(job: JobSpec, load: Load) -> list[str]:
    """Gives the files to load; of more than a load can name, a pattern for a folder that they are moved to, as far as they aren't there."""
    if len(load.shards) <= MAX_FILES:
        return [shard.path for shard in load.shards]
    folder = files.join(job.staging_in(job.folder), f"load-{load.name}")
    places = {shard.path: files.join(folder, shard.path.rsplit("/", 1)[-1]) for shard in load.shards}
    there = {files.join(folder, name) for name in files.list_children(folder)}  # moved by an attempt before
    files.rename([(path, place) for path, place in places.items() if place not in there])
    return [f"{folder}/*"]


def _config(job: JobSpec, load: Load) -> bigquery.LoadJobConfig:
    parquet = bigquery.ParquetOptions()
    parquet.enable_list_inference = True
    config = bigquery.LoadJobConfig(
        source_format="PARQUET",
        schema=list(load.fields),
        write_disposition=(DISPOSITIONS if load.name == RESULTS else ERRORS_DISPOSITIONS)[job.output.write_disposition],
        create_disposition="CREATE_IF_NEEDED",
    )
    config.parquet_options = parquet
    config.labels = {LABEL: load.digest(job)}
    if load.name == RESULTS:
        if job.bigquery.partition_field:
            config.time_partitioning = bigquery.TimePartitioning(field=job.bigquery.partition_field)
        if job.bigquery.cluster_fields:
            config.clustering_fields = list(job.bigquery.cluster_fields)
    return config


# --- before the job starts ---------------------------------------------------------------------------------------------------


def check_table(job: JobSpec) -> None:
    """Holds the job's table against the dataset and the table that are there.

    Raises:
      TableError: no dataset, or a table that can't take the predictions, column by column.
    """
    output = parse_table(job.output.table or "")
    encoder = TableEncoder(job.output_signature, job.output, job.key.fields)
    _check_layout(job, {field.name: field.field_type for field in encoder.fields})
    if job.input.is_bigquery and job.input.query is None and parse_table(job.input.patterns[0]) == output:
        raise TableError(f"--output={output} is the input too, which it would replace; give another table")
    service = client(job.bigquery.project, job.bigquery.location)
    try:
        if not _has_dataset(service, output):
            if job.bigquery.create_dataset:
                return
            raise TableError(
                f"--output={output}: there is no dataset {output.project}.{output.dataset}: check the name, or give --create_dataset=true"
            )
        there = service.get_table(output.dotted)
    except NotFound:
        return
    except ERRORS as error:
        raise TableError(f"--output={output} can't be looked at: {reason(error)}. Check the name and your permissions") from error
    if there.table_type != "TABLE":
        raise TableError(f"--output={output} is a {there.table_type.lower()}, which can't be loaded into; give another table")
    disposition = job.output.write_disposition
    if disposition == "empty" and there.num_rows:
        raise TableError(f"--output={output} holds {there.num_rows} rows already, and --write_disposition=empty was given")
    conflicts = _conflicts(encoder.fields, there.schema) if disposition != "truncate" else []
    if conflicts:
        raise TableError(
            f"--output={output} can't take these predictions: {'; '.join(conflicts)}. Give another table, or --write_disposition=truncate"
        )


def _has_dataset(service: bigquery.Client, output: TableName) -> bool:
    try:
        service.get_dataset(f"{output.project}.{output.dataset}")
    except NotFound:
        return False
    return True


def _check_layout(job: JobSpec, types: dict[str, str]) -> None:
    partition = job.bigquery.partition_field
    if partition and types.get(partition) not in ("DATE", "TIMESTAMP", "DATETIME"):
        found = f"a column of {types[partition]}" if partition in types else f"no column; there is {', '.join(types)}"
        raise TableError(f"--partition_field={partition}: expected a column of DATE, DATETIME or TIMESTAMP, found {found}")
    unknown = [name for name in job.bigquery.cluster_fields if name not in types]
    if unknown:
        raise TableError(f"--cluster_fields: {', '.join(unknown)} is no column; there is {', '.join(types)}")


SAME_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "STRUCT": "RECORD"}


def _shape(field: bigquery.SchemaField) -> str:
    kind = SAME_TYPES.get(field.field_type, field.field_type)
    if kind == "RECORD":
        kind = f"RECORD<{', '.join(f'{inner.name} {_shape(inner)}' for inner in field.fields)}>"
    return f"REPEATED {kind}" if field.mode == "REPEATED" else kind


def _conflicts(fields: Sequence[bigquery.SchemaField], there: Sequence[bigquery.SchemaField]) -> list[str]:
    """Gives what stands between the columns to be loaded and those of an existing table, a text a column."""
    by_name = {field.name.lower(): field for field in there}
    conflicts = []
    for field in fields:
        other = by_name.pop(field.name.lower(), None)
        if other is None:
            conflicts.append(f"it has no column {field.name} ({_shape(field)})")
        elif _shape(other) != _shape(field):
            conflicts.append(f"column {field.name} is {_shape(other)} and would be {_shape(field)}")
    return conflicts + [f"column {field.name} is REQUIRED and would be empty" for field in by_name.values() if field.mode == "REQUIRED"]
