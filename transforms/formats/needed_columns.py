"""What the columns of a table can't give a job: seen in its schema, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from transforms.convert.from_arrow import fits
from transforms.rows.row_spec import RowSpec


def find_twins(spec: RowSpec, names: Sequence[str]) -> str | None:
    """Return what is wrong where several of a file's columns have one name that a job needs, or None.

    What reads them takes one and drops the others, or writes nothing for any. Twins that no one asks for do no harm. BigQuery has none:
    it refuses a table or query with two columns of one name, whatever their case.
    """
    if len(set(names)) == len(names):
        return None
    needed = {*(tensor.name for tensor in spec.signature.inputs), *spec.key_fields, *spec.passthrough_fields, spec.model_field}
    if "*" in needed:
        needed |= {*names} - {*spec.own_fields}
    for name in names:
        places = [str(place) for place, other in enumerate(names, 1) if other == name]
        if len(places) > 1 and name in needed:
            return (
                f"columns {', '.join(places[:-1])} and {places[-1]} are both named {name!r}, and the job needs that one: rename the others"
            )
    return None


def find_nested_twins(spec: RowSpec, schema: pa.Schema) -> str | None:
    """Return what is wrong where a column that a job needs holds records with two fields of one name, or None."""
    for field in schema:
        name = twin_in(field.type)
        if name is not None and find_twins(spec, [field.name, field.name]) is not None:
            return nested_twins(field.name, name)
    return None


def nested_twins(column: str, field: str) -> str:
    """Return what is wrong where the records of a column have two fields of one name."""
    return f"column {column!r} holds records with two fields named {field!r}: rename one of them"


def twin_in(kind: pa.DataType) -> str | None:
    """Return the name of two fields of one record in values of ``kind``, at any depth, or None."""
    fields = [kind.field(place) for place in range(kind.num_fields)]
    names = [field.name for field in fields]
    twins = (name for name in names if pa.types.is_struct(kind) and names.count(name) > 1)
    deeper = (twin for field in fields if (twin := twin_in(field.type)) is not None)
    return next(twins, None) or next(deeper, None)


def refuse_columns(spec: RowSpec, path: str, columns: Mapping[str, Sequence[pa.DataType]]) -> str | None:
    """Return why a job can't use the columns of the file ``path``, or None.

    ``columns`` gives for each column the types that its values may have; one that fits is enough.
    """
    wanted = {
        "an input of the model": [tensor.name for tensor in spec.signature.inputs],
        "--key_field": list(spec.key_fields),
        "--model_field": [] if spec.model_field is None else [spec.model_field],
        "--passthrough_fields": [name for name in spec.passthrough_fields if name != "*"],
    }
    first_columns = ", ".join(list(columns)[:20])
    for reason, names in wanted.items():
        missing = [name for name in names if name not in columns]
        if missing:
            return f"{path} has no column {', '.join(map(repr, missing))} ({reason}); its columns are {first_columns}"
    for tensor in spec.signature.inputs:
        kinds = columns[tensor.name]
        if not any(fits(kind, tensor.dtype) for kind in kinds):
            types = " or ".join(map(str, kinds))
            return f"column {tensor.name!r} of {path} is {types}, and the model's input of that name wants {tensor}: convert the column"
    return None
