"""W1 as CSV, TFRecord, Parquet and Avro: each through the job and through a hand-written loop with the same libraries, in turn.

``python -m benchmarks.formats [--rows=1000000] [--rounds=3]`` writes its part of ``benchmarks/RESULTS.md``. The loops check nothing:
they read batches of columns, predict and write JSON-lines. tf.Examples also go through tfx-bsl's RunInference, with a model that
parses them itself; and Parquet goes to Parquet, against JSON-lines to JSON-lines.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.format_files import build, examples_model, rows_file
from benchmarks.loop import Clock, Columns, encode, load_model
from benchmarks.measure import job_of, measure
from benchmarks.results import parse_flags, write_part
from benchmarks.workloads import DATA, FLOATS, STRINGS, WORKLOADS

CALL_ROWS = 16_384
OTHERS = {"jsonl": "JSON-lines", "jsonl.gz": "JSON-lines, one gzip file"}
FORMATS = {"csv": "CSV", "parquet": "Parquet", "avro": "Avro", "tfrecord": "TFRecord of `tf.Example`s"}
# A further row is measured with this many times the rows: in a run of a second its start counts for much.
FURTHER = 4
FURTHER_WAYS = [("ours", "jsonl"), ("to_parquet", "parquet"), ("ours", "jsonl.gz")]
# tfx-bsl's RunInference is so slow that a part of the rows has to do.
TFX_ROWS = 100_000
LOOP_TARGET, PARQUET_TARGET, TFX_TARGET = 0.7, 3.0, 4.0
Batch = tuple[list[bytes], Columns]


# --- the hand-written loops ------------------------------------------------------------------------------------------------


def _from_table(batch: Any) -> Batch:
    columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in (*FLOATS, *STRINGS)}
    return [b'"%b"' % key.encode() for key in batch.column("id").to_pylist()], columns


def _read_csv(path: Path) -> Iterator[Batch]:
    from pyarrow import csv

    types = {name: pa.float32() for name in FLOATS} | {name: pa.string() for name in ("id", *STRINGS)}
    reader = csv.open_csv(
        path, csv.ReadOptions(block_size=4 << 20, use_threads=False), convert_options=csv.ConvertOptions(column_types=types)
    )
    yield from map(_from_table, reader)


def _read_parquet(path: Path) -> Iterator[Batch]:
    from pyarrow import parquet

    yield from map(_from_table, parquet.ParquetFile(path).iter_batches(CALL_ROWS, use_threads=False))


def _read_avro(path: Path) -> Iterator[Batch]:
    import fastavro

    with path.open("rb") as stream:
        records = fastavro.reader(stream)
        while some := list(islice(records, CALL_ROWS)):
            columns = {
                name: np.array([row[name] for row in some], np.float32 if name in FLOATS else object) for name in (*FLOATS, *STRINGS)
            }
            yield [b'"%b"' % row["id"].encode() for row in some], columns


def _read_tfrecord(path: Path) -> Iterator[Batch]:
    import tensorflow as tf
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder  # type: ignore[import-untyped]

    decoder = ExamplesToRecordBatchDecoder()
    for records in tf.data.TFRecordDataset(str(path)).batch(CALL_ROWS).as_numpy_iterator():
        table = decoder.DecodeBatch(records.tolist())
        columns = {name: table.column(name).flatten().to_numpy(zero_copy_only=False) for name in (*FLOATS, *STRINGS)}
        yield [b'"%b"' % key for key in table.column("id").flatten().to_pylist()], columns


READERS: dict[str, Callable[[Path], Iterator[Batch]]] = {
    "csv": _read_csv,
    "parquet": _read_parquet,
    "avro": _read_avro,
    "tfrecord": _read_tfrecord,
}


def run_loop(format: str, rows: int, output: Path) -> dict[str, float]:
    """Predict on W1 in a format and write JSON-lines; return the seconds of each step."""
    clock = Clock()
    predict = load_model(WORKLOADS["w1"].model)
    clock.end("load")
    with output.open("wb", buffering=0) as sink:
        for keys, columns in READERS[format](rows_file(format, rows)):
            clock.end("read to columns")
            outputs = predict(columns)
            clock.end("predict")
            sink.write(encode(keys, outputs))
            clock.end("encode and write")
    return clock.seconds


def run_tfx(rows: int, output: Path) -> None:
    """Run a model on tf.Examples as tfx-bsl's documentation does, and write JSON-lines without a key."""
    import apache_beam as beam
    import tensorflow as tf
    from google.protobuf import json_format
    from tfx_bsl.public.beam import RunInference  # type: ignore[import-untyped]
    from tfx_bsl.public.proto import model_spec_pb2  # type: ignore[import-untyped]

    spec = model_spec_pb2.InferenceSpecType()
    spec.saved_model_spec.model_path = str(examples_model())
    with beam.Pipeline() as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromTFRecord(str(rows_file("tfrecord", rows)))
            | beam.Map(tf.train.Example.FromString)
            | RunInference(spec)
            | beam.Map(lambda log: json.dumps(json_format.MessageToDict(log.predict_log.response)))
            | beam.io.WriteToText(str(output))
        )


def _job(way: str, format: str, rows: int, output: Path) -> Callable[[], dict[str, float] | None]:
    if way == "loop":
        import fastavro
        import tensorflow as tf
        import tfx_bsl.coders.example_coder

        _ = fastavro, tf.compat.v1.saved_model.load, tf.data
        return lambda: run_loop(format, rows, output)
    if way == "tfx":
        import tfx_bsl.public.beam

        return lambda: run_tfx(rows, output)
    import tensorflow as tf
    import tfx_bsl.coders.example_coder  # noqa: F401

    import transforms.formats.avro.reader
    import transforms.formats.csv.reader
    import transforms.formats.parquet.reader
    import transforms.formats.parquet.writer  # noqa: F401

    _ = tf.compat.v1.Session, tf.compat.v1.saved_model.load
    source = WORKLOADS["w1"].rows_file(rows) if format == "jsonl" else rows_file(format, rows)
    model = examples_model() if way == "examples" else WORKLOADS["w1"].model
    arguments = ["run", f"--model={model}", f"--input={source}", f"--output={output}"]
    if way != "examples":  # Examples that the model parses are not looked into: their keys are made
        arguments.append("--key_field=id")
    if way == "to_parquet":
        arguments.append("--output_format=parquet")
    return job_of(arguments)


# --- the comparison --------------------------------------------------------------------------------------------------------


def _child(way: str, format: str, rows: int) -> dict[str, Any]:
    """Measure in a fresh process."""
    rows = min(rows, TFX_ROWS) if way == "tfx" else rows
    output = DATA / f"formats-{way}-{format}"
    shutil.rmtree(output, ignore_errors=True)
    output.unlink(missing_ok=True) if output.is_file() else None
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.formats", f"--rows={rows}", "--child", way, format, str(output)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, capture_output=True, text=True,
    )  # fmt: skip
    if ended.returncode:
        raise RuntimeError(f"{way} {format} ended with status {ended.returncode}:\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(output.with_suffix(".json").read_text())
    for left in DATA.glob(f"{output.name}*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    print(f"  {way:10} {format:9} {rows / found['seconds']:>10,.0f} rows/s, {rows / found['cpu_seconds']:>10,.0f} by CPU", flush=True)
    return found


WAYS = [
    *((way, format) for format in FORMATS for way in ("loop", "ours")),
    ("ours", "jsonl"),
    ("ours", "jsonl.gz"),
    ("to_parquet", "parquet"),
    ("tfx", "tfrecord"),
    ("examples", "tfrecord"),
]
TITLES = {
    "loop": "hand-written loop",
    "ours": "ours",
    "to_parquet": "ours, to Parquet",
    "tfx": "tfx-bsl's RunInference, the model parses",
    "examples": "ours, the model parses",
}


Round = dict[tuple[str, str], dict[str, Any]]


def tell(rounds: Sequence[Round], further: Sequence[Round], rows: int) -> str:
    """Return the part's text; ``further`` holds the rounds' runs of ``FURTHER`` times the rows."""

    def middle(way: str, format: str, value: str) -> float:
        return median(found[way, format][value] for found in rounds)

    def ratio(one: tuple[str, str], other: tuple[str, str], value: str = "seconds") -> float:
        """Return the ratio of ``one``'s rows to ``other``'s, for each second of the clock or the processor."""
        each = [(found[one], found[other]) for found in rounds]
        return median((mine["rows"] / mine[value]) / (its["rows"] / its[value]) for mine, its in each)

    def further_row(way: tuple[str, str]) -> list[float]:
        """Return the microseconds that a row beyond ``rows`` took, by round."""
        each = zip(rounds, further, strict=True)
        return [1e6 * (more[way]["seconds"] - some[way]["seconds"]) / (more[way]["rows"] - some[way]["rows"]) for some, more in each]

    json_row, parquet_row, gzip_row = map(further_row, FURTHER_WAYS)
    peaks = [median(found["ours", "jsonl.gz"]["peak_mb"] for found in some) for some in (rounds, further)]
    lines = [
        "## Formats: W1 as CSV, Parquet, Avro and TFRecord",
        "",
        f"{rows:,} rows, medians of {len(rounds)} round{'s' if len(rounds) > 1 else ''}, each way in a fresh process without its imports. "
        "The output is JSON-lines but for Parquet to Parquet. A loop reads batches of columns with the library that ours uses (pyarrow, "
        "fastavro, tfx-bsl), predicts and writes; it checks nothing. tfx-bsl's RunInference had a tenth of the rows.",
        "",
        "| format | way | rows/s | rows per CPU second | to the loop | to the loop, by CPU |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for way, format in WAYS:
        compared = ["", ""]
        if way == "ours" and format in FORMATS:
            compared = [f"{ratio((way, format), ('loop', format), value):.2f}" for value in ("seconds", "cpu_seconds")]
        title = (OTHERS | FORMATS)[format]
        speeds = [f"{middle(way, format, 'rows') / middle(way, format, value):,.0f}" for value in ("seconds", "cpu_seconds")]
        lines.append(f"| {' | '.join((title, TITLES[way], *speeds, *compared))} |")
    targets = [
        *((f"{FORMATS[one]}: ours to the loop, at least", LOOP_TARGET, ratio(("ours", one), ("loop", one))) for one in FORMATS),
        ("Parquet to Parquet to JSON-lines to the same, at least", PARQUET_TARGET, ratio(("to_parquet", "parquet"), ("ours", "jsonl"))),
        ("… by what a further row takes", PARQUET_TARGET, median(a / b for a, b in zip(json_row, parquet_row, strict=True))),
        ("tf.Examples: ours to tfx-bsl's RunInference, at least", TFX_TARGET, ratio(("examples", "tfrecord"), ("tfx", "tfrecord"))),
    ]
    lines += ["", "| what | target | measured | |", "|---|--:|--:|---|"]
    lines += [f"| {what} | {target:g} | {value:.2f} | {'met' if value >= target else 'missed'} |" for what, target, value in targets]
    lines += [
        "",
        f"A further row, from {rows:,} to {FURTHER * rows:,} of them, takes {median(json_row):.2f} µs from JSON-lines to JSON-lines and "
        f"{median(parquet_row):.2f} µs from Parquet to Parquet. At {rows:,} rows the fixed cost of a run counts most for Parquet.",
        "",
        f"One gzip file of {FURTHER} times the rows ({rows_file('jsonl.gz', FURTHER * rows).stat().st_size / 1e9:.1f} GB) takes "
        f"{median(gzip_row):.2f} µs a further row, and {peaks[1]:,.0f} MB at most to {peaks[0]:,.0f} MB: 34 bytes a row are the "
        "hashes of its keys; without `--key_field` both take the same.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("WAY", "FORMAT", "OUTPUT"), help=argparse.SUPPRESS)
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    arguments, whole = parse_flags(parser, {"rows": 100_000, "rounds": 1})
    if arguments.build:
        build(arguments.rows)
        build(min(arguments.rows, TFX_ROWS))
        build(FURTHER * arguments.rows, ("parquet", "jsonl.gz"))
        return
    if arguments.child:
        way, format, output = arguments.child
        measure(_job(way, format, arguments.rows, Path(output)), arguments.rows, Path(output))
        return
    # In a process of its own: a child's peak memory begins with its parent's.
    subprocess.run([sys.executable, "-m", "benchmarks.formats", f"--rows={arguments.rows}", "--build"], check=True)
    rounds, further = [], []
    for number in range(arguments.rounds):
        print(f"round {number + 1} of {arguments.rounds}", flush=True)
        rounds.append({(way, format): _child(way, format, arguments.rows) for way, format in WAYS})
        further.append({(way, format): _child(way, format, FURTHER * arguments.rows) for way, format in FURTHER_WAYS})
    text = tell(rounds, further, arguments.rows)
    print(f"{text}\n{write_part('formats', text, whole)} is written")


if __name__ == "__main__":
    main()
