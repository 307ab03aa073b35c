"""The errors of the program, as one tree; in brackets the exit status of a run that ends with one, where its parent's differs.

* NightshiftError (1)
  x RefusedError (2)
    + UsageError
    + SpecError
    + PreflightError
    + ModelError
      - MissingVariablesError
      - ModelChangedError
    + FormatError
    + TableError
    + BaselineError
    + TaskError
    + EngineError
    + OccupiedError
  x UnpublishableError
    + GateShutError (3)
    + JournalError
    + LostShardError
    + MismatchError
    + NameTwiceError
  x CancelledError
  x LostLockError
  x DamagedFileError
  x RowError
  x UnclassedError
  x UnreadableRestoreError
  x ProblemError

Each room defines its own errors. Code that catches them names a branch, not a list of leaves. Outside of the tree are the errors of
``storage/``, most of which are ``OSError``s like those of a disk, and an interruption, which is a ``KeyboardInterrupt``.
"""

from __future__ import annotations

from typing import ClassVar


class NightshiftError(Exception):
    """An error of this program; ``exit_status`` is that of a run that ends with it."""

    exit_status: ClassVar[int] = 1


class RefusedError(NightshiftError):
    """A run, or a task of one, that can't start as requested; the message says what is wrong and what to do."""

    exit_status = 2


class UnpublishableError(NightshiftError):
    """Results that can't be published, not by another try either."""


class ModelError(RefusedError):
    """The model is missing, damaged or can't run: its own failure, not a row's."""


class SpecError(RefusedError):
    """A value outside its range; ``flag`` is the flag that carries it."""

    def __init__(self, flag: str, message: str) -> None:
        super().__init__(f"--{flag}: {message}")
        self.flag = flag


def check_choice(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    """Check that ``value``, of ``flag``, is one of ``allowed``.

    Raises:
      SpecError: it is not.
    """
    if value not in allowed:
        raise SpecError(flag, f"{value!r} is not one of {', '.join(allowed)}")


def check_names(flag: str, names: tuple[str, ...]) -> None:
    """Check that no name in ``names``, of ``flag``, is empty or a duplicate.

    Raises:
      SpecError: one is.
    """
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise SpecError(flag, f"{', '.join(twice)} is named twice")
    if not all(names):
        raise SpecError(flag, "holds an empty name; expected field names separated by single commas")
