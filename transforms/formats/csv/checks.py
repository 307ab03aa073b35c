"""What shows of a CSV file before its rows are read: columns that it lacks, inputs that it can't feed, whether it can be cut."""

from __future__ import annotations

from transforms.elements.splits import FileRange
from transforms.formats.blocks import compression_of
from transforms.formats.csv.rows import Header, read_header, read_rows, take_header
from transforms.formats.damage import DamagedFileError
from transforms.formats.needed_columns import find_twins
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import DEFAULT_LIMITS
from transforms.specs.signature import TensorSpec
from transforms.storage import files


def missing_columns(path: str, spec: RowSpec) -> list[str]:
    """Return the inputs, key fields and field of the model's name for which the header of ``path`` has no column; without a row, none.

    Raises:
      DamagedFileError: the file does not begin as CSV.
    """
    names = _names(path)
    named = () if spec.model_field is None else (spec.model_field,)
    needed = dict.fromkeys((*(tensor.name for tensor in spec.signature.inputs), *spec.key_fields, *named))
    return [] if not names else [name for name in needed if name not in names]


def _names(path: str) -> tuple[str, ...]:
    """Return the names of a file's columns; none where it has no row."""
    whole = FileRange(path, 0, None, 0, path)
    header = read_header(whole) if compression_of(path) is None else _packed_header(whole)
    return () if header is None else header.names


def _packed_header(whole: FileRange) -> Header | None:
    for rows in read_rows(whole):
        if len(rows.texts):
            return take_header(rows)
    return None


def impossible_inputs(spec: RowSpec) -> list[TensorSpec]:
    """Return the inputs that no field of CSV can feed: a field is one value, not a list of them and not a complex number."""
    return [tensor for tensor in spec.signature.inputs if tensor.dtype.startswith("complex") or not _takes_scalar(spec, tensor)]


def why_not(spec: RowSpec, path: str) -> str | None:
    """Return why a job can't read the file ``path``, or None."""
    impossible = impossible_inputs(spec)
    if impossible:
        return f"a field of CSV is one value, and the model wants {', '.join(map(str, impossible))}; give the rows as JSON-lines"
    try:
        missing, twins = missing_columns(path, spec), find_twins(spec, _names(path))
    except DamagedFileError as damage:
        return f"{path} can't be read as CSV: {damage}"
    if twins:
        return f"{path}: {twins}"
    if missing:
        return f"the header of {path} has no column {', '.join(repr(name) for name in missing)}: name the columns as the model's inputs are"
    return None


def _takes_scalar(spec: RowSpec, tensor: TensorSpec) -> bool:
    return any(shape is None or all(dim == 1 for dim in shape) for shape in spec.signature.row_shapes(tensor))


def holds_quote(path: str) -> bool:
    """Return whether the file holds a quote anywhere: then a line end may be inside a field."""
    with files.open_raw(path) as stream:
        while data := stream.read(DEFAULT_LIMITS.block_bytes):
            if b'"' in data:
                return True
    return False
