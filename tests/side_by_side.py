"""Runs all tests in processes side by side, as many as there are cores but two at most: ``make test``.

Each process collects all tests and claims a module when it comes to its first test; what another has claimed it leaves out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

CLAIMS = "NIGHTSHIFT_TEST_CLAIMS"
COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed|warnings?)\b")


class Claims:
    """A folder with a file for each module that one of the processes runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: dict[Path, bool] = {}

    def is_ours(self, module: Path) -> bool:
        """Claim ``module``, unless that was done before; return whether this process has it."""
        if module not in self.modules:
            try:
                (self.folder / "-".join(module.parts[1:])).touch(exist_ok=False)
                self.modules[module] = True
            except FileExistsError:
                self.modules[module] = False
        return self.modules[module]


def total(outputs: list[str]) -> str:
    """Return the sum of pytest's last lines, such as ``1,200 passed, 3 skipped``."""
    counts = Counter[str]()
    for output in outputs:
        for number, what in COUNT.findall(output.rstrip().rpartition("\n")[2]):
            counts[what] += int(number)
    return ", ".join(f"{number:,} {what}" for what, number in counts.items()) or "no test was run"


def main(arguments: list[str], processes: int, environment: Mapping[str, str]) -> int:
    """Run pytest with ``arguments`` in some processes; return the highest exit status. What the first one prints is shown as it comes."""
    with tempfile.TemporaryDirectory(prefix="nightshift-tests-") as folder:
        claims = Path(folder) / "claims"
        claims.mkdir()
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        running = []
        for number in range(processes):
            temporary = Path(folder) / f"{number}"
            temporary.mkdir()
            variables = {**environment, CLAIMS: str(claims), "TMPDIR": str(temporary)}
            output = Path(folder) / f"output-{number}"
            running.append((output, subprocess.Popen(command, stdout=output.open("wb"), stderr=subprocess.STDOUT, env=variables)))
        try:
            statuses = [_show(output, process) for output, process in running]
        except KeyboardInterrupt:  # which they hear as well, and stop their emulators
            for _, process in running:
                process.wait()
            raise
        statuses = [0 if status == 5 else status for status in statuses]  # 5: all modules were another's
        print(
            f"{'FAILED' if any(statuses) else 'all tests passed'}: {total([output.read_text(errors='replace') for output, _ in running])}"
        )
        return max(statuses, key=abs)


def _show(output: Path, process: subprocess.Popen[bytes]) -> int:
    """Print what a process writes to ``output`` until it ends; return its exit status."""
    with output.open("rb") as stream:
        while True:
            try:
                status: int | None = process.wait(0.2)
            except subprocess.TimeoutExpired:
                status = None
            sys.stdout.buffer.write(stream.read())
            sys.stdout.flush()
            if status is not None:
                return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], min(2, os.cpu_count() or 1), os.environ))
