"""Reading ahead: the next batch is read and parsed while the model predicts this one."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

# One batch waits while another is predicted: more would only use memory.
WAITING = 1
# How long a thread that returns from TensorFlow or Arrow waits for Python's lock while the other parses. With Python's default of
# 5 ms it waits as long as its work takes; W1 took 8 % longer.
SWITCH_SECONDS = 0.001


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield ``items`` in order, while a thread makes the next one.

    TensorFlow, Arrow and the disk release Python's lock while they work, so a process with two cores predicts on one
    and parses on the other.

    Raises:
      BaseException: an exception of ``items``, after all items before it.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(WAITING)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None = None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((item, error), timeout=1.0)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:  # raised again where the items are taken
            put(None, error)
            return
        put(None, StopIteration())

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
