"""Output folders before and after a change, made without a run."""

from __future__ import annotations

import json
from pathlib import Path

import google_crc32c

from transforms.elements.shards import Shard
from transforms.output.folder_change import Change, FolderChange, commit
from transforms.output.journal import alone

RESULT0, RESULT1 = "prediction.results-00000-of-00002", "prediction.results-00001-of-00002"


def crc32c(content: bytes) -> str:
    return google_crc32c.Checksum(content).hexdigest().decode()


def described(results: dict[str, bytes], **others: object) -> bytes:
    """A manifest of results of one row each."""
    listed = [{"name": name, "rows": 1, "bytes": len(content), "crc32c": crc32c(content)} for name, content in results.items()]
    counts = {"read": len(listed), "predicted": len(listed), "failed": 0}
    return json.dumps({"status": "done", "run_id": "r", "counts": counts, "results": listed, "failed_rows": []} | others).encode()


def an_output(results: dict[str, bytes]) -> dict[str, bytes]:
    return results | {"manifest.json": described(results), "_SUCCESS": b""}


OLD = an_output({RESULT0: b"old0", RESULT1: b"old1", "only/old.jsonl": b"old2"})


NEW = an_output({RESULT0: b"new0", RESULT1: b"new1", "deep/new.jsonl": b"new2"})


FOREIGN = {"notes.txt": b"mine", "sub/more.txt": b"mine too"}


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def write(folder: Path, content: dict[str, bytes]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)


def read(folder: Path, staged: bool = False) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if staged or not name.startswith(("_staging/", "_nightshift/"))}


def make(change: Change) -> None:
    with alone(*(each.folder for each in change.folders)) as locks:
        commit(change, locks)


def in_place(folder: Path) -> Path:
    """Makes a folder one that can't be exchanged for another."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "link").symlink_to(folder.parent)
    return folder


def staged(folder: Path, name: str, content: bytes) -> Shard:
    write(folder, {f"_staging/run/launch/{name}": content})
    return Shard("results", f"{folder}/_staging/run/launch/{name}", ("", 0), "", "", 1, len(content), crc32c(content))


def a_folder_change(folder: Path) -> FolderChange:
    return FolderChange(
        str(folder),
        f"{folder}/_staging/run/launch",
        placed={
            RESULT0: staged(folder, "a", b"new0"),
            RESULT1: staged(folder, "b", b"new1"),
            "deep/new.jsonl": staged(folder, "c", b"new2"),
        },
        written={"manifest.json": NEW["manifest.json"], "_SUCCESS": b""},
        removed={"prediction.results-00000-of-00001", "only/old.jsonl"},
    )


def a_change(folder: Path) -> Change:
    return Change("run", "launch", 0, [a_folder_change(folder)], f"{folder.parent}/.{folder.name}.nightshift")
