"""What chaos looks for is seen: an output with one thing wrong is told from a whole one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import pytest

from chaos.look import BrokenError, Output, leftovers, look, temporary_leftovers
from chaos.places import Disk
from chaos.rows import WEIGHTS, Expected, expect, make_rows

OLD, NEW = (expect(make_rows(60, factor, "m0"), WEIGHTS) for factor in (1, 3))
VERSIONS = {"old": OLD, "new": NEW}


def lines(expected: Expected) -> list[bytes]:
    return [json.dumps({"key": key, "prediction": value}).encode() + b"\n" for key, value in expected.predictions.items()]


def publish(disk: Disk, parts: list[bytes], failed: bytes) -> None:
    """Writes a complete output of these files, and nothing else."""
    for name in disk.names("out"):
        disk.remove(f"out/{name}")
    report = {"status": "done", "reason": None, "counts": {}}
    for kind, contents in (("results", parts), ("errors", [failed])):
        names = [f"prediction.{kind}-{number:05d}-of-{len(contents):05d}" for number in range(len(contents))]
        for name, content in zip(names, contents, strict=True):
            disk.write(f"out/{name}", content)
        report["results" if kind == "results" else "failed_rows"] = [
            {"name": name, "rows": 0, "bytes": len(content), "crc32c": google_crc32c.value(content).to_bytes(4, "big").hex()}
            for name, content in zip(names, contents, strict=True)
        ]
    counts = [sum(content.count(b"\n") for content in contents) for contents in (parts, [failed])]
    report["counts"] = {"read": sum(counts), "predicted": counts[0], "failed": counts[1]}
    disk.write("out/prediction.errors_stats-00000-of-00001", b"")
    disk.write("out/manifest.json", json.dumps(report).encode())
    disk.write("out/_SUCCESS", b"")


def failed_rows(expected: Expected) -> bytes:
    return b"".join(json.dumps({"key": key, "instance": {"id": key}}).encode() + b"\n" for key in sorted(expected.failed))


@pytest.fixture
def output(tmp_path: Path) -> Output:
    disk = Disk(str(tmp_path))
    publish(disk, [b"".join(lines(NEW)[:30]), b"".join(lines(NEW)[30:])], failed_rows(NEW))
    return Output(disk, "out", "out", "jsonl", mirrored=False, keys_made=False)


def test_a_whole_output_is_known_by_its_rows(output: Output) -> None:
    assert look(output, VERSIONS) == ("new",)
    output.place.remove("out/_SUCCESS")
    assert look(output, VERSIONS) == ("changing",)
    assert look(Output(output.place, "nowhere", "nowhere", "jsonl", mirrored=False, keys_made=False), VERSIONS) == ("absent",)


def lose_a_row(disk: Disk) -> None:
    publish(disk, [b"".join(lines(NEW)[:-1])], failed_rows(NEW))


def double_a_row(disk: Disk) -> None:
    publish(disk, [b"".join(lines(NEW) + lines(NEW)[:1])], failed_rows(NEW))


def change_a_row(disk: Disk) -> None:
    publish(disk, [b"".join([*lines(NEW)[:-1], lines(NEW)[-1].replace(b".", b"1.")])], failed_rows(NEW))


def mix(disk: Disk) -> None:
    publish(disk, [b"".join(lines(OLD)[:30]), b"".join(lines(NEW)[30:])], failed_rows(NEW))


def mix_failed_rows(disk: Disk) -> None:
    publish(disk, [b"".join(lines(NEW))], failed_rows(OLD))


def leave_a_shard(disk: Disk) -> None:
    disk.write("out/prediction.results-00002-of-00003", b"".join(lines(OLD)[40:]))


def lose_a_shard(disk: Disk) -> None:
    disk.remove("out/prediction.results-00001-of-00002")


def turn_a_bit(disk: Disk) -> None:
    content = disk.read("out/prediction.results-00000-of-00002")
    disk.write("out/prediction.results-00000-of-00002", bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lose_a_row, "mixture"),
        (double_a_row, "doubled"),
        (change_a_row, "mixture"),
        (mix, "doubled"),
        (mix_failed_rows, "doubled"),
        (leave_a_shard, "stale"),
        (lose_a_shard, "missing"),
        (turn_a_bit, "checksum"),
    ],
)
def test_what_is_wrong_is_seen(output: Output, spoil: Callable[[Disk], None], kind: str) -> None:
    assert isinstance(output.place, Disk)
    spoil(output.place)
    with pytest.raises(BrokenError, match=f"^{kind}: "):
        look(output, VERSIONS)


@pytest.mark.parametrize(
    "name",
    [
        "out/_staging/run/launch/tasks.jsonl",
        "out/manifest.json.7.tmp",
        "out/_nightshift/journal.json",
        ".out.nightshift/prediction.results-00000-of-00001",
        "tmp/beam-pipeline-tempabc/x",
        "tmp/nightshift-0/progress/1.2.3-x/4",
    ],
)
def test_what_is_left_behind_is_seen(output: Output, name: str) -> None:
    assert isinstance(output.place, Disk)
    output.place.write(name, b"left")
    left = leftovers(output.place, {"out"}, {"out", "tmp"}) + temporary_leftovers(output.place)
    assert [path.partition("/")[0] for path in left] == [name.partition("/")[0]]
