"""``make test`` runs each module once, in one of its processes, and its last line is the sum of theirs."""

from __future__ import annotations

from pathlib import Path

import side_by_side


def test_a_module_is_claimed_once(tmp_path: Path) -> None:
    one, other = side_by_side.Claims(tmp_path), side_by_side.Claims(tmp_path)
    first, second = Path("/tests/test_a.py"), Path("/tests/chaos/test_a.py")
    assert one.is_ours(first)
    assert not other.is_ours(first)
    assert other.is_ours(second)
    assert not one.is_ours(second)
    assert one.is_ours(first), "all tests of a module are run by the process that has it"


def test_the_last_line_is_a_sum() -> None:
    outputs = ["2 failed in the text\n7 passed, 1 skipped in 3.21s\n", "..\n1 failed, 1200 passed, 2 skipped in 60.00s (0:01:00)\n", ""]
    assert side_by_side.total(outputs) == "1,207 passed, 3 skipped, 1 failed"
    assert side_by_side.total(["", "\n"]) == "no test was run"


def test_a_process_that_can_not_begin_fails_all(tmp_path: Path, capfd) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    assert side_by_side.main(["--no-such-flag", str(tmp_path)], 2, {"PATH": ""}) == 4
    assert capfd.readouterr().out.splitlines()[-1] == "FAILED: no test was run"
    assert side_by_side.main(["-q", str(tmp_path)], 1, {"PATH": ""}) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "all tests passed: 1 passed"
