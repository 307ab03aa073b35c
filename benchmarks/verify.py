"""Do the ways agree? ``python -m benchmarks.verify OUTPUT=ROWS …``: as many lines as rows, equal predictions.

An output is a file, a folder of ``prediction.results-*`` or the prefix of ``-NNNNN-of-NNNNN`` files. The first is what the
others are compared with, on a sample of keys. Exits 1, saying what differs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

SAMPLE = 1000
# Batches of other sizes multiply matrices in another order.
RELATIVE, ABSOLUTE = 1e-4, 1e-5


class Line(msgspec.Struct, gc=False):
    key: str
    prediction: msgspec.Raw


def _files(output: Path) -> list[Path]:
    if output.is_file():
        return [output]
    return sorted(output.glob("prediction.results-*") if output.is_dir() else output.parent.glob(f"{output.name}-*-of-*"))


def _lines(output: Path) -> Iterator[Line]:
    decoder = msgspec.json.Decoder(Line)
    for path in _files(output):
        with path.open("rb") as stream:
            yield from map(decoder.decode, stream)


def equal(one: Any, other: Any) -> bool:
    """Return whether two predictions are the same but for rounding."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def differences(outputs: dict[Path, int]) -> Iterator[str]:
    """Return what is wrong with ``outputs`` (path → rows)."""
    step = max(1, min(outputs.values()) // SAMPLE)
    expected: dict[str, Any] = {}
    for path, rows in outputs.items():
        found, compared = 0, 0
        for line in _lines(path):
            found += 1
            if path == next(iter(outputs)):
                if found % step == 1 or step == 1:
                    expected[line.key] = msgspec.json.decode(line.prediction)
            elif line.key in expected:
                compared += 1
                prediction = msgspec.json.decode(line.prediction)
                if not equal(expected[line.key], prediction):
                    yield f"{path.name}: {line.key} is {prediction}, expected {expected[line.key]}"
        if found != rows:
            yield f"{path.name}: {found} lines for {rows} rows"
        if path != next(iter(outputs)) and compared < min(rows, SAMPLE) // 2:
            yield f"{path.name}: only {compared} keys are those of {next(iter(outputs)).name}"


if __name__ == "__main__":
    pairs = (argument.rsplit("=", 1) for argument in sys.argv[1:])
    wrong = list(differences({Path(path): int(rows) for path, rows in pairs}))
    print("\n".join(wrong[:20]))
    sys.exit(1 if wrong else 0)
