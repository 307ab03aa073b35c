"""Shards → a table of BigQuery, by one load job: all of them or none, once a run."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
from collections.abc import Sequence

import msgspec
from google.api_core.exceptions import Conflict, NotFound
from google.cloud import bigquery

from transforms.bigquery.client import ERRORS, TableError, client, reason
from transforms.bigquery.table_writer import schema_field
from transforms.convert.content_digest import merge
from transforms.elements.shards import Shard
from transforms.specs.job import JobSpec
from transforms.specs.table_name import TableName, parse_table
from transforms.staging.failed_row_files import SCHEMA
from transforms.storage import files, paths

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
    folder = paths.join(job.staging_in(job.folder), f"load-{load.name}")
    places = {shard.path: paths.join(folder, shard.path.rsplit("/", 1)[-1]) for shard in load.shards}
    there = {paths.join(folder, name) for name in files.list_children(folder)}  # moved by an attempt before
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
