"""The mutation tool: which changes it makes, and that each keeps the lines where they are."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from mutants import loading, mutations

SOURCE = '''"""A module."""
LIMIT = 10


def gate(read: int, failed: int) -> bool:
    """Say whether it opens."""
    assert read is not None
    LOG.info("looked at %d", read + 1)
    if (read !=
            failed):
        raise ValueError(f"{read + 1} rows")
    return not (read < 3 and any(rows))
'''
EXPECTED = {
    ("if (read != [read != failed]", "(read == failed)"),
    ("if (read != [read != failed]", "True"),
    ("if (read != [read != failed]", "False"),
    ('raise ValueError(f"{read + 1} rows")', "pass"),
    ("return not (read < 3 and any(rows))", "return None"),
    ("return not (read < 3 and any(rows)) [not (read < 3 and any(rows))]", "(read < 3 and any(rows))"),
    ("return not (read < 3 and any(rows)) [read < 3 and any(rows)]", "(read < 3 or any(rows))"),
    ("return not (read < 3 and any(rows)) [read < 3]", "(read <= 3)"),
    ("return not (read < 3 and any(rows)) [3]", "4"),
    ("return not (read < 3 and any(rows)) [any(rows)]", "(all(rows))"),
}


def test_guards_are_changed_and_messages_types_and_assertions_are_not() -> None:
    assert {(mutant.before, mutant.after) for mutant in mutations.mutants("gate", SOURCE)} == EXPECTED


def test_every_mutant_compiles_and_keeps_its_lines() -> None:
    for path in ("accounts/gate", "output/publisher", "output/locks"):
        source = (Path(__file__).parents[1] / f"transforms/{path}.py").read_text(encoding="utf-8")
        there = list(mutations.mutants(path, source))
        assert len(there) > 50
        for mutant in there:
            assert mutant.source.count("\n") == source.count("\n")
            assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(source)), mutant.key


def test_a_process_that_a_test_starts_has_the_mutant_too(tmp_path: Path) -> None:
    """Imported from other source, in a process that chose it and in one that it starts."""
    module = tmp_path / "gate.py"
    module.write_text("VALUE = 1\n")
    tests = Path(__file__).parent
    program = f"""
import os, subprocess, sys
from pathlib import Path
sys.path[:0] = [{str(tests)!r}, {str(tmp_path)!r}]
from mutants import loading
loading.choose("gate", {str(module)!r}, "VALUE = 2\\n", Path({str(tmp_path)!r}))
import gate
print(gate.VALUE)
environment = os.environ | {{"PYTHONPATH": {str(tests / "mutants" / "site")!r}}}
said = [sys.executable, "-c", "import sys; sys.path.insert(0, {str(tmp_path)!r}); import gate; print(gate.VALUE)"]
print(subprocess.run(said, env=environment, capture_output=True, text=True, check=True).stdout)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "2"]
    assert loading.VARIABLE == "NIGHTSHIFT_MUTANT"
