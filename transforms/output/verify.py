"""An output folder compared with its manifest: each file there, as long and of that content, no name twice, nothing else of a run's."""

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
    """What is read of a manifest here, for a look at its types; ``counts`` of a table's may have more than numbers."""

    results: list[_Entry]
    failed_rows: list[_Entry]
    failed_rows_stats: list[_Entry]
    files: list[_Entry]
    failed_rows_folder: str | None
    counts: dict[str, Any]
    tasks: _Tasks


class MismatchError(UnpublishableError):
    """The folder does not hold what its manifest lists."""


def decode(content: bytes) -> dict[str, Any]:
    """Return a manifest's content.

    Raises:
      MismatchError: it is no JSON object, or one that no run writes.
    """
    try:
        report = msgspec.json.decode(content)
        if not isinstance(report, dict):
            raise MismatchError(f"{MANIFEST} is no JSON object")
        msgspec.convert(report, _Manifest)
    except (msgspec.DecodeError, RecursionError) as error:  # what has other types is a ValidationError, and that a DecodeError
        raise MismatchError(f"{MANIFEST} can't be read: {error}") from None
    return report


def check(report: dict[str, Any], folder: str, errors: str | None) -> None:
    """Raise MismatchError where ``folder``, and ``errors`` where the failed rows are apart, do not hold what ``report`` lists."""
    found = list(differences(report, folder, errors))
    if found:
        more = f", and {len(found) - NAMED_DIFFERENCES} more" if len(found) > NAMED_DIFFERENCES else ""
        raise MismatchError(
            f"{folder} does not agree with its manifest: {'; '.join(found[:NAMED_DIFFERENCES])}{more}. It has no {SUCCESS}: find out who "
            "else writes there, and run again"
        )


def find(folder: str) -> dict[str, Any] | None:
    """Return the manifest in ``folder``, or None.

    Raises:
      MismatchError: it can't be read.
    """
    path = paths.join(folder, MANIFEST)
    return decode(files.read_bytes(path)) if files.exists(path) else None


def is_complete(folder: str) -> bool:
    """Return whether a whole output lies in ``folder``, but for ``_SUCCESS``, every byte compared."""
    try:
        report = find(folder)
    except MismatchError:
        return False
    return (
        report is not None
        and report.get("status") == "done"
        and not any(differences(report, folder, report.get("failed_rows_folder"), is_deep=True))
    )


def differences(report: dict[str, Any], folder: str, errors: str | None, is_deep: bool = False) -> Iterator[str]:
    """Yield what differs between ``report`` and what lies in ``folder`` and ``errors``, a sentence each.

    Checksums are compared where the storage knows them; where ``is_deep``, every file is read. The results and failed rows of a table
    are in the table, and not looked for.
    """
    results, failed = ([], []) if "table" in report else (report.get("results", []), report.get("failed_rows", []))
    beside = [*failed, *report.get("failed_rows_stats", [])]
    counts = report.get("counts", {})
    for name, entries, is_counted in (("predicted", results, report.get("status") == "done"), ("failed", failed, True)):
        rows = sum(entry.get("rows", 0) for entry in entries)
        if is_counted and "tasks" not in report and "table" not in report and rows != counts.get(name):
            yield f"it lists files with {rows} rows {name}, and counts {counts.get(name)}"
    own = [*results, *report.get("files", []), *([] if errors else beside)]
    yield from _compare(folder, own, "" if report.get("status") == "done" else None, is_deep)
    if errors:
        yield from _compare(errors, beside, ERRORS, is_deep)


def _compare(folder: str, entries: Sequence[dict[str, Any]], beginning: str | None, is_deep: bool) -> Iterator[str]:
    """Compare the listed files of one folder; what a run lists and begins with ``beginning`` may not be there unlisted."""
    counts = Counter(os.path.normpath(entry["name"]) for entry in entries)
    yield from (f"{name} is listed {count} times" for name, count in counts.items() if count > 1)
    there = _look(folder, [entry["name"] for entry in entries])
    for entry in entries:
        name, found = entry["name"], there.get(entry["name"])
        path = paths.join(folder, name)
        if found is None:
            yield f"{path} is missing"
        elif found[0] != entry["bytes"]:
            yield f"{path} has {found[0]} bytes, not {entry['bytes']}"
        elif (checksum(path)[1] if is_deep else found[1] or entry["crc32c"]) != entry["crc32c"]:
            yield f"{path} has other content than was written (its crc32c is not {entry['crc32c']})"
    if beginning is None:  # a refused run leaves the results of the one before
        return
    others = sorted(name for name in there if is_published(name) and name.startswith(beginning) and name not in counts)
    yield from (f"{paths.join(folder, name)} is there, and not listed" for name in others)


def _look(folder: str, names: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return sizes of the files directly in ``folder`` and of ``names``, with the checksums that the storage knows, else empty ones."""
    if paths.is_remote(folder):
        listed = list_bucket(folder, any("/" in name for name in names))
        return {name: (found.size_bytes, found.crc32c) for name, found in listed.items()}
    there = {}
    for name in {*files.list_children(folder), *names}:
        path = paths.join(folder, name)
        if os.path.isfile(path):
            there[name] = os.path.getsize(path), ""
    return there
