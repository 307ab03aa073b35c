"""The files of one model on a worker, checked to be those that were examined when the run was planned."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from transforms.model import copies, fingerprint
from transforms.runtime import temporary_folders
from transforms.specs.errors import ModelError
from transforms.specs.models import ModelSpec
from transforms.storage import files


class ModelChangedError(ModelError):
    """A model's files differ from those that were checked when the run was planned."""


class ModelFiles:
    """The files of ``spec``'s model on this worker; without a fingerprint in the spec they are not compared."""

    def __init__(self, spec: ModelSpec) -> None:
        self.location = spec.location
        self._expected = dict(zip(fingerprint.PARTS, spec.fingerprint.split("-"), strict=False)) if spec.fingerprint else {}
        self._copy: str | None = None
        self._checked: dict[str, list[fingerprint.FileState]] = {}  # states of a part's files when they were compared

    @contextlib.contextmanager
    def held(self, parts: Sequence[str]) -> Iterator[str]:
        """Yield the local folder while its ``parts`` are read, then compare them, so that nothing read from changed files is used.

        The graph is compared by ``read_graph`` already, before any of it runs.

        Raises:
          ModelChangedError: a part differs from what was checked.
        """
        with copies.held(self.location, self._copy) as folder:
            self._copy = folder
            yield folder
            for part in parts:
                self._compare(folder, part)

    def read_graph(self, folder: str) -> tuple[bytes, str]:
        """Read the protobuf in ``folder``; return its bytes and its path.

        Raises:
          ModelChangedError: the bytes are missing or differ from those that were checked.
        """
        path = next(
            path for name in fingerprint.PROTOBUFS if os.path.exists(path := f"{folder}/{name}") or name == fingerprint.PROTOBUFS[-1]
        )
        try:
            content = files.read_bytes(path)
        except FileNotFoundError as error:
            raise ModelChangedError(
                f"{self.location} holds no {' or '.join(fingerprint.PROTOBUFS)} any more: it changed since this run was planned"
            ) from error
        self._check("graph", fingerprint.of_graph(content))
        return content, path

    def stage(self, folder: str) -> str:
        """Make a folder with the protobuf that was checked and links to the rest, for a loader that reads files itself; return its path."""
        content, path = self.read_graph(folder)
        temporary_folders.sweep("loading")
        staged = temporary_folders.make_folder("loading")
        (staged / os.path.basename(path)).write_bytes(content)
        for name in ("variables", "assets"):
            if os.path.isdir(f"{folder}/{name}"):
                (staged / name).symlink_to(Path(folder).absolute() / name)
        return str(staged)

    def drop_copy(self) -> None:
        """Remove the copy unless another process uses it; the model is copied again when needed."""
        if self._copy is not None and self._copy != self.location:
            copies.remove(self._copy)

    def fetch(self) -> None:
        """Copy the files to this worker if they are used from a copy."""
        if copies.is_copied(self.location):
            with copies.held(self.location) as self._copy:
                pass

    def _compare(self, folder: str, part: str) -> None:
        if part == "graph" or part not in self._expected:
            return
        if part in self._checked and fingerprint.is_as_it_was(self._checked[part]):
            return  # a few system calls instead of reading: a shared Session is filled at each change of the model
        local = fingerprint.local_files(folder, part)
        self._check(part, (fingerprint.of_variables if part == "variables" else fingerprint.of_assets)(local.values()))
        self._checked[part] = list(local)

    def _check(self, part: str, actual: str) -> None:
        if self._expected.get(part, actual) != actual:
            raise ModelChangedError(
                f"{self.location} changed since this run was planned (what differs: {part}). "
                "Start the run again, and put a new version into a folder of its own"
            )
