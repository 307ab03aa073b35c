"""Shards → a table of BigQuery, by one load job: all of them or none, once a run."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from google.api_core.exceptions import Conflict, NotFound
from google.cloud import bigquery

from transforms import files
from transforms.bigquery import ERRORS, TableError, client, reason
from transforms.elements import Shard
from transforms.own_names import MANIFEST, SUCCESS
from transforms.specs import JobSpec
from transforms.tables import TableName, parse_table
from transforms.write import manifest, models
from transforms.write.bigquery import TableEncoder, schema_field
from transforms.write.differences import with_drift
from transforms.write.failed import SCHEMA
from transforms.write.gate import check_gate
from transforms.write.publish import Publisher
from transforms.write.report import report_files

DISPOSITIONS = {"truncate": "WRITE_TRUNCATE", "append": "WRITE_APPEND", "empty": "WRITE_EMPTY"}
# Failed rows are loaded also when the gate stays shut: those beside an empty table are of a run that never came to it.
ERRORS_DISPOSITIONS = DISPOSITIONS | {"empty": "WRITE_TRUNCATE"}
RESULTS = "results"
# https://cloud.google.com/bigquery/quotas#load_jobs: source URIs a job; a pattern is one, and may stand for ten million files.
MAX_FILES = 10_000
# How often a load that failed is tried anew, with a new id, over all attempts of the publish step.
ATTEMPTS = 20
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


class TablePublisher(Publisher):
    """Publishes one run to a table; the manifest lies in the staging folder, beside no results."""

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
        self._load_errors(errors)
        if why is None:
            encoder = TableEncoder(self.job.output_signature, self.job.output, self.job.key.fields)
            report["load_job"] = run_load(self.job, Load(RESULTS, output, list(results.values()), encoder.fields))
        for name, content in (model_lines | report_files(self.job, report, self.accounts, model_lines)).items():
            files.write_bytes(files.join(self.folder, name), content)
        files.write_bytes(files.join(self.folder, MANIFEST), manifest.encode(report))
        if why is None:
            files.write_bytes(files.join(self.folder, SUCCESS), b"")
        return report

    def _prepare_dataset(self, output: TableName) -> None:
        if self.job.bigquery.create_dataset:
            dataset = bigquery.Dataset(f"{output.project}.{output.dataset}")
            dataset.location = self.job.bigquery.location
            client(self.job.bigquery.project, None).create_dataset(dataset, exists_ok=True)

    def _load_errors(self, errors: Sequence[Shard]) -> None:
        table = errors_table(self.job)
        if errors:
            run_load(self.job, Load("errors", table, errors, ERROR_FIELDS))
        elif self.job.output.write_disposition != "append":  # those of the run before
            client(self.job.bigquery.project, None).delete_table(table.dotted, not_found_ok=True)


def errors_table(job: JobSpec) -> TableName:
    """Gives the table of the failed rows, beside that of the predictions."""
    output = parse_table(job.output.table or "")
    return dataclasses.replace(output, table=f"{output.table}_errors")


def run_load(job: JobSpec, load: Load) -> str:
    """Loads once a run, however often it is tried; gives the id of the job that did it.

    The id is made from the run's. Where BigQuery has a job of that id already, an attempt before made it, and its end is waited for.
    Failed rows that replace the ones before are loaded once a launch: the run may have been started again with other rows.

    Raises:
      TableError: the load failed, or an earlier one of the same run loaded other rows.
    """
    service = client(job.bigquery.project, job.bigquery.location)
    run = hashlib.sha256(str(load.table).encode()).hexdigest()[:8]
    whose = job.run_id if load.name == RESULTS or job.output.write_disposition == "append" else job.launch
    for attempt in range(ATTEMPTS):
        by_id = f"nightshift-{whose.replace('.', '_')}-{run}-{load.name}-{attempt}"
        try:
            started = service.load_table_from_uri(_uris(job, load), load.table.dotted, job_id=by_id, job_config=_config(job, load))
            mine = True
        except Conflict:
            started, mine = service.get_job(by_id, location=job.bigquery.location), False  # type: ignore[assignment]
        try:
            started.result()
        except ERRORS as error:
            if mine:
                raise TableError(f"{load.table} could not be loaded, and is as it was: {reason(error)}") from error
            continue  # that attempt failed and left nothing; this one has an id of its own
        if mine or _is_there(service, started, load):
            return by_id
    raise TableError(f"{load.table} could not be loaded in {ATTEMPTS} attempts of run {job.run_id}; give another --run_id")


def _is_there(service: bigquery.Client, started: bigquery.LoadJob, load: Load) -> bool:
    """Whether what an earlier attempt loaded is this run's table; False when somebody has dropped that since.

    Also False for failed rows of another number, which are added to those of the launch before, whose gate stayed shut.
    """
    try:
        service.get_table(load.table.dotted)
    except NotFound:
        return False
    if started.output_rows is not None and started.output_rows != load.rows:
        if load.name != RESULTS:
            return False
        raise TableError(
            f"job {started.job_id} has loaded {started.output_rows} rows into {load.table} under this run id already, and these are "
            f"{load.rows}: the table is as it was. Give another --run_id"
        )
    return True


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
