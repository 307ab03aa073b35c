"""What asks a run to stop, and what only looks like it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import child
from jobs import write_lines
from saved_models import Models

ROOT = Path(__file__).resolve().parents[1]


def test_an_error_that_names_keyboard_interrupt_is_no_ctrl_c(models: Models, tmp_path: Path) -> None:
    """The disk is full, and the folder's name is in the error."""
    out, said = tmp_path / "KeyboardInterrupt", tmp_path / "said"
    data = write_lines(tmp_path / "rows.jsonl", [{"x": number} for number in range(20_000)])
    full = child.start(out, said=said, file_bytes=100_000, input=data, model=models.get("half_plus_two"))
    full.join()
    assert full.exitcode == 1, said.read_text()
    assert "File too large" in said.read_text()
    assert "interrupted" not in said.read_text()


def test_ctrl_c_is_noticed_by_its_signal_whatever_the_handler_before(models: Models, tmp_path: Path) -> None:
    """In a process whose SIGINT is Python's own, as where a scheduler's code calls ``main``."""
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 3000, "id": row} for row in range(5)])
    flags = [f"--model={models.get('slow')}", f"--input={data}", f"--output={tmp_path}/out"]
    whole = child.CONTEXT.Process(target=_call_main, args=(flags,))
    whole.start()
    assert whole.pid is not None
    child.wait_until(lambda process=whole.pid: child.predicting_in(process))
    os.kill(whole.pid, signal.SIGINT)
    whole.join(60)
    assert whole.exitcode == 130
    assert not (tmp_path / "out" / "manifest.json").exists()


def _call_main(flags: list[str]) -> None:
    from pipeline.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = main(["run", *flags])
    os._exit(status if signal.getsignal(signal.SIGINT) is signal.default_int_handler else 1)


def test_a_closed_terminal_interrupts_and_under_nohup_does_not(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 3000, "id": row} for row in range(5)])
    for name, prefix, status in (("closed", [], 130), ("nohup", ["nohup"], 0)):
        out = tmp_path / name
        flags = [f"--model={models.get('slow')}", f"--input={data}", f"--output={out}"]
        whole = subprocess.Popen([*prefix, sys.executable, "-m", "pipeline.main", *flags], cwd=ROOT, stdout=subprocess.DEVNULL)
        child.wait_until(lambda process=whole.pid: child.predicting(process))
        whole.send_signal(signal.SIGHUP)
        assert whole.wait(60) == status
        assert (out / "_SUCCESS").exists() == (status == 0)
