"""Imports one module from other source than its file's: in this process, and by ``site/sitecustomize.py`` in those that it starts."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType

VARIABLE = "NIGHTSHIFT_MUTANT"


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from ``source``, which stands for its file in stacks, too."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, path: str, source: str) -> None:
        self.module, self.path, self.source = module, path, source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        return importlib.machinery.ModuleSpec(fullname, _Loader(fullname, self.path, self.source), origin=self.path)


def choose(module: str, path: str, source: str, folder: Path) -> None:
    """Let this process, which has not imported ``module`` yet, and those that it starts import it from ``source``."""
    chosen = folder / f"mutant-{os.getpid()}.json"
    chosen.write_text(json.dumps([module, path, source]))
    os.environ[VARIABLE] = str(chosen)
    install()


def install() -> None:
    """Import what the environment's mutant is from its source."""
    module, path, source = json.loads(Path(os.environ[VARIABLE]).read_text())
    sys.meta_path.insert(0, _Finder(module, path, source))
