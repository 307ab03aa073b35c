"""Signals that ask the program to stop: one orderly interruption, whoever sends them and however often."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# A scheduler's stop and a terminal that is closed are as orderly as Ctrl-C.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt_on_signals() -> None:
    """Let each signal that asks to stop raise KeyboardInterrupt in the main thread; under nohup the terminal's end is no such signal."""
    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(*_: object) -> None:
    """Interrupts once: what sends a signal to a process and to its group sends it twice. Ctrl-C a second later ends at once."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: signal.signal(signal.SIGINT, signal.SIG_DFL))
    signal.alarm(1)
    raise KeyboardInterrupt


@contextlib.contextmanager
def noticed() -> Iterator[list[int]]:
    """Collect the numbers of the signals that ask to stop while the block runs, on the way to the handlers that were there before.

    The local runner turns the KeyboardInterrupt of a handler into an error of its own, whose text a model's error can have, too.
    In a thread beside the main one nothing is collected: Python calls handlers in the main thread only.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    noticing: dict[signal.Signals, tuple[Any, Any]] = {}
    for number in STOPS:
        before = signal.getsignal(number)
        if callable(before):
            handler = _after_noting(seen, before)
            signal.signal(number, handler)
            noticing[number] = handler, before
    try:
        yield seen
    finally:
        for number, (handler, before) in noticing.items():
            if signal.getsignal(number) is handler:  # else an interruption has changed it
                signal.signal(number, before)


def _after_noting(seen: list[int], before: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], Any]:
    def handle(number: int, frame: FrameType | None) -> Any:
        seen.append(number)
        return before(number, frame)

    return handle
