"""manifest.json as structs. A field that a manifest does not have is UNSET, and not written; the order here is that of the file."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

Item = TypeVar("Item")


class Counts(Struct):
    """Numbers of rows."""

    read: int
    predicted: int
    failed: int


class CodeCount(Struct):
    """The failed rows of one code, with its meaning and the message of one of them."""

    stage: str
    code: str
    meaning: str
    message: str
    count: int


class FileEntry(Struct, kw_only=True):
    """A published file by its name in the folder; ``rows`` only of results, failed rows and comparisons."""

    name: str
    rows: int | UnsetType = UNSET
    bytes: int
    crc32c: str


class InputEntry(Struct, kw_only=True):
    """What was read; ``damaged`` and ``changed`` are paths of files that could not be read whole."""

    patterns: list[str]
    query: str | UnsetType = UNSET
    files: int
    bytes: int
    damaged: list[str]
    changed: list[str]


class ResumedEntry(Struct):
    """Splits of the input, and those of them with their rows that earlier launches of the run had finished."""

    splits: int
    splits_taken_up: int
    rows_taken_up: int


class DuplicateEntry(Struct):
    """One row whose key another row has too."""

    key: str
    source: str
    offset: int


class KeysEntry(Struct):
    """The fields of the key, the number of keys that occur more than once, and some of their rows."""

    fields: list[str]
    duplicated: int
    listed: list[DuplicateEntry]


class ModelEntry(Struct):
    """The model; each of ``inputs`` and ``outputs`` is a text such as ``x: float32[?]``."""

    location: str
    version: str | None
    fingerprint: str
    signature: str
    tags: list[str]
    inputs: list[str]
    outputs: list[str]


class EffortEntry(Struct):
    """Seconds by step, added up over the processes, with model calls and models loaded."""

    processes: int
    seconds: dict[str, float]
    model_calls: int
    models_loaded: int
    load_seconds: float
    longest_load_seconds: float


class DriftLine(Struct):
    """The drift of one feature; ``missing_change``, ``new_values`` and ``note`` where there is such."""

    data: str
    feature: str
    drift: float
    measure: str
    missing_change: float | UnsetType = UNSET
    new_values: list[str] | UnsetType = UNSET
    note: str | UnsetType = UNSET


class DriftEntry(Struct):
    """The drift from an earlier run: the features that drifted most, and the number of all."""

    baseline: str
    warned_above: float
    features: list[DriftLine]
    count: int


class OutputAgreement(Struct):
    """The agreement of two models on one output: shares of rows, and quantiles of the difference by their names."""

    agreement: float
    same_class: float | UnsetType = UNSET
    difference: dict[str, float | None] | UnsetType = UNSET


class ComparisonEntry(Struct):
    """The agreement of a second model with the first; ``changed_most`` are lines of the comparison, decoded, or text where cut."""

    model: str
    version: str | None
    rows: int
    only_first_predicted: int
    agreement: float
    tolerance: float
    outputs: dict[str, OutputAgreement]
    changed_most: list[Any]
    lines: int | UnsetType = UNSET
    files: int | UnsetType = UNSET


class SecondModelEntry(Struct):
    """The model that predicts a share of the rows in place of the first."""

    model: str
    version: str | None
    share: float


class TasksEntry(Struct, kw_only=True):
    """The tasks of a run of many; ``files`` have a line for each."""

    count: int
    done: int = 0
    failed: int = 0
    files: list[str]


class KeptResults(Struct):
    """The results of an earlier run that a refused run leaves in place."""

    run_id: str | None = None
    names: list[str] = []


class ModelsEntry(Struct):
    """The models that rows name; ``files`` have a line for each."""

    count: int
    with_failed_rows: int
    files: list[str]


class Manifest(Struct, kw_only=True):
    """The manifest of a job, of a task that could not be planned (with ``line``), or of a run of many (with ``tasks``)."""

    status: str = ""
    reason: str | None = None
    run_id: str | None = None
    launch: str | None = None
    task: int | UnsetType = UNSET
    started: str = ""
    finished: str | UnsetType = UNSET
    seconds: float | UnsetType = UNSET
    counts: Counts | UnsetType = UNSET
    line: dict[str, str] | UnsetType = UNSET
    errors: list[CodeCount] | UnsetType = UNSET
    input: InputEntry | UnsetType = UNSET
    resumed: ResumedEntry | UnsetType = UNSET
    keys: KeysEntry | UnsetType = UNSET
    model: ModelEntry | UnsetType = UNSET
    effort: EffortEntry | UnsetType = UNSET
    drift: DriftEntry | UnsetType = UNSET
    comparison: ComparisonEntry | UnsetType = UNSET
    second_model: SecondModelEntry | UnsetType = UNSET
    tasks: TasksEntry | UnsetType = UNSET
    results: list[FileEntry] | UnsetType = UNSET
    failed_rows: list[FileEntry] | UnsetType = UNSET
    flags: dict[str, str] | UnsetType = UNSET
    kept_results: KeptResults | UnsetType = UNSET
    table: str | UnsetType = UNSET
    errors_table: str | UnsetType = UNSET
    models: ModelsEntry | UnsetType = UNSET
    errors_load_job: str | UnsetType = UNSET
    load_job: str | UnsetType = UNSET
    load_digest: str | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET
    failed_rows_stats: list[FileEntry] | UnsetType = UNSET
    files: list[FileEntry] | UnsetType = UNSET
    failed_rows_folder: str | UnsetType | None = UNSET

    @property
    def is_done(self) -> bool:
        """Return whether the run published its results."""
        return self.status == "done"


class TaskLine(Struct, kw_only=True):
    """The line of one task in ``tasks-*.jsonl``.

    Its first fields are those of the task's line in the model map, so that the lines of failed tasks are a model map too.
    """

    model: str
    input: str
    output: str
    signature_name: str | UnsetType = UNSET
    model_version: str | UnsetType = UNSET
    key_field: str | UnsetType = UNSET
    number: int
    status: str
    reason: str | None
    counts: Counts
    seconds: float
    location: str | None
    version: str | None

    @property
    def is_done(self) -> bool:
        """Return whether the task published its results."""
        return self.status == "done"


def listed(items: list[Item] | UnsetType) -> list[Item]:
    """Return the items of a field that a manifest may lack."""
    return [] if items is UNSET else items


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode a manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(content: bytes, checked: frozenset[str] = frozenset()) -> Manifest:
    """Decode a manifest, of this version or another: a field of another type than ours counts as missing.

    Raises:
      msgspec.DecodeError: ``content`` is no JSON object, or a field of ``checked`` has another type.
      RecursionError: it is nested too deep.
    """
    try:
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.ValidationError:
        manifest = Manifest()
        fields = msgspec.json.decode(content)
        if not isinstance(fields, dict):
            raise msgspec.ValidationError("it is no JSON object") from None
        for name in Manifest.__struct_fields__:
            if name in fields:
                try:
                    setattr(manifest, name, getattr(msgspec.convert({name: fields[name]}, Manifest), name))
                except msgspec.ValidationError:
                    if name in checked:
                        raise
        # The next run removes what is named here, whatever else of it can't be read.
        if manifest.results is UNSET and (names := _names(fields.get("results"))):
            manifest.results = [FileEntry(name=each, bytes=-1, crc32c="") for each in names]
        if manifest.kept_results is UNSET and isinstance(fields.get("kept_results"), dict):
            manifest.kept_results = KeptResults(None, _names(fields["kept_results"].get("names")))
        return manifest


def _names(items: Any) -> list[str]:
    """Return the names in a list of names, or of objects with a name; of anything else none."""
    names = [item.get("name") if isinstance(item, dict) else item for item in items] if isinstance(items, list) else []
    return [name for name in names if isinstance(name, str)]
