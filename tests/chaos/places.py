"""Where a scenario lives: a folder, or a folder's name in a bucket."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gcp_fixtures import CloudStorage


class Disk:
    """A folder on the disk."""

    kind = "disk"

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def write(self, name: str, content: bytes) -> None:
        """Puts a whole file in the place of what was there."""
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.harness")
        new.write_bytes(content)
        os.replace(new, path)

    def overwrite(self, name: str, content: bytes) -> None:
        """Writes into the file that is there."""
        Path(self.path(name)).write_bytes(content)

    def read(self, name: str) -> bytes:
        return Path(self.path(name)).read_bytes()

    def remove(self, name: str) -> None:
        os.remove(self.path(name))

    def names(self, folder: str) -> list[str]:
        """Gives all files below ``folder``, relative to it, and folders without files with a slash at their end."""
        names = []
        for parent, folders, files in os.walk(self.path(folder)):
            below = os.path.relpath(parent, self.path(folder))
            names += [os.path.normpath(os.path.join(below, name)) for name in files]
            if not folders and not files and below != ".":
                names.append(f"{below}/")
        return sorted(names)

    def children(self) -> set[str]:
        return {*os.listdir(self.root)}

    def copy_folder(self, source: str, name: str) -> None:
        shutil.copytree(source, self.path(name))

    def clear(self) -> None:
        shutil.rmtree(self.root)


class Bucket:
    """Objects whose names begin alike."""

    kind = "bucket"

    def __init__(self, gcs: CloudStorage, root: str) -> None:
        self.gcs, self.root = gcs, root

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def write(self, name: str, content: bytes) -> None:
        self.gcs.write(self.path(name), content)

    overwrite = write

    def read(self, name: str) -> bytes:
        return self.gcs.read(self.path(name))

    def remove(self, name: str) -> None:
        self.gcs.blob(self.path(name)).delete()

    def names(self, folder: str) -> list[str]:
        return self.gcs.list(self.path(folder))

    def children(self) -> set[str]:
        return {name.partition("/")[0] for name in self.gcs.list(self.root)}

    def copy_folder(self, source: str, name: str) -> None:
        self.gcs.upload_folder(source, self.path(name))

    def clear(self) -> None:
        for name in self.gcs.list(self.root):
            self.remove(name)


Place = Disk | Bucket
