"""The values of a run's flags, typed: a field a flag, under the flag's name."""

from __future__ import annotations

import dataclasses
import datetime

from pipeline.flags.table import MANY
from transforms.specs.limits import Limits


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The flags of a run as they were read; help, allowed values and defaults of each are in ``table.FLAGS``.

    ``given`` are the flags that were given, with their texts, and ``beam`` Beam's own arguments. ``model`` is None where tasks name models.
    ``limits`` are no flag: they have one good value, and tests give small ones.
    """

    model: str | None
    model_map: str | None
    retry_failed: str | None
    model_field: str | None
    model_column: str | None
    model_version: str | None
    signature_name: str | None
    tags: tuple[str, ...] | None
    batch_size: int | None
    model_memory_mb: int | None
    allow_unsafe_ops: bool
    input: tuple[str, ...]
    input_query: str | None
    row_restriction: str | None
    input_format: str | None
    key_field: tuple[str, ...]
    duplicate_keys: str
    include_fields: tuple[str, ...]
    exclude_fields: tuple[str, ...]
    passthrough_fields: tuple[str, ...]
    output: str
    output_format: str | None
    output_style: str
    output_layout: str
    errors: str | None
    max_error_ratio: float
    nan: str
    csv_formulas: str
    write_disposition: str
    create_dataset: bool
    partition_field: str | None
    cluster_fields: tuple[str, ...]
    report: str
    baseline: str | None
    max_drift: float | None
    compare_model: str | None
    compare_version: str | None
    compare_tolerance: float
    max_disagreement: float | None
    compare_share: float | None
    location: str | None
    run_id: str | None
    resume: bool
    job: str | None
    date: datetime.date | None
    time_zone: datetime.tzinfo
    verbose: bool
    given: tuple[tuple[str, str], ...]
    beam: tuple[str, ...]
    limits: Limits

    @property
    def tasks_flag(self) -> str | None:
        """Return the flag that names the tasks of a run of many; None for a run of one job."""
        return next((name for name in MANY if self.value_of(name)), None)

    def value_of(self, flag: str) -> object:
        """Return the value of the flag named ``flag``, for code that has the name in a variable."""
        value: object = getattr(self, flag)
        return value
