"""Statistics, drift and report are broken one function at a time: no run ends for it, and no gate opens for it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jobs import lines, manifest, run, write_lines
from saved_models import Models

from transforms.accounts import differences
from transforms.compare import drift
from transforms.compare.drift import UNMEASURED
from transforms.report import charts, page
from transforms.specs.manifest import Manifest
from transforms.statistics import agreement, effort, guard, sketches, statistics, stored, tf_metadata
from transforms.statistics.agreement import Comparison
from transforms.statistics.effort import Effort
from transforms.statistics.guard import LONGEST, guarded, warnings
from transforms.statistics.sketches import Moments, NumberSketch
from transforms.statistics.statistics import Statistics

MODULES = (agreement, drift, effort, statistics, tf_metadata, sketches, stored, charts, differences, page)
# What holds the guard itself, or makes an empty object.
HOLDERS = {
    "with_drift", "describe", "report_files", "run_report", "encode_or_say", "decode_or_say",
    "create_accumulator", "add_input", "merge_accumulators", "extract_output", "get_accumulator_coder",
}  # fmt: skip
# The launcher reads the baseline before the start too, and refuses the run there.
BEFORE = {"baseline_path", "decode"}
WORDS = "broken on purpose"


def functions_of(module: ModuleType) -> Iterator[tuple[Any, str]]:
    """Every function and method that ``module`` defines, with what it belongs to."""
    for name, thing in vars(module).items():
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing) or hasattr(thing, "cache_info"):
            yield module, name
        elif inspect.isclass(thing):
            yield from ((thing, each) for each, method in vars(thing).items() if inspect.isfunction(method) and not each.startswith("__"))


FUNCTIONS = [(owner, name) for module in MODULES for owner, name in functions_of(module) if name not in HOLDERS or owner is tf_metadata]
NAMES = [f"{owner.__name__.rsplit('.', 1)[-1]}.{name}" for owner, name in FUNCTIONS]


class Broken:
    """Raises instead of doing what it stands for, from the second call on where the first is the launcher's."""

    def __init__(self, original: Callable[..., Any], passed: int) -> None:
        self.original, self.passed, self.calls = original, passed, 0

    def method(self) -> Callable[..., Any]:
        def broken(*arguments: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls <= self.passed:
                return self.original(*arguments, **more)
            raise ArithmeticError(WORDS)

        return broken


@pytest.fixture(scope="module")
def night(models: Models, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The flags of a run with all that is described: numbers, texts, failed rows, an earlier run and a second model."""
    folder = tmp_path_factory.mktemp("night")
    rows = [{"id": f"r{number}", "x": number, "s": "ab"[number % 2]} for number in range(400)]
    flags = {"model": models.get("two_outputs"), "key_field": "id", "max_error_ratio": 0.5}
    assert run(folder / "before", **flags, input=write_lines(folder / "before.jsonl", rows)) == 0
    source = write_lines(folder / "in.jsonl", [*rows, {"id": "bad", "x": "no", "s": ""}])
    return flags | {"input": source, "baseline": folder / "before", "compare_model": models.get("two_outputs")}


def check_published(out: Path) -> None:
    """Every row is there with its value, and the manifest says that the run is done."""
    predicted = {line["key"]: line["prediction"]["double"] for line in lines(out)}
    assert predicted == {f"r{number}": 2 * number for number in range(400)}
    assert (out / "_SUCCESS").exists()
    assert manifest(out)["status"] == "done"


@pytest.fixture(scope="module")
def called(night: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of those that a run without a fault calls."""
    out, counted = tmp_path_factory.mktemp("called") / "out", []
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in FUNCTIONS:
            counted.append(Broken(getattr(owner, name), 10**9))
            patch.setattr(owner, name, counted[-1].method())
        assert run(out, **night) == 0
    assert "warnings" not in manifest(out)
    return {name for name, one in zip(NAMES, counted, strict=True) if one.calls}


def test_nearly_all_of_them_are_called(called: set[str]) -> None:
    """Of a run without a fault: else the test below would try nothing."""
    idle = {*NAMES} - called
    assert len(idle) < len(NAMES) / 4, idle


@pytest.mark.parametrize(("owner", "name"), FUNCTIONS, ids=NAMES)
def test_a_run_is_published_whatever_part_of_its_report_fails(
    night: dict[str, Any],
    called: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: Any,
    name: str,
) -> None:
    if NAMES[FUNCTIONS.index((owner, name))] not in called:
        return  # broken or not, it makes no difference to this run
    broken = Broken(getattr(owner, name), int(name in BEFORE))
    page.load_template.cache_clear()
    page.versions.cache_clear()
    monkeypatch.setattr(owner, name, broken.method())
    capsys.readouterr()
    assert run(tmp_path / "out", **night) == 0
    said = capsys.readouterr().out
    check_published(tmp_path / "out")
    if broken.calls > broken.passed:
        (first, *_) = [line for line in manifest(tmp_path / "out")["warnings"] if WORDS in line]
        assert f"warning: {first}" in said


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Statistics, "add"), (NumberSketch, "add"), (Moments, "merge"), (Statistics, "merge"),
        (stored, "encode"), (stored, "decode"), (drift, "stability_index"), (differences, "compare"), (differences, "read_baseline"),
    ],
)  # fmt: skip
def test_drift_that_can_not_be_measured_shuts_its_gate(
    night: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    flags = {flag: value for flag, value in night.items() if flag != "compare_model"}
    monkeypatch.setattr(owner, name, Broken(getattr(owner, name), 0).method())
    assert run(tmp_path / "out", **flags, max_drift=100) == 3
    reason = manifest(tmp_path / "out")["reason"]
    assert reason.startswith(f"--max_drift=100.0 was given, and the drift from {night['baseline']} can't be measured: ")
    assert WORDS in reason
    assert not (tmp_path / "out/_SUCCESS").exists()


def test_a_drift_that_is_no_number_shuts_its_gate(night: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "stability_index", lambda *_: math.nan)
    assert run(tmp_path / "without", **night) == 0
    check_published(tmp_path / "without")
    assert run(tmp_path / "out", **night, max_drift=100) == 3
    assert UNMEASURED in manifest(tmp_path / "out")["reason"]


def test_a_run_that_has_nothing_in_common_with_its_baseline(models: Models, night: dict[str, Any], tmp_path: Path) -> None:
    """No feature of one is one of the other: there is no drift to look at, however high the limit."""
    source = write_lines(tmp_path / "in.jsonl", [{"text": "a" * (number % 9)} for number in range(300)])
    flags = {"model": models.get("text_length"), "input": source, "baseline": night["baseline"]}
    assert run(tmp_path / "without", **flags) == 0
    assert run(tmp_path / "out", **flags, max_drift=100) == 3
    assert "no input or output of the two runs can be compared" in manifest(tmp_path / "out")["reason"]


@pytest.mark.parametrize(
    ("owner", "name"),
    [("transforms.compare.comparison_lines", "differ"), (Comparison, "merge"), (stored, "encode"), (Effort, "add")],
)
def test_a_disagreement_that_is_not_known_shuts_its_gate(
    night: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    from transforms.compare import comparison_lines as lines_of

    owner = lines_of if isinstance(owner, str) else owner
    monkeypatch.setattr(owner, name, Broken(getattr(owner, name), 0).method())
    assert run(tmp_path / "without", **night) == 0
    check_published(tmp_path / "without")
    status = run(tmp_path / "out", **night, max_disagreement=1)
    if owner is Effort:  # what it took is no part of the figure
        assert status == 0
    else:
        assert status == 3
        assert "--max_disagreement=1.0 was given, and the disagreement is not known" in manifest(tmp_path / "out")["reason"]


def test_a_resumed_run_whose_statistics_were_not_kept(night: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first launch could not keep, the second does not know: it says so, and a limit of drift refuses."""
    from transforms.accounts import gate
    from transforms.output import publisher

    flags = {flag: value for flag, value in night.items() if flag != "compare_model"} | {"run_id": "night"}
    for limits, status in (({}, 0), ({"max_drift": 100}, 3)):
        out = tmp_path / f"out{status}"
        with monkeypatch.context() as patch:
            patch.setattr(stored, "encode", Broken(stored.encode, 0).method())
            patch.setattr(publisher, "check_gate", Broken(gate.check_gate, 0).method())
            assert run(out, **flags, **limits) == 1
        assert run(out, **flags, **limits, resume="true") == status
        assert any("statistics" in line for line in manifest(out)["warnings"])


@pytest.mark.parametrize("name", ["_task_row", "_page", "load_template"])
def test_the_report_of_many(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"x": 1.0}])
    tasks = write_lines(tmp_path / "tasks.jsonl", [{"model": models.get("half_plus_two"), "input": str(source), "output": "a"}])
    monkeypatch.setattr(page, name, Broken(getattr(page, name), 0).method())
    assert run(tmp_path / "out", model_map=tasks) == 0
    assert (tmp_path / "out/_SUCCESS").exists()
    assert not (tmp_path / "out/report.html").exists()
    assert WORDS in manifest(tmp_path / "out")["warnings"][0]
    assert WORDS in capsys.readouterr().out


def test_the_summary(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline import summary

    source = write_lines(tmp_path / "in.jsonl", [{"x": 1.0}])
    monkeypatch.setattr(summary, "job_lines", Broken(summary.job_lines, 0).method())
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=source, run_id="night") == 0
    assert f"done: run night\n  warning: summary: ArithmeticError: {WORDS}\n" in capsys.readouterr().out


def test_a_guard_says_one_line_a_part_and_lets_an_interrupt_pass() -> None:
    failures: dict[str, str] = {}
    for text in ("first\nline", "x" * 1000):
        with guarded("report", failures):
            raise ValueError(text)
    with guarded("drift", failures):
        raise MemoryError
    assert warnings(failures) == ["drift: MemoryError:", "report: ValueError: first line"]
    long: dict[str, str] = {}
    with guarded("report", long):
        raise ValueError("x" * 1000)
    assert len(long["report"]) == LONGEST
    with pytest.raises(KeyboardInterrupt), guarded("report", failures):
        raise KeyboardInterrupt
    told = Manifest()
    guard.warn(told, failures)
    guard.warn(told, failures)
    assert told.warnings == warnings(failures)
