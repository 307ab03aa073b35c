"""Signals that stop the program: one orderly interruption, however many come."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# Ctrl-C, a scheduler's stop, a closed terminal.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt_on_signals() -> None:
    """Make each of ``STOPS`` raise KeyboardInterrupt in the main thread; under nohup the end of the terminal is still ignored."""
    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(*_: object) -> None:
    """Interrupt once: a sender that signals the process and its group sends two signals. Ctrl-C a second later ends the process."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: signal.signal(signal.SIGINT, signal.SIG_DFL))
    signal.alarm(1)
    raise KeyboardInterrupt


@contextlib.contextmanager
def noticed() -> Iterator[list[int]]:
    """Collect the numbers of stop signals while the ``with`` block runs, and pass them to the handlers set before.

    The local runner turns the KeyboardInterrupt of a handler into an error of its own, and a model's error can have the same text.
    In a thread other than the main one nothing is collected: Python calls handlers in the main thread only.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    handlers: dict[signal.Signals, tuple[Any, Any]] = {}
    for number in STOPS:
        previous = signal.getsignal(number)
        if callable(previous):
            handler = _collector(seen, previous)
            signal.signal(number, handler)
            handlers[number] = handler, previous
    try:
        yield seen
    finally:
        for number, (handler, previous) in handlers.items():
            if signal.getsignal(number) is handler:  # otherwise an interruption has changed it
                signal.signal(number, previous)


def _collector(seen: list[int], previous: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], Any]:
    """Make a handler that adds the signal's number to ``seen`` before it calls ``previous``."""

    def handle(number: int, frame: FrameType | None) -> Any:
        seen.append(number)
        return previous(number, frame)

    return handle
