"""Records of splits in staging are believed only where they say what the split's own would: others may write to an output's folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec
import pytest

from transforms.elements.shards import Shard
from transforms.elements.splits import FileRange, Split, SplitCount
from transforms.specs.errors import SpecError
from transforms.specs.job import InputSpec, JobSpec, KeySpec
from transforms.specs.messagepack import packer
from transforms.specs.models import CompareSpec, ModelSpec, UnknownModel
from transforms.specs.output import FolderOutput
from transforms.specs.signature import Signature
from transforms.staging import split_records
from transforms.staging.split_records import SplitRecord

SPLIT = Split((FileRange("/in/a.jsonl", 0, None, 10, "a.jsonl"), FileRange("/in/b.jsonl", 0, None, 10, "b.jsonl")))
CONTENT = b"predictions\n"


def a_job(out: Path, layout: str = "sharded") -> JobSpec:
    output = FolderOutput(str(out), errors_folder=f"{out}-failed", layout=layout)  # type: ignore[arg-type]
    model = ModelSpec("m", Signature("s", ("serve",), (), ()))
    job = JobSpec(InputSpec(("/in",)), KeySpec(), model, output, "night", "first", "2026-01-01T00:00:00+00:00")
    return dataclasses.replace(job, launch="second")


def a_shard(folder: str, kind: str, rows: int, **others: Any) -> Shard:
    path = f"{folder}/_staging/night/first/{kind}-1"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_bytes(CONTENT)
    crc32c = google_crc32c.Checksum(CONTENT).hexdigest().decode()
    return msgspec.structs.replace(Shard(kind, path, SPLIT.key, "", "", rows, len(CONTENT), crc32c), **others)


def found(job: JobSpec, shards: list[Shard], **others: Any) -> SplitRecord | None:
    """What is found of a record that the first launch left with ``shards``."""
    record = SplitRecord("same", {}, SplitCount(SPLIT.key, 3, 20, 2), b"", shards, None)
    for name, value in others.items():
        setattr(record, name, value)
    split_records.write(dataclasses.replace(job, launch="first"), split_records.name_of(SPLIT), record)
    return split_records.find(job, SPLIT, "same", [f"{job.folder}/_staging/night/first"])


def test_an_honest_record_is_found(tmp_path: Path) -> None:
    job = a_job(tmp_path / "out")
    assert found(job, [a_shard(job.folder, "results", 2), a_shard(job.output.errors, "errors", 1)]) is not None
    mirrored = a_job(tmp_path / "out", "mirror")
    named = [
        a_shard(job.folder, "results", 2, relative="a.jsonl", source="/in/a.jsonl"),
        a_shard(job.output.errors, "errors", 1, relative="b.jsonl", source="/in/b.jsonl"),
    ]
    assert found(mirrored, named) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"path": "{tmp}/elsewhere/secret"},
        {"path": "{out}/_staging/night/first/../first/results-1"},
        {"path": "{out}/_staging/night/other/results-1"},
        {"path": "{out}/_staging/night/first/link"},
        {"kind": "manifest"},
        {"kind": "errors"},
        {"relative": "../../escaped.jsonl", "source": "/in/a.jsonl"},
        {"relative": "a.jsonl", "source": "/etc/passwd"},
        {"split_key": ("/in/other.jsonl", 0)},
        {"rows": 3},
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["sharded", "mirror"])
def test_a_record_that_names_what_is_not_the_splits_own_is_not_believed(tmp_path: Path, change: dict[str, Any], layout: str) -> None:
    job = a_job(tmp_path / "out", layout)
    mirrored = {"relative": "a.jsonl", "source": "/in/a.jsonl"} if layout == "mirror" else {}
    shard = a_shard(job.folder, "results", 2, **mirrored)
    staging = f"{job.folder}/_staging/night"
    os.makedirs(f"{staging}/other")
    os.makedirs(f"{tmp_path}/elsewhere")
    for place in (f"{tmp_path}/elsewhere/secret", f"{staging}/other/results-1"):
        Path(place).write_bytes(CONTENT)
    os.symlink(f"{tmp_path}/elsewhere/secret", f"{staging}/first/link")
    changed = {name: value.format(tmp=tmp_path, out=job.folder) if isinstance(value, str) else value for name, value in change.items()}
    failed = a_shard(job.output.errors, "errors", 1, **mirrored)
    assert found(job, [shard, failed]) is not None
    assert found(job, [msgspec.structs.replace(shard, **changed), failed]) is None


@pytest.mark.parametrize(
    "change", [{"identity": "other"}, {"count": SplitCount(("/in/x", 0), 3, 20, 2)}, {"count": SplitCount(SPLIT.key, 4, 20, 2)}]
)
def test_a_record_of_another_job_or_count_is_not_believed(tmp_path: Path, change: dict[str, Any]) -> None:
    """The identity too: only the first record of a launch is looked at before the start."""
    job = a_job(tmp_path / "out")
    shards = [a_shard(job.folder, "results", 2), a_shard(job.output.errors, "errors", 1)]
    assert found(job, shards) is not None
    assert found(job, shards, **change) is None


@pytest.mark.parametrize("damaged", [0, 1])
def test_another_job_is_refused_by_any_record_that_can_be_read(tmp_path: Path, damaged: int) -> None:
    job = a_job(tmp_path / "out")
    for name in ("0.split", "1.split"):
        record = SplitRecord("another", {}, SplitCount(SPLIT.key, 3, 20, 2), b"", [], None)
        split_records.write(dataclasses.replace(job, launch="first"), name, record)
    (Path(f"{job.folder}/_staging/night/first") / f"{damaged}.split").write_bytes(b"damaged")
    with pytest.raises(SpecError, match="can't be resumed"):
        split_records.find_launches(job, "same")


def test_a_record_is_written_as_earlier_versions_wrote_it() -> None:
    shard = {
        "kind": "results", "path": "/out/results-1", "order": ["/in/a.jsonl", 0], "relative": "", "source": "", "rows": 2, "bytes": 12,
        "crc32c": "", "codes": [], "models": [["m", None, 2]], "content": "",
    }  # fmt: skip
    count = {"order": ["/in/a.jsonl", 0], "rows": 2, "bytes": 20, "files": 1, "incomplete": [], "seconds": 0.5, "resumed": False}
    record = {"identity": "same", "flags": {}, "count": count, "hashes": b"12345678", "shards": [shard], "statistics": None}
    packed = msgspec.msgpack.encode(record)
    unpacked = packer(SplitRecord).unpack(packed)
    assert unpacked.count.split_key == unpacked.shards[0].split_key == SPLIT.key
    assert packer(SplitRecord).pack(unpacked) == packed


def test_splits_are_recorded_where_a_second_launch_reads_the_same(tmp_path: Path) -> None:
    """Not of tables, of rows that name their models, and of two models' predictions."""
    job = a_job(tmp_path / "out")
    model = ModelSpec(str(tmp_path), job.model.signature)
    job = dataclasses.replace(job, model=model)
    assert len(split_records.identify(job)) == 64
    for change in (
        {"input": InputSpec(("bq://p.d.t",), "bigquery"), "key": KeySpec(("id",))},
        {"model": UnknownModel("models/{site}", job.model.signature)},
        {"compare": CompareSpec(model=model)},
    ):
        assert split_records.identify(dataclasses.replace(job, **change)) == "", change


def test_staging_is_worth_keeping_while_a_record_has_its_shards(tmp_path: Path) -> None:
    job = a_job(tmp_path / "out")
    shard, other = a_shard(job.folder, "results", 2), a_shard(job.output.errors, "errors", 1)
    record = SplitRecord("identity", {}, SplitCount(SPLIT.key, 3, 20, 2), b"", [shard, other], None)
    split_records.write(dataclasses.replace(job, launch="first"), "0.split", record)
    (staging,) = (tmp_path / "out" / "_staging" / "night").iterdir()
    paths = split_records.recorded(str(staging))
    assert split_records.are_worth_keeping(paths)
    (staging / "1.split").write_bytes(b"damaged")
    assert split_records.are_worth_keeping([str(staging / "1.split"), *paths])
    Path(shard.path).unlink()
    assert not split_records.are_worth_keeping([str(staging / "1.split"), *paths])
