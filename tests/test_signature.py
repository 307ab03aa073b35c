"""Signatures read from protobufs: made here field by field, and those of real SavedModels."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from transforms.model.locate import find_version, read_meta_graphs
from transforms.model.reach import unsafe_uses
from transforms.model.saved_model import MetaGraph, check_outputs, parse_saved_model, select_meta_graph, select_signature
from transforms.specs.errors import ModelError
from transforms.specs.signature import Batching, Signature, TensorSpec

POOL = Path(__file__).resolve().parents[2] / "shared" / "pool" / "models"
DT_FLOAT, DT_STRING, DT_RESOURCE, DT_VARIANT, DT_INT64, DT_HALF, DT_BFLOAT16, DT_UINT64 = 1, 7, 20, 21, 9, 19, 14, 23

Dims = tuple[int, ...] | None


def tensor(info: Any, name: str, dtype: int, dims: Dims) -> None:
    info.name, info.dtype = name, dtype
    if dims is None:
        info.tensor_shape.unknown_rank = True
        return
    for size in dims:
        info.tensor_shape.dim.add().size = size


def add_graph(
    saved: Any,
    tags: tuple[str, ...] = ("serve",),
    signatures: tuple[str, ...] = ("serving_default",),
    ops: tuple[str, ...] = ("Placeholder",),
) -> Any:
    graph = saved.meta_graphs.add()
    graph.meta_info_def.tags.extend(tags)
    for op in ops:
        graph.graph_def.node.add(name=op.lower(), op=op)
    for name in signatures:
        tensor(graph.signature_def[name].inputs["x"], "x:0", DT_FLOAT, (-1, 3))
        tensor(graph.signature_def[name].outputs["y"], "y:0", DT_FLOAT, (-1,))
    return graph


def new_saved_model() -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel(saved_model_schema_version=1)


def graphs_of(*graphs: dict[str, Any]) -> tuple[MetaGraph, ...]:
    saved = new_saved_model()
    for graph in graphs or ({},):
        add_graph(saved, **graph)
    return parse_saved_model(saved.SerializeToString(), "m/saved_model.pb")


# --- which signature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "asked", "found"),
    [
        (("serving_default",), None, "serving_default"),
        (("serving_default", "other"), None, "serving_default"),
        (("predict",), None, "predict"),
        (("tensorflow/serving/regress",), None, "tensorflow/serving/regress"),
        (("predict", "__saved_model_init_op"), None, "predict"),
        (("serving_default", "other"), "other", "other"),
    ],
)
def test_the_signature_that_is_called(there: tuple[str, ...], asked: str | None, found: str) -> None:
    (graph,) = graphs_of({"signatures": there})
    assert select_signature(graph, asked, "m").name == found


@pytest.mark.parametrize(
    ("there", "asked", "says"),
    [
        (("add", "get"), None, "several signatures and none is serving_default; give --signature_name, one of: add, get"),
        (("predict",), "serving_default", "no signature 'serving_default'; --signature_name can be: predict"),
        (("predict", "__saved_model_init_op"), "__saved_model_init_op", "no signature '__saved_model_init_op'"),
        (("__saved_model_init_op",), None, "no serving signature"),
        ((), None, "no serving signature"),
    ],
)
def test_signatures_that_are_not_there(there: tuple[str, ...], asked: str | None, says: str) -> None:
    (graph,) = graphs_of({"signatures": there})
    with pytest.raises(ModelError, match=says):
        select_signature(graph, asked, "m")


# --- which MetaGraph -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "asked", "found"),
    [
        ((("serve",),), None, ("serve",)),
        ((("train",), ("serve",)), None, ("serve",)),
        ((("serve", "gpu"), ("serve",)), None, ("serve",)),
        ((("serve", "gpu"),), None, ("gpu", "serve")),
        ((("train",), ("gpu", "serve")), ("serve",), ("gpu", "serve")),
        ((("serve", "gpu"), ("serve",)), ("gpu", "serve"), ("gpu", "serve")),
        ((("eval",), ("serve",)), ("eval",), ("eval",)),
    ],
)
def test_the_meta_graph_by_its_tags(there: tuple[tuple[str, ...], ...], asked: tuple[str, ...] | None, found: tuple[str, ...]) -> None:
    assert select_meta_graph(graphs_of(*({"tags": tags} for tags in there)), asked, "m").tags == found


@pytest.mark.parametrize(
    ("there", "asked", "says"),
    [
        ((("eval",),), None, "no MetaGraph with the tags serve. Its tags are: eval. Give one of them as --tags"),
        ((("serve", "gpu"), ("serve", "tpu")), None, "several MetaGraphs with the tags serve. Its tags are: gpu,serve; serve,tpu"),
        ((("serve",),), ("serve", "gpu"), "no MetaGraph with the tags gpu,serve"),
        (((),), None, r"Its tags are: \(none\)"),
    ],
)
def test_tags_that_are_not_there(there: tuple[tuple[str, ...], ...], asked: tuple[str, ...] | None, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        select_meta_graph(graphs_of(*({"tags": tags} for tags in there)), asked, "m")


# --- inputs and outputs ----------------------------------------------------------------------------------------------------


def test_every_dtype_and_shape_and_references_to_variables() -> None:
    saved = new_saved_model()
    graph = add_graph(saved, signatures=())
    definition = graph.signature_def["s"]
    inputs: tuple[tuple[str, int, Dims], ...] = (
        ("b", DT_INT64, (-1,)),
        ("a", DT_STRING, None),
        ("c", DT_HALF, (-1, 2, -1)),
        ("d", DT_BFLOAT16, ()),
        ("e", DT_FLOAT + 100, (4,)),
        ("f", DT_UINT64, (0,)),
    )
    for alias, dtype, dims in inputs:
        tensor(definition.inputs[alias], f"{alias}:0", dtype, dims)
    tensor(definition.outputs["y"], "y:1", DT_FLOAT + 100, (-1,))
    signature = select_signature(parse_saved_model(saved.SerializeToString(), "saved_model.pb")[0], None, "m")
    assert [(spec.name, spec.tensor, spec.dtype, spec.shape) for spec in signature.inputs] == [
        ("a", "a:0", "string", None),
        ("b", "b:0", "int64", (None,)),
        ("c", "c:0", "float16", (None, 2, None)),
        ("d", "d:0", "bfloat16", ()),
        ("e", "e:0", "float32", (4,)),
        ("f", "f:0", "uint64", (0,)),
    ]
    assert signature.outputs == (TensorSpec("y", "y:1", "float32", (None,)),)
    assert [str(spec) for spec in signature.inputs[:4]] == ["a: string[?]", "b: int64[?]", "c: float16[?,2,?]", "d: bfloat16[]"]


@pytest.mark.parametrize(
    ("dtype", "says"), [(DT_RESOURCE, "DT_RESOURCE"), (DT_VARIANT, "DT_VARIANT"), (0, "DT_INVALID"), (77, "number 77")]
)
def test_dtypes_that_no_file_holds(dtype: int, says: str) -> None:
    saved = new_saved_model()
    tensor(add_graph(saved).signature_def["serving_default"].inputs["r"], "r:0", dtype, (-1,))
    with pytest.raises(ModelError, match=f"input 'r' of signature serving_default has dtype {says}"):
        select_signature(parse_saved_model(saved.SerializeToString(), "saved_model.pb")[0], None, "m")


def test_signatures_that_rows_can_not_feed() -> None:
    for field, says in (("inputs", "has no input"), ("outputs", "has no output")):
        saved = new_saved_model()
        getattr(add_graph(saved).signature_def["serving_default"], field).clear()
        with pytest.raises(ModelError, match=says):
            select_signature(parse_saved_model(saved.SerializeToString(), "saved_model.pb")[0], None, "m")
    saved = new_saved_model()
    add_graph(saved).signature_def["serving_default"].inputs["s"].coo_sparse.values_tensor_name = "v:0"
    with pytest.raises(ModelError, match=r"input 's' .* is sparse or composite"):
        select_signature(parse_saved_model(saved.SerializeToString(), "saved_model.pb")[0], None, "m")
    saved = new_saved_model()
    del add_graph(saved).signature_def["serving_default"].inputs["x"].tensor_shape.dim[:]
    saved.meta_graphs[0].signature_def["serving_default"].inputs["x"].tensor_shape.dim.add().size = 0
    with pytest.raises(ModelError, match="takes zero rows a call"):
        select_signature(parse_saved_model(saved.SerializeToString(), "saved_model.pb")[0], None, "m")


Shape = tuple[int | None, ...] | None


def signature(*inputs: Shape, outputs: tuple[Shape, ...] = ((None,),)) -> Signature:
    return Signature(
        "s", ("serve",), tuple(TensorSpec(f"x{place}", "x:0", "float32", shape) for place, shape in enumerate(inputs)),
        tuple(TensorSpec(f"y{place}", "y:0", "float32", shape) for place, shape in enumerate(outputs)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "batching", "row_shapes"),
    [
        (((None, 3), (None,)), Batching.FREE, (((3,),), ((),))),
        ((None,), Batching.FREE, ((None,),)),
        (((None, None), None), Batching.FREE, (((None,),), (None,))),
        (((1, 10), (1,)), Batching.FIXED, (((10,), (1, 10)), ((), (1,)))),
        (((2,),), Batching.FIXED, (((), (2,)),)),
        (((),), Batching.ROWWISE, (((),),)),
        (((2, 2), (3,)), Batching.ROWWISE, (((2, 2),), ((3,),))),
        (((None, 3), (4,)), Batching.ROWWISE, (((3,),), ((4,),))),
        (((2,), ()), Batching.ROWWISE, (((2,),), ((),))),
        (((2,), None), Batching.ROWWISE, (((2,),), (None,))),
    ],
)
def test_how_rows_are_fed(inputs: tuple[Shape, ...], batching: Batching, row_shapes: tuple[tuple[Shape, ...], ...]) -> None:
    sig = signature(*inputs)
    assert sig.batching is batching
    assert tuple(sig.row_shapes(spec) for spec in sig.inputs) == row_shapes
    if batching is Batching.FIXED:
        assert sig.fixed_rows == inputs[0][0]  # type: ignore[index]


def test_outputs_without_one_row_an_instance_are_refused() -> None:
    free: tuple[Shape, ...] = ((None, 2),)
    check_outputs(signature(*free, outputs=((None,), None, (None, 5))), None, "m")
    with pytest.raises(ModelError, match=r"output 'y1' .* is one scalar"):
        check_outputs(signature(*free, outputs=((None,), ())), None, "m")
    with pytest.raises(ModelError, match="always has 5 row"):
        check_outputs(signature(*free, outputs=((5, 2),)), None, "m")
    check_outputs(signature(*free, outputs=((5, 2),)), 5, "m")
    with pytest.raises(ModelError, match="always has 5 row"):
        check_outputs(signature(*free, outputs=((5, 2),)), 4, "m")
    check_outputs(signature((1, 3), outputs=((), (7,))), None, "m")


def test_row_bytes_grow_with_the_tensors() -> None:
    assert signature((None, 64), outputs=((None, 36),)).row_bytes == 4 * 100
    assert signature(None, outputs=((None,),)).row_bytes == 8


# --- variables ----------------------------------------------------------------------------------------------


def test_variables_are_told_from_a_graph_without_them() -> None:
    saved = new_saved_model()
    graph = add_graph(saved, ops=("VarHandleOp",))
    assert not parse_saved_model(saved.SerializeToString(), "saved_model.pb")[0].has_variables, "nothing restores it"
    graph.saver_def.restore_op_name = "save/restore_all"
    assert parse_saved_model(saved.SerializeToString(), "saved_model.pb")[0].has_variables


# --- files that are no SavedModel ------------------------------------------------------------------------------------------


def test_text_protobufs() -> None:
    from google.protobuf import text_format

    saved = new_saved_model()
    add_graph(saved, signatures=("predict",))
    text = text_format.MessageToString(saved).encode()
    assert select_signature(parse_saved_model(text, "m/saved_model.pbtxt")[0], None, "m").name == "predict"
    for broken in (text[: len(text) // 2], b"meta_graphs {", b"\xff\xfe", saved.SerializeToString()):
        with pytest.raises(ModelError, match=r"saved_model\.pbtxt is damaged"):
            parse_saved_model(broken, "m/saved_model.pbtxt")


def test_every_truncation_is_told() -> None:
    saved = new_saved_model()
    add_graph(saved)
    whole = saved.SerializeToString()
    for length in range(len(whole)):
        with pytest.raises(ModelError, match=r"m/saved_model\.pb (is damaged|is empty|holds no MetaGraph)"):
            parse_saved_model(whole[:length], "m/saved_model.pb")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "holds a web page"),
        (b"\n\n  <html lang='en'>", "holds a web page"),
        (b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>AccessDenied</Code></Error>", "holds a web page"),
        (b'{"error": {"code": 403}}', "is damaged"),
        (b"\x1f\x8b\x08\x00 a gzip file", "is damaged"),
        (b"PK\x03\x04 a zip file", "is damaged"),
        (b"\x08\x01", "holds no MetaGraph"),
    ],
)
def test_files_that_are_something_else(content: bytes, says: str) -> None:
    with pytest.raises(ModelError, match=f"m/saved_model.pb {says}"):
        parse_saved_model(content, "m/saved_model.pb")


# --- real models -----------------------------------------------------------------------------------------------------------

NEEDS_POOL = pytest.mark.skipif(not POOL.is_dir(), reason="the pool of real models (../shared/pool) is not beside this checkout")
REAL = {
    "breast_cancer_keras_export": ("serving_default", ["keras_tensor_6: float32[?,30]"], ["output_0: float32[?,1]"]),
    "scalar_two_in_two_out": ("serving_default", ["x: int32[]", "y: int32[]"], ["output_0: int32[]", "output_1: int32[]"]),
    "fixed_1x10": ("serving_default", ["x: float32[1,10]", "y: float32[1,10]"], ["z: float32[1,10]"]),
    "t2o_regression": ("serving_default", ["X: float32[?]"], ["pred: float32[?]"]),
    "digits_float16": ("serving_default", ["pixels: float16[?,64]"], ["digit: int64[?]", "is_even: bool[?]", "logits: float16[?,10]"]),
    "cloudml_babyweight_estimator": ("predict", None, ["predictions: float32[?,1]"]),
    "half_plus_two_2_versions": ("serving_default", ["x: float32[?,1]"], ["y: float32[?,1]"]),
}


@NEEDS_POOL
@pytest.mark.parametrize("name", list(REAL))
def test_signatures_of_real_models(name: str) -> None:
    """As the pool's own list has them, read with TensorFlow's saved_model_cli."""
    expected, inputs, outputs = REAL[name]
    folder, _ = find_version(str(POOL / name), None)
    found = select_signature(select_meta_graph(read_meta_graphs(folder), None, name), None, name)
    assert found.name == expected
    assert inputs is None or [str(spec) for spec in found.inputs] == inputs
    assert [str(spec) for spec in found.outputs] == outputs


@NEEDS_POOL
def test_real_models_reach_no_unsafe_op() -> None:
    checked = 0
    for path in sorted(POOL.iterdir()):
        if not path.name.startswith(("corrupt", "session_bundle")):
            folder, _ = find_version(str(path), None)
            for graph in read_meta_graphs(folder):
                for name in graph.signatures:
                    with contextlib.suppress(ModelError):
                        found = select_signature(graph, name, path.name)
                        assert not unsafe_uses(graph, found), path.name
                        checked += 1
    assert checked > 30
