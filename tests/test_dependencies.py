"""What is imported is declared in pyproject.toml, and what is declared is imported or says why it is needed."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROGRAM, REST = ("pipeline", "transforms"), ("tests", "benchmarks", "examples", "docs")
# Runs in the emulator's own environment (tests/emulators/bigquery_environment.py).
ELSEWHERE = {"local_bigquery"}


def declared(dev: bool) -> set[str]:
    project = tomllib.loads(PROJECT)["project"]
    requirements = project["optional-dependencies"]["dev"] if dev else project["dependencies"]
    return {normalized(re.split(r"[\[<>=!~;\s]", requirement)[0]) for requirement in requirements}


def normalized(name: str) -> str:
    """Write a distribution's name as PEP 503 does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def modules_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def files_of(distribution: str) -> frozenset[str]:
    return frozenset(map(str, importlib.metadata.files(distribution) or ()))


@functools.cache
def providers() -> dict[str, list[str]]:
    return {top: sorted(set(names)) for top, names in importlib.metadata.packages_distributions().items()}


@functools.cache
def distribution_of(module: str) -> str | None:
    """Return the distribution that ``module`` comes from; several share a namespace such as ``google``."""
    parts = module.split(".")
    candidates = providers().get(parts[0], [])
    if len(candidates) == 1:
        return normalized(candidates[0])
    for length in range(len(parts), 1, -1):
        path = "/".join(parts[:length])
        for candidate in candidates:
            if not {f"{path}/__init__.py", f"{path}.py"}.isdisjoint(files_of(candidate)):
                return normalized(candidate)
    return None


def imported(folders: tuple[str, ...]) -> dict[str, str]:
    """Return the distributions that the files of ``folders`` import, each with a place that does."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    beside_tests = {name for path in paths if path.relative_to(ROOT).parts[0] == "tests" for name in (path.stem, path.parent.name)}
    own = {*PROGRAM, *REST, *ELSEWHERE, *beside_tests}
    places: dict[str, str] = {}
    for path in paths:
        for module in modules_of(path):
            top = module.split(".")[0]
            if top not in sys.stdlib_module_names and top not in own:
                distribution = distribution_of(module)
                assert distribution is not None, f"{path.relative_to(ROOT)}: {module} is of no package that is installed"
                places.setdefault(distribution, f"{path.relative_to(ROOT)}: {module}")
    return places


@pytest.mark.parametrize(("folders", "dev"), [(PROGRAM, False), (REST, True)], ids=["program", "rest"])
def test_what_is_imported_is_declared(folders: tuple[str, ...], dev: bool) -> None:
    known = declared(False) | (declared(True) if dev else set())
    assert {name: place for name, place in imported(folders).items() if name not in known} == {}


@pytest.mark.parametrize(("folders", "dev"), [(PROGRAM, False), (REST, True)], ids=["program", "rest"])
def test_what_is_declared_is_imported_or_says_why(folders: tuple[str, ...], dev: bool) -> None:
    explained = {normalized(name) for name in re.findall(r'^    "([\w.-]+).*?",  # \S', PROJECT, re.MULTILINE)}
    unused = declared(dev) - set(imported(folders)) - explained
    assert unused == set()


def test_the_locks_hold_what_is_declared() -> None:
    for lock, names in (("requirements.lock", declared(False)), ("requirements-dev.lock", declared(False) | declared(True))):
        text = (ROOT / lock).read_text(encoding="utf-8")
        locked = {normalized(name) for name in re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==", text, re.MULTILINE)}
        assert names <= locked, f"{lock}: run 'make lock'"
        direct = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==[^\n]*\n(?:    --hash[^\n]*\n)*((?:    #[^\n]*\n)*)", text, re.MULTILINE)
        assert {normalized(name) for name, via in direct if "nightshift (pyproject.toml)" in via} == names, f"{lock}: run 'make lock'"
