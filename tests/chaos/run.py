"""Plays one scenario: what stands before, its attempts, and the run without a fault that ends it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gcp_fixtures import CloudStorage

from chaos.attempt import try_once
from chaos.launch import running
from chaos.play import Play
from chaos.scenario import EVERYWHERE, Attempt, Fault, Scenario

KEEP = os.environ.get("NIGHTSHIFT_CHAOS_KEEP")


def play_scenario(scenario: Scenario, folder: Path, gcs: CloudStorage, bucket: str, models: dict[str, Path]) -> dict[str, Any]:
    """Gives the scenario's line of the log; what lies where is removed, unless something was wrong."""
    began = time.monotonic()
    play = Play(scenario, folder, gcs, bucket, models)
    with running(play.all):
        attempts = _play(play)
    line = _line(play, scenario.number, attempts, play.launched, began)
    if not play.problems and not KEEP:
        play.place.clear()
        shutil.rmtree(folder, ignore_errors=True)
    return line


def play_everywhere(play: Play, wanted: Callable[[int, int], Iterable[int]]) -> Iterator[dict[str, Any]]:
    """Gives a line of the log for each operation of a small job and each way to break there, as ``wanted`` picks them.

    ``wanted`` gets how many operations there are and how many ways. Runs of the one input and of the other take turns, so that what
    stands before is what the last one left.
    """
    play.write_models()
    for version in ("before", "new"):
        play.write_input(version)
    total = play.quiet("before", name="the run before").counts["any"]
    play.counts["any"] = total
    stands, version = "before", "new"
    for number in wanted(total, len(EVERYWHERE)):
        began, launched = time.monotonic(), play.launched
        fault = Fault(EVERYWHERE[number // total], "any", (number % total + 0.5) / total)
        play.current = version
        _, attempt = try_once(play, Attempt((fault,), None, number % 2 == 1, None), version, dict.fromkeys(play.outputs, stands))
        play.quiet(version, resume=str(number % 2 == 1).lower())
        play.look_for_leftovers("the quiet run")
        yield _line(play, number, [attempt], play.launched - launched, began)
        stands, version = version, stands
        play.problems.clear()


def _line(play: Play, number: int, attempts: list[dict[str, Any]], launches: int, began: float) -> dict[str, Any]:
    scenario = play.scenario
    line = {"seed": scenario.seed, "number": number, "job": scenario.job, "attempts": attempts, "problems": [*play.problems]}
    return line | {"launches": launches, "seconds": round(time.monotonic() - began, 1)}


def _play(play: Play) -> list[dict[str, Any]]:
    scenario = play.scenario
    play.write_models()
    version = "doubled" if scenario.doubled else "new"
    for each in ("before", "new", "other") + ("doubled",) * scenario.doubled:
        play.write_input(each)
    standing = dict.fromkeys(play.outputs, "absent")
    if scenario.stands:
        first = play.quiet("before", name="the run before")
        play.counts = {name: max(number, 1) for name, number in first.counts.items()}
        standing = dict.fromkeys(play.outputs, "before")
    attempts = []
    for attempt in scenario.attempts:
        if scenario.doubled:
            attempt = dataclasses.replace(attempt, faults=tuple(fault for fault in attempt.faults if fault.what.startswith("SIG")))
        standing, line = try_once(play, attempt, version, standing)
        attempts.append(line)
    resume = str(scenario.attempts[-1].resume and scenario.kind != "routed").lower()
    if scenario.doubled:
        play.quiet("doubled", 3, {*standing.values(), "refused"}, "a quiet run of doubled keys", resume=resume)
        resume = "false"
    if play.changes:
        resume = "false"
    play.quiet("new", 0, {play.current}, resume=resume)
    if play.put_off:
        play.put_off.clear()
        play.quiet("new", 0, {play.current}, "a quiet run after the late one")
    play.look_for_leftovers("the quiet run")
    return attempts
