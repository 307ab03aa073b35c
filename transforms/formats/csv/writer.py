"""Batches of predictions → CSV (RFC 4180, with a header) for predictions of single values."""

from __future__ import annotations

import base64
import dataclasses

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from transforms.convert.output_columns import OutputColumn, make_table
from transforms.convert.to_arrow import make_columns, not_utf8, refuse_unfit
from transforms.elements.batches import PredictionBatch
from transforms.formats.row_encoder import RowEncoder
from transforms.specs.errors import SpecError
from transforms.specs.output import FolderOutput

# What a spreadsheet takes for the beginning of a formula (https://owasp.org/www-community/attacks/CSV_Injection), and a number, which it
# reads as the number that it is.
FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclasses.dataclass
class CsvEncoder(RowEncoder):
    """Writes predictions as CSV files: a header, then a line a row; texts in quotes, numbers without."""

    output: FolderOutput

    def __post_init__(self) -> None:
        table = make_table(self.signature, self.output, self.key_fields)
        self.table = dataclasses.replace(table, outputs=tuple(map(self._flat, table.outputs)))
        names = pa.array(self.table.schema.names, pa.string())
        if self.output.csv_formulas == "escape":
            names = escape_formulas(names)
        self.header = _text(pa.Table.from_batches([], self.table.schema).rename_columns(names.to_pylist()), header=True)

    def _flat(self, column: OutputColumn) -> OutputColumn:
        """Return the column as one of single values; one of shape ``[1]`` is flattened.

        Raises:
          SpecError: a row's value is more than one.
        """
        if any(dim != 1 for dim in column.shape) or column.dtype.startswith("complex"):
            dims = f"{column.dtype}[{','.join('?' if dim is None else str(dim) for dim in column.shape)}]"
            raise SpecError(
                "output_format",
                f"output {column.name!r} of signature {self.signature.name} is {dims} a row, and a field of csv holds one value: "
                "write jsonl or parquet, or export a signature with an output for each value",
            )
        return dataclasses.replace(column, shape=())

    def refuse(self, batch: PredictionBatch) -> PredictionBatch:
        return refuse_unfit(batch, self.table, not_utf8)

    def encode_rows(self, batch: PredictionBatch) -> bytes:
        columns = make_columns(batch, self.table)
        fields = dict(zip(columns.schema.names, columns.columns, strict=True))
        if self.output.csv_formulas == "escape":
            fields = {name: escape_formulas(values) for name, values in fields.items()}
        for column in self.table.outputs:
            fields[column.name] = self._field(fields[column.name])
        return _text(pa.table(fields), header=False)

    def _field(self, values: pa.Array) -> pa.Array:
        """Return an output's values as Arrow writes them: bytes in base64, numbers that are not finite by ``--nan``."""
        if pa.types.is_binary(values.type):
            return pa.array([base64.b64encode(value).decode() for value in values.to_pylist()], pa.string())
        if pa.types.is_floating(values.type) and self.output.nan == "null":
            return pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
        return values


def escape_formulas(values: pa.Array) -> pa.Array:
    """Return ``values`` with an apostrophe before each text that a spreadsheet would run as a formula; other types are as they were."""
    if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
        return values
    runs = pc.and_not(pc.match_substring_regex(values, FORMULA), pc.match_substring_regex(values, NUMBER))
    return pc.if_else(runs, pc.binary_join_element_wise("'", values, ""), values)


def _text(table: pa.Table, header: bool) -> bytes:
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink, csv.WriteOptions(include_header=header))
    return sink.getvalue().to_pybytes()
