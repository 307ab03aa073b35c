"""What reaches a terminal or a log: no control character, no traceback, nothing at all where nobody reads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from jobs import check_output, lines, write_lines
from saved_models import Models

from pipeline.process.terminal import block, one_line, plain

ROOT = Path(__file__).resolve().parents[1]
TITLE = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e"
COMMANDS = (["--help"], ["check", "--help"], ["launch", "--help"], ["schedule", "--help"], ["serve", "--help"])


def nightshift(*arguments: str, **how: object) -> subprocess.CompletedProcess[bytes]:
    how = {"capture_output": True} | how if "stdout" not in how else {"stderr": subprocess.PIPE} | how
    environment = {
        name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"
    }  # another test's run may have set it
    return subprocess.run([sys.executable, "-m", "pipeline.main", *arguments], cwd=ROOT, check=False, env=environment, **how)  # type: ignore[call-overload]


def is_plain(text: str) -> bool:
    return (
        not [sign for sign in text if sign not in "\t\n" and unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")]
        and "\u202e" not in text
    )


# --- control characters ---


def test_every_control_character_is_escaped_and_all_else_is_left() -> None:
    for number in range(0x11_0000):
        sign = chr(number)
        is_control = unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(sign) in (
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        ) or sign in "\u061c\u200e\u200f"  # fmt: skip
        assert plain(sign) == (f"\\u{number:04x}" if is_control and sign not in "\t\n" else sign)


def test_a_text_of_several_lines_is_no_line_of_ours() -> None:
    assert block("bad row\nnightshift: done") == "bad row\n  nightshift: done"
    assert one_line("bad row\nnightshift: done\x1b") == "bad row\\nnightshift: done\\u001b"
    assert json.loads(f'"{plain(TITLE)}"') == TITLE


@pytest.mark.parametrize(
    "arguments",
    [
        [f"--model={TITLE}", "--input=rows.jsonl", "--output=out"],
        ["--model=m", f"--input={TITLE}", "--output=out"],
        ["--model=m", "--input=rows.jsonl", "--output=out", f"--batch_size={TITLE}"],
        ["--model=m", "--input=rows.jsonl", "--output=out", f"--{TITLE}=1"],
        [f"--job={TITLE}"],
        ["check", f"--model={TITLE}", "--input=rows.jsonl", "--output=out"],
        [TITLE],
        ["launch", f"--template={TITLE}", "--project=p", "--region=r"],
        ["serve", f"--{TITLE}"],
    ],
)
def test_flags_reach_no_terminal_raw(arguments: list[str]) -> None:
    ended = nightshift(*arguments)
    assert ended.returncode == 2
    assert is_plain(ended.stdout.decode() + ended.stderr.decode())
    assert ended.stdout + ended.stderr


def test_rows_names_and_errors_reach_no_terminal_raw(models: Models, tmp_path: Path) -> None:
    """A row's text in the model's own error, and the names of input, model and output."""
    folder = tmp_path / f"in{TITLE}"
    folder.mkdir()
    data = write_lines(folder / f"{TITLE}.jsonl", [{"text": f"{TITLE}\nnightshift: all is well"}, {"text": "1"}])
    said = tmp_path / "said"
    model = tmp_path / f"model{TITLE}"
    Path(models.get("number")).rename(model)
    for command, verbose in (("run", True), ("run", False), ("check", False)):
        flags = [f"--model={model}", f"--input={data}", f"--output={tmp_path}/out{TITLE}", "--max_error_ratio=1"]
        with said.open("wb") as stream:
            ended = nightshift(command, *flags, f"--verbose={verbose}", stdout=stream, stderr=stream)
        text = said.read_bytes().decode()
        assert ended.returncode == 0, text
        if verbose:
            assert "[[{{function_node" in text, "TensorFlow's own log, from C++"
        else:
            assert "\nnightshift: all is well" not in text
        assert "StringToNumberOp could not correctly convert string" in text
        assert "pwned" in text
        assert is_plain(text), re.findall(r"[^\n]*[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e][^\n]*", text)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_a_model_prints_reaches_no_terminal_raw(models: Models, tmp_path: Path, stream: str) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"text": TITLE}])
    model = models.get(f"prints_to_{stream}")
    ended = nightshift(f"--model={model}", f"--input={data}", f"--output={tmp_path}/out")
    text = getattr(ended, stream).decode()
    assert ended.returncode == 0, text
    assert f"row {plain(TITLE)}\n" in text


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_gets_no_file_of_the_output(models: Models, tmp_path: Path, closed: str) -> None:
    """A file that is opened where a standard stream was closed takes its number, and what native code prints."""
    data = write_lines(tmp_path / "rows.jsonl", [{"text": f"row {number}"} for number in range(5)])
    for stream in ("stdout", "stderr"):
        flags = f"--model={models.get(f'prints_to_{stream}')} --input={data} --output={tmp_path}/{stream} --output_style=raw"
        assert subprocess.run(f"{sys.executable} -m pipeline.main {flags} {closed}", shell=True, cwd=ROOT, check=False).returncode == 0
        assert lines(tmp_path / stream) == [5.0] * 5
        check_output(tmp_path / stream)


# --- where nobody reads ---


@pytest.mark.parametrize("arguments", COMMANDS)
def test_help_for_a_reader_who_has_gone_ends_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = nightshift(*arguments, stdout=writer)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", COMMANDS)
def test_help_that_can_not_be_written_is_an_error(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        ended = nightshift(*arguments, stdout=full)
    assert (ended.returncode, ended.stderr) == (1, b"nightshift: standard output can't be written: No space left on device\n")


def test_a_run_whose_summary_nobody_reads_is_done(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1}])
    flags = [f"--model={models.get('half_plus_two')}", f"--input={data}", f"--output={tmp_path}/out"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = nightshift(*flags, stdout=writer)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (tmp_path / "out" / "_SUCCESS").exists()
