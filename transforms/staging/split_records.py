"""The record of a finished split, in staging beside its shards: what a later launch of the same run need not do again.

A split is known by its files, their sizes, when they were last changed, and where it was cut; the run by all that decides what a
prediction is. A record is used only where both are the same and every shard is as it was written.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import google_crc32c
import msgspec

from transforms.elements.shards import Shard
from transforms.elements.splits import FileRange, Split, SplitCount
from transforms.specs.errors import SpecError
from transforms.specs.job import STAGING, JobSpec, staging_in
from transforms.specs.messagepack import packer
from transforms.storage import files, paths

SUFFIX = ".split"
PARTS = ("results", "errors")  # each row is in one of them
KINDS = (*PARTS, "comparison")
CHECKED_BYTES = 1 << 20
# Flags that say how a run is done and not what comes out.
OF_NO_MATTER = ("resume", "run_id", "date", "job", "verbose", "max_error_ratio", "model_memory_mb", "write_disposition", "duplicate_keys")


class SplitRecord(msgspec.Struct):
    """What one split came to. ``hashes`` are its keys' 64-bit hashes; ``statistics`` as ``transforms.statistics.stored`` has them."""

    identity: str
    flags: dict[str, str]
    count: SplitCount
    hashes: bytes
    shards: list[Shard]
    statistics: bytes | None


def identify(job: JobSpec) -> str:
    """Gives what decides a prediction of ``job`` as one text, the model's files with it; empty where splits are not recorded.

    The streams of a table are another session's on every launch, rows that name their models are shuffled between reading and
    predicting, and what a second model says of a row is not recorded.
    """
    if job.input.is_bigquery or job.route is not None or job.compare.model is not None:
        return ""
    model = job.model
    there = sorted((found.relative, found.size_bytes, found.updated) for found in files.list_folder(model.location))
    decisive = (
        [model.location, model.version, str(model.signature), model.batch_size, there],
        [str(job.input.format), list(job.input.include_fields), list(job.input.exclude_fields)],
        list(job.key.fields),
        str(dataclasses.replace(job.output, write_disposition="truncate")),
        job.report,
    )
    return hashlib.sha256(msgspec.json.encode(decisive)).hexdigest()


def name_of(split: Split) -> str:
    """Gives the name of the split's record: the same on every launch, as long as its files are."""
    return hashlib.sha256(b"".join(map(packer(FileRange).pack, split.ranges))).hexdigest()[:32] + SUFFIX


def write(job: JobSpec, name: str, record: SplitRecord) -> None:
    files.write_bytes(paths.join(job.staging_in(job.folder), name), packer(SplitRecord).pack(record))


def find(job: JobSpec, split: Split) -> SplitRecord | None:
    """Gives the record of ``split`` that an earlier launch left, its shards read through and found whole; None if there is none."""
    for folder in job.resumed:
        path = paths.join(folder, name_of(split))
        record = _read(path) if files.exists(path) else None
        if record is None or record.identity != job.identity or not _is_of(record, job, split, folder):
            continue
        if all(map(_is_whole, record.shards)):
            return record
    return None


def _is_of(record: SplitRecord, job: JobSpec, split: Split, folder: str) -> bool:
    """Return whether a record says what only the split's own can say: whoever may write to the output could else name any file.

    Its shards lie in the launch's own staging, are of a kind that is published and named as the split's files are; its rows add up.
    """
    launch = folder.rstrip("/").rpartition("/")[2]
    staging = {"errors": staging_in(job.output.errors, job.run_id, launch)}
    names = {(piece.relative, piece.path) for piece in split.ranges} if job.output.layout == "mirror" else {("", "")}
    for shard in record.shards:
        parent, _, name = shard.path.rpartition("/")
        if shard.kind not in KINDS or parent != staging.get(shard.kind, folder.rstrip("/")) or name in ("", ".", ".."):
            return False
        if shard.order != split.order or (shard.relative, shard.source) not in names or files.is_link(shard.path):
            return False
    return record.count.order == split.order and record.count.rows == sum(shard.rows for shard in record.shards if shard.kind in PARTS)


def _read(path: str) -> SplitRecord | None:
    try:
        return packer(SplitRecord).unpack(files.read_bytes(path))
    except msgspec.DecodeError:  # damaged, or of another version of the program
        return None


def _is_whole(shard: Shard) -> bool:
    if not files.exists(shard.path):
        return False
    checksum, size = google_crc32c.Checksum(), 0
    with files.open_raw(shard.path) as stream:
        while block := stream.read(CHECKED_BYTES):
            checksum.update(block)
            size += len(block)
    return (size, checksum.hexdigest().decode()) == (shard.bytes, shard.crc32c)


def recorded(folder: str) -> list[str]:
    """Gives the records in the staging folder of one launch."""
    return [paths.join(folder, name) for name in files.list_children(folder) if name.endswith(SUFFIX)]


def are_worth_keeping(paths: Sequence[str]) -> bool:
    """Whether one of the records at ``paths`` still has its shards: another run that published has removed what there was."""
    found = map(_read, paths)
    return any(record is not None and all(files.exists(shard.path) for shard in record.shards) for record in found)


def find_launches(job: JobSpec) -> tuple[str, ...]:
    """Gives the staging folders of earlier launches of the run that have finished splits.

    Raises:
      SpecError: they would come to something else than this launch; the message says why.
    """
    run = paths.join(job.folder, STAGING, job.run_id)
    launches = [folder for name in files.list_children(run) if recorded(folder := paths.join(run, name))]
    for folder in launches:
        record = _read(recorded(folder)[0])
        if record is not None and record.identity != job.identity:
            raise SpecError("resume", f"run {job.run_id} can't go on: {_difference(record.flags, dict(job.flags))}; leave --resume out")
    return tuple(launches)


def decisive(flags: dict[str, str]) -> dict[str, str]:
    """Gives those flags that decide what comes out."""
    return {name: text for name, text in flags.items() if name not in OF_NO_MATTER}


def _difference(before: dict[str, str], now: dict[str, str]) -> str:
    before, now = decisive(before), decisive(now)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    said = [f"{_flag(name, before)} then, {_flag(name, now)} now" for name in names]
    return "; ".join(said) or "its model has changed since, or it is another version of nightshift"


def _flag(name: str, values: dict[str, Any]) -> str:
    return f"--{name}={values[name]}" if name in values else f"no --{name}"
