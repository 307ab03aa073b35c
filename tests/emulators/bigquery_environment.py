"""The BigQuery emulator's own environment: local-bigquery, which needs a Python 3.13, in a folder made once.

local-bigquery 0.4.0 asks for a DuckDB whose extensions are not on PyPI; those of 1.5.5 are, and it runs on them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "3.13"
DUCKDB = "1.5.5"
EXTENSIONS = ("icu", "ducklake", "httpfs", "spatial", "avro")
PACKAGES = (
    "local-bigquery==0.4.0", f"duckdb=={DUCKDB}", f"duckdb-extensions=={DUCKDB}",
    *(f"duckdb-extension-{name}=={DUCKDB}" for name in EXTENSIONS),
)  # fmt: skip
# As it was before the tests led clients to the emulators: the packages come from a real registry.
ENVIRONMENT = dict(os.environ)
FOLDER = ROOT / "build" / f"local-bigquery-0.4.0-duckdb-{DUCKDB}"


class PythonMissingError(Exception):
    """There is no Python 3.13, and uv can't get one."""


def _pythons() -> Iterator[str]:
    """Where a Python 3.13 may be; uv finds its own, but not one that pyenv has and the shell has not chosen."""
    yield from sorted(
        str(path) for path in Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{PYTHON}*/bin/python3")
    )
    yield PYTHON


def make_environment() -> Path:
    """Gives the environment's folder, having made it if it is not there; ``bin/python`` runs it, ``home`` is its HOME.

    Raises:
      PythonMissingError: no Python 3.13 was found.
    """
    if (FOLDER / "home").is_dir():
        return FOLDER
    FOLDER.parent.mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="local-bigquery-", dir=FOLDER.parent))
    try:
        _make(made)
        with contextlib.suppress(OSError):  # another session may have been quicker
            made.rename(FOLDER)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return FOLDER


def _make(folder: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    command = str(uv) if uv.exists() else shutil.which("uv")
    if command is None:
        raise PythonMissingError("uv, which makes the BigQuery emulator's environment, is not there; run 'make setup'")
    for python in _pythons():
        venv = [command, "venv", "--quiet", "--clear", "--relocatable", "--python", python, str(folder)]
        made = subprocess.run(venv, capture_output=True, text=True, check=False, env=ENVIRONMENT)
        if made.returncode == 0:
            break
    else:
        raise PythonMissingError(f"the BigQuery emulator needs Python {PYTHON}, and there is none that uv finds or can get: {made.stderr}")
    override = folder / "override.txt"
    override.write_text(f"duckdb=={DUCKDB}\n")
    install = [command, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), "--override", str(override), *PACKAGES]
    subprocess.run(install, check=True, env=ENVIRONMENT)
    home = folder / "making-home"
    home.mkdir()
    program = f"from duckdb_extensions import import_extension\nfor name in {EXTENSIONS!r}: import_extension(name)"
    subprocess.run([str(folder / "bin/python"), "-c", program], check=True, env={**ENVIRONMENT, "HOME": str(home)})
    home.rename(folder / "home")  # last of all: it says that the environment is whole
