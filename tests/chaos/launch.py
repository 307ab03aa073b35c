"""Launches of a run, each forked from a process that has imported everything, and stopped or broken where the harness says."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import child
import quick_beam

from chaos import faults
from chaos.faults import COUNTS, Point, Watch

# Google's client waits a second and more before it asks again; a tenth of it shows the same.
SLEEPS = 0.1
ENDS_WITHIN_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a launch differs from one without a harness."""

    root: str
    said: str
    counts: str
    points: tuple[Point, ...] = ()
    split_bytes: int = 1 << 20
    short_sleeps: bool = False
    publish_again: bool = False
    twin: str | None = None


class Launch:
    """One launch, and all processes that it started."""

    def __init__(self, name: str, argv: list[str], settings: Settings, target: Callable[..., None] | None = None) -> None:
        self.name, self.settings = name, settings
        Path(settings.counts).write_bytes(bytes(COUNTS.size))
        Path(settings.said).write_bytes(b"")
        self.control, theirs = child.CONTEXT.Pipe()
        self.process = child.CONTEXT.Process(target=target or _run, args=(argv, settings, theirs))
        self.process.start()
        theirs.close()
        self.status: int | None = None
        self.held_until: Callable[[], bool] | None = None
        self.may_stay = False
        self.reached: list[str] = []

    @property
    def said(self) -> str:
        return Path(self.settings.said).read_text(errors="replace")

    @property
    def counts(self) -> dict[str, int]:
        return dict(zip(faults.CATEGORIES, COUNTS.unpack(Path(self.settings.counts).read_bytes()), strict=True))

    def answer(self, **what: Any) -> None:
        with contextlib.suppress(OSError):  # it may have been killed meanwhile
            self.control.send(what)

    def kill(self, number: int, all_of_it: bool = False) -> None:
        """Sends a signal to the process that works, or to all of them."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            if all_of_it:
                os.killpg(self.process.pid, number)
            else:
                os.kill((child.workers(self.process.pid) or [self.process.pid])[-1], number)

    def ask_to_stop(self, number: int) -> None:
        """Sends a signal to the process that a scheduler knows."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def end(self) -> None:
        self.process.join(10)
        self.status = self.process.exitcode
        self.control.close()


Handler = Callable[[Launch, dict[str, Any]], None]


def follow(first: list[Launch], handle: Handler, more: Sequence[Launch] = ()) -> list[Launch]:
    """Lets launches run, and ``handle`` answer where they stop, until each has ended; gives those that had to be killed.

    ``handle`` may start ``more``, and hold one until something is so; one that may stay is held on when all others have ended.
    """
    end = time.monotonic() + ENDS_WITHIN_SECONDS
    while running := [each for each in {*first, *more} if each.status is None]:
        if all(each.may_stay and each.held_until is not None for each in running):
            return []
        for each in running:
            if each.held_until is not None and each.held_until():
                each.held_until = None
                each.answer()
        ready = wait([each.control for each in running], 0.02)
        for each in running:
            if each.control in ready:
                _take(each, handle)
        if time.monotonic() > end:
            return _stop(running)
    return []


def _take(launch: Launch, handle: Handler) -> None:
    try:
        message = launch.control.recv()
    except (EOFError, ConnectionResetError):
        launch.end()
        return
    launch.reached.append(message["operation"])
    handle(launch, message)


def _stop(hanging: list[Launch]) -> list[Launch]:
    for each in hanging:
        each.kill(signal.SIGUSR1)  # the stacks of its threads go to what it said
        time.sleep(1)
        each.kill(signal.SIGKILL, all_of_it=True)
        each.end()
    return hanging


# --- in the process of a launch ----------------------------------------------------------------------------------------------


def _begin(settings: Settings, control: Connection) -> Watch:
    os.setpgid(0, 0)
    handle = os.open(settings.said, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    os.environ |= {"TMPDIR": f"{settings.root}/tmp", "CUDA_VISIBLE_DEVICES": "-1"}
    tempfile.tempdir = None
    tempfile.gettempdir()  # Python tries the folder by a file of its own, which no program could sweep
    os.chdir(settings.root)
    watch = Watch(settings.root, control, settings.points, settings.counts)
    if settings.short_sleeps:
        sleep = time.sleep
        time.sleep = lambda seconds: sleep(seconds * SLEEPS)
    quick_beam.remember()
    return watch


def _run(argv: list[str], settings: Settings, control: Connection) -> None:
    """Runs the program as its console script does."""
    watch = _begin(settings, control)
    _watch_publishing(watch, settings)
    faults.install(watch)
    from pipeline.main import console
    from transforms.specs.limits import Limits

    sys.argv = ["nightshift", *argv]
    try:
        console(Limits(split_bytes=settings.split_bytes))
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)


def _watch_publishing(watch: Watch, settings: Settings) -> None:
    """Marks what publishing does, hands its work to a twin, or does it again after a failure, as engines do."""
    from transforms.many import run_manifest
    from transforms.output.publish_tasks import TaskGroup
    from transforms.output.publisher import Publisher

    begin, publish = Publisher.begin, Publisher.publish

    def begin_with_twin(self: Any, wait: bool = True) -> Any:
        with watch.publishes():
            if settings.twin is not None and not os.path.exists(settings.twin):
                Path(f"{settings.twin}.new").write_bytes(pickle.dumps((self.job, self.accounts)))
                os.replace(f"{settings.twin}.new", settings.twin)
                watch.ask({"point": -1, "operation": "publishing"})
            return begin(self, wait)

    def publish_again(self: Any) -> Any:
        with watch.publishes():
            job, accounts = self.job, self.accounts
            try:
                publish(self)
            except OSError as error:
                print(f"harness: publishing failed with {error!r} and is done again", flush=True)
            else:
                print("harness: publishing is done again", flush=True)
            return publish(type(self)(job, accounts))

    Publisher.begin = begin_with_twin  # type: ignore[method-assign]
    Publisher.publish = publish_again if settings.publish_again else _marked(watch, publish)  # type: ignore[method-assign]
    TaskGroup.end = _marked(watch, TaskGroup.end)  # type: ignore[method-assign]
    run_manifest._publish = _marked(watch, run_manifest._publish)


def _marked(watch: Watch, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``function`` whose operations, up to what a generator yields last, are publishing."""

    def marked(*arguments: Any, **named: Any) -> Any:
        with watch.publishes():
            made = function(*arguments, **named)
            return iter([*made]) if isinstance(made, Iterator) else made

    return marked


def publish_as_twin(argv: list[str], settings: Settings, control: Connection) -> None:
    """Publishes what another process of the same launch publishes: a worker that was thought dead."""
    watch = _begin(settings, control)
    faults.install(watch)
    from transforms.output.publisher import Publisher

    assert settings.twin is not None
    job, accounts = pickle.loads(Path(settings.twin).read_bytes())
    watch.ask({"point": -2, "operation": "about to publish again"})
    with watch.publishes():
        try:
            Publisher(job, accounts).publish()
        except Exception as error:  # what a worker says of it
            print(f"the twin: {type(error).__name__}: {error}", flush=True)
            os._exit(1)
    os._exit(0)


@contextlib.contextmanager
def running(launches: list[Launch]) -> Iterator[None]:
    """Leaves no process behind, whatever happens."""
    try:
        yield
    finally:
        for each in launches:
            if each.status is None:
                each.kill(signal.SIGKILL, all_of_it=True)
                each.end()
