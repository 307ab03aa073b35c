"""Coders of the elements that travel between workers.

Beam would pickle them, at several times the cost, and give the outputs of one step different coders.
"""

from __future__ import annotations

from typing import Any, ClassVar

import apache_beam as beam
from apache_beam.coders.typecoders import CoderRegistry

from transforms.elements.shards import Shard
from transforms.elements.splits import Split, SplitCount
from transforms.rows.keys import DuplicateKey, Duplicates
from transforms.specs.manifest import Manifest, TaskLine
from transforms.specs.messagepack import packer
from transforms.specs.run import Plan, Task
from transforms.statistics import stored
from transforms.statistics.statistics import Statistics
from transforms.storage.files import FoundFile


class MessageCoder(beam.coders.Coder):
    """Coder of one dataclass or struct, as ``transforms.specs.messagepack`` packs it."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    @classmethod
    def from_type_hint(cls, typehint: Any, registry: CoderRegistry) -> MessageCoder:
        return cls(typehint)

    def encode(self, value: Any) -> bytes:
        return packer(self.kind).pack(value)

    def decode(self, encoded: bytes) -> Any:
        return packer(self.kind).unpack(encoded)

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type:
        return self.kind

    def __repr__(self) -> str:
        return f"MessageCoder[{self.kind.__name__}]"


class StatisticsCoder(beam.coders.Coder):
    """Coder of ``Statistics``, in the form that split records have too."""

    def encode(self, value: Statistics) -> bytes:
        return stored.encode_or_say(value)

    def decode(self, encoded: bytes) -> Statistics:
        return stored.decode_or_say(encoded)

    def is_deterministic(self) -> bool:
        return False

    def to_type_hint(self) -> type:
        return Statistics


class AccountEntry:
    """Beam's type hint for an entry of a task's accounts: a Plan, Shard, SplitCount, Duplicates, DuplicateKey or Statistics.

    They meet in one Flatten, whose inputs must have one coder (Flink refuses others), and Beam has none for a union of types.
    """


class AccountEntryCoder(beam.coders.Coder):
    """Coder of the kinds of ``AccountEntry``: a byte that names the type, then the value as encoded by its own coder."""

    CODERS: ClassVar[tuple[tuple[type, beam.coders.Coder], ...]] = (
        *((kind, MessageCoder(kind)) for kind in (Plan, Shard, SplitCount, Duplicates, DuplicateKey)),
        (Statistics, StatisticsCoder()),
    )
    NUMBERS: ClassVar[dict[type, bytes]] = {kind: bytes([number]) for number, (kind, _) in enumerate(CODERS)}

    def encode(self, value: Any) -> bytes:
        number = self.NUMBERS[type(value)]
        return number + self.CODERS[number[0]][1].encode(value)

    def decode(self, encoded: bytes) -> Any:
        return self.CODERS[encoded[0]][1].decode(encoded[1:])

    def is_deterministic(self) -> bool:
        return False

    def to_type_hint(self) -> type:
        return AccountEntry


for element in (Task, FoundFile, Split, Duplicates, DuplicateKey, TaskLine, Manifest):
    beam.coders.registry.register_coder(element, MessageCoder)
beam.coders.registry.register_coder(Statistics, StatisticsCoder)
beam.coders.registry.register_coder(AccountEntry, AccountEntryCoder)
