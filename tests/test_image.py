"""The image's recipe: linted, and made of what the lock file names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from image import building

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "templates" / "Dockerfile"


def test_recipe_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_beam_in_the_image_is_the_locked_one() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (version,) = re.findall(r"^apache-beam(?:\[gcp\])?==(\S+)", lock, re.MULTILINE)
    assert f"ARG BEAM_VERSION={version}\n" in DOCKERFILE.read_text(encoding="utf-8")
    assert "--hash=sha256:" in lock


def test_all_that_is_copied_is_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == sent
    assert all((ROOT / name).exists() for name in names)


def test_the_build_shows_its_steps_and_keeps_them_for_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program of this name stands in for buildah: it prints a step and fails."""
    program = tmp_path / "buildah"
    program.write_text("#!/bin/sh\necho 'STEP 1/9: FROM x'\necho 'no space left' >&2\nexit 125\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(building, "_driver", lambda: "vfs")
    with pytest.raises(RuntimeError, match=r"status 125:\nSTEP 1/9: FROM x\nno space left"):
        building.buildah("build", shown=True)
    assert capsys.readouterr().out == "  STEP 1/9: FROM x\n  no space left\n"
    with pytest.raises(RuntimeError, match="status 125"):
        building.buildah("images")
    assert capsys.readouterr().out == ""
