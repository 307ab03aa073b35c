"""Staging folders go at once: who still publishes from one changes nothing, instead of placing what is left of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from output_folders import OLD, a_change, read, write

from transforms.output import folder_change
from transforms.output.journal import alone
from transforms.output.placing import LostShardError
from transforms.staging import removal
from transforms.storage import files


def test_a_worker_whose_staging_is_removed_while_it_publishes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launch was interrupted, and its worker works on: it has built the new folder in staging, and is about to exchange it."""
    out, run = tmp_path / "out", tmp_path / "run" / "_staging" / "r" / "launch"
    write(out, OLD)
    change = a_change(out)
    for shard in change.folders[0].placed.values():
        place = run / Path(shard.path).name
        place.parent.mkdir(parents=True, exist_ok=True)
        Path(shard.path).rename(place)
    placed = {name: msgspec.structs.replace(one, path=str(run / Path(one.path).name)) for name, one in change.folders[0].placed.items()}
    moved = dataclasses.replace(change.folders[0], placed=placed, staging=str(run))
    whole = files.delete_folder
    reached = []

    def in_the_middle(folder: str) -> None:
        reached.append(folder)
        with pytest.raises(LostShardError):
            prepared.complete()
        whole(folder)

    with alone(str(out)) as locks:
        prepared = folder_change.prepare(dataclasses.replace(change, folders=[moved], aside=str(run / "aside-0")), locks)
        assert prepared.exchange is not None
        monkeypatch.setattr(files, "delete_folder", in_the_middle)
        removal.remove(str(run))
    assert len(reached) == 1
    assert read(out) == OLD


def test_what_a_killed_removal_left_goes_with_the_next(tmp_path: Path) -> None:
    staging = tmp_path / "out" / "_staging"
    write(staging, {".removed-0123/launch/results-1": b"x", "r/launch/results-2": b"y", "r/other/results-3": b"z"})
    removal.remove(str(staging / "r" / "launch"))
    assert [path.relative_to(staging).as_posix() for path in staging.rglob("results-*")] == ["r/other/results-3"]
    assert not list(staging.glob(".removed-*"))
    removal.remove(str(staging))
    removal.remove(str(staging))
    assert not staging.exists()


def test_a_run_whose_id_reads_like_a_removal_keeps_its_staging(tmp_path: Path) -> None:
    staging = tmp_path / "out" / "_staging"
    write(staging, {"removed-users/launch/results-1": b"x", "r/launch/results-2": b"y"})
    removal.remove(str(staging / "r"))
    assert [path.relative_to(staging).as_posix() for path in staging.rglob("results-*")] == ["removed-users/launch/results-1"]
