"""Comparison of an output folder with its manifest: every listed file, its size and checksum, no name twice, no unlisted file of a run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import UNSET

from transforms.output.placing import checksum, list_bucket
from transforms.output.published_names import is_published
from transforms.specs.errors import UnpublishableError
from transforms.specs.manifest import FileEntry, Manifest, decode_manifest, listed
from transforms.specs.own_names import ERRORS, MANIFEST, SUCCESS
from transforms.storage import files, paths

NAMED_DIFFERENCES = 3


# The fields that are compared: of another type, they are no manifest's.
CHECKED = frozenset({"status", "results", "failed_rows", "failed_rows_stats", "files", "failed_rows_folder", "counts", "tasks", "table"})


class MismatchError(UnpublishableError):
    """The folder differs from its manifest."""


def decode(content: bytes) -> Manifest:
    """Decode a manifest.

    Raises:
      MismatchError: ``content`` is no JSON object, or a field that is compared has another type than a manifest's.
    """
    try:
        return decode_manifest(content, CHECKED)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MismatchError(f"{MANIFEST} can't be read: {error}") from None


def check(manifest: Manifest, folder: str, errors: str | None) -> None:
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


def find(folder: str) -> Manifest | None:
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
    return manifest is not None and manifest.is_done and not any(differences(manifest, folder, errors_folder(manifest), is_deep=True))


def errors_folder(manifest: Manifest) -> str | None:
    """Return the folder of the failed rows; None where they lie beside the results."""
    return manifest.failed_rows_folder or None


def differences(manifest: Manifest, folder: str, errors: str | None, is_deep: bool = False) -> Iterator[str]:
    """Yield a sentence for each difference between ``manifest`` and the files in ``folder`` and ``errors``.

    Checksums are compared where the storage knows them; if ``is_deep``, every file is read. The results and failed rows of a run into
    a table are not compared.
    """
    results, failed = ([], []) if manifest.table is not UNSET else (listed(manifest.results), listed(manifest.failed_rows))
    with_stats = [*failed, *listed(manifest.failed_rows_stats)]
    if manifest.tasks is UNSET and manifest.table is UNSET:
        yield from _compare_counts(manifest, results, failed)
    own = [*results, *listed(manifest.files), *([] if errors else with_stats)]
    yield from _compare(folder, own, "" if manifest.is_done else None, is_deep)
    if errors:
        yield from _compare(errors, with_stats, ERRORS, is_deep)


def _compare_counts(manifest: Manifest, results: Sequence[FileEntry], failed: Sequence[FileEntry]) -> Iterator[str]:
    predicted_count, failed_count = (None, None) if manifest.counts is UNSET else (manifest.counts.predicted, manifest.counts.failed)
    if manifest.is_done and (rows := rows_of(results)) != predicted_count:
        yield f"it lists files with {rows} rows predicted, and counts {predicted_count}"
    if (rows := rows_of(failed)) != failed_count:
        yield f"it lists files with {rows} rows failed, and counts {failed_count}"


def rows_of(entries: Iterable[FileEntry]) -> int:
    """Return the number of rows in files."""
    return sum(entry.rows for entry in entries if entry.rows is not UNSET)


def _compare(folder: str, entries: Sequence[FileEntry], prefix: str | None, is_deep: bool) -> Iterator[str]:
    """Compare one folder with its entries: each listed file, and unlisted files of a run whose name has ``prefix`` (None: none)."""
    counts = Counter(os.path.normpath(entry.name) for entry in entries)
    yield from (f"{name} is listed {count} times" for name, count in counts.items() if count > 1)
    present = _list_files(folder, [entry.name for entry in entries])
    for entry in entries:
        file, path = present.get(entry.name), paths.join(folder, entry.name)
        if file is None:
            yield f"{path} is missing"
        elif file[0] != entry.bytes:
            yield f"{path} has {file[0]} bytes, not {entry.bytes}"
        elif (checksum(path)[1] if is_deep else file[1] or entry.crc32c) != entry.crc32c:
            yield f"{path} has other content than was written (its crc32c is not {entry.crc32c})"
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
