"""Small files that unpack to more than memory holds: the row or the file fails by name, in a bounded peak of memory."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from input_files import NUMBERS, ranges_of

from transforms.formats.avro.blocks import UNPACKERS, read_header
from transforms.formats.damage import DamagedFileError
from transforms.formats.jsonl import row
from transforms.formats.row_sizes import row_bytes, slices
from transforms.read_instances import RangeReader
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import Limits

MB = 1 << 20


def test_a_row_that_is_too_long_shows_what_is_short(tmp_path: Path) -> None:
    texts = ["a", "b" * 6000, "c" * 3000, "d" * 3000, "e"]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": pa.array([0, 1, 2, 3, 4], pa.float32()), "t": texts}), path)
    (file_range,) = ranges_of(path)
    spec = RowSpec(NUMBERS, passthrough_fields=("t",), limits=Limits(unpacked_bytes=5000))
    batches = list(RangeReader(spec, None).read(file_range))
    assert [int(offset) for batch in batches for offset in batch.offsets] == [0, 2, 3, 4]
    assert max(len(batch) for batch in batches) <= 2
    assert [text for batch in batches for text in batch.passthrough["t"].to_pylist()] == [json.dumps(texts[row]) for row in (0, 2, 3, 4)]
    (failed,) = [failed for batch in batches for failed in batch.failed]
    assert (str(failed.code), failed.offset, json.loads(failed.instance)) == ("ROW_TOO_LONG", 1, {"x": 1.0})


def test_bytes_of_rows_are_those_of_their_values() -> None:
    lists = pa.array([[[b"aa", b"b"], []], None, [[b"cccc"]]])
    coded = pa.array(["x" * 100, "y", None]).dictionary_encode()
    table = pa.RecordBatch.from_arrays([lists, coded, pa.array([{"s": "ab"}, {"s": "a"}, {"s": ""}])], ["l", "d", "s"])
    assert row_bytes(table).tolist() == [3 + 100 + 2, 0 + 1 + 1, 4 + 0 + 0]
    assert row_bytes(table.slice(2)).tolist() == [4]
    assert slices(np.array([1000, 1, 1, 1005, 1]), 1000) == [(0, 1), (1, 3), (3, 4), (4, 5)]


def test_commas_inside_texts_are_no_values() -> None:
    row.check_values(b'{"x": 1, "t": "a,b,c,\\",,d"}', 3)
    with pytest.raises(row.RowError, match="more than 4 values"):
        row.check_values(b'{"x": [1, 2, 3, 4, 5]}', 3)


# --- Avro -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "reason"),
    [
        ({"type": "record", "name": "n", "fields": [{"name": "next", "type": ["null", "n"]}]}, "type n holds itself"),
        ({"type": "array", "items": "null"}, "an array of items of no bytes"),
        ({"type": "array", "items": {"type": "record", "name": "e", "fields": []}}, "an array of items of no bytes"),
    ],
)
def test_a_schema_by_which_a_few_bytes_are_without_bound_is_refused(types: Any, reason: str) -> None:
    out = io.BytesIO()
    fastavro.writer(out, {"type": "record", "name": "row", "fields": [{"name": "a", "type": types}]}, [])
    with pytest.raises(DamagedFileError, match=reason):
        read_header(out)


def test_a_type_that_is_used_twice_does_not_hold_itself() -> None:
    point = {"type": "record", "name": "p", "fields": [{"name": "x", "type": "float"}]}
    out = io.BytesIO()
    fields = [{"name": "a", "type": point}, {"name": "b", "type": {"type": "array", "items": "p"}}, {"name": "c", "type": ["null", "p"]}]
    fastavro.writer(out, {"type": "record", "name": "row", "fields": fields}, [])
    assert read_header(out).codec == "null"


def test_a_nested_value_of_a_type_that_holds_itself_ends_no_process(tmp_path: Path) -> None:
    """5,000 levels in 5 KB overflowed the stack."""
    schema = {"type": "record", "name": "n", "fields": [{"name": "x", "type": "float"}, {"name": "n", "type": ["null", "n"]}]}
    path = tmp_path / "deep.avro"
    with path.open("wb") as stream:
        fastavro.writer(stream, schema, [{"x": 1.0, "n": None}])
    (file_range,) = ranges_of(path)
    (batch,) = RangeReader(RowSpec(NUMBERS), None).read(file_range)
    assert [str(failed.code) for failed in batch.failed] == ["FILE_DAMAGED"]
    assert "holds itself" in batch.failed[0].message


@pytest.mark.parametrize("codec", UNPACKERS)
def test_each_codec_stops_at_the_bound(codec: str) -> None:
    import bz2
    import lzma

    from cramjam import snappy

    content = bytes(MB)
    deflate = zlib.compressobj(wbits=-15)
    packed = {
        "null": content,
        "deflate": deflate.compress(content) + deflate.flush(),
        "bzip2": bz2.compress(content),
        "xz": lzma.compress(content),
        "zstandard": zstd.compress(content),
        "snappy": bytes(snappy.compress_raw(content)) + zlib.crc32(content).to_bytes(4, "big"),
    }[codec]
    assert UNPACKERS[codec](packed, MB) == content
    unpacked = UNPACKERS[codec](packed, 1000)
    assert codec == "null" or unpacked is None or len(unpacked) == 1001
