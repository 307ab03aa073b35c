"""What happens in a scenario, drawn from its seed: the job, and for each attempt the fault and the moment."""

from __future__ import annotations

import dataclasses
import random

STORAGE = ("503", "429", "reset", "cut", "slow")
ENDINGS = (
    "SIGKILL to the worker", "SIGKILL to all", "SIGKILL to all", "SIGKILL to the worker", "SIGSEGV to the worker", "SIGTERM", "SIGINT",
)  # fmt: skip
ERRNOS = ("ENOSPC", "EIO", "EINTR", "EMFILE", "EDQUOT", "EROFS", "EACCES", "ESTALE")
FULL = "a full disk"
LINES = ("input appended to", "input cut")
CHANGES = ("input replaced", "input overwritten", "input removed", "input added", "model replaced", "model overwritten")
SECOND = ("a second run at once", "a second run while this one waits")
TWINS = ("published twice at once", "published again late", "published again after the next run")
AGAIN = "publishing done again by the engine"
DAMAGE = ("a staged file shortened", "a staged file removed", "a staged file's bit turned", "a record damaged", "a record removed")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens at a moment of an attempt: at ``share`` of the operations of a category that a quiet run makes."""

    what: str
    category: str
    share: float


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One launch with its faults; then, with some chance, something staged is damaged."""

    faults: tuple[Fault, ...]
    storage: tuple[str, float, int] | None
    resume: bool
    damage: tuple[str, float] | None


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One job and what happens to it."""

    seed: int
    number: int
    place: str
    kind: str
    input_format: str
    packing: str
    output_format: str
    mirrored: bool
    errors_apart: bool
    keys_made: bool
    stands: bool
    doubled: bool
    report: bool
    files: int
    rows: int
    before_files: int
    before_rows: int
    splits: int
    attempts: tuple[Attempt, ...]

    @property
    def job(self) -> str:
        parts = [self.place, self.kind, f"{self.input_format}{'.' * bool(self.packing)}{self.packing} to {self.output_format}"]
        words = {
            "mirrored": self.mirrored, "errors apart": self.errors_apart, "keys made": self.keys_made, "duplicate keys": self.doubled,
            "first run": not self.stands,
        }  # fmt: skip
        return ", ".join([*parts, *(word for word, holds in words.items() if holds)])


def draw(seed: int, number: int) -> Scenario:
    """Gives scenario ``number`` of ``seed``: always the same."""
    chance = random.Random(f"{seed}:{number}")
    place = chance.choice(("disk", "disk", "bucket"))
    kind = chance.choices(("one", "many", "routed"), (6, 2, 1.5))[0]
    formats = ("jsonl", "csv", "parquet", "avro") + {"one": ("tf-record", "file-list"), "many": ("tf-record",), "routed": ()}[kind]
    input_format = chance.choice(formats)
    packing = chance.choice(("", "", "gz", "zst", "bz2")) if input_format != "file-list" else ""
    keys_made = chance.random() < 0.25 and input_format != "file-list"
    doubled = kind != "many" and not keys_made and input_format != "file-list" and chance.random() < 0.08
    bucket_lists = place == "bucket" and input_format == "file-list"
    scenario = Scenario(
        seed=seed,
        number=number,
        place=place,
        kind=kind,
        input_format=input_format,
        packing=packing,
        output_format=chance.choice(("jsonl", "parquet", "csv", "tf-record")),
        mirrored=kind != "routed" and chance.random() < 0.35,
        errors_apart=kind != "many" and chance.random() < 0.3,
        keys_made=keys_made,
        stands=chance.random() < 0.85,
        doubled=doubled,
        report=chance.random() < 0.12,
        files=chance.randint(1, 4),
        rows=chance.randint(12, 24) if bucket_lists else chance.randint(100, 1500),
        before_files=chance.randint(1, 4),
        before_rows=chance.randint(12, 24) if bucket_lists else chance.randint(100, 1500),
        splits=chance.randint(1, 5),
        attempts=(),
    )
    attempts = tuple(_draw_attempt(chance, scenario) for _ in range(chance.choices((1, 2, 3), (5, 3, 2))[0]))
    return dataclasses.replace(scenario, attempts=attempts)


def _draw_attempt(chance: random.Random, scenario: Scenario) -> Attempt:
    storage = None
    if scenario.place == "bucket" and chance.random() < 0.45:
        storage = (chance.choice(STORAGE), round(chance.uniform(0.04, 0.3), 2), chance.randrange(1000))
    faults: list[Fault] = []
    if storage is None or chance.random() < 0.5:
        faults.append(_draw_fault(chance, scenario))
        if not faults[0].what.startswith("SIG") and chance.random() < 0.25:
            faults.append(Fault(chance.choice(ENDINGS), chance.choice(("any", "publish")), chance.random()))
    damage = (chance.choice(DAMAGE), chance.random()) if chance.random() < 0.35 else None
    return Attempt(tuple(faults), storage, chance.random() < 0.5, damage)


def _draw_fault(chance: random.Random, scenario: Scenario) -> Fault:
    category = chance.choice(("any", "any", "publish"))
    share = chance.random()
    kind = chance.choices(("ending", "errno", "full", "change", "second", "twin", "again"), (28, 18, 7, 17, 10, 12, 8))[0]
    if kind == "ending":
        return Fault(chance.choice(ENDINGS), category, share)
    if kind == "errno":
        return Fault(chance.choice(ERRNOS), category, share)
    if kind == "full":
        return Fault(FULL, category, share)
    if kind == "second":
        return Fault(chance.choice(SECOND), category, share)
    if kind == "twin":
        return Fault(chance.choice(TWINS), "publish", share)
    if kind == "again":
        return Fault(AGAIN, "publish", share)
    lines = LINES if scenario.input_format in ("jsonl", "csv") and not scenario.packing and scenario.place == "disk" else ()
    what = chance.choice(CHANGES + 2 * lines)
    return Fault(what, chance.choice(("any", "input", "input")), share)


# --- every operation of three small jobs -----------------------------------------------------------------------------------

SMALL = ("disk", "tasks", "bucket")
EVERYWHERE = ("SIGKILL to all", "EIO", FULL)


def small(job: str) -> Scenario:
    """Gives one of three small jobs: one folder, three tasks, or a mirrored output with failed rows apart in a bucket."""
    return Scenario(
        seed=-1 - SMALL.index(job),
        number=0,
        place="bucket" if job == "bucket" else "disk",
        kind="many" if job == "tasks" else "one",
        input_format="csv" if job == "bucket" else "jsonl",
        packing="",
        output_format="parquet" if job == "tasks" else "jsonl",
        mirrored=job == "bucket",
        errors_apart=job == "bucket",
        keys_made=False,
        stands=True,
        doubled=False,
        report=False,
        files=1,
        rows=60,
        before_files=2,
        before_rows=60,
        splits=1,
        attempts=(),
    )
