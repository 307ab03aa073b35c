"""All that the steps before publishing counted."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from transforms.compare.drift import Drift
from transforms.elements.shards import Shard
from transforms.elements.splits import Incomplete, SplitCount
from transforms.rows.codes import EXPLANATIONS, Code
from transforms.rows.keys import DuplicateKey, Duplicates
from transforms.statistics.guard import Failures
from transforms.statistics.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Accounts:
    """All that the steps before counted."""

    shards: tuple[Shard, ...]
    counts: tuple[SplitCount, ...]
    duplicates: tuple[Duplicates, ...]
    places: tuple[DuplicateKey, ...]
    statistics: Statistics | None = None
    drifts: tuple[Drift, ...] = ()
    failures: Failures = dataclasses.field(default_factory=dict)

    def rows(self, kind: str) -> int:
        return sum(shard.rows for shard in self.shards if shard.kind == kind)

    @property
    def read(self) -> int:
        return sum(count.rows for count in self.counts)

    def counted(self) -> dict[str, int]:
        """Gives how many rows were read, predicted and failed."""
        return {"read": self.read, "predicted": self.rows("results"), "failed": self.rows("errors")}

    @property
    def duplicated(self) -> int:
        """The number of keys that stand more than once."""
        return sum(some.count for some in self.duplicates)

    def incomplete(self, code: Code) -> list[Incomplete]:
        """Return the input files that could not be read whole for the reason ``code``, sorted."""
        return sorted({file for count in self.counts for file in count.incomplete if file.code is code})


def count_codes(shards: Sequence[Shard]) -> list[dict[str, Any]]:
    """Gives stage, code, message (an example's) and count of the failed rows of ``shards``, most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for shard in shards:
        for stage, code, count, example in shard.codes:
            counts[stage, code] += count
            examples.setdefault((stage, code), example)
    return [
        {"stage": stage, "code": code, "meaning": EXPLANATIONS[Code(code)][1], "message": examples[stage, code], "count": count}
        for (stage, code), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def shard_order(shard: Shard) -> tuple[tuple[str, int], str, str]:
    """Sorts shards as their rows stood in the input."""
    return shard.order, shard.relative, shard.path
