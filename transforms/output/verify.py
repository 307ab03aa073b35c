"""Comparison of an output folder with its manifest: every listed file, its size and checksum, no name twice, no unlisted file of a run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NotRequired, TypedDict

import msgspec

from transforms.output.placing import checksum, list_bucket
from transforms.output.published_names import is_published
from transforms.specs.errors import UnpublishableError
from transforms.specs.own_names import ERRORS, MANIFEST, SUCCESS
from transforms.storage import files, paths

NAMED_DIFFERENCES = 3


class _Entry(TypedDict):
    name: str
    bytes: int
    crc32c: str
    rows: NotRequired[int]


class _Tasks(TypedDict):
    count: int
    files: list[str]


class _Manifest(TypedDict, total=False):
    """The fields of a manifest that are read here, with their types; ``counts`` of a table may hold more than numbers."""

    results: list[_Entry]
    failed_rows: list[_Entry]
    failed_rows_stats: list[_Entry]
    files: list[_Entry]
    failed_rows_folder: str | None
    counts: dict[str, Any]
    tasks: _Tasks


class MismatchError(UnpublishableError):
    """The folder differs from its manifest."""


def decode(content: bytes) -> dict[str, Any]:
    """Decode a manifest.

    Raises:
      MismatchError: ``content`` is no JSON object, or has fields of other types than a manifest's.
    """
    try:
        manifest = msgspec.json.decode(content)
        if not isinstance(manifest, dict):
            raise MismatchError(f"{MANIFEST} is no JSON object")
        msgspec.convert(manifest, _Manifest)
    except (msgspec.DecodeError, RecursionError) as error:  # other types raise a ValidationError, which is a DecodeError
        raise MismatchError(f"{MANIFEST} can't be read: {error}") from None
    return manifest


def check(manifest: dict[str, Any], folder: str, errors: str | None) -> None:
    """Compare ``folder``, and ``errors`` where the failed rows have a folder of their own, with ``manifest``.

    Raises:
      MismatchError: they differ.
    """
    mismatches = list(differences(manifest, folder, errors))
    if mismatches:
        more = f", and {len(mismatches) - NAMED_DIFFERENCES} more" if len(mismatches) > NAMED_DIFFERENCES else ""
        raise MismatchError(
            f"{folder} does not agree with its manifest: {'; '.join(mismatches[:NAMED_DIFFERENCES])}{more}. It has no {SUCCESS}: find out "
            "who else writes there, and run again"
        )


def find(folder: str) -> dict[str, Any] | None:
    """Read the manifest in ``folder``; return None where there is none.

    Raises:
      MismatchError: it can't be read.
    """
    path = paths.join(folder, MANIFEST)
    return decode(files.read_bytes(path)) if files.exists(path) else None


def is_complete(folder: str) -> bool:
    """Return whether ``folder`` holds a complete output, ``_SUCCESS`` aside; every file is read."""
    try:
        manifest = find(folder)
    except MismatchError:
        return False
    return (
        manifest is not None
        and manifest.get("status") == "done"
        and not any(differences(manifest, folder, manifest.get("failed_rows_folder"), is_deep=True))
    )


def differences(manifest: dict[str, Any], folder: str, errors: str | None, is_deep: bool = False) -> Iterator[str]:
    """Yield a sentence for each difference between ``manifest`` and the files in ``folder`` and ``errors``.

    Checksums are compared where the storage knows them; if ``is_deep``, every file is read. The results and failed rows of a run into
    a table are not compared.
    """
    results, failed = ([], []) if "table" in manifest else (manifest.get("results", []), manifest.get("failed_rows", []))
    with_stats = [*failed, *manifest.get("failed_rows_stats", [])]
    counts = manifest.get("counts", {})
    for name, entries, is_counted in (("predicted", results, manifest.get("status") == "done"), ("failed", failed, True)):
        rows = sum(entry.get("rows", 0) for entry in entries)
        if is_counted and "tasks" not in manifest and "table" not in manifest and rows != counts.get(name):
            yield f"it lists files with {rows} rows {name}, and counts {counts.get(name)}"
    own = [*results, *manifest.get("files", []), *([] if errors else with_stats)]
    yield from _compare(folder, own, "" if manifest.get("status") == "done" else None, is_deep)
    if errors:
        yield from _compare(errors, with_stats, ERRORS, is_deep)


def _compare(folder: str, entries: Sequence[dict[str, Any]], prefix: str | None, is_deep: bool) -> Iterator[str]:
    """Compare one folder with its entries: each listed file, and unlisted files of a run whose name has ``prefix`` (None: none)."""
    counts = Counter(os.path.normpath(entry["name"]) for entry in entries)
    yield from (f"{name} is listed {count} times" for name, count in counts.items() if count > 1)
    present = _list_files(folder, [entry["name"] for entry in entries])
    for entry in entries:
        name, file = entry["name"], present.get(entry["name"])
        path = paths.join(folder, name)
        if file is None:
            yield f"{path} is missing"
        elif file[0] != entry["bytes"]:
            yield f"{path} has {file[0]} bytes, not {entry['bytes']}"
        elif (checksum(path)[1] if is_deep else file[1] or entry["crc32c"]) != entry["crc32c"]:
            yield f"{path} has other content than was written (its crc32c is not {entry['crc32c']})"
    if prefix is None:  # a refused run leaves the results of the one before
        return
    others = sorted(name for name in present if is_published(name) and name.startswith(prefix) and name not in counts)
    yield from (f"{paths.join(folder, name)} is there, and not listed" for name in others)


def _list_files(folder: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return size and checksum of the files directly in ``folder`` and of ``names``; checksums are empty where the storage has none."""
    if paths.is_remote(folder):
        objects = list_bucket(folder, any("/" in name for name in names))
        return {name: (item.size_bytes, item.crc32c) for name, item in objects.items()}
    sizes = {}
    for name in {*files.list_children(folder), *names}:
        path = paths.join(folder, name)
        if os.path.isfile(path):
            sizes[name] = os.path.getsize(path), ""
    return sizes
