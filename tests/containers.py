"""Control groups with a container's limits, like those of Kubernetes and Cloud Run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GROUPS = Path("/sys/fs/cgroup")
GIB = 1 << 30


class Container:
    """Control groups of this machine with a container's limits; what runs in them finds them where a container's are."""

    def __init__(self, memory_bytes: int, cores: int) -> None:
        self.is_new = (GROUPS / "cgroup.controllers").exists()
        name = f"nightshift-{os.getpid()}"
        self.folders = {GROUPS: GROUPS / name} if self.is_new else {GROUPS / kind: GROUPS / kind / name for kind in ("memory", "cpu")}
        for folder in self.folders.values():
            folder.mkdir()
        if self.is_new:
            self._write("memory.max", str(memory_bytes))
            self._write("memory.swap.max", "0")
            self._write("cpu.max", f"{cores * 100_000} 100000")
        else:
            self._write("memory.limit_in_bytes", str(memory_bytes))
            self._write("cpu.cfs_period_us", "100000")
            self._write("cpu.cfs_quota_us", str(cores * 100_000))

    def _write(self, name: str, text: str) -> None:
        path = next(folder / name for folder in self.folders.values() if (folder / name).exists())
        path.write_text(text)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        inside = [f"echo $$ > {folder}/cgroup.procs; mount --bind {folder} {place}" for place, folder in self.folders.items()]
        script = "; ".join(["set -e", *inside, 'exec "$@"'])
        return subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", *command], capture_output=True, text=True, cwd=ROOT)

    def killed(self) -> int:
        """How many processes the kernel has ended for want of memory."""
        name = "memory.events" if self.is_new else "memory.oom_control"
        path = next(folder / name for folder in self.folders.values() if (folder / name).exists())
        return int(dict(line.split() for line in path.read_text().splitlines())["oom_kill"])

    def close(self) -> None:
        for folder in self.folders.values():
            folder.rmdir()
