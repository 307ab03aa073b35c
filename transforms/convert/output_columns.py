"""The columns of a table of predictions, and the members of a line of JSON, as signature and flags define them.

Every format with columns has the same: ``key``, or for a composite key one column a field; one column an output, in the
signature's order; one column a passthrough field.
"""

from __future__ import annotations

import dataclasses

import pyarrow as pa

from transforms.specs.errors import SpecError
from transforms.specs.output import OutputSpec
from transforms.specs.signature import Batching, Shape, Signature, TensorSpec

KEY = "key"
# The type that holds every value of a dtype, where it is not the dtype's own.
WIDER = {
    "float16": "float32", "bfloat16": "float32", "float8_e5m2": "float32", "float8_e4m3fn": "float32", "int4": "int8", "uint4": "uint8",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OutputColumn:
    """The column of one output: a row's value is a scalar of ``dtype``, or lists of them nested as deep as ``shape`` is long."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_text(self) -> bool:
        return self.dtype == "string" and not self.name.endswith("_bytes")

    @property
    def scalar_type(self) -> pa.DataType:
        if self.dtype == "string":
            return pa.string() if self.is_text else pa.binary()
        if self.dtype.startswith("complex"):
            part = pa.float32() if self.dtype == "complex64" else pa.float64()
            return pa.struct([("real", part), ("imag", part)])
        return pa.type_for_alias(WIDER.get(self.dtype, self.dtype))

    @property
    def type(self) -> pa.DataType:
        nested = self.scalar_type
        for _ in self.shape:
            nested = pa.list_(nested)
        return nested


@dataclasses.dataclass(frozen=True)
class TableSpec:
    """The columns of a table of predictions: ``keys`` and ``passthrough`` are texts, ``outputs`` typed."""

    keys: tuple[str, ...]
    outputs: tuple[OutputColumn, ...]
    passthrough: tuple[str, ...]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(
            [
                *((name, pa.string()) for name in self.keys),
                *((column.name, column.type) for column in self.outputs),
                *((name, pa.string()) for name in self.passthrough),
            ]
        )


def make_table(signature: Signature, output: OutputSpec, key_fields: tuple[str, ...]) -> TableSpec:
    """Make the columns of the predictions of ``signature``.

    Raises:
      SpecError: an output's rank is unknown, or two columns would have one name.
    """
    table = TableSpec(
        keys=key_fields if len(key_fields) > 1 else (KEY,),
        outputs=tuple(_column(spec, signature, output.format) for spec in signature.outputs),
        passthrough=output.passthrough_fields,
    )
    _check_names(table, signature, output)
    return table


def _column(spec: TensorSpec, signature: Signature, format: str) -> OutputColumn:
    shape = row_shape(spec, signature)
    if shape is None:
        raise SpecError(
            "output_format",
            f"output {spec.name!r} of signature {signature.name} has no known rank, so {format} can't have a column for it: "
            "write jsonl, or export the signature with a known rank",
        )
    return OutputColumn(spec.name, spec.dtype, shape)


def row_shape(spec: TensorSpec, signature: Signature) -> Shape:
    """Return the shape of one row of output ``spec``; None where its rank is unknown."""
    if spec.shape is None:
        return None
    if signature.batching is Batching.ROWWISE and not spec.is_batched:
        return spec.shape
    return spec.shape[1:]


def difference(signature: Signature, example: Signature) -> str | None:
    """Return why the outputs of ``signature`` do not fit the columns of ``example``, or None where they fit."""
    if _outputs(signature) == _outputs(example):
        return None
    first, second = (", ".join(map(str, one.outputs)) for one in (signature, example))
    return f"its outputs are {first}, and the columns of the results are for {second}"


def _outputs(signature: Signature) -> dict[str, tuple[str, int | None]]:
    shapes = {spec.name: (spec.dtype, row_shape(spec, signature)) for spec in signature.outputs}
    return {name: (dtype, None if shape is None else len(shape)) for name, (dtype, shape) in shapes.items()}


def check_members(signature: Signature, output: OutputSpec, key_fields: tuple[str, ...], column: str | None = None) -> None:
    """Refuse lines of ``--output_style=aiplatform`` with a duplicate name: key, outputs and fields are members of one object there.

    ``column`` is the field that gets the model's version. Other styles nest the outputs, and check their own names.

    Raises:
      SpecError: names the flag and what else has that name.
    """
    if output.style != "aiplatform":
        return
    taken: dict[str | None, str] = {spec.name: f"an output of signature {signature.name}" for spec in signature.outputs}
    for flag, names in (("key_field", key_fields), ("passthrough_fields", output.passthrough_fields), ("model_column", (column,))):
        clashing = [name for name in names if name in taken]
        if clashing:
            raise SpecError(
                flag,
                f"{', '.join(map(str, clashing))} is {taken[clashing[0]]} too, and --output_style=aiplatform has both side by side, so one "
                "of them would be lost: rename one of them, or use another style",
            )
        taken |= {name: f"in the output already, by --{flag}," for name in names if name is not None}


def _check_names(table: TableSpec, signature: Signature, output: OutputSpec) -> None:
    outputs = [column.name for column in table.outputs]
    taken = [name for name in table.keys if name in outputs]
    if taken:
        flag, what = ("output_format", "the key's column") if table.keys == (KEY,) else ("key_field", "a column of the key")
        raise SpecError(
            flag, f"{taken[0]!r} is {what} in {output.format} and an output of signature {signature.name} too: write jsonl, or rename one"
        )
    taken = [name for name in table.passthrough if name in outputs]
    if taken:
        raise SpecError("passthrough_fields", f"{', '.join(taken)} is an output of signature {signature.name} too")
    taken = [name for name in table.passthrough if name in table.keys]
    if taken:
        raise SpecError("passthrough_fields", f"{', '.join(taken)} is a column already, as the key")
