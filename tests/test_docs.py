"""The documents say what the code does: generated tables are as generated, and the README's commands run."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from image import building
from saved_models import Models

from pipeline.main import main

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if path.name != "words.md")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["README.md", "docs/formats.md"])
def test_tables_are_as_generated(name: str) -> None:
    module = generator()
    assert (ROOT / name).read_text(encoding="utf-8") == module.generate(name), "run 'make docs'"
    assert module.generate(name).count("written by make docs -->\n|") == len(module.TABLES[name])


def test_the_tests_that_reliability_names_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    for path, function in named:
        assert (ROOT / path).is_file(), path
        assert f"def {function}" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{function}"


def shell_lines() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    text = "".join(blocks).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in text.splitlines() if line.strip()]


def test_the_readmes_runs_run(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As written, in a folder that has what ``make demo`` makes there (with another model, of one input)."""
    runs = [line for line in shell_lines() if "nightshift run" in line]
    assert len(runs) >= 2
    (tmp_path / "demo" / "data").mkdir(parents=True)
    (tmp_path / "demo" / "model").symlink_to(models.get("half_plus_two"))
    (tmp_path / "demo" / "models").mkdir()
    (tmp_path / "demo" / "models" / "north").symlink_to(models.get("half_plus_two"))
    (tmp_path / "demo" / "sites").mkdir()
    (tmp_path / "demo" / "sites" / "rows.jsonl").write_text('{"id": "a", "site": "north", "x": 1}\n{"id": "b", "site": "north", "x": 2}\n')
    (tmp_path / "demo" / "data" / "part-0.jsonl").write_text('{"id": "a", "x": 1}\n{"id": "b", "x": 2}\n')
    (tasks,) = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "tasks.jsonl").write_text(tasks)
    monkeypatch.chdir(tmp_path)
    for line in runs:
        program, command, *flags = shlex.split(line)
        assert program == ".venv/bin/nightshift"
        assert main([command, *flags]) == 0
        folder = tmp_path / ("tonight/north" if "--model_map" in line else "out")
        rows = [json.loads(row) for row in (folder / "prediction.results-00000-of-00001").read_text().splitlines()]
        assert rows == [{"key": "a", "prediction": 2.5}, {"key": "b", "prediction": 3.0}]
    # docs/report.md reads the statistics of the demo's output in a few lines of Python.
    (program,) = re.findall(r"python -c '\n(.*?)'\n```", (ROOT / "docs" / "report.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "demo" / "out").symlink_to(tmp_path / "out")
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "inputs x 1.5" in printed


def test_the_makes_verbs_are_there() -> None:
    verbs = {line.split()[1] for line in shell_lines() if line.startswith("make ")}
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"demo", "test"} <= verbs
    for verb in verbs | {"setup", "check", "bench"}:
        assert f"make {verb} " in listed


def test_help_is_readable() -> None:
    """In groups, and no line wider than a terminal."""
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert max(map(len, listed.splitlines())) <= 80
    assert len(listed.strip().split("\n\n")) >= 4
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    (verbs,) = re.findall(r"^\.PHONY: (.*)$", recipe, re.MULTILINE)
    assert set(verbs.split()) == set(re.findall(r"^  make ([\w-]+) ", listed, re.MULTILINE))


def test_clean_removes_what_the_verbs_make_and_nothing_else(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept = ["Makefile", "pipeline/main.py", "out/manifest.json", "benchmarks/RESULTS.md"]
    # What git ignores is what verbs make, but for what a person's own commands do.
    made = [
        name.rstrip("/")
        for name in (ROOT / ".gitignore").read_text(encoding="utf-8").split()
        if name not in ("out/", "dist/", "__pycache__/")
    ]
    for name in kept[1:] + [f"{name.replace('*', 'nightshift')}/file" for name in made] + ["pipeline/__pycache__/x.pyc", "image/base/made"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for folder in ("transforms", "tests", "examples", "docs"):
        (tmp_path / folder).mkdir()
    subprocess.run(["make", "clean", f"IMAGE_TEST={tmp_path / 'image'}"], cwd=tmp_path, check=True, capture_output=True)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted(kept)
    (default,) = re.findall(r"^IMAGE_TEST := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert default == str(building.STORAGE)


# docs/words.md says what to write instead.
QUAINT = re.compile(
    r"\b(comes? to|came to|is none|stands?(?! (in )?for)(?!-in)|is told|goes by|of a kind|in vain|taken up|takes up|gone on with"
    r"|go(es|ing)? on with|whoever|mend(s|ed)?|held against|(?<!so )(?<!as )far|gate (that )?(stays|stayed|is|was) shut|shuts? the gate)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile", *DOCUMENTS])
def test_documents_are_in_plain_words(name: str) -> None:
    text = re.sub(r"`[^`]*`", "", (ROOT / name).read_text(encoding="utf-8"))  # names of tests are not prose
    assert [line for line in text.splitlines() if QUAINT.search(line)] == []


def test_links_lead_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} → {target}"


def test_the_changelog_has_the_form_and_the_version() -> None:
    """Keep a Changelog: Unreleased on top, releases with their day, the newest first; pyproject's version is the one being made."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    releases = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    versions = [tuple(map(int, release.groups())) for release in releases if release]
    assert len(versions) == len(headings) - 1, "a release is a version and its day"
    assert versions == sorted(versions, reverse=True)
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    (coming,) = re.findall(r"^Becomes (\S+)\.$", text, re.MULTILINE)
    assert version == f"{coming}.dev0"
    assert tuple(map(int, coming.split("."))) > versions[0]
