"""What stands in an output, seen from outside: which version of it, whole, and what a run left behind."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
from typing import Any

import google_crc32c
import pyarrow.parquet as pq

from chaos.places import Place
from chaos.rows import Expected, unframed

NUMBERED = re.compile(r"prediction\.(results|errors|errors_stats)-\d{5}-of-\d{5}(\.\w+)?")
OWN = ("_SUCCESS", "manifest.json", "report.html", "statistics.json")


class BrokenError(AssertionError):
    """The output is neither the one version nor the other; ``kind`` says in which way."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Output:
    """One output: where its results and its failed rows stand, and what they are."""

    place: Place
    folder: str
    errors: str
    format: str
    mirrored: bool
    keys_made: bool


def look(output: Output, versions: dict[str, Expected]) -> tuple[str, ...]:
    """Gives which of ``versions`` stands there, whole (alike ones all); ``absent``, ``changing`` (no ``_SUCCESS``) or ``refused``.

    Raises:
      BrokenError: none of them.
    """
    names = output.place.names(output.folder)
    published = [name for name in names if not name.startswith(("_staging/", "_nightshift/", "_refused/"))]
    if not published:
        return ("absent",)
    if "_SUCCESS" not in names:
        return (_refused(output, names, versions),)
    report = json.loads(_read(output, output.folder, "manifest.json"))
    if report["status"] != "done":
        raise BrokenError("manifest", f"_SUCCESS beside a manifest that says {report['status']}: {report['reason']}")
    return _version(output, report, report["results"], versions)


def _read(output: Output, folder: str, name: str) -> bytes:
    try:
        return output.place.read(f"{folder}/{name}")
    except Exception as error:  # the storage's, the disk's
        raise BrokenError("missing", f"{folder}/{name} can't be read: {type(error).__name__}") from error


def _refused(output: Output, names: list[str], versions: dict[str, Expected]) -> str:
    """A gate that was shut keeps the results of the run before, under a manifest that says so."""
    if "manifest.json" not in names:
        return "changing"
    report = json.loads(_read(output, output.folder, "manifest.json"))
    if report["status"] != "failed":
        return "changing"
    kept = report.get("kept_results", {}).get("names", [])
    if not kept:
        return "refused"
    found = _rows(output, [(name, _read(output, output.folder, name)) for name in kept])
    if not any(found == expected.predictions for expected in versions.values()):
        raise BrokenError("kept", f"a refused run kept results that are no version's: {_difference(found, versions)}")
    return "refused"


def _version(output: Output, report: dict[str, Any], entries: list[dict[str, Any]], versions: dict[str, Expected]) -> tuple[str, ...]:
    contents = [(entry["name"], _whole(output, output.folder, entry)) for entry in entries]
    failed_entries = report["failed_rows"]
    failed_contents = [(entry["name"], _whole(output, output.errors, entry)) for entry in failed_entries]
    _nothing_else(output, {name for name, _ in contents}, {name for name, _ in failed_contents})
    found = _rows(output, contents)
    failed = _failed(output, failed_contents)
    if doubled := found.keys() & failed:
        raise BrokenError("doubled", f"{len(doubled)} rows are predicted and failed")
    counts = report["counts"]
    if counts != {"read": len(found) + len(failed), "predicted": len(found), "failed": len(failed)}:
        raise BrokenError("counts", f"the manifest says {counts}; there are {len(found)} predictions and {len(failed)} failed rows")
    if alike := tuple(name for name, expected in versions.items() if found == expected.predictions and failed == expected.failed):
        return alike
    raise BrokenError("mixture", _difference(found, versions))


def _whole(output: Output, folder: str, entry: dict[str, Any]) -> bytes:
    content = _read(output, folder, entry["name"])
    digest = google_crc32c.value(content).to_bytes(4, "big").hex()
    if (len(content), digest) != (entry["bytes"], entry["crc32c"]):
        raise BrokenError("checksum", f"{entry['name']} has {len(content)} bytes and {digest}; its manifest says {entry}")
    return content


def _nothing_else(output: Output, results: set[str], failed: set[str]) -> None:
    there = {name for name in output.place.names(output.folder) if not name.startswith(("_", "tasks-", "models-")) and name not in OWN}
    beside = (
        {name for name in output.place.names(output.errors) if name.startswith("prediction.")} if output.errors != output.folder else set()
    )
    stats = {name for name in there | beside if name.startswith("prediction.errors_stats-")}
    stale = (there - results - stats) if output.errors != output.folder else (there - results - failed - stats)
    if stale := {name for name in stale if not _is_anothers(name)}:
        raise BrokenError("stale", f"files that no manifest names: {sorted(stale)}")
    if stale := beside - failed - stats:
        raise BrokenError("stale", f"failed rows that no manifest names: {sorted(stale)}")
    if bool(stats) != bool(failed):
        raise BrokenError("stale", f"statistics of failed rows {sorted(stats)} beside {sorted(failed)}")


def _is_anothers(name: str) -> bool:
    return name.endswith(".tmp")  # left behind, and counted as that at the end


def _rows(output: Output, contents: list[tuple[str, bytes]]) -> dict[int, float]:
    rows: dict[int, float] = {}
    for name, content in contents:
        for row in _decoded(output.format, name, content):
            key = _id(row["id"] if output.keys_made else row["key"])
            if key in rows:
                raise BrokenError("doubled", f"row {key} is there twice, again in {name}")
            rows[key] = float(row.get("prediction", row.get("y", row.get("length"))))
    return rows


def _decoded(format: str, name: str, content: bytes) -> list[dict[str, Any]]:
    try:
        if format == "jsonl":
            return [json.loads(line) for line in content.splitlines()]
        if format == "csv":
            return [*csv.DictReader(io.StringIO(content.decode(), newline=""))]
        if format == "parquet":
            return pq.read_table(io.BytesIO(content)).to_pylist()
        return [_example(record) for record in unframed(content)]
    except (ValueError, OSError, AssertionError) as error:
        raise BrokenError("damaged", f"{name} is no {format}: {error}") from error


def _example(record: bytes) -> dict[str, Any]:
    import tensorflow as tf

    features = tf.train.Example.FromString(record).features.feature
    lists = {name: feature.bytes_list.value or feature.float_list.value or feature.int64_list.value for name, feature in features.items()}
    return {name: values[0] for name, values in lists.items() if values}


def _id(value: Any) -> int:
    """Gives a row's id by its key: a number in whatever type, or the path of ``17.bin``."""
    text = value.decode() if isinstance(value, bytes) else str(value)
    return int(text.rsplit("/", 1)[-1].removesuffix(".bin"))


def _failed(output: Output, contents: list[tuple[str, bytes]]) -> set[int]:
    ids: set[int] = set()
    for name, content in contents:
        for line in content.splitlines():
            row = json.loads(line)
            key = _id(_field(row["instance"], "id") if output.keys_made else row["key"])
            if key in ids:
                raise BrokenError("doubled", f"failed row {key} is there twice, again in {name}")
            ids.add(key)
    return ids


def _field(instance: dict[str, Any], name: str) -> Any:
    """Gives a field of a row as it was read; a tf.Example stands there in base64."""
    return _example(base64.b64decode(instance["b64"]))[name] if "b64" in instance else instance[name]


def _difference(found: dict[int, float], versions: dict[str, Expected]) -> str:
    """Says how many rows are those of each version."""
    parts = []
    for name, expected in versions.items():
        same = sum(expected.predictions.get(key) == value for key, value in found.items())
        parts.append(f"{same} of {len(expected.predictions)} as in {name!r}")
    return f"{len(found)} predictions: {', '.join(parts)}"


PARTIAL = re.compile(r"\.\w{8}/|\.tmp$|partial")

# --- what is left behind -----------------------------------------------------------------------------------------------------

# What is kept for the launches to come, below the user's temporary folder: copies of models, compiled templates, and notes of
# processes that died while they predicted. A note that begins with zeros is of a process that ended well.
COPIES = re.compile(r"nightshift-\d+/(models/[^/]+/|templates/)")
NOTES = re.compile(r"nightshift-[^/]+/predicting/|nightshift-predicting-\d+/")
NOTES_AT_MOST = 4
FOLDERS = re.compile(r"(nightshift-\d+/)?(nightshift-)?[a-z-]+(-\d+)?/")
LEFT = re.compile(r"(^|/)_staging(/|$)|\.tmp$|(^|/)_nightshift/(lock|journal)|\.nightshift(/|$)")


def leftovers(place: Place, folders: set[str], known: set[str]) -> list[str]:
    """Gives what runs have left in outputs and beside them."""
    left = [f"{folder}/{name}" for folder in sorted(folders) for name in place.names(folder) if LEFT.search(f"{folder}/{name}")]
    return left + sorted(place.children() - known)


def temporary_leftovers(disk: Place) -> list[str]:
    """Gives what runs have left in their folder for temporary files.

    Notes of processes that ended well are removed by the next process that predicts: a few may be there.
    """
    left, notes = [], []
    for name in disk.names("tmp"):
        if NOTES.match(name) and not name.endswith("/"):
            if disk.read(f"tmp/{name}")[:4] == bytes(4):
                notes.append(f"tmp/{name}")
        elif COPIES.match(name) and not PARTIAL.search(name):
            continue
        elif not FOLDERS.fullmatch(name):
            left.append(f"tmp/{name}")
    return left + (notes if len(notes) > NOTES_AT_MOST else [])
