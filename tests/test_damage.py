"""What is damage, what is tried again and what is a bug: one rule, whatever the format."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from gcp_fixtures import CloudStorage
from input_files import CONTENTS, NUMBERS, ranges_of, reader_of, values_and_failed

from transforms.formats import record_batches
from transforms.formats.catalog import format_of, known_types
from transforms.formats.damage import DamagedFileError, decoding
from transforms.rows.codes import Code
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import Limits
from transforms.storage import gcs as storage

VALUES = [float(value) for value in random.Random(5).sample(range(10_000_000), 40_000)]
TABLES = ("rows.parquet", "rows.avro")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetches in small steps, and gives up on a storage that does not answer after a moment."""
    monkeypatch.setattr(storage, "DEFAULT_RETRY", storage.DEFAULT_RETRY.with_timeout(0.3))
    monkeypatch.setattr(storage, "WINDOW_BYTES", 16 << 10)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["503", "reset"])
@pytest.mark.parametrize("name", CONTENTS)
def test_a_storage_that_fails_in_the_middle_of_a_file_is_raised(name: str, kind: str, gcs: CloudStorage) -> None:
    path = gcs.write(f"{gcs.make_bucket()}/{name}", CONTENTS[name](VALUES))
    (file_range,) = ranges_of(path)
    batches = reader_of(name, Limits(block_bytes=16 << 10, batch_rows=500)).read(file_range)
    next(batches)
    with gcs.stand_ins.faults(kind, share=1), pytest.raises(storage.StorageError, match=name):
        values_and_failed(batches)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", TABLES)
def test_a_storage_that_fails_at_a_look_before_the_start_is_raised(name: str, gcs: CloudStorage) -> None:
    path = gcs.write(f"{gcs.make_bucket()}/{name}", CONTENTS[name](VALUES))
    spec = RowSpec(NUMBERS)
    assert format_of(path, None).why_unreadable(spec, path) is None
    assert known_types([path], None) == {"x": pa.float32()}
    with gcs.stand_ins.faults("503", share=1):
        with pytest.raises(storage.StorageError):
            format_of(path, None).why_unreadable(spec, path)
        with pytest.raises(storage.StorageError):
            known_types([path], None)


@pytest.mark.parametrize("bug", [TypeError("ours"), KeyError("ours"), ValueError("ours"), OSError("ours"), MemoryError()])
@pytest.mark.parametrize("name", TABLES)
def test_a_bug_of_ours_is_no_damage(name: str, bug: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(CONTENTS[name](VALUES[:100]))
    (file_range,) = ranges_of(tmp_path / name)

    def batch(*_: Any) -> Any:
        raise bug

    monkeypatch.setattr(record_batches.TableBatcher, "batch", batch)
    with pytest.raises(type(bug)):
        list(reader_of(name, Limits(batch_rows=10)).read(file_range))


@pytest.mark.parametrize("error", [pa.ArrowMemoryError("no memory"), MemoryError(), OSError(5, "Input/output error"), TypeError("ours")])
def test_what_is_raised_on(error: Exception) -> None:
    with pytest.raises(type(error)), decoding(7, "not whole"):
        raise error


@pytest.mark.parametrize("error", [pa.ArrowInvalid("bytes"), OSError("Corrupt snappy compressed data."), EOFError("short")])
def test_what_is_damage(error: Exception) -> None:
    with pytest.raises(DamagedFileError, match=r"^not whole: .*: ") as damage, decoding(7, "not whole"):
        raise error
    assert damage.value.offset == 7


@pytest.mark.parametrize("name", CONTENTS)
def test_any_damage_costs_the_file_and_nothing_else(name: str, tmp_path: Path) -> None:
    """Bytes overwritten, or the end cut off: rows and failed rows come, no exception, and a file cut is never taken for whole."""
    content = CONTENTS[name](VALUES[:400])
    chance = random.Random(11)
    path = tmp_path / name
    for attempt in range(150):
        damaged = bytearray(content)
        if attempt % 3 == 0:
            damaged = damaged[: chance.randrange(len(content))]
        else:
            place = chance.randrange(len(content))
            damaged[place : place + chance.choice((1, 8))] = chance.randbytes(1)
        path.write_bytes(damaged)
        time.sleep(0)
        (file_range,) = ranges_of(path)
        values, failed = values_and_failed(reader_of(name).read(file_range))
        if attempt % 3 == 0 and name in TABLES and len(values) < 400:
            assert failed[-1:] == [Code.FILE_DAMAGED] or not values
