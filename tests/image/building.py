"""Builds the image for real, without a registry: Debian's buildah on a base that debootstrap makes.

The two base images that the recipe names are stood in for by that base, under their own names: Python 3.11 and a program where Beam's
boot program is, and one where the launcher is. All else is the recipe's own. Needs root, buildah and debootstrap (``apt-get install
buildah debootstrap``), and some GB of disk; no daemon.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "templates" / "Dockerfile"
PROGRAMS = ("buildah", "debootstrap")
SUITE = "bookworm"  # the Debian that Beam's image for Python 3.11 is made of
PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")
# What this machine trusts and how it reaches the package index, for the pip that runs inside.
FROM_HERE = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
STORAGE = Path("/var/tmp/nightshift-image-test")
IMAGE = "localhost/nightshift:test"


def missing() -> str | None:
    """Why the image can't be built here, or None."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"there is no {' and no '.join(absent)} here: apt-get install {' '.join(PROGRAMS)}"
    return None if os.geteuid() == 0 else "debootstrap and chroot need root"


def arguments() -> dict[str, str]:
    """The recipe's build arguments with their defaults."""
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE))


@functools.cache
def _driver() -> str:
    """``overlay`` where the kernel lets this machine mount one; else ``vfs``, which copies all of an image for each of its steps: 60 GB."""
    with tempfile.TemporaryDirectory(dir=STORAGE) as folder:
        places = {name: Path(folder, name) for name in ("lowerdir", "upperdir", "workdir", "mounted")}
        for path in places.values():
            path.mkdir()
        options = ",".join(f"{name}={path}" for name, path in places.items() if name != "mounted")
        mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(places["mounted"])], capture_output=True)
        if mounted.returncode:
            return "vfs"
        subprocess.run(["umount", str(places["mounted"])], check=True)
        return "overlay"


def show(step: str) -> None:
    """Print what is done now: some steps take minutes."""
    print(f"image-test: {step}", flush=True)


def buildah(*command: str, shown: bool = False) -> str:
    """Run buildah on a storage of its own; return what it printed, which ``shown`` also prints as it comes."""
    storage = ("--root", str(STORAGE / "root"), "--runroot", str(STORAGE / "run"), "--storage-driver", _driver())
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "BUILDAH_FORMAT": "docker", "TMPDIR": str(STORAGE)}
    whole = ["buildah", *storage, *command]
    if shown:
        status, printed, errors = *_show_lines(whole, environment), ""
    else:
        ended = subprocess.run(whole, env=environment, capture_output=True, text=True)
        status, printed, errors = ended.returncode, ended.stdout, ended.stderr
    if status:
        raise RuntimeError(f"buildah {' '.join(command)} ended with status {status}:\n{printed[-3000:]}\n{errors[-3000:]}")
    return printed


def _show_lines(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a program and print its lines as they come; return its status and its lines."""
    lines = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"  {line}", end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def _make_base() -> Path:
    """Make Debian with Python in a folder, from the packages' mirror that this machine uses; return the folder."""
    base = STORAGE / "base"
    if (base / "made").exists():
        show(f"the base is there: {base}")
        return base
    show(f"making Debian {SUITE} with Python in {base}")
    shutil.rmtree(base, ignore_errors=True)
    listing = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    mirrors = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
    (site,) = {mirror for mirror in mirrors if mirror.rstrip("/").endswith("/debian")}
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(base), site]
    status, _ = _show_lines(command)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    for path in filter(os.path.exists, FROM_HERE):
        shutil.copyfile(path, f"{base}{path}")
    (base / "usr/local/bin/python").symlink_to("/usr/bin/python3.11")
    shutil.rmtree(base / "var/cache/apt", ignore_errors=True)
    (base / "made").touch()
    return base


def _make_stub(name: str, base: Path | None, program: str, prints: str) -> None:
    """Makes an image called ``name`` with a program at a place where the real image has one."""
    container = buildah("from", "scratch").strip()
    with tempfile.TemporaryDirectory(dir=STORAGE) as folder:
        path = Path(folder) / program.lstrip("/")
        path.parent.mkdir(parents=True)
        path.write_text(f'#!/bin/sh\necho "{prints}" "$@"\n')
        path.chmod(0o755)
        if base is not None:
            buildah("add", "--quiet", container, str(base), "/")
        buildah("add", "--quiet", container, folder, "/")
    buildah("commit", "--quiet", container, name)
    buildah("rm", container)


def build() -> None:
    """Build ``IMAGE`` by the recipe, unchanged."""
    STORAGE.mkdir(exist_ok=True)
    given = arguments()
    images = {image.split(":")[0] for names in json.loads(buildah("images", "--json") or "[]") for image in names.get("names") or ()}
    beam, launcher = f"{given['BEAM_IMAGE']}:{given['BEAM_VERSION']}", f"{given['LAUNCHER_IMAGE']}:{given['LAUNCHER_TAG']}"
    if not any(image.endswith(given["BEAM_IMAGE"]) for image in images):
        show("making the images that the recipe builds on")
        _make_stub(f"docker.io/{beam}", _make_base(), "/opt/apache/beam/boot", "the stand-in for Beam's boot program")
        _make_stub(launcher, None, "/opt/google/dataflow/python_template_launcher", "the stand-in for the launcher")
    show(f"building {IMAGE}")
    buildah("build", "--pull-never", "--layers", "--file", str(DOCKERFILE), "--tag", IMAGE, str(ROOT), shown=True)
    show("built; now it predicts")


class Container:
    """A container of ``IMAGE``; a folder of this machine is its ``/data``."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.name = buildah("from", "--pull-never", IMAGE).strip()

    def run(self, *command: str, user: str = "root") -> str:
        return buildah("run", "--user", user, "--volume", f"{self.data}:/data", self.name, "--", *command)

    def close(self) -> None:
        buildah("rm", self.name)


def config() -> dict[str, Any]:
    """What the image says of itself: its entry point, its environment."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", IMAGE))["OCIv1"]["config"]
    return found


if __name__ == "__main__":  # before the tests, which lead every client to their stand-ins, and this one needs the world
    reason = missing()
    if reason is not None:
        sys.exit(f"make image-test: {reason}")
    build()
