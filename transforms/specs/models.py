"""The models that run on the rows, as frozen, checked values."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from transforms.specs.errors import SpecError
from transforms.specs.messagepack import Interned
from transforms.specs.signature import Signature


@dataclasses.dataclass(frozen=True)
class Structure(Interned):
    """A model without its variables' values: a digest of its computation, and pairs of a variable's graph node and checkpoint entry."""

    digest: str
    variables: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSpec:
    """One signature of one SavedModel folder; ``threads`` is TensorFlow's, ``fingerprint`` identifies its files when they were checked.

    Models of one ``structure`` differ only in the values of their variables; None where that is not known.
    """

    location: str
    signature: Signature
    version: str | None = None
    batch_size: int | None = None
    allow_unsafe_ops: bool = False
    threads: int = 1
    structure: Structure | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.batch_size is not None and not 1 <= self.batch_size <= 1_000_000:
            raise SpecError("batch_size", f"{self.batch_size} is not between 1 and 1000000 rows")


@dataclasses.dataclass(frozen=True, slots=True)
class UnknownModel:
    """A model that can't run: rows that are not read yet will name theirs, or name one that does not exist.

    ``signature`` has no inputs and no outputs, so that nothing of a row is converted.
    """

    version: ClassVar[None] = None
    fingerprint: ClassVar[str] = ""
    threads: ClassVar[int] = 1

    location: str
    signature: Signature


AnyModel = ModelSpec | UnknownModel


@dataclasses.dataclass(frozen=True)
class ModelRequest:
    """The model that the flags name, before it is located; ``threads`` is TensorFlow's.

    ``location`` is a SavedModel folder, a folder of numbered versions, or a model of Vertex AI's registry. Where another field is None,
    the program chooses: the highest version, the only signature, any tags, a computed batch size.
    """

    location: str
    version: str | None = None
    signature_name: str | None = None
    tags: tuple[str, ...] | None = None
    batch_size: int | None = None
    allow_unsafe_ops: bool = False
    threads: int = 1


# In a run of many, each task's own location replaces this one.
EACH_TASKS_MODEL = ModelRequest("{model}")


@dataclasses.dataclass(frozen=True)
class RouteSpec:
    """How rows name their models: a row's ``field`` replaces ``{field}`` in the location of ``models``, which gives the model's folder.

    ``column`` is the field of the results that gets the model's version.
    """

    field: str
    models: ModelRequest
    column: str | None = None

    def __post_init__(self) -> None:
        if self.placeholder not in self.template:
            raise SpecError("model_field", f"{self.field!r} has no place in --model={self.template}: expected {self.placeholder} in it")

    @property
    def template(self) -> str:
        """Return the location of the models, with the placeholder in it."""
        return self.models.location

    @property
    def placeholder(self) -> str:
        return "{" + self.field + "}"

    def unknown_model(self, location: str) -> UnknownModel:
        """Return the model at ``location`` as one that is not known, or that rows name though it does not exist."""
        return UnknownModel(location, Signature(self.models.signature_name or "", self.models.tags or (), (), ()))


# The field that says which model predicted, where two share the keys.
VARIANT = "model_variant"


@dataclasses.dataclass(frozen=True)
class CompareSpec:
    """What a run is compared with: the ``statistics.json`` of an earlier run, and a second model on the same rows.

    A limit of None only warns. With a ``share`` (0 to 1) the second model predicts that share of the keys instead of the first.
    """

    baseline: str | None = None
    max_drift: float | None = None
    model: ModelSpec | None = None
    max_disagreement: float | None = None
    tolerance: float = 0.01
    share: float | None = None


NO_COMPARISON = CompareSpec()
