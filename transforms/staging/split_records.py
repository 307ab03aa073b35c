"""Records of finished splits, in staging beside their shards, so that a later launch of the same run need not predict them again.

A split is identified by its files, their sizes and times of change, and the borders of its ranges; a run by all that decides its
predictions. A record is used only where both are the same and every shard is as it was written.
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
from transforms.specs.models import UnknownModel
from transforms.storage import files, paths

SUFFIX = ".split"
ROW_KINDS = ("results", "errors")  # each row is in a shard of one of them
KINDS = (*ROW_KINDS, "comparison")
CHECKED_BYTES = 1 << 20
# Before a record's own bytes: with one bit of it changed it would name another run, another count or other keys, and be believed.
CHECKSUM_BYTES = 4
# Flags that change how a run is done but not its predictions.
INDECISIVE = ("resume", "run_id", "date", "job", "verbose", "max_error_ratio", "model_memory_mb", "write_disposition", "duplicate_keys")
# What an output says of the change of its folder or table, not of the predictions.
ABOUT_PUBLISHING = ("write_disposition", "create_dataset", "partition_field", "cluster_fields")


class SplitRecord(msgspec.Struct):
    """The outcome of one split: ``hashes`` are its keys' packed 64-bit hashes, ``statistics`` is encoded by ``statistics.stored``."""

    identity: str
    flags: dict[str, str]
    count: SplitCount
    hashes: bytes
    shards: list[Shard]
    statistics: bytes | None


def identify(job: JobSpec) -> str:
    """Return the hash of all that decides the predictions of ``job``, the model's files included; empty where splits are not recorded.

    They are not where a table is read (each launch reads other streams), where rows name their models (they are shuffled between
    reading and predicting) and where a second model predicts (its outputs are not recorded).
    """
    model = job.model
    if job.input.is_bigquery or isinstance(model, UnknownModel) or job.compare.model is not None:
        return ""
    model_files = sorted((file.relative, file.size_bytes, file.updated) for file in files.list_folder(model.location))
    decisive = (
        [model.location, model.version, str(model.signature), model.batch_size, model_files],
        [str(job.input.format), list(job.input.include_fields), list(job.input.exclude_fields)],
        list(job.key.fields),
        str({name: value for name, value in dataclasses.asdict(job.output).items() if name not in ABOUT_PUBLISHING}),
        str(job.field_types),
        job.report,
    )
    return hashlib.sha256(msgspec.json.encode(decisive)).hexdigest()


def name_of(split: Split) -> str:
    """Return the name of the split's record: the same on every launch while its files are the same."""
    return hashlib.sha256(b"".join(map(packer(FileRange).pack, split.ranges))).hexdigest()[:32] + SUFFIX


def write(job: JobSpec, name: str, record: SplitRecord) -> None:
    """Write a split's record to the staging of ``job``'s launch."""
    content = packer(SplitRecord).pack(record)
    files.write_bytes(paths.join(job.staging_in(job.folder), name), google_crc32c.Checksum(content).digest() + content)


def find(job: JobSpec, split: Split, identity: str, launches: Sequence[str]) -> SplitRecord | None:
    """Return the record that an earlier launch of the run left of ``split``, its shards' checksums verified, or None.

    ``launches`` are the staging folders of these launches; a record counts if it has the run's ``identity``.
    """
    for folder in launches:
        path = paths.join(folder, name_of(split))
        record = _read(path) if files.exists(path) else None
        if record is None or record.identity != identity or not _belongs_to(record, job, split, folder):
            continue
        if all(map(_is_whole, record.shards)):
            return record
    return None


def _belongs_to(record: SplitRecord, job: JobSpec, split: Split, folder: str) -> bool:
    """Return whether a record holds only what the split's own record can hold.

    Anyone who can write to the output could otherwise have any file published. The shards have to be in the staging of the record's
    launch, of a kind that is published and named like the split's files, and their rows have to add up.
    """
    launch = folder.rstrip("/").rpartition("/")[2]
    staging = {"errors": staging_in(job.output.errors, job.run_id, launch)}
    names = {(file_range.relative, file_range.path) for file_range in split.ranges} if job.output.layout == "mirror" else {("", "")}
    for shard in record.shards:
        parent, _, name = shard.path.rpartition("/")
        if shard.kind not in KINDS or parent != staging.get(shard.kind, folder.rstrip("/")) or name in ("", ".", ".."):
            return False
        if shard.split_key != split.key or (shard.relative, shard.source) not in names or files.is_link(shard.path):
            return False
    return record.count.split_key == split.key and record.count.rows == sum(
        shard.rows for shard in record.shards if shard.kind in ROW_KINDS
    )


def _read(path: str) -> SplitRecord | None:
    stored = files.read_bytes(path)
    checksum, content = stored[:CHECKSUM_BYTES], stored[CHECKSUM_BYTES:]
    if google_crc32c.Checksum(content).digest() != checksum:
        return None
    try:
        return packer(SplitRecord).unpack(content)
    except msgspec.DecodeError:  # of another version of the program
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
    """List the paths of the records in the staging folder of one launch."""
    return [paths.join(folder, name) for name in files.list_children(folder) if name.endswith(SUFFIX)]


def are_worth_keeping(paths: Sequence[str]) -> bool:
    """Return whether one of the records at ``paths`` still has all its shards; another run that published may have removed them."""
    records = map(_read, paths)
    return any(record is not None and all(files.exists(shard.path) for shard in record.shards) for record in records)


def find_launches(job: JobSpec, identity: str) -> tuple[str, ...]:
    """List the staging folders of the run's earlier launches that have finished splits; the run has ``identity``.

    Raises:
      SpecError: their predictions would not be those of this launch; the message says why.
    """
    run = paths.join(job.folder, STAGING, job.run_id)
    launches = [folder for name in files.list_children(run) if recorded(folder := paths.join(run, name))]
    for folder in launches:
        record = next((record for path in recorded(folder) if (record := _read(path)) is not None), None)
        if record is not None and record.identity != identity:
            raise SpecError(
                "resume", f"run {job.run_id} can't be resumed: {_difference(record.flags, dict(job.flags))}; leave --resume out"
            )
    return tuple(launches)


def decisive(flags: dict[str, str]) -> dict[str, str]:
    """Return those of ``flags`` that decide the predictions."""
    return {name: text for name, text in flags.items() if name not in INDECISIVE}


def _difference(before: dict[str, str], now: dict[str, str]) -> str:
    before, now = decisive(before), decisive(now)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changes = [f"{_flag(name, before)} then, {_flag(name, now)} now" for name in names]
    return "; ".join(changes) or "its model has changed since, or it is another version of nightshift"


def _flag(name: str, values: dict[str, Any]) -> str:
    return f"--{name}={values[name]}" if name in values else f"no --{name}"
