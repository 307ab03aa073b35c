"""Loads of shards into a table of BigQuery: by one load job, so all of them or none, and once a run."""

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
from transforms.specs.output import TableOutput
from transforms.specs.table_name import TableName
from transforms.staging.failed_row_files import SCHEMA
from transforms.storage import files, paths

DISPOSITIONS = {"truncate": "WRITE_TRUNCATE", "append": "WRITE_APPEND", "empty": "WRITE_EMPTY"}
# Failed rows are loaded even if the results are refused: those beside an empty table are of a run that loaded no results.
ERRORS_DISPOSITIONS = DISPOSITIONS | {"empty": "WRITE_TRUNCATE"}
RESULTS = "results"
# https://cloud.google.com/bigquery/quotas#load_jobs: source URIs a job; a pattern counts as one, and may match ten million files.
MAX_FILES = 10_000
# How often a failed load is tried again, each time with a new id, over all attempts of the publish step.
ATTEMPTS = 20
# The label of a load that holds the digest of its content; with 32 digits no two contents share one by chance.
LABEL = "nightshift_content"
DIGITS = 32
ERROR_FIELDS = [schema_field(field.name, field.type) for field in SCHEMA]


@dataclasses.dataclass(frozen=True)
class Load:
    """One load of ``shards`` into the table of ``output`` or that of its failed rows, with the columns ``fields``.

    ``name``, results or errors, tells the two of a run apart.
    """

    name: str
    output: TableOutput
    shards: Sequence[Shard]
    fields: Sequence[bigquery.SchemaField]

    @property
    def table(self) -> TableName:
        return self.output.name if self.name == RESULTS else self.output.errors_name

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def digest(self) -> str:
        """Return a hash of all that decides the table after the load: its rows in any order and cut, columns and disposition."""
        output = self.output
        decisive = (
            [str(self.table), self.rows, merge(shard.content for shard in self.shards)],
            [field.to_api_repr() for field in self.fields],
            [output.write_disposition, output.partition_field, list(output.cluster_fields)],
        )
        return hashlib.sha256(msgspec.json.encode(decisive)).hexdigest()[:DIGITS]


def run_load(job: JobSpec, load: Load) -> str:
    """Load a content once, however often this is called; return the id of the job that loaded it.

    A job of the same id in BigQuery was started by an earlier attempt or launch; its end is waited for.

    Raises:
      TableError: the load failed, or the run has appended other rows before.
    """
    service = client(job.bigquery.project, job.bigquery.location)
    for attempt in range(ATTEMPTS):
        job_id = _job_id(job, load, attempt)
        try:
            load_job = service.load_table_from_uri(_uris(job, load), load.table.dotted, job_id=job_id, job_config=_config(load))
            is_new = True
        except Conflict:
            load_job, is_new = _job(service, job, job_id), False
        try:
            load_job.result()
        except ERRORS as error:
            if is_new:
                raise TableError(f"{load.table} could not be loaded, and is as it was: {reason(error)}") from error
            continue  # the earlier attempt failed and left nothing; the next one has another id
        if is_new or _is_loaded(service, load_job, job, load):
            return job_id
    raise TableError(f"{load.table} could not be loaded in {ATTEMPTS} attempts of run {job.run_id}; give another --run_id")


def check_load(job: JobSpec, load: Load) -> None:
    """Check, before the failed rows are loaded, that the results can be loaded after them.

    Raises:
      TableError: the run has appended other rows before, or the table has to be empty and is not.
    """
    service = client(job.bigquery.project, job.bigquery.location)
    for attempt in range(ATTEMPTS):
        try:
            load_job = _job(service, job, _job_id(job, load, attempt))
        except NotFound:
            break
        with contextlib.suppress(*ERRORS):  # the attempt failed and left nothing
            load_job.result()
            if _is_loaded(service, load_job, job, load):
                return
    table = _table(service, load) if load.output.write_disposition == "empty" else None
    if table is not None and table.num_rows:
        raise TableError(f"{load.table} holds {table.num_rows} rows by now, and --write_disposition=empty was given: it is as it was")


def _job(service: bigquery.Client, job: JobSpec, job_id: str) -> bigquery.LoadJob:
    return service.get_job(job_id, location=job.bigquery.location)  # type: ignore[return-value]


def _job_id(job: JobSpec, load: Load, attempt: int) -> str:
    """Return the id of an attempt: one for each content, but where a run appends the same for any content, so that it appends once."""
    table = hashlib.sha256(str(load.table).encode()).hexdigest()[:8]
    what = "append" if _appends_once(load) else load.digest()
    return f"nightshift-{job.run_id.replace('.', '_')}-{table}-{load.name}-{what}-{attempt}"


def _appends_once(load: Load) -> bool:
    """Return whether the run may append only once: rows that a later launch predicted again would be added to the first ones.

    Failed rows of another content are appended: they are of another launch, which was refused or failed.
    """
    return load.name == RESULTS and load.output.write_disposition == "append"


def _is_loaded(service: bigquery.Client, load_job: bigquery.LoadJob, job: JobSpec, load: Load) -> bool:
    """Return whether the table still holds what ``load_job``, which has ended, loaded; if not, it has to be loaded again.

    Raises:
      TableError: ``load_job`` appended other rows.
    """
    table = _table(service, load)
    if table is None:
        return False
    if load.output.write_disposition != "append":  # loading once more than needed only replaces the same rows
        return table.num_rows == load.rows and _is_before(table.modified, load_job.ended)
    if not _is_before(table.created, load_job.ended):
        return False  # the table was dropped since, and created again
    if _appends_once(load) and (load_job.labels or {}).get(LABEL) != load.digest():
        raise TableError(
            f"run {job.run_id} has appended other rows to {load.table} already: {load_job.output_rows} rows by job {load_job.job_id}, and "
            f"these {load.rows} are not the same. The table is as it was: a run appends once, so that no row is there twice. To add these "
            "too give another --run_id; rows that they correct have to be deleted first"
        )
    return True


def _table(service: bigquery.Client, load: Load) -> bigquery.Table | None:
    try:
        return service.get_table(load.table.dotted)
    except NotFound:
        return None


def _is_before(first: datetime.datetime | None, second: datetime.datetime | None) -> bool:
    return first is not None and second is not None and first <= second


def _uris(job: JobSpec, load: Load) -> list[str]:
    """Return the URIs of the files to load; where they are more than a load can name, move them to one folder and return its pattern."""
    if len(load.shards) <= MAX_FILES:
        return [shard.path for shard in load.shards]
    folder = paths.join(job.staging_in(job.folder), f"load-{load.name}")
    targets = {shard.path: paths.join(folder, shard.path.rsplit("/", 1)[-1]) for shard in load.shards}
    moved = {paths.join(folder, name) for name in files.list_children(folder)}  # by an earlier attempt
    files.rename([(path, target) for path, target in targets.items() if target not in moved])
    return [f"{folder}/*"]


def _config(load: Load) -> bigquery.LoadJobConfig:
    parquet = bigquery.ParquetOptions()
    parquet.enable_list_inference = True
    config = bigquery.LoadJobConfig(
        source_format="PARQUET",
        schema=list(load.fields),
        write_disposition=(DISPOSITIONS if load.name == RESULTS else ERRORS_DISPOSITIONS)[load.output.write_disposition],
        create_disposition="CREATE_IF_NEEDED",
    )
    config.parquet_options = parquet
    config.labels = {LABEL: load.digest()}
    if load.name == RESULTS:
        if load.output.partition_field:
            config.time_partitioning = bigquery.TimePartitioning(field=load.output.partition_field)
        if load.output.cluster_fields:
            config.clustering_fields = list(load.output.cluster_fields)
    return config
