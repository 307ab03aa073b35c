"""What reading each small file takes that unpacks to more than memory holds: the row or the file fails by name, in a bounded peak."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bombs import BOMBS
from containers import GIB, ROOT, Container

# Rows that come, and the codes of those that fail.
EXPECTED: dict[str, tuple[int, list[str]]] = {
    "long_texts": (0, ["ROW_TOO_LONG"] * 3),
    "texts_of_a_megabyte": (2000, []),
    "a_page": (0, ["FILE_DAMAGED"]),
    "a_list": (0, ["FILE_DAMAGED"]),
    "a_block": (0, ["FILE_DAMAGED"]),
    "a_record": (1, ["ROW_TOO_LONG"]),
    "blank_lines": (1, []),
    "numbers": (1, ["ROW_TOO_LONG"]),
    "a_line": (2, ["ROW_TOO_LONG"]),
}


def test_a_bomb_costs_its_row_or_its_file_and_bounded_memory(tmp_path: Path) -> None:
    """In a control group of 3 GiB where the machine lets one be made, so that the kernel ends what takes more."""
    command = [sys.executable, str(ROOT / "tests" / "bombs.py"), str(tmp_path)]
    try:
        container = Container(3 * GIB, 2)
    except (OSError, StopIteration):
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    else:
        can_mount = container.run("true").returncode == 0
        ended = container.run(*command) if can_mount else subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        container.close()
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found.pop("tensorflow") is False, "its memory would be in the figures"
    assert found.keys() == BOMBS.keys()
    assert {name: (one["rows"], one["codes"]) for name, one in found.items()} == EXPECTED
    assert max(one["bytes"] for one in found.values()) < 2 << 20
    assert {name: one["megabytes"] for name, one in found.items() if one["megabytes"] > 900} == {}, "a worker has 4 GB, and its model"
