"""Command lines that nobody means well, or that name what is there as something else: each a message, the right status, no traceback."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import child
import pytest
from saved_models import Models

ROW = '{"x": 1}\n'
HAS_CAPABILITIES_OF = 0x20080522  # _LINUX_CAPABILITY_VERSION_3 of linux/capability.h
CAPSET = {"x86_64": 126, "aarch64": 91}[os.uname().machine]


def drop_powers() -> None:
    """Let permissions hold for root, too."""
    header = HAS_CAPABILITIES_OF.to_bytes(4, "little") + bytes(4)
    assert ctypes.CDLL(None).syscall(CAPSET, header, bytes(24)) == 0


def in_a_folder_that_is_gone() -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()


def without_streams() -> None:
    for number in (0, 1, 2):
        os.close(number)


def _call(argv: list[str], folder: Path, before: Callable[[], None] | None) -> None:
    from pipeline.main import console

    os.chdir(folder)
    handle = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = ["nightshift", *argv]
    try:
        if before is not None:
            before()
        console()
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 99)


def called(argv: list[str], folder: Path, before: Callable[[], None] | None = None) -> tuple[int | None, str]:
    """Give the status and the output of a command line, called in ``folder``."""
    process = child.CONTEXT.Process(target=_call, args=(argv, folder, before))
    process.start()
    process.join()
    return process.exitcode, (folder / "said").read_text()


@pytest.fixture
def place(models: Models, tmp_path: Path) -> Path:
    """A folder with an input, a model, and what is neither."""
    (tmp_path / "rows.jsonl").write_text(ROW)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text(ROW)
    (tmp_path / "model").symlink_to(models.get("half_plus_two"))
    (tmp_path / "empty").write_text("")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo.jsonl")
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)
    (tmp_path / "closed.jsonl").write_text(ROW)
    (tmp_path / "closed.jsonl").chmod(0)
    (tmp_path / "nul.jsonl").write_text('{"model": "a\\u0000b", "input": "x", "output": "o"}\n')
    task = json.dumps({"model": "model", "input": "rows.jsonl", "output": str(tmp_path / "model" / "out")})
    (tmp_path / "tasks.jsonl").write_text(task + "\n")
    return tmp_path


JOB = {"model": "model", "input": "rows.jsonl", "output": "out"}
TASKS = {"model": "", "input": "", "output": "out"}
# The command, its flags beside those of JOB, and what its message says; the status is 2.
REFUSED: list[tuple[str, dict[str, str], str]] = [
    ("run", {"model": "rows.jsonl"}, "no model at rows.jsonl"),
    ("run", {"model": "folder"}, "no model at folder"),
    ("run", {"input": "loop"}, "matches no file"),
    ("run", {"input": "fifo.jsonl"}, "matches no file"),
    ("run", {"input": "rows.jsonl/x"}, "matches no file"),
    ("run", {"input": "closed.jsonl"}, "Permission denied"),
    ("run", {"input": "closed/*.jsonl"}, "Permission denied"),
    ("run", {"input": "/tmp/" + "a" * 5000}, "matches no file"),
    ("run", {"input": "foo://a/b.jsonl"}, "expected a local path or gs://"),
    ("run", {"output": "a\udcffb"}, "expected UTF-8"),
    ("check", {"errors": "a\udcff"}, "expected UTF-8"),
    ("run", {"output": "gs://"}, "expected a name after gs://"),
    ("run", {"output": "rows.jsonl"}, "rows.jsonl can't be written"),
    ("run", {"output": "rows.jsonl/out"}, "can't be written"),
    ("check", {"output": "rows.jsonl/out"}, "can't be written"),
    ("run", {"output": "closed/out"}, "closed/out can't be written"),
    ("check", {"output": "closed/out"}, "closed/out can't be written"),
    ("run", {"output": "loop"}, "loop can't be written"),
    ("run", {"output": "o" * 300}, "can't be written"),
    ("run", {"output": "in", "input": "in"}, "lies in the input folder"),
    ("run", {"output": "model"}, "lies in the model's folder"),
    ("run", {"output": "model/2"}, "lies in the model's folder"),
    ("check", {"errors": "model/errors"}, "lies in the model's folder"),
    ("run", TASKS | {"model_map": "tasks.jsonl"}, "lies in the model's folder"),
    ("run", TASKS | {"model_map": "folder"}, "folder"),
    ("run", TASKS | {"model_map": "binary"}, "binary"),
    ("run", TASKS | {"model_map": "empty"}, "holds no task"),
    ("run", TASKS | {"model_map": "nul.jsonl"}, "nul.jsonl, line 1: model is 'a\\x00b', expected text without NUL"),
    ("run", {"job": "folder"}, "can't be read"),
    ("run", {"job": "binary"}, "expected a JSON object"),
    ("run", {"runner": "Nonsense"}, "Unexpected pipeline runner"),
    ("run", {"runner": "no.such.Runner"}, "--runner=no.such.Runner"),
    ("run", {"date": "9" * 400}, "expected a day"),
    ("run", {"batch_size": "9" * 5000}, "expected a whole number"),
    ("check", {"batch_size": "0"}, "expected a whole number"),
]


@pytest.mark.parametrize(("command", "flags", "message"), REFUSED)
def test_what_can_not_be_meant_is_refused(command: str, flags: dict[str, str], message: str, place: Path) -> None:
    model = sorted((place / "model").iterdir())
    argv = [f"--{name}={value}" for name, value in (JOB | flags).items() if value or name not in TASKS]
    status, said = called([command, *argv], place, drop_powers)
    assert status == 2, said
    assert message in said
    assert "Traceback" not in said
    assert not (place / "out" / "manifest.json").exists()
    assert not (place / "gs:").exists()
    assert sorted((place / "model").iterdir()) == model


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "can't be read"),
        (b"\0", "can't be read"),
        (b'{"files": 5}', "Expected `array`, got `int`"),
        (b'{"counts": null}', "Expected `object`, got `null`"),
        (b'{"results": [{"name": "a"}]}', "missing required field"),
        (b"null", "no JSON object"),
    ],
)
def test_a_manifest_that_no_run_writes_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    status, said = called(["verify", "."], tmp_path)
    assert (status, message in said) == (2, True), said


@pytest.mark.parametrize("flag", [{"num_workers": "9" * 5000}, {"input": "gs://b/a\udcff"}, {"batch_size": "0"}])
def test_a_launch_is_refused_alike(flag: dict[str, str], tmp_path: Path) -> None:
    flags = {"template": "gs://b/t.json", "project": "p", "region": "r", "dry_run": "true"}
    flags |= {"model": "gs://b/m", "input": "gs://b/i.jsonl", "output": "gs://b/o"} | flag
    status, said = called(["launch", *(f"--{name}={value}" for name, value in flags.items())], tmp_path)
    assert (status, "expected" in said) == (2, True), said


def test_a_bad_flag_is_refused_where_nobody_reads_the_message(place: Path) -> None:
    assert called(["run", *(f"--{name}={value}" for name, value in JOB.items()), "--batch_size=0"], place, without_streams) == (2, "")


def test_a_run_needs_no_working_folder(place: Path) -> None:
    argv = [f"--{name}={place / value}" for name, value in JOB.items()]
    status, said = called(["run", *argv], place, in_a_folder_that_is_gone)
    assert status == 0, said
    assert (place / "out" / "_SUCCESS").exists()
