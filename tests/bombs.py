"""Small files that unpack to more than memory holds, and what reading each takes, measured in a process without TensorFlow.

``python bombs.py FOLDER [NAME …]`` makes and reads them, each in a child of its own, and prints one JSON object.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from backports import zstd

from transforms.formats import splitting
from transforms.formats.catalog import format_of
from transforms.read_instances import RangeReader
from transforms.rows.row_spec import RowSpec
from transforms.specs.limits import DEFAULT_LIMITS
from transforms.specs.signature import Signature, TensorSpec
from transforms.storage import files

MB = 1 << 20
RESULT = (TensorSpec("y", "y:0", "float32", (None,)),)
NUMBERS = Signature("s", ("serve",), (TensorSpec("x", "x:0", "float32", (None,)),), RESULT)
VECTORS = Signature("s", ("serve",), (TensorSpec("x", "x:0", "float32", (None, None)),), RESULT)
NESTED = {
    "type": "record",
    "name": "r",
    "fields": [{"name": "x", "type": "float"}, {"name": "t", "type": {"type": "array", "items": "long"}}],
}


def parquet(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", **options)
    return out.getvalue()


def long_texts() -> bytes:
    return parquet(pa.table({"x": pa.array([1, 2, 3], pa.float32()), "t": ["a" * (100 * MB)] * 3}))


def texts_of_a_megabyte() -> bytes:
    """2 GB of texts in a few KB."""
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000, np.int32)), pa.array(["b" * MB]))
    return parquet(pa.table({"x": pa.array(np.arange(2_000), pa.float32()), "t": texts}), store_schema=False)


def a_page() -> bytes:
    out = io.BytesIO()
    schema = pa.schema([("x", pa.float32()), ("t", pa.string())])
    with pq.ParquetWriter(out, schema, compression="zstd", use_dictionary=False) as writer:
        writer.write_table(pa.table({"x": pa.array(np.arange(600), pa.float32()), "t": ["c" * MB] * 600}, schema))
    return out.getvalue()


def a_list() -> bytes:
    return parquet(pa.table({"x": pa.array([np.zeros(100_000_000, np.float32)], pa.list_(pa.float32()))}))


def avro(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, NESTED, rows, codec="deflate", sync_interval=1 << 40)
    return out.getvalue()


def a_block() -> bytes:
    return avro([{"x": 1.0, "t": [0] * 10_000_000}] * 7)


def a_record() -> bytes:
    return avro([{"x": 1.0, "t": []}, {"x": 2.0, "t": [0] * 10_000_000}])


def blank_lines() -> bytes:
    """1 GB of line ends, in 98 KB or fewer."""
    return zstd.compress(b"\n" * (1024 * MB)) + zstd.compress(b'{"x": 1}\n')


def numbers() -> bytes:
    return gzip.compress(b'{"x": 1}\n{"x": [' + b"0," * 30_000_000 + b"0]}\n", 1)


def a_line() -> bytes:
    return gzip.compress(b"x,t\n1,a\n2," + b"a" * (300 * MB) + b"\n3,b\n", 1)


class Bomb(NamedTuple):
    """How a file is made, its name's ending, the signature it is read for, and the fields passed through."""

    make: Callable[[], bytes]
    extension: str
    signature: Signature = NUMBERS
    passthrough: tuple[str, ...] = ("t",)


BOMBS = {
    "long_texts": Bomb(long_texts, "parquet"),
    "texts_of_a_megabyte": Bomb(texts_of_a_megabyte, "parquet"),
    "a_page": Bomb(a_page, "parquet"),
    "a_list": Bomb(a_list, "parquet", VECTORS, ()),
    "a_block": Bomb(a_block, "avro"),
    "a_record": Bomb(a_record, "avro"),
    "blank_lines": Bomb(blank_lines, "jsonl.zst"),
    "numbers": Bomb(numbers, "jsonl.gz"),
    "a_line": Bomb(a_line, "csv.gz"),
}


def measure(path: Path, bomb: Bomb) -> dict[str, Any]:
    """Read ``path``, and say what came of it; to be called in a process that has read nothing else."""
    before, rows, codes = memory("VmRSS"), 0, []
    (found,) = files.match(str(path))
    for file_range in splitting.split_file(found, format_of(found.path, None), DEFAULT_LIMITS):
        for batch in RangeReader(RowSpec(bomb.signature, passthrough_fields=bomb.passthrough), None).read(file_range):
            rows += len(batch)
            codes += [str(failed.code) for failed in batch.failed]
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": rows, "codes": codes, "megabytes": memory("VmHWM") - before, "bytes": path.stat().st_size,
        "seconds": round(used.ru_utime + used.ru_stime, 1),
    }  # fmt: skip


def memory(name: str) -> int:
    """Return the megabytes that Linux's proc(5) gives under ``name`` for this process."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) >> 10


def in_child(call: Callable[[], None]) -> int:
    """Give the status that a child ends with which calls ``call``: nothing it takes is left to what comes after."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        call()
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def main(folder: Path, names: list[str]) -> None:
    found = {}
    for name in names or BOMBS:
        bomb = BOMBS[name]
        path, said = folder / f"{name}.{bomb.extension}", folder / f"{name}.json"
        in_child(lambda path=path, bomb=bomb: path.exists() or path.write_bytes(bomb.make()))  # type: ignore[misc]
        status = in_child(lambda path=path, bomb=bomb, said=said: said.write_text(json.dumps(measure(path, bomb))))  # type: ignore[misc]
        found[name] = json.loads(said.read_text()) if status == 0 else {"status": status}
    found["tensorflow"] = "tensorflow" in sys.modules
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
