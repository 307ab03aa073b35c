"""Exactly once, by chaos: runs with faults by chance, one after another, each until it is done.

``NIGHTSHIFT_CHAOS_RUNS`` says how many, ``NIGHTSHIFT_CHAOS_SEED`` which, ``NIGHTSHIFT_CHAOS_LOG`` where a line of JSON a run goes.
docs/reliability.md has what 50 came to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import child
import pytest
from gcp_fixtures import CloudStorage
from saved_models import Models
from test_job import write_lines

RUNS = int(os.environ.get("NIGHTSHIFT_CHAOS_RUNS", "5"))
SEED = int(os.environ.get("NIGHTSHIFT_CHAOS_SEED", "20261128"))
LOG = os.environ.get("NIGHTSHIFT_CHAOS_LOG")
ROWS = 20_000
SPLIT_BYTES = 40_000
ATTEMPTS = 6
SIGNALS = ("SIGKILL", "SIGINT", "SIGTERM", "SIGSEGV")
STORAGE = ("503", "429", "reset", "cut", "slow")
DAMAGE = ("a staged file shortened", "a staged file removed")
PUBLISHED = ("prediction.results", "prediction.errors-", "manifest.json", "_SUCCESS")


class Output:
    """One place of output, on the disk or in a bucket, looked at from outside."""

    def __init__(self, gcs: CloudStorage, path: str) -> None:
        self.gcs, self.path = gcs, path

    def names(self) -> list[str]:
        if self.path.startswith("gs://"):
            return self.gcs.list(self.path)
        return sorted(str(path.relative_to(self.path)) for path in Path(self.path).rglob("*") if path.is_file())

    def read(self, name: str) -> bytes:
        return self.gcs.read(f"{self.path}/{name}") if self.path.startswith("gs://") else Path(self.path, name).read_bytes()

    def damage(self, name: str, remove: bool) -> None:
        path = f"{self.path}/{name}"
        content = self.read(name)[:-5]
        if not path.startswith("gs://"):
            Path(path).unlink() if remove else Path(path).write_bytes(content)
        elif remove:
            self.gcs._blob(path).delete()
        else:
            self.gcs.write(path, content)

    def look(self) -> str | None:
        """Gives a digest of the published rows, having held them against the manifest; None where no whole output is there.

        In a bucket, whose files can't change at once, ``_SUCCESS`` says that the output is whole.
        """
        names = self.names()
        if "_SUCCESS" not in names:
            assert self.path.startswith("gs://") or not [name for name in names if name.startswith(PUBLISHED)]
            return None
        report = json.loads(self.read("manifest.json"))
        counts = report["counts"]
        rows: list[bytes] = []
        for kind, entries in (("results", report["results"]), ("errors", report["failed_rows"])):
            there = {name for name in names if name.startswith(f"prediction.{kind}-")}
            assert there == {entry["name"] for entry in entries}, "stale or missing files"
            lines = [line for name in sorted(there) for line in self.read(name).splitlines()]
            assert len(lines) == counts["predicted" if kind == "results" else "failed"]
            rows += lines
        assert counts["read"] == counts["predicted"] + counts["failed"] == ROWS
        keys = [json.loads(row)["key"] for row in rows]
        assert sorted(keys, key=int) == [*range(ROWS)], "each key once"
        rows = sorted(_without_place(row) for row in rows)
        return hashlib.sha256(b"\n".join(rows)).hexdigest()


def _without_place(row: bytes) -> bytes:
    """A failed row names its file, which is another one in a bucket."""
    return json.dumps({name: value for name, value in json.loads(row).items() if name != "source"}, sort_keys=True).encode()


@contextlib.contextmanager
def storage_faults(gcs: CloudStorage, fault: dict[str, Any] | None) -> Iterator[None]:
    if fault is None:
        yield
    else:
        with gcs.stand_ins.faults(fault["kind"], share=fault["share"], seed=fault["seed"]):
            yield


def attempt(output: Output, chance: random.Random, gcs: CloudStorage, said: Path, quiet_seconds: float, flags: dict[str, Any]) -> list[str]:
    """Runs once, with the faults that chance gives; gives their names."""
    faults = []
    storage = None
    if output.path.startswith("gs://") and chance.random() < 0.6:
        storage = {"kind": chance.choice(STORAGE), "share": round(chance.uniform(0.05, 0.35), 2), "seed": chance.randrange(1000)}
        faults.append(f"storage {storage['kind']} {storage['share']:.0%}")
    ended_by = chance.choice(SIGNALS) if not faults or chance.random() < 0.5 else None
    second = chance.random() < 0.15
    with storage_faults(gcs, storage):
        runs = [child.start(output.path, SPLIT_BYTES, said, **flags)]
        if second:
            faults.append("a second run at once")
            runs.append(child.start(output.path, SPLIT_BYTES, said.with_suffix(".second"), **flags | {"run_id": "second"}))
        if ended_by:
            seconds = chance.uniform(0.2, 1.1) * quiet_seconds * len(runs)
            faults.append(f"{ended_by} after {seconds:.1f} s")
            runs[0].join(seconds)
            with contextlib.suppress(ProcessLookupError):
                assert runs[0].pid is not None
                below = child.workers(runs[0].pid)
                os.kill(below[-1] if below else runs[0].pid, signal.Signals[ended_by])
        for each in runs:
            each.join(300)
            assert not each.is_alive(), f"a run does not end: {faults}"
    return faults


def test_every_row_once_whatever_happens(gcs: CloudStorage, models: Models, tmp_path: Path) -> None:
    bucket = gcs.make_bucket()
    inputs: list[dict[str, Any]] = []
    for number in range(2):
        rows = [{"x": (row * (number + 1)) % 50 if row % 500 else "no", "id": row} for row in range(ROWS)]
        path = write_lines(tmp_path / f"rows-{number}.jsonl", rows)
        inputs.append({"local": str(path), "gs": gcs.write(f"{bucket}/rows-{number}.jsonl", path.read_bytes())})
    local, remote = Output(gcs, str(tmp_path / "out")), Output(gcs, f"{bucket}/out")
    model = {"local": models.get("half_plus_two"), "gs": gcs.upload_folder(models.get("half_plus_two"), f"{bucket}/model")}
    said = tmp_path / "said"

    def flags(place: str, which: int) -> dict[str, Any]:
        return {"model": model[place], "input": inputs[which][place], "key_field": "id"}

    digests, seconds = {}, {}
    for which in range(2):
        for place, output in (("local", local), ("gs", remote)):
            started = time.monotonic()
            quiet = child.start(output.path, SPLIT_BYTES, said, **flags(place, which))
            quiet.join()
            assert quiet.exitcode == 0, said.read_text()
            seconds[place] = time.monotonic() - started
            digest = output.look()
            assert digests.setdefault(which, digest) == digest
    there = {"local": 1, "gs": 1}

    for number in range(RUNS):
        chance = random.Random(SEED * 1000 + number)
        place = chance.choice(("local", "gs"))
        output, which = (local, remote)[place == "gs"], 1 - there[place]
        own, faults, tried = flags(place, which) | {"run_id": f"run-{number}"}, [], 0
        while output.look() != digests[which]:
            tried += 1
            if tried == ATTEMPTS:  # enough: once without a fault
                last = child.start(output.path, SPLIT_BYTES, said, **own)
                last.join()
                assert last.exitcode == 0, said.read_text()
                continue
            assert tried < ATTEMPTS, said.read_text()
            faults += attempt(output, chance, gcs, said, seconds[place], own)
            now = output.look()
            assert now in (digests[there[place]], digests[which]) or (place == "gs" and now is None), faults
            staged = [name for name in output.names() if name.startswith("_staging") and "results" in name]
            if staged and chance.random() < 0.3:
                damage = chance.choice(DAMAGE)
                output.damage(chance.choice(staged), remove=damage.endswith("removed"))
                faults.append(damage)
            own["resume"] = chance.choice(("true", "false"))
        if [name for name in output.names() if name.startswith("_staging")]:  # of a second run that came late, or was killed
            after = child.start(output.path, SPLIT_BYTES, said, **flags(place, which))
            after.join()
            assert (after.exitcode, output.look()) == (0, digests[which])
        left = [name for name in output.names() if name.startswith("_staging")]
        assert not left, "the next run takes away what is left"
        there[place] = which
        if LOG:
            with open(LOG, "a", encoding="utf-8") as log:
                log.write(json.dumps({"run": number, "seed": SEED, "place": place, "attempts": tried, "faults": faults}) + "\n")
        assert faults, "a run without a fault shows nothing"


pytestmark = pytest.mark.skipif(not RUNS, reason="NIGHTSHIFT_CHAOS_RUNS is 0")
