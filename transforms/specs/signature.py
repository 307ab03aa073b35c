"""A signature: the tensors that a model takes and returns, and how it takes rows."""

from __future__ import annotations

import dataclasses
import enum
import math

from transforms.specs.messagepack import Interned

Shape = tuple[int | None, ...] | None

INIT_SIGNATURE = "__saved_model_init_op"
DEFAULT_SIGNATURE = "serving_default"
DEFAULT_TAGS = ("serve",)

# tensorflow/core/framework/types.proto, DataType; the dtypes a row can carry in or out.
DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64",
    9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32", 23: "uint64",
    24: "float8_e5m2", 25: "float8_e4m3fn", 29: "int4", 30: "uint4",
}  # fmt: skip


def shape_text(shape: Shape) -> str:
    """Write a shape for messages: ``[?,3]``, and ``[?]`` where not even the rank is known."""
    return "[?]" if shape is None else "[" + ",".join("?" if dim is None else str(dim) for dim in shape) + "]"


class Batching(enum.Enum):
    """How a signature takes rows."""

    FREE = "any number of rows a call"
    FIXED = "a fixed number of rows a call"
    ROWWISE = "one row a call"


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output: its alias, the graph's tensor, dtype and shape (None: unknown rank or dimension).

    Tensors' names in the graph are not compared: signatures that differ only in them read and write rows alike.
    """

    name: str
    tensor: str = dataclasses.field(compare=False)
    dtype: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{shape_text(self.shape)}"

    @property
    def is_batched(self) -> bool:
        """Return whether the first dimension is free, so that it counts rows."""
        return self.shape is None or (len(self.shape) > 0 and self.shape[0] is None)


@dataclasses.dataclass(frozen=True)
class Signature(Interned):
    """One signature of one MetaGraph."""

    name: str
    tags: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def batching(self) -> Batching:
        """Return how many rows a call takes, by the inputs' first dimensions."""
        if all(spec.is_batched for spec in self.inputs):
            return Batching.FREE
        first = {spec.shape[0] if spec.shape else None for spec in self.inputs}
        return Batching.FIXED if len(first) == 1 and None not in first else Batching.ROWWISE

    @property
    def fixed_rows(self) -> int:
        """Return the number of rows in a call of a ``FIXED`` signature."""
        shape = self.inputs[0].shape
        assert shape is not None
        assert shape[0] is not None
        return shape[0]

    def row_shapes(self, spec: TensorSpec) -> tuple[Shape, ...]:
        """Return the shapes that one row's value may have for input ``spec``.

        With a fixed first dimension there are two readings: the row is one of a batch, or the row is the whole tensor.
        """
        if spec.shape is None:
            return (None,)
        if self.batching is Batching.FIXED:
            return (spec.shape[1:], spec.shape)
        return (spec.shape[1:],) if spec.is_batched else (spec.shape,)

    @property
    def row_bytes(self) -> int:
        """Estimate the bytes of one row's inputs and outputs from the signature (unknown dimensions count as 1)."""
        return sum(
            math.prod(d or 1 for d in (spec.shape or ())[1:]) * (16 if spec.dtype == "string" else 4) for spec in self.inputs + self.outputs
        )

    def input(self, name: str) -> TensorSpec:
        return next(spec for spec in self.inputs if spec.name == name)
