"""The gate and what lies behind it: shards become the output, whole, or the failed rows alone do."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import msgspec

from transforms import files
from transforms.elements import Shard, SplitCount
from transforms.keys import DuplicateKey, Duplicates
from transforms.specs import STAGING, JobSpec
from transforms.write import manifest
from transforms.write.gate import Accounts, check_gate, count_codes, mirrored_name, shard_order

RESULTS = "prediction.results"
ERRORS = "prediction.errors"
STATS = "prediction.errors_stats"
MANIFEST = "manifest.json"
SUCCESS = "_SUCCESS"
PUBLISHED = re.compile(rf"({re.escape(RESULTS)}|{re.escape(ERRORS)}|{re.escape(STATS)})-\d+-of-\d+")


class GateShutError(Exception):
    """The run's accounts do not allow its results to be published; the message says why."""


class LostShardError(Exception):
    """A finished shard is not where it was written."""


class Publisher:
    """Publishes one run; every step may have been done by an attempt before, at any point of it."""

    def __init__(self, job: JobSpec, accounts: Accounts) -> None:
        self.job, self.accounts = job, accounts
        self.folder = job.output.folder
        self.errors_folder = job.output.errors

    def publish(self) -> dict[str, Any]:
        """Gives the manifest.

        Raises:
          GateShutError: after the failed rows and a manifest that says so were published.
        """
        done = published_by(self.job)
        if done is not None:
            return self._end(done)
        before = manifest.read(files.join(self.folder, MANIFEST))
        reason = check_gate(self.job, self.accounts)
        files.delete([files.join(self.folder, SUCCESS)])
        results = self._place_results() if reason is None else []
        errors = self._place_errors()
        report = manifest.make(self.job, self.accounts, reason, results, errors, before)
        if reason is None:
            self._delete_stale(self.folder, RESULTS, before, {result["name"] for result in results})
        self._delete_stale(self.errors_folder, f"{ERRORS}|{STATS}", None, set(self._error_names(errors)))
        files.write_bytes(files.join(self.folder, MANIFEST), msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        return self._end(report)

    def _end(self, report: dict[str, Any]) -> dict[str, Any]:
        if report["status"] == "done":
            files.write_bytes(files.join(self.folder, SUCCESS), b"")
        for folder in {self.folder, self.errors_folder}:
            files.delete_folder(files.join(folder, STAGING))
        if report["status"] != "done":
            raise GateShutError(report["reason"])
        return report

    # --- results ---

    def _place_results(self) -> list[dict[str, Any]]:
        shards = sorted((shard for shard in self.accounts.shards if shard.kind == "results"), key=shard_order)
        if self.job.output.layout == "mirror":
            return self._place_mirrored(shards)
        if not shards:  # a consumer's pattern finds something also when there was nothing to predict
            name = f"{RESULTS}-00000-of-00001"
            files.write_bytes(files.join(self.folder, name), b"")
            return [{"name": name, "rows": 0, "bytes": 0, "crc32c": "00000000"}]
        names = [f"{RESULTS}-{number:05d}-of-{len(shards):05d}" for number in range(len(shards))]
        self._move(shards, [files.join(self.folder, name) for name in names])
        return [_entry(name, shard) for name, shard in zip(names, shards, strict=True)]

    def _place_mirrored(self, shards: Sequence[Shard]) -> list[dict[str, Any]]:
        by_file: dict[tuple[str, str], list[Shard]] = {}
        for shard in shards:
            by_file.setdefault((shard.relative, shard.source), []).append(shard)
        entries, moved, names = [], [], []
        for (relative, _), pieces in by_file.items():
            name = mirrored_name(relative)
            shard = pieces[0] if len(pieces) == 1 else self._join(pieces)
            entries.append(_entry(name, shard))
            moved.append(shard)
            names.append(files.join(self.folder, name))
        self._move(moved, names)
        return entries

    def _join(self, pieces: Sequence[Shard]) -> Shard:
        """Makes one file of the shards of one input file, in order."""
        from transforms.write.shards import ShardFile

        joined = ShardFile("results", self.job.staging_in(self.folder), (pieces[0].order, pieces[0].relative, pieces[0].source))
        for piece in pieces:
            with files.open_raw(piece.path) as stream:
                while block := stream.read(8 << 20):
                    joined.write(block, 0)
        return dataclasses.replace(joined.finish(), rows=sum(piece.rows for piece in pieces))

    # --- failed rows ---

    def _place_errors(self) -> list[dict[str, Any]]:
        shards = sorted((shard for shard in self.accounts.shards if shard.kind == "errors"), key=shard_order)
        if not shards:
            return []
        names = [f"{ERRORS}-{number:05d}-of-{len(shards):05d}" for number in range(len(shards))]
        self._move(shards, [files.join(self.errors_folder, name) for name in names])
        lines = [msgspec.json.encode({key: row[key] for key in ("code", "message", "count")}) for row in count_codes(shards)]
        files.write_bytes(files.join(self.errors_folder, f"{STATS}-00000-of-00001"), b"\n".join(lines) + b"\n")
        return [_entry(name, shard) for name, shard in zip(names, shards, strict=True)]

    def _error_names(self, errors: list[dict[str, Any]]) -> Iterator[str]:
        yield from (entry["name"] for entry in errors)
        if errors:
            yield f"{STATS}-00000-of-00001"

    # --- moving and removing ---

    def _move(self, shards: Sequence[Shard], destinations: Sequence[str]) -> None:
        staged = {found.path for folder in {self.folder, self.errors_folder} for found in files.list_folder(self.job.staging_in(folder))}
        pairs = []
        for shard, destination in zip(shards, destinations, strict=True):
            if shard.path in staged:
                pairs.append((shard.path, destination))
            elif not files.exists(destination):
                raise LostShardError(
                    f"{shard.path} is gone: another run published to {self.folder} while this one ran, or staging was removed. "
                    "Nothing of this run is published; start it again"
                )
        files.rename(pairs)

    def _delete_stale(self, folder: str, kinds: str, before: dict[str, Any] | None, fresh: set[str]) -> None:
        """Deletes what an earlier run left under names that this run would use or list."""
        listed = {name for name in manifest.result_names(before) if ".." not in name.split("/")}
        pattern = re.compile(rf"({kinds})-\d+-of-\d+")
        there = {name for name in files.list_children(folder) if pattern.fullmatch(name)}
        stale = sorted((there | listed) - fresh)
        files.delete([path for path in (files.join(folder, name) for name in stale) if files.exists(path)])


def _entry(name: str, shard: Shard) -> dict[str, Any]:
    return {"name": name, "rows": shard.rows, "bytes": shard.bytes, "crc32c": shard.crc32c}


def published_by(job: JobSpec) -> dict[str, Any] | None:
    """Gives the manifest of this very launch, if it came as far as one."""
    report = manifest.read(files.join(job.output.folder, MANIFEST))
    return report if report is not None and report.get("launch") == job.launch else None


class _Publish(beam.DoFn):
    def __init__(self, job: JobSpec) -> None:
        self.job = job

    def process(
        self, _: None, shards: Sequence[Shard], counts: Sequence[SplitCount], duplicates: Duplicates, places: tuple[DuplicateKey, ...]
    ) -> Iterator[dict[str, Any]]:
        accounts = Accounts(tuple(shards), tuple(counts), duplicates, places)
        yield Publisher(self.job, accounts).publish()


@dataclasses.dataclass
class Publish(beam.PTransform):
    """Opens the gate and publishes, as the last step of the graph, since a template's launcher is gone by then.

    Expects: all ``Shard``s. ``counts``, ``duplicates`` and ``places`` come from the read step. Gives: the manifest.
    Guarantees: the output is whole, ending with ``_SUCCESS``, or not there; done twice, it ends the same.
    """

    job: JobSpec
    counts: beam.PCollection
    duplicates: beam.PCollection
    places: beam.PCollection

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        return (
            shards.pipeline
            | "Once" >> beam.Create([None], reshuffle=False)
            | "Publish"
            >> beam.ParDo(
                _Publish(self.job),
                beam.pvalue.AsList(shards),
                beam.pvalue.AsList(self.counts),
                beam.pvalue.AsSingleton(self.duplicates),
                beam.pvalue.AsSingleton(self.places),
            )
        )
