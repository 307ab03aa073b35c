"""An input that is replaced, cut, appended to or deleted while a run reads it: never a mixture, never fewer rows, always named."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gcp_fixtures import CloudStorage
from input_files import CONTENTS, TEXTS, csv, jsonl, ranges_of, reader_of, values_and_failed
from jobs import lines, manifest, run, write_lines
from saved_models import Models

from transforms import check_keys
from transforms.elements.batches import InstanceBatch
from transforms.elements.splits import FileRange, Split
from transforms.formats import splitting
from transforms.formats.catalog import format_of
from transforms.read_instances import RangeReader
from transforms.rows.codes import Code
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import DEFAULT_LIMITS, Limits
from transforms.staging import split_records
from transforms.storage import files
from transforms.storage.pins import Pin

OLD, NEW = range(1000, 1400), range(2000, 2400)


def replaced(path: Path, content: bytes) -> None:
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def rewritten(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def cut(path: Path, _: bytes) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path, _: bytes) -> None:
    os.truncate(path, 0)


def appended(path: Path, content: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(content)


def deleted(path: Path, _: bytes) -> None:
    path.unlink()


WAYS = [replaced, rewritten, cut, emptied, appended, deleted]


def wait_a_tick() -> None:
    """Lets the clock of a disk go on, whose ticks are of some milliseconds."""
    time.sleep(0.02)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_changed_before_its_range_is_opened_gives_no_row(name: str, way: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name](OLD))
    (file_range,) = ranges_of(path)
    wait_a_tick()
    way(path, CONTENTS[name](NEW))
    (batch,) = reader_of(name).read(file_range)
    (failed,) = batch.failed
    assert (failed.code, failed.source, len(batch)) == (Code.FILE_CHANGED, str(path), 0)
    size = len(CONTENTS[name](OLD))
    assert failed.message.startswith(f"{path} changed: when the run planned to read it, it was {size:,} bytes, changed at 20")
    assert ("now it is gone" in failed.message) == (way is deleted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_changes_while_its_range_is_read_is_named_at_the_end(name: str, way: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name](OLD))
    (file_range,) = ranges_of(path)
    wait_a_tick()
    batches = reader_of(name).read(file_range)
    next(batches)
    way(path, CONTENTS[name](NEW))
    _, failed = values_and_failed(batches)
    assert failed[-1:] == [Code.FILE_CHANGED]


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_nobody_touches_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name](OLD))
    (file_range,) = ranges_of(path)
    os.utime(path, ns=(1, path.stat().st_mtime_ns))  # that it was looked at is no change
    assert values_and_failed(reader_of(name).read(file_range)) == (list(map(float, OLD)), [])


def test_a_later_range_of_csv_takes_the_header_of_the_planned_file_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(csv(OLD))
    last = ranges_of(path, Limits(split_bytes=500))[-1]
    wait_a_tick()
    path.write_bytes(b"y" + csv(OLD)[1:])
    assert values_and_failed(reader_of("rows.csv").read(last)) == ([], [Code.FILE_CHANGED])


def test_the_same_size_and_another_moment_is_a_change_to_the_nanosecond(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(OLD))
    (file_range,) = ranges_of(path)
    before = path.stat().st_mtime_ns
    path.write_bytes(jsonl(NEW))
    os.utime(path, ns=(before + 1, before + 1))
    assert values_and_failed(reader_of("rows.jsonl").read(file_range)) == ([], [Code.FILE_CHANGED])
    assert split_records.name_of(Split((file_range,))) != split_records.name_of(Split(tuple(ranges_of(path)))), (
        "no record of it is used either"
    )


# --- lists of files -------------------------------------------------------------------------------------------------------------


def test_a_listed_file_that_changes_between_listing_and_reading_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [tmp_path / f"{number}.bin" for number in range(3)]
    for path in listed:
        path.write_bytes(b"old")
    (tmp_path / "files.txt").write_text("".join(f"{path}\n" for path in listed))
    (found,) = files.match(str(tmp_path / "files.txt"))
    real = files.read_bytes

    def read_late(path: str, pin: Pin | None = None) -> bytes:
        if path == str(listed[1]):
            wait_a_tick()
            listed[1].write_bytes(b"new")
        return real(path, pin)

    monkeypatch.setattr(files, "read_bytes", read_late)
    (file_range,) = splitting.split_file(found, format_of("files.txt", "file-list"), DEFAULT_LIMITS)
    (batch,) = RangeReader(RowSpec(TEXTS), "file-list").read(file_range)
    assert batch.columns["t"].tolist() == [b"old", b"old"]
    (failed,) = batch.failed
    assert failed.code is Code.FILE_CHANGED
    assert failed.message.startswith(f"{listed[1]} changed: ")


LIMITS = Limits(split_bytes=20_000)

# --- whole runs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def after_first_range(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Does something once, when the first range of the run was read."""

    def arrange(change: Callable[[], None]) -> None:
        real = RangeReader.read
        done: list[bool] = []

        def read(self: RangeReader, file_range: FileRange) -> Iterator[InstanceBatch]:
            yield from real(self, file_range)
            if not done:
                done.append(True)
                wait_a_tick()
                change()

        monkeypatch.setattr(RangeReader, "read", read)

    return arrange


def rows(count: int, x: float) -> list[dict[str, Any]]:
    return [{"x": x, "id": number} for number in range(count)]


@pytest.mark.parametrize("way", ["cut", "replaced", "packed", "map", "field"])
def test_a_run_whose_input_changes_publishes_nothing_and_names_it(way: str, models: Models, tmp_path: Path, after_first_range: Any) -> None:
    out, data = tmp_path / "out", tmp_path / "in" / "b.jsonl"
    flags: dict[str, Any] = {"model": models.get("half_plus_two"), "input": tmp_path / "in", "key_field": "id"}
    write_lines(data, rows(4000, 1))
    if way == "packed":  # several small files in one split
        write_lines(tmp_path / "in" / "a.jsonl", [{"x": 1, "id": -1}])
    else:
        flags["limits"] = LIMITS
    if way == "field":
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "1").symlink_to(models.get("half_plus_two"))
        write_lines(data, [{**row, "m": "1"} for row in rows(4000, 1)])
        flags |= {"model": f"{tmp_path}/models/{{m}}", "model_field": "m"}
    if way == "map":
        write_lines(tmp_path / "tasks.jsonl", [{"model": flags.pop("model"), "input": str(flags.pop("input")), "output": "t"}])
        flags["model_map"] = tmp_path / "tasks.jsonl"
    if way == "cut":
        after_first_range(lambda: os.truncate(data, data.stat().st_size // 2))
    else:
        after_first_range(lambda: replaced(data, data.read_bytes().replace(b'"x": 1,', b'"x": 9,')))
    assert run(out, **flags) == 3
    folder = out / "t" if way == "map" else out
    report = manifest(folder)
    assert report["status"] == "failed"
    assert report["input"]["changed"] == [str(data)]
    assert f"the input changed while the run read it, so that rows may be lost, doubled or mixed: {data} changed: " in report["reason"]
    assert "Run again when nothing writes to it" in report["reason"]
    assert lines(folder) == []
    assert {row["code"] for row in lines(folder, "prediction.errors")} == {"FILE_CHANGED"}


def test_a_file_that_changed_before_its_keys_are_looked_at_again_lists_no_place(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys that stand twice are those of what was predicted; where they stand is no longer known."""
    path = write_lines(tmp_path / "rows.jsonl", [*rows(10, 1), *rows(5, 1)])
    real = check_keys.ListDuplicates.process

    def process(self: Any, *arguments: Any) -> Any:
        wait_a_tick()
        write_lines(path, [*rows(5, 1), *rows(10, 1)])
        return real(self, *arguments)

    monkeypatch.setattr(check_keys.ListDuplicates, "process", process)
    assert run(tmp_path / "out", LIMITS, model=models.get("half_plus_two"), input=path, key_field="id") == 3
    report = manifest(tmp_path / "out")
    assert (report["keys"]["duplicated"], report["keys"]["listed"]) == (5, [])
    assert "5 keys occur more than once (which ones is unknown: the input changed" in report["reason"]


# --- buckets --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTENTS)
def test_an_object_replaced_between_planning_and_reading_is_an_error(name: str, gcs: CloudStorage) -> None:
    path = gcs.write(f"{gcs.make_bucket()}/{name}", CONTENTS[name](OLD))
    (file_range,) = ranges_of(path)
    assert file_range.pin is not None
    assert file_range.pin.generation > 0
    gcs.write(path, CONTENTS[name](NEW))
    assert values_and_failed(reader_of(name).read(file_range)) == ([], [Code.FILE_CHANGED])
    (now,) = ranges_of(path)
    assert values_and_failed(reader_of(name).read(now)) == (list(map(float, NEW)), [])


def test_an_object_without_bytes_that_was_filled_is_an_error(gcs: CloudStorage) -> None:
    path = gcs.write(f"{gcs.make_bucket()}/rows.jsonl", b"")
    (file_range,) = ranges_of(path)
    gcs.write(path, jsonl(NEW))
    assert values_and_failed(reader_of("rows.jsonl").read(file_range)) == ([], [Code.FILE_CHANGED])


def test_a_run_whose_object_is_replaced_between_its_splits_publishes_nothing(
    gcs: CloudStorage, models: Models, tmp_path: Path, after_first_range: Any
) -> None:
    content = write_lines(tmp_path / "rows.jsonl", rows(4000, 1)).read_bytes()
    path = gcs.write(f"{gcs.make_bucket()}/rows.jsonl", content)
    after_first_range(lambda: gcs.write(path, content.replace(b'"x": 1,', b'"x": 9,')))
    assert run(tmp_path / "out", LIMITS, model=models.get("half_plus_two"), input=path, key_field="id") == 3
    report = manifest(tmp_path / "out")
    assert report["input"]["changed"] == [path]
    assert f"{path} changed: when the run planned to read it, it was generation " in report["reason"]
    assert lines(tmp_path / "out") == []
