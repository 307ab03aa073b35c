"""The accounts of a job: what the steps before publishing counted."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from transforms.compare.drift import Drift
from transforms.elements.shards import Shard
from transforms.elements.splits import Incomplete, SplitCount, SplitKey
from transforms.rows.codes import EXPLANATIONS, Code
from transforms.rows.keys import DuplicateKey, Duplicates
from transforms.specs.manifest import CodeCount, Counts
from transforms.statistics.guard import Failures
from transforms.statistics.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Accounts:
    """The shards, counts, duplicate keys and statistics of a job; ``places`` are occurrences of duplicate keys."""

    shards: tuple[Shard, ...]
    counts: tuple[SplitCount, ...]
    duplicates: tuple[Duplicates, ...]
    places: tuple[DuplicateKey, ...]
    statistics: Statistics | None = None
    drifts: tuple[Drift, ...] = ()
    failures: Failures = dataclasses.field(default_factory=dict)

    def rows(self, kind: str) -> int:
        """Return the number of rows in shards of ``kind``, such as ``results`` or ``errors``."""
        return sum(shard.rows for shard in self.shards if shard.kind == kind)

    @property
    def read(self) -> int:
        """Return the number of rows read."""
        return sum(count.rows for count in self.counts)

    def counted(self) -> Counts:
        """Return the numbers of rows read, predicted and failed."""
        return Counts(self.read, self.rows("results"), self.rows("errors"))

    @property
    def duplicated(self) -> int:
        """Return the number of keys that occur more than once."""
        return sum(duplicates.count for duplicates in self.duplicates)

    def incomplete(self, code: Code) -> list[Incomplete]:
        """Return the input files that could not be read whole for the reason ``code``, sorted."""
        return sorted({file for count in self.counts for file in count.incomplete if file.code is code})


def count_codes(shards: Sequence[Shard]) -> list[CodeCount]:
    """Return stage, code, meaning, the message of one row, and count of the failed rows of ``shards``, most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for shard in shards:
        for stage, code, count, example in shard.codes:
            counts[stage, code] += count
            examples.setdefault((stage, code), example)
    return [
        CodeCount(stage, code, EXPLANATIONS[Code(code)][1], examples[stage, code], count)
        for (stage, code), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def shard_order(shard: Shard) -> tuple[SplitKey, str, str]:
    """Return a key that sorts shards in the order of their rows in the input."""
    return shard.split_key, shard.relative, shard.path
