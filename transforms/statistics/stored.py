"""Statistics → bytes and back, for other workers and the split records: MessagePack, because a pickle from a bucket could run code."""

from __future__ import annotations

import typing
from collections import Counter
from typing import Any

import datasketches
import msgspec

from transforms.statistics.agreement import Comparison
from transforms.statistics.effort import Effort
from transforms.statistics.guard import STATISTICS, Failures, guarded
from transforms.statistics.sketches import NumberSketch, Sketch, TextSketch
from transforms.statistics.statistics import Statistics

SERIALIZED = {
    datasketches.kll_doubles_sketch: lambda sketch: sketch.serialize(),
    datasketches.frequent_strings_sketch: lambda sketch: sketch.serialize(),
    datasketches.hll_sketch: lambda sketch: sketch.serialize_compact(),
}

FAILED = b"!"  # no map of MessagePack begins with it


class _Features(msgspec.Struct):
    numbers: dict[str, NumberSketch]
    texts: dict[str, TextSketch]

    @classmethod
    def of(cls, sketches: dict[str, Sketch]) -> _Features:
        numbers = {name: sketch for name, sketch in sketches.items() if isinstance(sketch, NumberSketch)}
        return cls(numbers, {name: sketch for name, sketch in sketches.items() if isinstance(sketch, TextSketch)})


class _Stored(msgspec.Struct):
    instances: int
    predictions: int
    inputs: _Features
    outputs: _Features
    missing: dict[str, int]
    examples: list[tuple[str, str, list[str]]]
    left_out: list[str]
    effort: Effort
    comparison: Comparison = msgspec.field(default_factory=Comparison)
    failures: dict[str, str] = {}


def encode_or_say(statistics: Statistics) -> bytes:
    """Return ``encode(statistics)``, or if that fails the reason in a form that ``decode_or_say`` reads."""
    with guarded(STATISTICS, statistics.failures):
        return encode(statistics)
    return FAILED + msgspec.json.encode(statistics.failures)


def decode_or_say(content: bytes | None) -> Statistics:
    """Return the statistics that ``encode_or_say`` wrote, or empty ones whose ``failures`` say why they can't be read."""
    failures: Failures = {}
    with guarded(STATISTICS, failures):
        if content is None:
            raise ValueError("the statistics of a split that an earlier launch finished were not kept")
        if content.startswith(FAILED):
            return Statistics(failures=msgspec.json.decode(content.removeprefix(FAILED), type=Failures))
        return decode(content)
    return Statistics(failures=failures)


def encode(statistics: Statistics) -> bytes:
    """Return the statistics as bytes."""
    stored = _Stored(
        statistics.instances,
        statistics.predictions,
        _Features.of(statistics.inputs),
        _Features.of(statistics.outputs),
        dict(statistics.missing),
        [(str(stage), str(code), rows) for (stage, code), rows in statistics.examples.items()],
        sorted(statistics.left_out),
        statistics.effort,
        statistics.comparison,
        statistics.failures,
    )
    return msgspec.msgpack.encode(stored, enc_hook=lambda value: SERIALIZED[type(value)](value))


def decode(content: bytes) -> Statistics:
    """Return the statistics that ``encode`` wrote.

    Raises:
      msgspec.DecodeError: ``content`` is something else.
    """
    stored = msgspec.msgpack.decode(content, type=_Stored, dec_hook=_decode)
    return Statistics(
        instances=stored.instances,
        predictions=stored.predictions,
        inputs={**stored.inputs.numbers, **stored.inputs.texts},
        outputs={**stored.outputs.numbers, **stored.outputs.texts},
        missing=Counter(stored.missing),
        examples={(stage, code): rows for stage, code, rows in stored.examples},
        left_out=set(stored.left_out),
        effort=stored.effort,
        comparison=stored.comparison,
        failures=stored.failures,
    )


def _decode(kind: Any, value: Any) -> Any:
    kind = typing.get_origin(kind) or kind
    return Counter(value) if kind is Counter else kind.deserialize(value)
