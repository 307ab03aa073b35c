"""What travels between workers: one coder a Flatten, no pickles across a shuffle, and values that come out as they went in."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.coders import coders as beams
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import PortableRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import lines, manifest, run, write_lines
from msgspec import UNSET
from saved_models import Models
from written import instances

from pipeline import graph
from pipeline.flags import parse as flags
from pipeline.preflight import job as preflight
from pipeline.preflight import tasks
from transforms.accounts.coders import AccountEntryCoder, MessageCoder
from transforms.elements.batches import JobInstances, JobPredictions, PredictionBatch, SplitElementCoder, SplitEnd
from transforms.elements.failed_rows import FailedRow
from transforms.elements.shards import Shard
from transforms.elements.splits import FileRange, Incomplete, Split, SplitCount
from transforms.formats.csv.rows import Header
from transforms.many.waiting_rows import RowBlock, RowBlockCoder
from transforms.rows.codes import Code
from transforms.rows.keys import DuplicateKey, Duplicates
from transforms.specs.job import InputSpec, KeySpec
from transforms.specs.manifest import Counts, FileEntry, Manifest
from transforms.specs.models import ModelSpec, Structure
from transforms.specs.output import TableOutput
from transforms.specs.run import JobRun, Plan, RunSpec, Task
from transforms.specs.signature import Signature, TensorSpec
from transforms.statistics import stored
from transforms.statistics.agreement import Comparison
from transforms.statistics.statistics import Statistics
from transforms.storage.files import FoundFile
from transforms.storage.pins import Pin

FALLBACKS = (
    beams.FastPrimitivesCoder, beams.DeterministicFastPrimitivesCoder, beams.DeterministicFastPrimitivesCoderV2, beams._PickleCoderBase,
    beams.Base64PickleCoder,
)  # fmt: skip
# Beam's own: where an engine has no Reshuffle, rows pass a GroupByKey with their timestamps, for which Beam knows no coder.
BEAMS_OWN = "/ReshufflePerKey/"
SHUFFLES = ("beam:transform:group_by_key:v1", "beam:transform:reshuffle:v1", "beam:transform:combine_per_key:v1")
FLATTEN = "beam:transform:flatten:v1"


# --- the graph of each kind of job ---------------------------------------------------------------------------------------------


def prepare(tmp_path: Path, **values: Any) -> RunSpec:
    options = flags.parse([f"--output={tmp_path / 'out'}", *(f"--{name}={value}" for name, value in values.items())])
    beam_options = PipelineOptions(list(options.beam))
    return (tasks if options.tasks_flag else preflight).prepare(options, beam_options)[0]


def one(models: Models, tmp_path: Path) -> JobRun:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1.0, "id": 1, "model": "half_plus_two"}])
    run = prepare(tmp_path, model=models.get("half_plus_two"), input=data, key_field="id")
    assert isinstance(run, JobRun)
    return run


def of_many(models: Models, tmp_path: Path) -> RunSpec:
    task = {"model": models.get("half_plus_two"), "input": str(one(models, tmp_path).job.input.patterns[0]), "output": "a"}
    return prepare(tmp_path, model_map=write_lines(tmp_path / "tasks.jsonl", [task]), key_field="id")


def by_field(models: Models, tmp_path: Path) -> RunSpec:
    folder = Path(models.get("half_plus_two")).parent
    data = one(models, tmp_path).job.input.patterns[0]
    return prepare(tmp_path, model=f"{folder}/{{model}}", model_field="model", input=f"{data},{tmp_path}/*.jsonl", key_field="id")


def of_tables(models: Models, tmp_path: Path) -> RunSpec:
    run = one(models, tmp_path)
    output = TableOutput("bq://project.dataset.out", "gs://bucket/staged")
    job = dataclasses.replace(run.job, input=InputSpec(("bq://project.dataset.in",)), key=KeySpec(("id",)), output=output)
    return dataclasses.replace(run, job=job)


def compared(models: Models, tmp_path: Path) -> RunSpec:
    data = one(models, tmp_path).job.input.patterns[0]
    return prepare(tmp_path, model=models.get("half_plus_two"), compare_model=models.get("retrained"), input=data, key_field="id")


def resumed(models: Models, tmp_path: Path) -> RunSpec:
    return dataclasses.replace(one(models, tmp_path), resumed=(f"{tmp_path}/out/_staging/run/launch",))


KINDS: dict[str, Callable[[Models, Path], RunSpec]] = {
    "one": one, "many": of_many, "model_field": by_field, "tables": of_tables, "compare": compared, "resume": resumed,
}  # fmt: skip


def translated(spec: RunSpec, portable: bool) -> beam_runner_api_pb2.Pipeline:
    """Returns the pipeline's proto, as it is or as PortableRunner hands it to an engine such as Flink."""
    options = PipelineOptions(
        ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--environment_type=EXTERNAL", "--environment_config=localhost:2"]
    )
    pipeline = beam.Pipeline(options=options)
    graph.build(pipeline, spec)
    return PortableRunner.get_proto_pipeline(pipeline, options) if portable else pipeline.to_runner_api()


def coders_in(proto: beam_runner_api_pb2.Pipeline, coder_id: str) -> Iterator[Any]:
    """Yields the coder and its components: a coder of Python's own as an object, one that all engines know as its URN."""
    coder = proto.components.coders[coder_id]
    payload = coder.spec.payload
    yield beams.deserialize_coder(payload) if payload and "pickled" in coder.spec.urn else coder.spec.urn
    for component in coder.component_coder_ids:
        yield from coders_in(proto, component)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_all_inputs_of_a_flatten_have_one_coder(kind: str, portable: bool, models: Models, tmp_path: Path) -> None:
    """Flink refuses the job otherwise: "Cannot union inputs of different types"."""
    proto = translated(KINDS[kind](models, tmp_path), portable)
    flattens = [step for step in proto.components.transforms.values() if step.spec.urn == FLATTEN]
    assert flattens
    for step in flattens:
        coded = {proto.components.pcollections[name].coder_id for name in (*step.inputs.values(), *step.outputs.values())}
        assert len(coded) == 1, (step.unique_name, [list(map(str, coders_in(proto, coder))) for coder in coded])
    (entries,) = (step for step in flattens if step.unique_name == "Publish/Flatten")
    assert len(entries.inputs) == 6
    (coder,) = {proto.components.pcollections[name].coder_id for name in entries.inputs.values()}
    assert [type(each) for each in coders_in(proto, coder) if not isinstance(each, str)] == [AccountEntryCoder]


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_pickled_that_crosses_a_shuffle(kind: str, portable: bool, models: Models, tmp_path: Path) -> None:
    proto = translated(KINDS[kind](models, tmp_path), portable)
    shuffled: dict[str, str] = {}
    for step in proto.components.transforms.values():
        if step.spec.urn in SHUFFLES:
            shuffled |= dict.fromkeys((*step.inputs.values(), *step.outputs.values()), step.unique_name)
        if step.spec.urn == "beam:transform:pardo:v1":
            payload = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
            shuffled |= {step.inputs[name]: step.unique_name for name in payload.side_inputs}
    assert {"CheckKeys/GroupHashes", "Publish/GroupByTask", "CheckKeys/ListDuplicates"} <= set(shuffled.values())
    fallbacks = {
        (proto.components.pcollections[name].unique_name, step)
        for name, step in shuffled.items()
        if any(isinstance(coder, FALLBACKS) for coder in coders_in(proto, proto.components.pcollections[name].coder_id))
    }
    assert not [pair for pair in fallbacks if BEAMS_OWN not in pair[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_what_flows_from_read_to_write_has_the_coder_that_knows_sizes(kind: str, models: Models, tmp_path: Path) -> None:
    """To pickle a sample of the batches, which is how Beam finds out how large elements are, costs more than to predict on them."""
    proto = translated(KINDS[kind](models, tmp_path), portable=False)
    (predict,) = (step for step in proto.components.transforms.values() if step.unique_name.endswith("/BeamML_RunInference"))
    for name in (*predict.inputs.values(), *predict.outputs.values()):
        (coder,) = coders_in(proto, proto.components.pcollections[name].coder_id)
        assert isinstance(coder, SplitElementCoder)


def test_the_size_of_an_element_between_read_and_write_is_that_of_its_input(models: Models, tmp_path: Path) -> None:
    coder, job = SplitElementCoder(), one(models, tmp_path).job
    model = job.model
    rows = instances(["1", "2"])
    predictions = PredictionBatch(rows, np.array([1]), {}, [])
    assert coder.estimate_size(JobInstances(job, model, ("a", 0), rows)) == 2 * 3 + 2 * 64
    assert coder.estimate_size(JobPredictions(job, model, ("a", 0), predictions)) == 2 * 3 + 64
    end = SplitEnd(job, "name", SplitCount(("a", 0), 2, 6, 1), bytes(16))
    assert coder.estimate_size(end) == 16
    assert coder.decode(coder.encode(end)) == end


# --- values ------------------------------------------------------------------------------------------------------------------

# File names are bytes, which Python spells with lone surrogates where they are not UTF-8.
TEXT = st.text(max_size=20) | st.binary(max_size=20).map(os.fsdecode)
NUMBER = st.integers(0, 2**63 - 1)
PINS = st.none() | st.builds(Pin, NUMBER, NUMBER, NUMBER)
RANGES = st.builds(FileRange, TEXT, NUMBER, st.none() | NUMBER, NUMBER, TEXT, PINS)
TASKS = st.builds(Task, NUMBER, TEXT, TEXT, TEXT, st.none() | TEXT, st.none() | TEXT, st.none() | TEXT)
TENSORS = st.builds(TensorSpec, TEXT, TEXT, st.sampled_from(["float32", "string"]), st.none() | st.just((None, 3)) | st.just(()))
SIGNATURES = st.builds(Signature, TEXT, st.just(("serve",)), st.tuples(TENSORS), st.tuples(TENSORS, TENSORS))
STRUCTURES = st.builds(Structure, TEXT, st.tuples(st.tuples(TEXT, TEXT)))
MODELS = st.builds(ModelSpec, TEXT, SIGNATURES, st.none() | TEXT, st.none() | st.just(7), structure=st.none() | STRUCTURES)
MANIFESTS = st.builds(
    Manifest,
    status=TEXT,
    reason=st.none() | TEXT,
    counts=st.just(UNSET) | st.builds(Counts, NUMBER, NUMBER, NUMBER),
    results=st.just(UNSET) | st.lists(st.builds(FileEntry, name=TEXT, rows=st.just(UNSET) | NUMBER, bytes=NUMBER, crc32c=TEXT), max_size=2),
)
PLANS = st.builds(Plan, st.none() | TASKS, st.none() | MODELS, NUMBER, st.none() | TEXT, st.none() | MANIFESTS)
ORDERS = st.tuples(TEXT, NUMBER)
SHARDS = st.builds(
    Shard, TEXT, TEXT, ORDERS, TEXT, TEXT, NUMBER, NUMBER, TEXT,
    st.just(()) | st.tuples(st.tuples(TEXT, TEXT, NUMBER, TEXT)), st.just(()) | st.tuples(st.tuples(TEXT, st.none() | TEXT, NUMBER)),
)  # fmt: skip
INCOMPLETE = st.builds(Incomplete, TEXT, st.sampled_from(Code), TEXT)
COUNTS = st.builds(SplitCount, ORDERS, NUMBER, NUMBER, NUMBER, st.just(()) | st.tuples(INCOMPLETE), st.floats(0, 1e9), st.booleans())
DUPLICATES = st.builds(Duplicates, NUMBER, st.lists(st.integers(0, 2**64 - 1), max_size=3).map(tuple))
PLACES = st.builds(DuplicateKey, TEXT, TEXT, NUMBER)
FOUND = st.builds(FoundFile, TEXT, NUMBER, TEXT, st.floats(0, 2e9), TEXT, PINS)
SPLITS = st.builds(Split, st.lists(RANGES, min_size=1, max_size=3).map(tuple), st.none() | PLANS)


@settings(max_examples=300, deadline=None)
@given(TASKS | FOUND | SPLITS | DUPLICATES | PLACES)
def test_an_element_comes_out_as_it_went_in(element: Any) -> None:
    coder = beam.coders.registry.get_coder(type(element))
    assert isinstance(coder, MessageCoder)
    encoded = coder.encode(element)
    assert coder.decode(encoded) == element
    # equal elements are equal bytes, however they came about
    assert coder.encode(coder.decode(encoded)) == encoded


@settings(max_examples=300, deadline=None)
@given(PLANS | SHARDS | COUNTS | DUPLICATES | PLACES)
def test_an_entry_of_the_accounts_comes_out_as_it_went_in(entry: Any) -> None:
    coder = AccountEntryCoder()
    assert coder.decode(coder.encode(entry)) == entry
    assert type(coder.decode(coder.encode(entry))) is type(entry)


@given(MODELS)
def test_a_process_has_one_object_of_a_signature(model: ModelSpec) -> None:
    coder = beam.coders.registry.get_coder(Split)
    split = Split((FileRange("a", 0, None, 1, "a"),), Plan(None, model))
    again, once_more = (coder.decode(coder.encode(split)).plan.model for _ in range(2))
    assert again.signature is once_more.signature
    assert again.structure is once_more.structure
    # tensors' names are not compared, and travel all the same
    assert [spec.tensor for spec in again.signature.inputs] == [spec.tensor for spec in model.signature.inputs]


def test_statistics_travel_whole() -> None:
    statistics = Statistics(instances=3, predictions=2, comparison=Comparison(rows=2, agreed=1, changed=[(float("inf"), "line")]))
    statistics.missing["x"] += 1
    statistics.examples["read", "NOT_JSON"] = ["row"]
    arrived = AccountEntryCoder().decode(AccountEntryCoder().encode(statistics))
    assert arrived.comparison == statistics.comparison
    assert (arrived.instances, arrived.predictions, arrived.missing, arrived.examples) == (3, 2, {"x": 1}, {("read", "NOT_JSON"): ["row"]})
    assert stored.encode(arrived) == stored.encode(statistics)


FAILED = FailedRow(b'"k"', "caf\udce9", 7, Code.WRONG_TYPE, "no", b"\xff", "x")


@pytest.mark.parametrize(
    "block",
    [
        RowBlock("a", "b", np.array([0, 2**40]), b'{"x": 1}\n\xff\n'),
        RowBlock("caf\udce9", "caf\udce9", np.array([5]), b"1,2\r\n", Header(("x", "y"), 4), (FAILED,)),
        RowBlock("a", "", np.empty(0, np.int64), b"", failed=(FAILED, FAILED)),
    ],
)
def test_rows_of_text_travel_as_they_were_read(block: RowBlock) -> None:
    coder = RowBlockCoder()
    arrived = coder.decode(coder.encode(block))
    np.testing.assert_array_equal(arrived.offsets, block.offsets)
    assert arrived.offsets.dtype == np.int64
    assert dataclasses.replace(arrived, offsets=block.offsets) == block


def test_rows_of_columns_travel_without_those_beside_them() -> None:
    columns = {"x": pa.array(range(1000)), "l": pa.array([[n, None] for n in range(1000)]), "b": pa.array([b"\xff"] * 1000)}
    table = pa.RecordBatch.from_pydict(columns)
    coder = RowBlockCoder()
    encoded = coder.encode(RowBlock("a", "a", np.arange(10), table.slice(500, 10)))
    assert coder.decode(encoded).rows.equals(table.slice(500, 10))
    assert len(encoded) < 3000


def test_a_file_whose_name_is_not_utf8_is_read(models: Models, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"caf\xe9.jsonl", b"tea.jsonl"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text(json.dumps({"x": len(name), "id": len(name)}) + "\n")
    for name, pattern in (("folder", folder), ("patterns", f"{folder},{folder}/*.jsonl")):
        out = tmp_path / name
        assert run(out, model=models.get("half_plus_two"), input=pattern, key_field="id") == 0
        assert {row["key"]: row["prediction"] for row in lines(out)} == {10: 7.0, 9: 6.5}
        assert manifest(out)["counts"] == {"read": 2, "predicted": 2, "failed": 0}
