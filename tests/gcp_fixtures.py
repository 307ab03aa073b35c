"""Cloud Storage for the tests: the real client, over HTTP, against an emulator that the fixture ``gcs`` starts.

The environment that leads clients there is set as soon as this plugin is loaded, before any test module imports a client,
since google.auth reads it when it is imported. The processes start when the first test asks for ``gcs``; in a session
without such a test none does. A test that forgets the fixture finds nobody listening: it can't reach the real service.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from emulators.bigquery_environment import PythonMissingError
from emulators.stand_ins import BinaryMissingError, StandIns

_stand_ins = StandIns()
_environment = pytest.MonkeyPatch()
for _name, _value in _stand_ins.environment.items():
    if _value is None:
        _environment.delenv(_name, raising=False)
    else:
        _environment.setenv(_name, _value)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):  # the processes of pytest-xdist, which run the tests, set their own
        _environment.undo()


def pytest_unconfigure() -> None:
    _environment.undo()
    _stand_ins.stop()
    shutil.rmtree(_stand_ins.folder, ignore_errors=True)


class CloudStorage:
    """Buckets and objects of the emulator, through Google's own client."""

    def __init__(self, stand_ins: StandIns) -> None:
        from google.cloud import storage

        self.stand_ins = stand_ins
        self.client = storage.Client()
        self._numbers = itertools.count(1)

    def make_bucket(self) -> str:
        """Makes a new, empty bucket; gives its ``gs://name``."""
        name = f"bucket-{next(self._numbers)}"
        self.client.create_bucket(name)
        return f"gs://{name}"

    def blob(self, path: str) -> Any:
        """Gives the object at ``path``, which need not exist."""
        bucket, _, name = path.removeprefix("gs://").partition("/")
        return self.client.bucket(bucket).blob(name)

    def write(self, path: str, content: bytes, encoding: str | None = None, kind: str = "application/octet-stream") -> str:
        """Makes an object; ``encoding`` is its Content-Encoding. Gives its path."""
        blob = self.blob(path)
        blob.content_encoding = encoding
        blob.upload_from_string(content, content_type=kind)
        return path

    def upload_folder(self, folder: str | os.PathLike[str], path: str) -> str:
        """Copies a local folder to ``path``; gives the path."""
        for parent, _, names in os.walk(folder):
            for name in names:
                local = os.path.join(parent, name)
                self.blob(f"{path}/{os.path.relpath(local, folder)}").upload_from_filename(local)
        return path

    def read(self, path: str) -> bytes:
        """Gives an object's bytes as they are stored."""
        return self.blob(path).download_as_bytes(raw_download=True)

    def list(self, folder: str) -> list[str]:
        """Gives the names of all objects below ``folder``, relative to it, sorted."""
        bucket, _, name = (folder.rstrip("/") + "/").removeprefix("gs://").partition("/")
        return sorted(blob.name[len(name) :] for blob in self.client.list_blobs(bucket, prefix=name))

    def requests(self, beginning: str) -> list[str]:
        """Gives the requests so far, of any client, that begin so: method, path, and a batch's number of parts."""
        return [line for line in self.stand_ins.requests() if line.startswith(beginning)]


@pytest.fixture(scope="session")
def gcs() -> Iterator[CloudStorage]:
    """Cloud Storage; skipped where the emulator has no program, but not on CI."""
    try:
        _stand_ins.start()
    except BinaryMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    from google.auth.compute_engine import _metadata

    expected = _stand_ins.environment["GCE_METADATA_HOST"]
    assert expected == _metadata._GCE_METADATA_HOST, "google.auth was imported before this plugin; import it, and Beam, later"
    yield CloudStorage(_stand_ins)
    refused = _stand_ins.refused_hosts()
    assert not refused, f"a test tried to reach {refused}"


class BigQuery:
    """Datasets and tables of the emulator, through Google's own client."""

    def __init__(self, storage: CloudStorage) -> None:
        from google.cloud import bigquery

        self.client = bigquery.Client()
        self.storage, self.bucket = storage, storage.make_bucket()
        self._numbers = itertools.count(1)

    def make_dataset(self) -> str:
        """Makes a new, empty dataset; gives its ``bq://project.name``."""
        name = f"{self.client.project}.dataset_{next(self._numbers)}"
        self.client.create_dataset(name)
        return f"bq://{name}"

    def load(self, table: str, rows: Any, schema: Any = None) -> str:
        """Makes ``table`` (``bq://…``) of rows as JSON or of an Arrow table; gives its name back."""
        import io

        import pyarrow.parquet as pq
        from google.cloud import bigquery

        if isinstance(rows, list):
            job = self.client.load_table_from_json(rows, table.removeprefix("bq://"), job_config=bigquery.LoadJobConfig(schema=schema))
        else:
            content = io.BytesIO()
            pq.write_table(rows, content)
            # From a bucket: the address that the emulator gives a large upload's session is not of https, and leads nowhere.
            path = self.storage.write(f"{self.bucket}/{next(self._numbers)}.parquet", content.getvalue())
            parquet = bigquery.ParquetOptions()
            parquet.enable_list_inference = True
            config = bigquery.LoadJobConfig(source_format="PARQUET", schema=schema, parquet_options=parquet)
            job = self.client.load_table_from_uri(path, table.removeprefix("bq://"), job_config=config)
        job.result()
        return table

    def rows(self, table: str, order: str = "1") -> list[dict[str, Any]]:
        """Gives a table's rows, through a query."""
        return [dict(row) for row in self.client.query(f"SELECT * FROM `{table.removeprefix('bq://')}` ORDER BY {order}").result()]


@pytest.fixture(scope="session")
def bigquery(gcs: CloudStorage) -> BigQuery:
    """BigQuery, beside Cloud Storage; skipped where there is no Python 3.13 for the emulator, but not on CI."""
    try:
        gcs.stand_ins.start_bigquery()
    except PythonMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return BigQuery(gcs)
