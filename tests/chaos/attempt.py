"""One attempt of a scenario: a launch, what happens to it on its way, and what may stand afterwards."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import time
from typing import Any

from chaos.faults import Point
from chaos.launch import Launch, follow, publish_as_twin
from chaos.play import HELD_SECONDS, Play
from chaos.scenario import AGAIN, FULL, SECOND, TWINS, Attempt, Fault

WHOLE_OR_NOT = ("absent", "changing", "refused")


class Happening:
    """Answers the launches of one attempt where they stop."""

    def __init__(self, play: Play, attempt: Attempt, version: str) -> None:
        self.play, self.attempt, self.version = play, attempt, version
        self.happened: list[str] = []
        self.launches: list[Launch] = []
        self.twin_is_there = False
        self.published = {play.current if version == "new" else version}
        self.points = {self._point(fault): fault for fault in attempt.faults if fault.what not in TWINS}
        self.twin = next((fault for fault in attempt.faults if fault.what in TWINS), None)

    def _point(self, fault: Fault) -> Point:
        return Point(fault.category, max(1, math.ceil(fault.share * self.play.counts[fault.category])))

    def run(self) -> list[Launch]:
        """Runs to the end; gives the launches that had to be killed since they did not end."""
        again = any(fault.what == AGAIN for fault in self.attempt.faults)
        first = self.play.launch(
            self.version,
            points=tuple(self.points),
            twin=str(self.play.folder / f"twin-{self.play.launched}") if self.twin is not None else None,
            resume=str(self.attempt.resume and self.play.scenario.kind != "routed").lower(),
            short_sleeps=self.attempt.storage is not None,
            publish_again=again,
        )
        self.launches.append(first)
        storage: Any = contextlib.nullcontext()
        if self.attempt.storage:
            kind, share, seed = self.attempt.storage
            self.happened.append(f"storage {kind} {share:.0%}")
            storage = self.play.gcs.stand_ins.faults(kind, share=share, seed=seed)
        end = time.monotonic() + 3 * HELD_SECONDS
        for other in self.play.put_off:
            other.held_until = lambda: time.monotonic() > end
        with storage:
            return follow([*self.play.put_off, first], self.take, self.launches)

    def take(self, launch: Launch, message: dict[str, Any]) -> None:
        """Does what is to happen where ``launch`` has stopped, and lets it go on, if it lives."""
        if message["point"] == -1:
            self._start_twin(launch)
        elif message["point"] == -2:
            self._let_twin_go(launch)
        elif launch.name == "the twin":
            self._hold_twin(launch)
        else:
            fault = list(self.points.values())[message["point"]]
            self.happened.append(f"{fault.what} at {message['operation'].replace(self.play.disk.root, '')[:120]}")
            self._happen(launch, fault)

    def _happen(self, launch: Launch, fault: Fault) -> None:
        what = fault.what
        if what.startswith("SIG"):
            number = signal.Signals[what.split()[0]]
            if what.endswith("worker"):
                launch.kill(number)
            elif what.endswith("all"):
                launch.kill(number, all_of_it=True)
            else:
                launch.ask_to_stop(number)
            launch.answer()
        elif what == FULL:
            launch.answer(full_disk=True)
        elif what == AGAIN:
            launch.answer(errno=errno.EIO if fault.share > 0.3 else 0)
        elif what in SECOND:
            self._start_second(launch, waits=what == SECOND[1])
        elif what.startswith(("input", "model")):
            self.play.change(what, fault.share)
            self.published |= {self.play.current}
            launch.answer()
        else:
            launch.answer(errno=getattr(errno, what))

    def _start_second(self, launch: Launch, waits: bool) -> None:
        second = self.play.launch("other", "the second run", short_sleeps=self.attempt.storage is not None)
        self.launches.append(second)
        self.published.add("other")
        if waits:
            end = time.monotonic() + HELD_SECONDS
            launch.held_until = lambda: second.status is not None or time.monotonic() > end
        else:
            launch.answer()

    def _start_twin(self, launch: Launch) -> None:
        assert self.twin is not None
        if any(each.name == "the twin" for each in self.launches):  # of another task
            launch.answer()
            return
        self.happened.append(self.twin.what)
        points = () if self.twin.what == TWINS[0] else (self._point(self.twin),)
        twin = Launch("the twin", [], self.play.settings(points, twin=launch.settings.twin), publish_as_twin)
        self.play.all.append(twin)
        self.launches.append(twin)
        launch.held_until = lambda: twin.status is not None or self.twin_is_there

    def _let_twin_go(self, twin: Launch) -> None:
        """At once, both go on; else the twin goes on alone until it stops, or ends."""
        assert self.twin is not None
        twin.answer()
        self.twin_is_there = self.twin.what == TWINS[0]

    def _hold_twin(self, twin: Launch) -> None:
        assert self.twin is not None
        self.twin_is_there = True
        self.happened.append(f"the twin stops at {twin.reached[-1].replace(self.play.disk.root, '')[:120]}")
        first, end = self.launches[0], time.monotonic() + HELD_SECONDS
        if self.twin.what == TWINS[2]:
            twin.may_stay = True
            twin.held_until = lambda: time.monotonic() > end
            self.play.put_off.append(twin)
        else:
            twin.held_until = lambda: first.status is not None or time.monotonic() > end


def try_once(play: Play, attempt: Attempt, version: str, standing: dict[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Makes an attempt and looks; gives what stands now, and a line for the log."""
    happening = Happening(play, attempt, version)
    hanging = happening.run()
    after = "; ".join(happening.happened) or "nothing"
    for each in hanging:
        play.problem("hang", f"{each.name}: {each.said[-4000:]}", after)
    for each in happening.launches:
        play.listen(each, after)
    done = {
        "other" if each.name == "the second run" else version for each in happening.launches if each.status == 0 and each.name != "the twin"
    }
    statuses = {each.name: each.status for each in happening.launches}
    has_failed = any(status != 0 for status in statuses.values())
    allowed = set(happening.published)
    in_place = play.scenario.place == "bucket" or play.scenario.errors_apart or any(state in WHOLE_OR_NOT for state in standing.values())
    if not done:
        allowed |= {*standing.values()}
    if attempt.resume:  # a run that is done is not done again, whatever has become of its input
        allowed |= {*standing.values()} - {"before", "other"}
    if in_place and has_failed:
        allowed |= {"changing"}
    # A file that changed while it was read shuts the gate, and a task that can't begin fails alone.
    if version == "doubled" or (has_failed and (play.scenario.kind == "many" or play.changes)):
        allowed |= {"refused"}
    now = play.look(allowed, after)
    line: dict[str, Any] = {"happened": happening.happened, "statuses": statuses, "stands": sorted({*now.values()})}
    if attempt.damage and (damaged := damage(play, *attempt.damage)):
        line["damaged"] = damaged
    return now, line


def damage(play: Play, what: str, share: float) -> str | None:
    """Damages something that lies in staging; gives what it did, if anything lies there."""
    is_record = what.startswith("a record")
    names = [f"out/{name}" for name in play.place.names("out") if "_staging/" in name and name.endswith(".split") == is_record]
    names = [name for name in names if not name.endswith(("/", "tasks.jsonl"))]
    if not names:
        return None
    name = names[int(share * len(names))]
    content = play.place.read(name)
    if what.endswith("removed"):
        play.place.remove(name)
    elif what.endswith("shortened") or not content:
        play.place.overwrite(name, content[:-5])
    else:
        middle = int(share * len(content))
        play.place.overwrite(name, content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    return f"{what}: {os.path.basename(name)}"
