"""Publication of a job to a table."""

from __future__ import annotations

from collections.abc import Sequence

from google.cloud import bigquery

from transforms.accounts import by_model as models
from transforms.accounts.accounts import Accounts
from transforms.accounts.differences import with_drift
from transforms.accounts.gate import check_gate
from transforms.bigquery.client import client
from transforms.bigquery.load import ERROR_FIELDS, RESULTS, Load, check_load, run_load
from transforms.bigquery.table_writer import TableEncoder
from transforms.elements.shards import Shard
from transforms.output.journal import Locks
from transforms.output.manifest import make_manifest
from transforms.output.published_names import REPORT_FILES
from transforms.output.publisher import Publisher
from transforms.report.page import report_files
from transforms.specs.job import JobSpec
from transforms.specs.manifest import Manifest, encode_manifest
from transforms.specs.output import TableOutput
from transforms.specs.own_names import ERRORS, MANIFEST, SUCCESS
from transforms.storage import files, paths


class TablePublisher(Publisher):
    """Publishes one job to a table: loads its shards; its folder gets the manifest and the report, but no results."""

    suffix = ".parquet"

    def __init__(self, job: JobSpec, accounts: Accounts) -> None:
        super().__init__(job, accounts)
        assert isinstance(job.output, TableOutput)
        self.output = job.output

    def _mark_done(self) -> None:
        files.write_bytes(paths.join(self.folder, SUCCESS), b"")  # an attempt may have stopped between manifest and marker

    def _make_encoder(self) -> TableEncoder:
        return TableEncoder(self.job)

    def _prepare(self, locks: Locks) -> tuple[Manifest, None]:
        return self._publish(), None

    def _publish(self) -> Manifest:
        self.accounts = with_drift(self.job, self.accounts)
        reason = check_gate(self.job, self.accounts)
        errors = self._shards("errors")
        results = self._results() if reason is None else {}
        named_errors = {f"{ERRORS}-{number:05d}-of-{len(errors):05d}": shard for number, shard in enumerate(errors)}
        manifest = make_manifest(self.job, self.accounts, reason, results, named_errors, None)
        manifest.table, manifest.errors_table = str(self.output.name), str(self.output.errors_name)
        manifest.models, model_lines = models.account(self.job, self.accounts)
        self._prepare_dataset()
        self._load(manifest, errors, list(results.values()) if reason is None else None)
        pages = report_files(self.job, manifest, self.accounts, model_lines)
        files.delete([paths.join(self.folder, name) for name in {*REPORT_FILES} - {*pages}])
        for name, content in (model_lines | pages).items():
            files.write_bytes(paths.join(self.folder, name), content)
        files.write_bytes(paths.join(self.folder, MANIFEST), encode_manifest(manifest))
        if reason is None:
            files.write_bytes(paths.join(self.folder, SUCCESS), b"")
        return manifest

    def _load(self, manifest: Manifest, errors: Sequence[Shard], results: Sequence[Shard] | None) -> None:
        """Load failed rows and, unless they are refused (None), ``results``; name both loads in the manifest."""
        load = Load(RESULTS, self.output, results or (), self._make_encoder().fields)
        if results is not None:
            check_load(self.job, load)
        job_id = self._load_errors(errors)
        if job_id is not None:
            manifest.errors_load_job = job_id
        if results is not None:
            manifest.load_job, manifest.load_digest = run_load(self.job, load), load.digest()

    def _prepare_dataset(self) -> None:
        if self.output.create_dataset:
            dataset = bigquery.Dataset(f"{self.output.name.project}.{self.output.name.dataset}")
            dataset.location = self.job.bigquery.location
            client(self.job.bigquery.project, None).create_dataset(dataset, exists_ok=True)

    def _load_errors(self, errors: Sequence[Shard]) -> str | None:
        """Load the failed rows, or delete the table of the run before where there are none; return the id of the load job, if any."""
        if errors:
            return run_load(self.job, Load("errors", self.output, errors, ERROR_FIELDS))
        if self.output.write_disposition != "append":
            client(self.job.bigquery.project, None).delete_table(self.output.errors_name.dotted, not_found_ok=True)
        return None
