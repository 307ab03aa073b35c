"""The tree of errors: each class of the program is in it, as its docstring draws it, and its exit status is an attribute."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from pipeline.main import main
from transforms.specs import errors
from transforms.specs.errors import NightshiftError

ROOT = Path(__file__).resolve().parents[1]
# Outside of the tree, and why.
OUTSIDE = {
    "StorageError": "an OSError, as a disk raises: who retries or isolates a file asks for one type",
    "ChangedError": "a StorageError",
    "LeavesFolderError": "a PermissionError, as a disk raises",
    "TableFolderError": "a PermissionError, as a disk raises",
    "FileChangedError": "of a room below the tree, as a storage's errors are; reading a split catches it by name",
    "StillRunningError": "an interruption",
}
# Where each class of an error is defined, and the name of its first base.
DEFINED = {
    node.name: (".".join(path.relative_to(ROOT).with_suffix("").parts), ast.unparse(node.bases[0]))
    for package in ("pipeline", "transforms")
    for path in sorted((ROOT / package).rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef) and node.bases and re.search(r"(Error|Exception|Interrupt|Exit)$", ast.unparse(node.bases[0]))
}


def drawn() -> dict[str, tuple[str | None, int]]:
    """Return the tree as the docstring draws it: each class with the one above it and its exit status."""
    tree: dict[str, tuple[str | None, int]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"( *)[*x+-] (\w+)(?: \((\d+)\))?", line)
        if match:
            depth, name = len(match[1]) // 2, match[2]
            del above[depth:]
            tree[name] = (above[-1] if above else None, int(match[3]) if match[3] else tree[above[-1]][1])
            above.append(name)
    return tree


def test_every_error_is_in_the_tree_or_says_why_not() -> None:
    for name, (module, base) in DEFINED.items():
        above = name
        while above in DEFINED and above != "NightshiftError":
            above = DEFINED[above][1].rpartition(".")[2]
        assert (above == "NightshiftError") != (name in OUTSIDE), f"{module}.{name} derives from {base}"
    assert set(OUTSIDE) <= set(DEFINED)


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    public = {name: base for name, (_, base) in DEFINED.items() if name not in OUTSIDE and not name.startswith("_")}
    assert {name: above or "Exception" for name, (above, _) in drawn().items()} == public


def test_the_docstring_says_the_exit_statuses() -> None:
    for name, (_, status) in drawn().items():
        error = getattr(importlib.import_module(DEFINED[name][0]), name)
        assert issubclass(error, NightshiftError)
        assert error.exit_status == status, name


@pytest.mark.parametrize("name", ["NightshiftError", "RefusedError", "GateShutError"])
def test_a_run_ends_with_the_status_of_its_error(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = getattr(importlib.import_module(DEFINED[name][0]), name)

    def fail(*_: object) -> None:
        raise error("said once")

    monkeypatch.setattr("pipeline.flags.job_file.expand", fail)
    assert main(["run", "--model=m", "--input=i", "--output=o"]) == error.exit_status
    assert capsys.readouterr().err.count("said once") == 1


def test_no_exit_status_is_written_out_where_errors_become_one() -> None:
    for name in ("main.py", "run.py"):
        source = (ROOT / "pipeline" / name).read_text(encoding="utf-8")
        assert not re.findall(r"return [123]\b|REFUSED|GATE_SHUT", source)
