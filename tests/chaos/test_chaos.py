"""Exactly once, by chaos: scenarios of faults by chance, each until it is done, and every operation of three small jobs.

``NIGHTSHIFT_CHAOS_RUNS`` says how many scenarios, ``NIGHTSHIFT_CHAOS_SEED`` which, ``NIGHTSHIFT_CHAOS_LOG`` where a line of JSON each
goes; scenarios whose line is there are not played again, but still fail. ``NIGHTSHIFT_CHAOS_ONLY=17,23`` plays those alone, and
``NIGHTSHIFT_CHAOS_EVERY=true`` every operation of the small jobs. docs/reliability.md has what a thousand showed.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from gcp_fixtures import CloudStorage
from saved_models import Models

from chaos import rows
from chaos.launch import running
from chaos.play import Play
from chaos.run import play_everywhere, play_scenario
from chaos.scenario import SMALL, draw, small
from chaos.summary import read_log

RUNS = int(os.environ.get("NIGHTSHIFT_CHAOS_RUNS", "20"))
SEED = int(os.environ.get("NIGHTSHIFT_CHAOS_SEED", "20261130"))
LOG = os.environ.get("NIGHTSHIFT_CHAOS_LOG")
ONLY = [int(number) for number in os.environ.get("NIGHTSHIFT_CHAOS_ONLY", "").split(",") if number]
EVERY = os.environ.get("NIGHTSHIFT_CHAOS_EVERY") == "true"


@pytest.fixture(scope="module")
def folders(models: Models) -> dict[str, Path]:
    """Models by name, and what they change to."""
    folders = {}
    for prefix, weights in (("", rows.WEIGHTS), ("changed-", rows.CHANGED_WEIGHTS)):
        for name, weight in weights.items():
            folders[f"{prefix}{name}"] = models.folder / f"chaos-{prefix}{name}"
            rows.export(folders[f"{prefix}{name}"], weight)
    return folders | {rows.LENGTH: Path(models.get("text_length"))}


def judge(lines: Iterable[dict[str, Any]]) -> None:
    """Fails with all that was wrong in any of the scenarios."""
    found = [{"number": line["number"], "job": line["job"], **problem} for line in lines for problem in line["problems"]]
    assert not found, json.dumps(found, indent=1)


def log_of(seed: int) -> dict[int, dict[str, Any]]:
    """Gives what the log has of a seed, by number."""
    lines = read_log([Path(LOG)] if LOG and not ONLY else [])
    return {number: line for (of, number), line in lines.items() if of == seed}


def logged(line: dict[str, Any]) -> dict[str, Any]:
    if LOG:
        with open(LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
    return line


def test_every_row_once_whatever_happens(gcs: CloudStorage, folders: dict[str, Path], tmp_path: Path) -> None:
    bucket, lines = gcs.make_bucket(), log_of(SEED)
    for number in ONLY or range(RUNS):
        if number not in lines:
            lines[number] = logged(play_scenario(draw(SEED, number), tmp_path / f"{number}", gcs, bucket, folders))
    judge(lines.values())


@pytest.mark.parametrize("job", SMALL)
def test_every_row_once_wherever_it_breaks(job: str, gcs: CloudStorage, folders: dict[str, Path], tmp_path: Path) -> None:
    """Each operation of a small job, in each of three ways; a few of them by chance, unless all are asked for."""
    scenario = small(job)
    lines = log_of(scenario.seed)

    def wanted(total: int, ways: int) -> list[int]:
        everywhere = range(total * ways)
        numbers = everywhere if EVERY else random.Random(SEED).sample(everywhere, min(2, RUNS))
        return [number for number in numbers if number not in lines]

    play = Play(scenario, tmp_path / job, gcs, gcs.make_bucket(), folders)
    with running(play.all):
        for line in play_everywhere(play, wanted):
            lines[line["number"]] = logged(line)
    judge(lines.values())


pytestmark = pytest.mark.skipif(not RUNS, reason="NIGHTSHIFT_CHAOS_RUNS is 0")
