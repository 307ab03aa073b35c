"""A scenario on its ground: its files, its launches, what may stand in its output, and what was found wrong."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gcp_fixtures import CloudStorage

from chaos import rows as contents
from chaos.faults import Point
from chaos.launch import Launch, Settings, follow
from chaos.look import BrokenError, Output, leftovers, look, temporary_leftovers
from chaos.places import Bucket, Disk, Place
from chaos.rows import CHANGED_WEIGHTS, LENGTH, MODELS, WEIGHTS, Expected, Row
from chaos.scenario import Scenario

# A run that waits for another's lock, while the harness holds that one at some operation, would wait for ever.
HELD_SECONDS = 1.5
FACTORS = {"before": 1, "new": 3, "other": 7, "doubled": 3, "changed": 11}
KNOWN = {"in", "out", "errors", "models", "tmp", "tasks-before.jsonl", "tasks-new.jsonl", "tasks-other.jsonl", "blobs"}
# What a run makes at least, where no run before has shown how much it is.
OPERATIONS = {"any": 120, "input": 3, "publish": 40}


class Play:
    """One scenario on its ground: files written, launches made, versions known."""

    def __init__(self, scenario: Scenario, folder: Path, gcs: CloudStorage, bucket: str, models: dict[str, Path]) -> None:
        self.scenario, self.gcs = scenario, gcs
        self.folder = folder
        self.disk = Disk(str(folder / "root"))
        (folder / "root" / "tmp").mkdir(parents=True)
        self.place: Place = self.disk if scenario.place == "disk" else Bucket(gcs, f"{bucket}/{folder.name}")
        self.models = models
        self.largest = 400
        self.put_off: list[Launch] = []
        self.problems: list[dict[str, str]] = []
        self.launched = 0
        self.weights = dict(WEIGHTS)
        self.current, self.changes = "new", 0
        self.files: dict[str, dict[str, list[Row]]] = {}
        self.counts = dict(OPERATIONS)
        self.all: list[Launch] = []
        names = [f"out/t{number}" for number in range(len(MODELS))] if scenario.kind == "many" else ["out"]
        self.outputs = {name: self._output(name) for name in names}
        self.versions: dict[str, dict[str, Expected]] = {name: {} for name in names}

    def _output(self, name: str) -> Output:
        own = self.scenario
        return Output(self.place, name, "errors" if own.errors_apart else name, own.output_format, own.mirrored, own.keys_made)

    # --- what is read ---

    def write_input(self, version: str) -> None:
        """Writes a version's files and says what must come of them."""
        own = self.scenario
        many_files, many_rows = (own.before_files, own.before_rows) if version == "before" else (own.files, own.rows)
        site = "m0" if own.kind == "one" else None
        for number, output in enumerate(self.outputs):
            folder = f"in/{version}/t{number}" if own.kind == "many" else f"in/{version}"
            rows = contents.make_rows(
                max(8, many_rows // len(self.outputs)), FACTORS[version], MODELS[number] if own.kind == "many" else site
            )
            size = math.ceil(len(rows) / many_files)
            for part in range(0, len(rows), size):
                name = f"{folder}/{contents.file_name(own.input_format, part // size, own.packing)}"
                self.write_rows(name, rows[part : part + size], version)
            if version == "doubled":
                last = max(self.files[folder])
                self.write_rows(last, [*self.files[folder][last], rows[0]], version)
            else:
                self.expect(output, version)
        if own.kind == "many":
            tasks = [
                {
                    "model": self.place.path(f"models/{MODELS[number]}"),
                    "input": self.place.path(f"in/{version}/t{number}"),
                    "output": f"t{number}",
                }
                for number in range(len(MODELS))
            ]
            self.place.write(f"tasks-{version}.jsonl", b"".join(json.dumps(task).encode() + b"\n" for task in tasks))

    def write_rows(self, name: str, rows: list[Row], version: str, overwrite: bool = False) -> None:
        own = self.scenario
        if own.input_format == "file-list":
            content = b"".join(self.place.path(f"blobs/{version}/{row.id}.bin").encode() + b"\n" for row in rows)
            for row in rows:
                if row.x is not None:
                    self.place.write(f"blobs/{version}/{row.id}.bin", b"x" * (int(row.x) + 1))
        else:
            content = contents.encode(own.input_format, rows, own.packing)
        (self.place.overwrite if overwrite else self.place.write)(name, content)
        self.largest = max(self.largest, len(content))
        self.files.setdefault(name.rpartition("/")[0], {})[name] = rows

    def expect(self, output: str, version: str, source: str | None = None) -> None:
        """Notes what must come of the files of ``source``, and of the models, as they are now."""
        folder = self._folder(output, source or version)
        rows = [row for part in self.files[folder].values() for row in part]
        self.versions[output][version] = contents.expect(rows, None if self.scenario.input_format == "file-list" else self.weights)

    def _folder(self, output: str, version: str) -> str:
        return f"in/{version}/{output.rpartition('/')[2]}" if self.scenario.kind == "many" else f"in/{version}"

    def change(self, what: str, share: float) -> None:
        """Changes an input or a model of the new run, in the middle of it."""
        kind, _, way = what.partition(" ")
        if kind == "model" and self.scenario.input_format != "file-list":
            name = "m0"
            self.weights = self.weights | {name: CHANGED_WEIGHTS[name] if self.weights == WEIGHTS else WEIGHTS[name]}
            self._write_model(self.models[name if self.weights == WEIGHTS else f"changed-{name}"], f"models/{name}", way == "overwritten")
        else:
            self._change_input(way, share)
        self.changes += 1
        self.current = f"changed {self.changes}"
        for output in self.outputs:
            self.expect(output, self.current, "new")

    def _write_model(self, source: Path, folder: str, overwrite: bool) -> None:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                (self.place.overwrite if overwrite else self.place.write)(f"{folder}/{path.relative_to(source)}", path.read_bytes())

    def _change_input(self, way: str, share: float) -> None:
        output = next(iter(self.outputs))
        files = self.files[self._folder(output, "new")]
        names = sorted(files)
        name = names[int(share * len(names))]
        rows = files[name]
        first = 1 + max(row.id for part in files.values() for row in part)
        site = rows[0].site if self.scenario.kind != "routed" else None
        new = [row._replace(id=row.id + first) for row in contents.make_rows(20, FACTORS["changed"], site)]
        others = [
            row._replace(x=other.x)
            for row, other in zip(rows, contents.make_rows(len(rows), FACTORS["changed"] + self.changes, site), strict=True)
        ]
        if way == "appended to":
            header = len(contents.encode(self.scenario.input_format, [])) if self.scenario.input_format == "csv" else 0
            with open(self.place.path(name), "ab") as file:
                file.write(contents.encode(self.scenario.input_format, new)[header:])
            files[name] = rows + new
        elif way == "cut":
            files[name] = rows[: len(rows) // 2]
            with open(self.place.path(name), "r+b") as file:
                file.truncate(len(contents.encode(self.scenario.input_format, files[name])))
        elif way == "removed" and len(names) > 1:
            self.place.remove(name)
            del files[name]
        elif way == "added":
            added = f"{name.rpartition('/')[0]}/{contents.file_name(self.scenario.input_format, 9, self.scenario.packing)}"
            self.write_rows(added, files.get(added) or new, f"changed-{self.changes}")
        else:
            self.write_rows(name, others, f"changed-{self.changes}", overwrite=way == "overwritten")

    def write_models(self) -> None:
        for name in (LENGTH,) if self.scenario.input_format == "file-list" else MODELS if self.scenario.kind != "one" else ("m0",):
            self.place.copy_folder(str(self.models[name]), f"models/{name}")

    # --- launches ---

    def flags(self, version: str, **more: Any) -> list[str]:
        own = self.scenario
        flags: dict[str, Any] = {"output": self.place.path("out"), "max_error_ratio": "0.5", "output_format": own.output_format}
        flags |= {"report": str(own.report).lower(), "run_id": f"{version}-{own.number}"}
        if own.kind == "many":
            flags |= {"model_map": self.place.path(f"tasks-{version}.jsonl")}
        else:
            model = "models/{site}" if own.kind == "routed" else "models/length" if own.input_format == "file-list" else "models/m0"
            flags |= {"model": self.place.path(model), "input": self.place.path(f"in/{version}")}
            if own.kind == "routed":
                flags |= {"model_field": "site"}
        if own.keys_made:
            flags |= {"passthrough_fields": "id"}
        elif own.input_format == "file-list":
            flags |= {"input_format": "file-list"}
        else:
            flags |= {"key_field": "id"}
        if own.mirrored:
            flags |= {"output_layout": "mirror"}
        if own.errors_apart:
            flags |= {"errors": self.place.path("errors")}
        return ["run", *(f"--{name}={value}" for name, value in (flags | more).items())]

    def launch(self, version: str, name: str = "the run", points: tuple[Point, ...] = (), twin: str | None = None, **more: Any) -> Launch:
        short_sleeps, publish_again = more.pop("short_sleeps", False), more.pop("publish_again", False)
        launch = Launch(name, self.flags(version, **more), self.settings(points, short_sleeps, publish_again, twin))
        self.all.append(launch)
        return launch

    def settings(
        self, points: tuple[Point, ...] = (), short_sleeps: bool = False, publish_again: bool = False, twin: str | None = None
    ) -> Settings:
        self.launched += 1
        return Settings(
            root=self.disk.root,
            said=str(self.folder / f"said-{self.launched:02d}"),
            counts=str(self.folder / f"counts-{self.launched:02d}"),
            points=points,
            split_bytes=max(400, self.largest // self.scenario.splits),
            short_sleeps=short_sleeps,
            publish_again=publish_again,
            twin=twin,
        )

    # --- looking ---

    def problem(self, kind: str, text: str, after: str) -> None:
        self.problems.append({"kind": kind, "after": after, "text": text})

    def look(self, allowed: Iterable[str], after: str) -> dict[str, str]:
        """Gives what stands in each output, and notes what may not."""
        standing = {}
        for name, output in self.outputs.items():
            try:
                now = look(output, self.versions[name])
            except BrokenError as error:
                self.problem(error.kind, f"{name}: {error}", after)
                standing[name] = f"broken: {error.kind}"
                continue
            # Versions may be alike in one of many outputs.
            standing[name] = next((one for one in now if one in allowed), now[0])
            if standing[name] not in allowed:
                self.problem("state", f"{name} is {now}; expected one of {sorted(allowed)}", after)
        return standing

    def listen(self, each: Launch, after: str) -> None:
        """Notes what a launch may not say or end with."""
        if "Traceback (most recent call last)" in each.said:
            self.problem("traceback", f"{each.name}: {each.said[-1500:]}", after)
        if each.status is not None and each.status > 0 and each.status not in (1, 2, 3, 130):
            self.problem("status", f"{each.name} ended with {each.status}: {each.said[-500:]}", after)

    def quiet(self, version: str, status: int = 0, allowed: Iterable[str] | None = None, name: str = "a quiet run", **more: Any) -> Launch:
        """Runs without a fault, and looks; a process that was put off wakes up when it has ended, or when it waits too long."""
        each = self.launch(version, name, **more)
        began = time.monotonic()
        for other in self.put_off:
            other.may_stay = False
            other.held_until = lambda: each.status is not None or time.monotonic() > began + 3 * HELD_SECONDS
        if follow([each, *self.put_off], lambda launch, _: launch.answer()):
            self.problem("hang", each.said[-3000:], name)
        for every in (each, *self.put_off):
            self.listen(every, name)
        if each.status != status:
            self.problem("status", f"{name} ended with {each.status}, expected {status}: {each.said[-1500:]}", name)
        self.look(allowed or {version}, name)
        return each

    def look_for_leftovers(self, after: str) -> None:
        """Notes what lies where nothing should."""
        left = leftovers(self.place, {"out", *({"errors"} if self.scenario.errors_apart else set())}, KNOWN)
        left += temporary_leftovers(self.disk)
        if self.place is not self.disk:
            left += sorted(self.disk.children() - KNOWN)
        if left:
            self.problem("leftover", ", ".join(left[:12]), after)
