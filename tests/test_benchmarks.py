"""``make bench`` writes exactly what RESULTS.md holds, and a short run does not touch it. Nothing is measured here."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from benchmarks import results

ROOT = Path(__file__).resolve().parents[1]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("--rows", type=int, default=1000)
    made.add_argument("--rounds", type=int, default=3)
    return made


@pytest.mark.parametrize(
    ("argv", "rows", "rounds", "whole"),
    [
        ([], 1000, 3, True),
        (["--rounds=3"], 1000, 3, True),
        (["--rounds=1"], 1000, 1, False),
        (["--quick"], 10, 1, False),
        (["--quick", "--rounds=3", "--rows=1000"], 1000, 3, False),
    ],
)
def test_only_the_defaults_are_a_whole_run(argv: list[str], rows: int, rounds: int, whole: bool) -> None:
    flags, is_whole = results.parse_flags(parser(), {"rows": 10, "rounds": 1}, argv)
    assert (flags.rows, flags.rounds, is_whole) == (rows, rounds, whole)


def test_a_short_run_leaves_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(results, "QUICK_RESULTS", tmp_path / "data" / "RESULTS-quick.md")
    results.write_part("rows", "all of them", whole=True)
    results.write_part("serve", "all of it", whole=True)
    before = results.RESULTS.read_text()
    assert results.write_part("rows", "a few", whole=False) == results.QUICK_RESULTS
    assert results.RESULTS.read_text() == before
    assert "a few" in results.QUICK_RESULTS.read_text()
    assert list(results.read_parts(before)) == ["rows", "serve"]


def test_results_hold_one_part_of_each_benchmark_that_make_bench_runs() -> None:
    text = results.RESULTS.read_text(encoding="utf-8")
    parts = results.read_parts(text)
    assert tuple(parts) == results.PARTS
    assert results.render(parts) == text, "RESULTS.md holds something that make bench would not write"
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\nbench:")[1].split("\n\n")[0]
    modules = re.findall(r"-m benchmarks\.(\w+)", recipe)
    sources = "".join((ROOT / "benchmarks" / f"{module}.py").read_text(encoding="utf-8") for module in modules)
    assert sorted(re.findall(r'write_part\(["\'](\w+)["\']', sources)) == sorted(results.PARTS)
