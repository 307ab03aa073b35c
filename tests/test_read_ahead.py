"""Reading ahead changes when items are made, not which."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from transforms.runtime.read_ahead import read_ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_items_come_in_order_and_none_is_lost() -> None:
    assert list(read_ahead(iter(range(1000)))) == list(range(1000))
    assert list(read_ahead(iter([]))) == []
    assert list(read_ahead(iter([None, None]))) == [None, None]


def test_the_next_item_is_made_while_one_is_worked_on() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    ahead = read_ahead(items())
    assert next(ahead) == 0
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:  # one waits in the queue, one with the thread
        time.sleep(0.01)
    assert made == [0, 1, 2]
    assert list(ahead) == [1, 2, 3, 4]


def test_an_error_comes_after_what_was_made_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    ahead = read_ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_the_thread_ends_with_whoever_takes_the_items() -> None:
    ahead = read_ahead(iter(range(1000)))
    next(ahead)
    assert threads()
    ahead.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not threads()
