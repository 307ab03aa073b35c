"""Whole jobs, as a user sees them: rows in, exit status, and what lies in the output folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import google_crc32c

from pipeline.main import main
from transforms.specs.job import InputSpec, KeySpec
from transforms.specs.limits import DEFAULT_LIMITS, Limits
from transforms.specs.output import FolderOutput
from transforms.specs.run import TasksRun


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON-lines, texts as they are; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[Any]:
    """Return the rows of a file of JSON-lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(out: Path | str, limits: Limits = DEFAULT_LIMITS, **flags: Any) -> int:
    """Run a job in this process; return its exit status."""
    return main(["run", f"--output={out}", *(f"--{name}={value}" for name, value in flags.items())], limits)


def lines(out: Path, kind: str = "prediction.results") -> list[Any]:
    """Return the rows of all shards of a kind, in the shards' order."""
    return [row for path in sorted(out.glob(f"{kind}-*")) for row in read_lines(path)]


def task_lines(out: Path) -> list[dict[str, Any]]:
    """Return what the manifest of a run of many tasks lists of each."""
    return [line for path in sorted(out.glob("tasks-*.jsonl")) for line in read_lines(path)]


def manifest(out: Path) -> dict[str, Any]:
    """Return an output's manifest."""
    content: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return content


def names_in(folder: Path) -> set[str]:
    """Return the names of all files below ``folder``, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def check_output(out: Path) -> dict[str, Any]:
    """Compare a published folder with its manifest, byte by byte; return the manifest."""
    report = manifest(out)
    counts = report["counts"]
    assert counts["read"] == counts["predicted"] + counts["failed"]
    assert (out / "_SUCCESS").exists() == (report["status"] == "done")
    assert not (out / "_staging").exists(), sorted(map(str, (out / "_staging").rglob("*")))
    for entry in (*report["results"], *report["failed_rows"]):
        content = (out / entry["name"]).read_bytes()
        checksum = google_crc32c.Checksum(content)
        assert (len(content), content.count(b"\n"), checksum.hexdigest().decode()) == (entry["bytes"], entry["rows"], entry["crc32c"])
    assert sum(entry["rows"] for entry in report["failed_rows"]) == counts["failed"]
    names = {path.name for path in out.iterdir() if path.name.startswith("prediction.")}
    stats = {"prediction.errors_stats-00000-of-00001"} if counts["failed"] else set()
    kept = set(report.get("kept_results", {}).get("names", ()))
    assert names == {entry["name"] for entry in (*report["results"], *report["failed_rows"])} | stats | kept
    return report


def run_of_tasks(folder: Path | str, count: int, **values: Any) -> TasksRun:
    """Make the spec of a run of ``count`` tasks."""
    values = {"run_id": "run", "launch": "launch", "started": "2026-01-01T00:00:00+00:00"} | values
    return TasksRun(count=count, folder=str(folder), input=InputSpec(("in",)), key=KeySpec(), output=FolderOutput(str(folder)), **values)
