"""Split a file into ranges of about 32 MB, and put what is smaller together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from transforms.elements.splits import FileRange
from transforms.formats.catalog import Format
from transforms.specs.limits import Limits
from transforms.storage.files import FoundFile

Item = TypeVar("Item")


class Group(Generic[Item]):
    """Items that go together until their sizes add up to ``most_bytes``, or until they are ``most_items``."""

    def __init__(self, most_bytes: int, most_items: float = math.inf) -> None:
        self.most_bytes, self.most_items = most_bytes, most_items
        self.items: list[Item] = []
        self.size = 0

    def add(self, item: Item, size: int) -> list[Item] | None:
        """Add an item of ``size`` bytes; return the group where that completes it."""
        self.items.append(item)
        self.size += size
        return self.take() if self.size >= self.most_bytes or len(self.items) >= self.most_items else None

    def take(self) -> list[Item]:
        """Return the items so far, and begin the next group."""
        items, self.items, self.size = self.items, [], 0
        return items


def groups(items: Iterable[Item], size_of: Callable[[Item], int], group: Group[Item]) -> Iterator[list[Item]]:
    """Cut ``items`` into groups of the size of ``group``; the last one may be smaller."""
    for item in items:
        full = group.add(item, size_of(item))
        if full is not None:
            yield full
    if group.items:
        yield group.take()


def small_files(limits: Limits) -> Group[FileRange]:
    """Return an empty group of small files that one split takes."""
    return Group(limits.split_bytes, limits.split_files)


def is_small(size_bytes: int, limits: Limits) -> bool:
    """Return whether a file of ``size_bytes`` is packed into a split with others."""
    return size_bytes < limits.split_bytes // 2


def split_file(file: FoundFile, format: Format, limits: Limits) -> Iterator[FileRange]:
    """Cut a file into ranges of about ``limits.split_bytes``, if its format and compression allow that.

    A large file of CSV is searched for a quote first: with one in it a line end may be part of a field, and the file is left whole.
    """
    if not format.can_split(file.path):
        yield FileRange(file.path, 0, None, file.size_bytes, file.relative, file.pin)
        return
    ranges = max(1, round(file.size_bytes / limits.split_bytes))
    if ranges > 1 and format.is_uncut is not None and format.is_uncut(file.path):
        ranges = 1
    borders = [file.size_bytes * number // ranges for number in range(ranges + 1)]
    for start, stop in itertools.pairwise(borders):
        yield FileRange(file.path, start, stop, stop - start, file.relative, file.pin)
