"""The fields that a job takes from a row: its signature's inputs, its key's fields, and those it passes through."""

from __future__ import annotations

import dataclasses
import functools

from transforms.rows.keys import make_key
from transforms.specs.job import InputSpec, JobSpec, KeySpec
from transforms.specs.limits import DEFAULT_LIMITS, Limits
from transforms.specs.models import VARIANT, AnyModel, CompareSpec, RouteSpec
from transforms.specs.output import OWN_FIELDS, OutputSpec
from transforms.specs.signature import Signature, TensorSpec


@dataclasses.dataclass(frozen=True)
class RowSpec:
    """The fields that a job takes from a row: the signature's inputs, the key's fields, fields to pass through (``*``: all).

    Rows that name their models in ``model_field`` are read whole, since each model's inputs are known only once it is loaded.
    """

    signature: Signature
    key_fields: tuple[str, ...] = ()
    passthrough_fields: tuple[str, ...] = ()
    include_fields: tuple[str, ...] = ()
    exclude_fields: tuple[str, ...] = ()
    own_fields: tuple[str, ...] = ()
    model_field: str | None = None
    limits: Limits = DEFAULT_LIMITS

    @functools.cached_property
    def left_out(self) -> frozenset[str]:
        """Return the fields that ``*`` does not pass through: the key's, and those that each line of the output has anyway."""
        return frozenset((*self.key_fields, *self.own_fields))

    def made_key(self, source: str, offset: int) -> bytes:
        """Make the key of the row at ``offset`` of file ``source``; empty where rows have their keys in fields."""
        return b"" if self.key_fields else make_key(source, offset)

    @property
    def lone_string(self) -> TensorSpec | None:
        """Return the signature's only input if it takes one string a row: then a row may be that string, raw; else None."""
        inputs = self.signature.inputs
        if len(inputs) != 1 or inputs[0].dtype != "string":
            return None
        shapes = self.signature.row_shapes(inputs[0])
        return inputs[0] if any(shape in (None, (), (1,)) for shape in shapes) else None


def row_spec(job: JobSpec, model: AnyModel | None = None) -> RowSpec:
    """Return the fields that ``job`` takes from a row for ``model``, one that rows name; None: for its own."""
    return make_row_spec((model or job.model).signature, job.input, job.key, job.output, job.compare, job.route)


def make_row_spec(
    signature: Signature, input: InputSpec, key: KeySpec, output: OutputSpec, compare: CompareSpec, route: RouteSpec | None
) -> RowSpec:
    """Return the fields that a job of these specs takes from a row."""
    own = OWN_FIELDS[output.style]
    if output.style == "aiplatform":  # outputs and fields passed through are members of one object: names must be unique
        own = (*own, *(spec.name for spec in signature.outputs))
    added = {VARIANT} if compare.share is not None else set()
    if route is not None and route.column is not None:
        added.add(route.column)
    return RowSpec(
        signature=signature,
        key_fields=key.fields,
        passthrough_fields=tuple(name for name in output.passthrough_fields if name not in added),
        include_fields=input.include_fields,
        exclude_fields=input.exclude_fields,
        own_fields=own,
        model_field=route.field if route is not None else None,
        limits=input.limits,
    )
