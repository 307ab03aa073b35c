"""Model calls: slices, padding, bisection, memory, trial calls; expected values from NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from saved_models import Models

from transforms.elements.batches import InstanceBatch, PredictionBatch, RowTexts
from transforms.elements.columns import Column, Ragged
from transforms.model.calls import BatchRunner
from transforms.model.locate import read_meta_graphs
from transforms.model.saved_model import check_outputs, select_meta_graph, select_signature
from transforms.model.session import LoadedModel, cant_run
from transforms.rows.codes import Code
from transforms.specs.errors import ModelError
from transforms.specs.models import ModelSpec


def load(folder: str, batch_size: int | None = None) -> LoadedModel:
    signature = select_signature(select_meta_graph(read_meta_graphs(folder), None, folder), None, folder)
    return LoadedModel(ModelSpec(folder, signature, batch_size=batch_size))


def a_batch(**columns: Column) -> InstanceBatch:
    count = len(next(iter(columns.values())))
    data = b"".join(b"%8d" % row for row in range(count))
    starts = np.arange(count) * 8
    return InstanceBatch(
        source="rows.jsonl",
        relative="rows.jsonl",
        columns=columns,
        offsets=starts,
        rows=RowTexts(data, starts, starts + 8),
        keys=pa.array([str(row) for row in range(count)], pa.string()),
        passthrough={},
        failed=[],
        bytes=len(data),
    )


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def failed_keys(predicted: PredictionBatch) -> list[int]:
    return [int(row.key) for row in predicted.failed]


def check_accounts(batch: InstanceBatch, predicted: PredictionBatch) -> None:
    assert sorted([*predicted.instance_rows.tolist(), *failed_keys(predicted)]) == list(range(len(batch)))
    assert predicted.instance_rows.tolist() == sorted(predicted.instance_rows.tolist())
    assert all(len(column) == len(predicted) for column in predicted.outputs.values())


@pytest.mark.parametrize("guilty", [[], [0], [7], [63], [3, 4, 50], list(range(64))])
def test_a_row_that_the_model_refuses_costs_no_other(models: Models, guilty: list[int]) -> None:
    values = np.arange(64, dtype=np.float32)
    values[guilty] += 1000
    batch = a_batch(x=values)
    predicted = BatchRunner(load(models.get("below_hundred"))).run(batch)
    check_accounts(batch, predicted)
    assert failed_keys(predicted) == guilty
    assert {row.code for row in predicted.failed} <= {Code.MODEL_ERROR}
    assert all("below one hundred" in row.message for row in predicted.failed)
    np.testing.assert_array_equal(predicted.outputs["y"], np.delete(values, guilty) + 1)


def test_zeros_that_a_model_refuses_are_no_fault_of_it(models: Models) -> None:
    predicted = BatchRunner(load(models.get("positive"))).run(a_batch(x=floats(1, -1, 2)))
    assert failed_keys(predicted) == [1]
    np.testing.assert_array_equal(predicted.outputs["y"], floats(2, 3))


def test_memory_that_runs_out_halves_the_calls_and_is_remembered(models: Models) -> None:
    model = load(models.get("memory_hungry"), batch_size=1)
    model.spec = ModelSpec(model.spec.location, model.signature, batch_size=16)
    batch = a_batch(x=np.arange(20, dtype=np.float32))
    predicted = BatchRunner(model).run(batch)
    check_accounts(batch, predicted)
    np.testing.assert_array_equal(predicted.outputs["y"], np.arange(20, dtype=np.float32))
    assert model.max_rows <= 4


def test_an_output_without_a_row_an_instance_fails_its_rows(models: Models) -> None:
    batch = a_batch(x=floats(1, -2, 3, 4, 5))
    predicted = BatchRunner(load(models.get("filter"), batch_size=3)).run(batch)
    check_accounts(batch, predicted)
    assert failed_keys(predicted) == [0, 1, 2]
    assert {row.code for row in predicted.failed} == {Code.OUTPUT_ROWS_DIFFER}
    assert "'y': expected 3 rows for 3 instances, found 2 rows" in predicted.failed[0].message
    np.testing.assert_array_equal(predicted.outputs["y"], floats(4, 5))


def test_an_output_of_constant_length_is_the_models_failure(models: Models) -> None:
    with pytest.raises(ModelError, match=r"output 'y' .* gave 3 rows for 2 instances"):
        load(models.get("constant"))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_a_fixed_batch_is_padded_and_the_padding_dropped(models: Models, count: int) -> None:
    values = np.arange(count, dtype=np.float32)
    batch = a_batch(x=Ragged([np.array(value) for value in values]))
    predicted = BatchRunner(load(models.get("fixed_four"))).run(batch)
    check_accounts(batch, predicted)
    np.testing.assert_array_equal(predicted.outputs["y"], values * 3)
    np.testing.assert_array_equal(predicted.outputs["place"], np.arange(count) % 4)


def test_a_row_that_is_the_whole_fixed_tensor_is_called_alone(models: Models) -> None:
    batch = a_batch(x=np.arange(8, dtype=np.float32).reshape(2, 4))
    predicted = BatchRunner(load(models.get("fixed_four"))).run(batch)
    np.testing.assert_array_equal(predicted.outputs["y"], np.arange(8, dtype=np.float32).reshape(2, 4) * 3)


def test_a_scalar_input_beside_rows_is_called_row_by_row(models: Models) -> None:
    batch = a_batch(x=np.arange(6, dtype=np.float32).reshape(3, 2), factor=floats(1, 10, 100))
    predicted = BatchRunner(load(models.get("scalar_and_rows"))).run(batch)
    np.testing.assert_array_equal(predicted.outputs["y"], floats(0, 1, 20, 30, 400, 500).reshape(3, 2))


def test_rows_of_other_length_are_called_apart_and_come_back_in_order(models: Models) -> None:
    rows = [floats(1), floats(1, 2), floats(3), floats(), floats(4, 5)]
    predicted = BatchRunner(load(models.get("open_length"))).run(a_batch(x=Ragged(rows)))
    np.testing.assert_array_equal(predicted.outputs["total"], floats(1, 3, 3, 0, 9))
    doubled = predicted.outputs["doubled"]
    assert isinstance(doubled, Ragged)
    for row, expected in zip(doubled.rows, rows, strict=True):
        np.testing.assert_array_equal(row, 2 * expected)


def test_a_keras_model_whose_session_restores_copies_only_is_loaded_as_a_function(models: Models) -> None:
    predicted = BatchRunner(load(models.get("keras"))).run(a_batch(x=floats(1, 2, 10, 20).reshape(2, 2)))
    np.testing.assert_allclose(predicted.outputs["y"], floats(1, 10) * 2 + floats(2, 20) * 3 + 0.5, rtol=1e-6)


def test_strings_go_in_and_out_as_bytes(models: Models) -> None:
    batch = a_batch(s=np.array(["ä", b"\xff", "b"], object), x=np.array([2**60 + 1, -1, 0], np.int64))
    model = load(models.get("two_outputs"))
    predicted = BatchRunner(model).run(batch)
    assert list(predicted.outputs["upper"]) == ["ä".encode(), b"\xff", b"B"]
    assert predicted.outputs["double"].tolist() == [2**61 + 2, -2, 0]


def test_no_rows_are_no_call(models: Models) -> None:
    predicted = BatchRunner(load(models.get("half_plus_two"))).run(a_batch(x=floats()))
    assert len(predicted) == 0
    assert predicted.failed == []


def test_outputs_with_fixed_rows_are_refused_before_the_start() -> None:
    from transforms.specs.signature import Signature, TensorSpec

    inputs = (TensorSpec("x", "x:0", "float32", (None,)),)
    for shape, words in (((), "one scalar for a whole batch"), ((1, 1), "always has 1 row")):
        with pytest.raises(ModelError, match=words):
            check_outputs(Signature("s", ("serve",), inputs, (TensorSpec("loss", "l:0", "float32", shape),)), None, "m")
    check_outputs(Signature("s", ("serve",), inputs, (TensorSpec("y", "y:0", "float32", (1, 1)),)), 1, "m")


def test_two_inputs_that_are_one_tensor_must_agree(tmp_path: Path) -> None:
    """Only one of the two values can be fed: a row that gives two is that row's failure, never one of the values by chance."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        builder = v1.saved_model.Builder(str(tmp_path / "model"))
        signature = v1.saved_model.predict_signature_def({"one": x, "other": x}, {"y": x * 2.0})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    batch = a_batch(one=floats(1, 2, 3), other=floats(1, 5, 3))
    predicted = BatchRunner(load(str(tmp_path / "model"))).run(batch)
    check_accounts(batch, predicted)
    assert predicted.instance_rows.tolist() == [0, 2]
    np.testing.assert_array_equal(predicted.outputs["y"], floats(2, 6))
    assert [row.offset for row in predicted.failed] == [batch.offsets[1]]
    assert "two inputs of the signature are one tensor of the graph" in predicted.failed[0].message


@pytest.mark.parametrize("command", ["run", "check"])
def test_what_can_not_run_is_refused_before_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """An output that is one scalar for all rows, and an op that no library here has."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    from pipeline.main import main

    module = tf.Module()
    module.function = tf.function(lambda x: {"loss": tf.reduce_sum(x)}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.function.get_concrete_function())
    data = tmp_path / "rows.jsonl"
    data.write_text('{"x": 1}\n')
    arguments = [command, f"--model={tmp_path}/model", f"--input={data}", f"--output={tmp_path}/out"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "output 'loss' of signature serving_default" in captured.err + captured.out
    assert "is one scalar for a whole batch" in captured.err + captured.out
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((tmp_path / "model" / "saved_model.pb").read_bytes())
    for function in saved.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            node.op = {"Sum": "OpOfNobody"}.get(node.op, node.op)
    (tmp_path / "model" / "saved_model.pb").write_bytes(saved.SerializeToString())
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "needs custom ops that are not in this TensorFlow: OpOfNobody" in captured.err + captured.out
    assert not (tmp_path / "out").exists()


def test_a_call_of_the_size_that_the_job_asks_for_is_tried(models: Models) -> None:
    """The model gives three rows whatever it is given: it is right for calls of three, and refused for others."""
    predicted = BatchRunner(load(models.get("constant"), batch_size=3)).run(a_batch(x=floats(*range(6))))
    assert predicted.outputs["y"].tolist() == [0.0] * 6
    with pytest.raises(ModelError):
        load(models.get("constant"))


def test_trial_rows_are_one_value_where_a_dimension_is_free(models: Models) -> None:
    model = load(models.get("open_length"))
    assert [column.shape for column in model.made_up(5)] == [(5, 1)]


def test_what_tells_a_model_that_can_not_run_from_rows_that_it_rejects() -> None:
    import tensorflow as tf

    rejected = tf.errors.InvalidArgumentError(None, None, "assertion failed: [not positive]")
    missing = tf.errors.InvalidArgumentError(None, None, "No OpKernel was registered to support Op 'DecodeVideo'")
    assert not cant_run(rejected)
    assert cant_run(missing)
    assert cant_run(tf.errors.UnimplementedError(None, None, "not on this device"))
