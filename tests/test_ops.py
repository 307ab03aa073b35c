"""The table of what ops can do, and which of them a model reaches; docs/reliability.md lists it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs import lines, run, write_lines
from saved_models import Models

from transforms.model import classify_ops, ops, reach
from transforms.model.locate import locate_model
from transforms.specs.errors import ModelError
from transforms.specs.models import ModelRequest

# Of the ops that were found to reach files or processes though nothing refused them.
HOLES = {
    "Abort", "DebugNanCount", "DebugNumericSummary", "DecodeProtoV2", "DumpTensor", "EncodeProto", "FixedUnigramCandidateSampler",
    "InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "MergeV2Checkpoints", "PrintV2", "RegisterDataset",
    "RegisterDatasetV2", "RemoteCall", "Restore", "RestoreSlice", "RestoreV2", "Save", "SaveSlices", "SaveV2",
}  # fmt: skip


def registered() -> dict[str, Any]:
    """In a process of its own: other tests may load libraries that register more."""
    code = "import sys; from transforms.model import classify_ops; sys.stdout.write(classify_ops.text())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {line.split("\t")[0]: line for line in found.splitlines()[1:]}


def test_the_table_has_each_op_of_this_tensorflow_and_no_other() -> None:
    """A new version of TensorFlow that brings an op, or takes one away, fails here until someone has classed it."""
    table = {line.split("\t")[0]: line for line in ops.TABLE.read_text().splitlines()[1:]}
    found = registered()
    assert sorted(table) == sorted(found)
    assert table == found, "the families were changed: python -m transforms.model.classify_ops"


def test_an_op_that_has_to_be_judged_is_named_until_it_is_in_a_family() -> None:
    defined = {name: op for name, op in classify_ops.registered_ops().items() if name in ("WriteFile", "Abs")}
    with pytest.raises(classify_ops.UnclassedError, match="in no family: WriteFile; in a family, and no op: WriteFiles"):
        list(classify_ops.table(defined, [{"class": "file", "reason": "-", "ops": ["WriteFiles"]}]))
    with pytest.raises(classify_ops.UnclassedError, match="WriteFile has no input and no attribute path"):
        list(classify_ops.table(defined, [{"class": "file", "reason": "-", "where": {"path": [""]}, "ops": ["WriteFile"]}]))


def test_classes_are_known_and_what_was_a_hole_is_refused() -> None:
    table = ops.load_table()
    assert {op.name for op in table.values()} == set(classify_ops.CLASSES)
    assert not [name for name in HOLES if table[name].is_allowed]
    assert all(op.reason for op in table.values())


# --- what a signature reaches ----------------------------------------------------------------------------------------------


def save(path: Path, function: Callable[..., Any], **children: Any) -> Path:
    import tensorflow as tf

    module = tf.Module()
    for name, value in children.items():
        setattr(module, name, value)
    module.function = tf.function(function, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(path), signatures=module.function.get_concrete_function())
    return path


def _effects() -> dict[str, tuple[str, Callable[[Any, str], Any]]]:
    """What a signature does beside its output: the op that has to be named, and how it is made."""
    import tensorflow as tf

    raw = tf.raw_ops
    text = {"tensor_names": ["w"], "shape_and_slices": [""]}

    def table(x: Any, path: str) -> None:
        handle = raw.AnonymousHashTable(key_dtype=tf.string, value_dtype=tf.int64)
        raw.InitializeTableFromTextFileV2(table_handle=handle, filename=path, key_index=-2, value_index=-1)

    def sampler(x: Any, path: str) -> Any:
        return raw.FixedUnigramCandidateSampler(
            true_classes=[[0]], num_true=1, num_sampled=1, unique=False, range_max=1, vocab_file=path, seed=1, seed2=1
        )

    def rows(x: Any, path: str) -> Any:
        write = lambda n: (raw.WriteFile(filename=path, contents="x"), n)[1]  # noqa: E731
        return tf.data.Dataset.range(1).map(write).reduce(tf.constant(0, tf.int64), lambda one, _: one)

    def branch(x: Any, path: str) -> Any:
        return tf.cond(tf.size(x) > 100, lambda: raw.ReadFile(filename=path), lambda: tf.constant(""))

    def loop(x: Any, path: str) -> Any:
        return tf.while_loop(lambda n: n < 1, lambda n: (raw.WriteFile(filename=path, contents="x"), n + 1)[1], [0])

    return {
        "print": ("PrintV2", lambda x, path: raw.PrintV2(input="row", output_stream=f"file://{path}")),
        "save": ("Save", lambda x, path: raw.Save(filename=path, tensor_names=["w"], data=[x])),
        "save v2": ("SaveV2", lambda x, path: raw.SaveV2(prefix=path, tensors=[x], **text)),
        "slices": ("SaveSlices", lambda x, path: raw.SaveSlices(filename=path, tensor_names=["w"], shapes_and_slices=[""], data=[x])),
        "merge": ("MergeV2Checkpoints", lambda x, path: raw.MergeV2Checkpoints(checkpoint_prefixes=[path], destination_prefix=path)),
        "restore": ("RestoreV2", lambda x, path: raw.RestoreV2(prefix=path, dtypes=[tf.float32], **text)),
        "restore v1": ("Restore", lambda x, path: raw.Restore(file_pattern=path, tensor_name="w", dt=tf.float32)),
        "slice": ("RestoreSlice", lambda x, path: raw.RestoreSlice(file_pattern=path, tensor_name="w", shape_and_slice="", dt=tf.float32)),
        "table": ("InitializeTableFromTextFileV2", table),
        "sampler": ("FixedUnigramCandidateSampler", sampler),
        "abort": ("Abort", lambda x, path: raw.Abort(exit_without_error=True)),
        "debug": ("DebugNanCount", lambda x, path: raw.DebugNanCount(input=x, debug_urls=[f"file://{path}"])),
        "summary": ("DebugNumericSummary", lambda x, path: raw.DebugNumericSummary(input=x, debug_urls=[f"file://{path}"])),
        "proto": (
            "DecodeProtoV2",
            lambda x, path: raw.DecodeProtoV2(bytes=[b""], message_type="m", field_names=[], output_types=[], descriptor_source=path),
        ),
        "register": (
            "RegisterDatasetV2",
            lambda x, path: raw.RegisterDatasetV2(
                dataset=tf.data.Dataset.range(1)._variant_tensor, address="a:1", protocol="grpc", external_state_policy=0
            ),
        ),
        "cache": (
            "CacheDatasetV2",
            lambda x, path: tf.data.Dataset.range(1).cache(path).reduce(tf.constant(0, tf.int64), lambda one, _: one),
        ),
        "a data set's function": ("WriteFile", rows),
        "a branch": ("ReadFile", branch),
        "a loop": ("WriteFile", loop),
    }


@pytest.mark.parametrize("effect", [
    "print", "save", "save v2", "slices", "merge", "restore", "restore v1", "slice", "table", "sampler", "abort", "debug", "summary",
    "proto", "register", "cache", "a data set's function", "a branch", "a loop",
])  # fmt: skip
def test_what_a_signature_reaches_is_refused_by_name(tmp_path: Path, effect: str) -> None:
    import tensorflow as tf

    op, effect_of = _effects()[effect]

    def function(x: Any) -> Any:
        effect_of(x, str(tmp_path / "written"))
        return {"y": x}

    model = save(tmp_path / "model", tf.autograph.experimental.do_not_convert(function))
    with pytest.raises(ModelError, match=rf"predicting runs .*{op} \((file|process|network|code): .*--allow_unsafe_ops=true"):
        locate_model(ModelRequest(str(model)))
    assert locate_model(ModelRequest(str(model), allow_unsafe_ops=True)).signature.name == "serving_default"


def test_what_is_harmless_runs(models: Models, tmp_path: Path) -> None:
    """Printing to the terminal, a cache in memory, a sampler without a file, a function that nobody calls."""
    import tensorflow as tf

    def function(x: Any) -> Any:
        tf.raw_ops.PrintV2(input="a row", output_stream="stderr")
        tf.raw_ops.FixedUnigramCandidateSampler(
            true_classes=[[0]], num_true=1, num_sampled=1, unique=False, range_max=1, unigrams=[1.0], seed=1, seed2=1
        )
        three = tf.data.Dataset.range(3).cache().reduce(tf.constant(0, tf.int64), lambda one, other: one + other)
        return {"y": x * tf.cast(three, tf.float32)}

    @tf.function(input_signature=[])
    def uncalled() -> Any:
        tf.io.write_file(str(tmp_path / "written"), "content")
        return 0

    model = save(tmp_path / "model", function, export_debug=uncalled)
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 2, "id": 1}])
    assert run(tmp_path / "out", model=model, input=data, key_field="id") == 0
    assert lines(tmp_path / "out") == [{"key": 1, "prediction": 6.0}]
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("flag", [{}, {"allow_unsafe_ops": "true"}])
@pytest.mark.parametrize("kind", ["py_function", "numpy_function"])
def test_a_python_function_can_not_run_whatever_the_flag_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, flag: dict[str, str]
) -> None:
    import tensorflow as tf

    model = save(tmp_path / "model", lambda x: {"y": tf.ensure_shape(getattr(tf, kind)(lambda n: n, [x], tf.float32), [None])})
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 2}])
    assert run(tmp_path / "out", model=model, input=data, **flag) == 2
    said = capsys.readouterr().err
    assert "a Python function of the process that exported it, which no other process has" in said
    assert "--allow_unsafe_ops" not in said
    assert not (tmp_path / "out").exists()


def test_an_op_that_no_one_has_classed_is_refused(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: op for name, op in ops.load_table().items() if name != "Mul"}
    monkeypatch.setattr(ops, "load_table", lambda: known)
    monkeypatch.setattr(reach, "unsafe_uses", lambda graph, signature: tuple(reach.Search(graph).run(signature)))
    with pytest.raises(ModelError, match=r"Mul \(unknown: it has not been classified\)"):
        locate_model(ModelRequest(models.get("half_plus_two")))


# --- what loading runs -----------------------------------------------------------------------------------------------------


def vocabulary(path: Path, folder: Path) -> Path:
    """A model with a table of words that an asset fills."""
    import tensorflow as tf

    path.write_text("a\nb\n")
    index = tf.lookup.TextFileIndex
    table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(str(path), tf.int64, index.LINE_NUMBER, tf.string, index.WHOLE_LINE), "?"
    )
    return save(folder, lambda x: {"word": table.lookup(tf.cast(x, tf.int64))}, table=table)


def change(model: Path, edit: Callable[[Any], None]) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((model / "saved_model.pb").read_bytes())
    edit(saved.meta_graphs[0])
    (model / "saved_model.pb").write_bytes(saved.SerializeToString())


def test_a_table_is_filled_from_an_asset_and_from_nothing_else(tmp_path: Path) -> None:
    model = vocabulary(tmp_path / "words.txt", tmp_path / "model")
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1, "id": 1}])
    assert run(tmp_path / "out", model=model, input=data, key_field="id") == 0
    assert lines(tmp_path / "out") == [{"key": 1, "prediction": "b"}]
    change(model, _without_assets)
    with pytest.raises(ModelError, match=r"loading runs InitializeTableFromTextFileV2 \(file: reads the file that an input names"):
        locate_model(ModelRequest(str(model)))


def _without_assets(graph: Any) -> None:
    """The path is a constant of the graph then, which may be /etc/passwd."""
    del graph.asset_file_def[:]


def test_an_assets_variable_that_something_else_fills_too_is_no_asset(tmp_path: Path) -> None:
    """The path of an asset goes through a variable; a second assignment to it could be of any path."""
    model = vocabulary(tmp_path / "words.txt", tmp_path / "model")

    def edit(graph: Any) -> None:
        nodes = {node.name: node for node in graph.graph_def.node}
        (variable,) = (nodes[node.input[0]] for node in nodes.values() if node.op == "AssignVariableOp")
        twin = graph.graph_def.node.add()
        twin.CopyFrom(variable)
        twin.name = "twin"
        twin.attr["shared_name"].s = variable.attr["shared_name"].s or variable.name.encode()

    locate_model(ModelRequest(str(model)))
    change(model, edit)
    with pytest.raises(ModelError, match="InitializeTableFromTextFileV2"):
        locate_model(ModelRequest(str(model)))


def test_assets_of_tensorflow_1_are_known_from_their_collection(tmp_path: Path) -> None:
    from tensorflow.core.protobuf import meta_graph_pb2

    model = vocabulary(tmp_path / "words.txt", tmp_path / "model")

    def move(graph: Any) -> None:
        graph.collection_def["saved_model_assets"].any_list.value.add().Pack(graph.asset_file_def[0])
        del graph.asset_file_def[:]

    def leave(graph: Any) -> None:
        (packed,) = graph.collection_def["saved_model_assets"].any_list.value
        asset = meta_graph_pb2.AssetFileDef()
        packed.Unpack(asset)
        asset.filename = "../../words.txt"
        packed.Pack(asset)

    change(model, move)
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1, "id": 1}])
    assert run(tmp_path / "out", model=model, input=data, key_field="id") == 0
    assert lines(tmp_path / "out") == [{"key": 1, "prediction": "b"}]
    one = locate_model(ModelRequest(str(model)), shares=True).structure
    (model / "assets" / "words.txt").write_text("c\nd\n")
    assert locate_model(ModelRequest(str(model)), shares=True).structure != one, "models with other words share nothing"
    change(model, leave)
    with pytest.raises(ModelError, match=r"outside of its folder as its assets: \.\./\.\./words.txt"):
        locate_model(ModelRequest(str(model)))


def test_what_the_initializer_writes_is_refused(tmp_path: Path) -> None:
    """A model of TensorFlow 1 that prints into a file when it is loaded."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        main = tf.raw_ops.PrintV2(input="loaded", output_stream=f"file://{tmp_path}/written")
        builder = v1.saved_model.Builder(str(tmp_path / "model"))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": x + 1.0})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=main)
        builder.save()
    with pytest.raises(ModelError, match=r"loading runs PrintV2 \(file: "):
        locate_model(ModelRequest(str(tmp_path / "model")))
    assert not (tmp_path / "written").exists()


def test_what_objects_run_when_they_are_loaded_is_refused(tmp_path: Path) -> None:
    """A Session does not run it; TensorFlow 2's loader, which is asked where a Session can't be filled, does."""
    import tensorflow as tf

    path = str(tmp_path / "written")

    class Resource(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self) -> Any:
            return tf.raw_ops.AnonymousHashTable(key_dtype=tf.string, value_dtype=tf.int64)

        def _initialize(self) -> None:
            tf.raw_ops.WriteFile(filename=path, contents="loaded")

        def _destroy_resource(self) -> None:
            pass

    resource = Resource()
    resource.resource_handle  # noqa: B018  # made when it is first asked for
    model = save(
        tmp_path / "model",
        lambda x: {"y": x + tf.cast(tf.raw_ops.LookupTableSizeV2(table_handle=resource.resource_handle), tf.float32)},
        resource=resource,
    )
    change(model, _without_initializers)
    Path(path).unlink(missing_ok=True)
    tf.saved_model.load(str(model))
    assert Path(path).read_text() == "loaded"
    with pytest.raises(ModelError, match=r"loading runs WriteFile \(file: "):
        locate_model(ModelRequest(str(model)))


def _without_initializers(graph: Any) -> None:
    graph.signature_def.pop("__saved_model_init_op", None)
    graph.collection_def.pop("saved_model_main_op", None)


def test_a_function_that_takes_anothers_place_is_looked_at(tmp_path: Path) -> None:
    """Grappler may call a function of the same interface in the called one's place."""
    import tensorflow as tf

    called = tf.function(
        lambda x: x + 1.0, input_signature=[tf.TensorSpec([None], tf.float32)], experimental_attributes={"api_implements": "f"}
    )
    other = tf.function(
        lambda x: (tf.raw_ops.WriteFile(filename=str(tmp_path / "written"), contents="x"), x)[1],
        input_signature=[tf.TensorSpec([None], tf.float32)],
        experimental_attributes={"api_implements": "f"},
    )
    model = save(tmp_path / "model", lambda x: {"y": called(x)}, other=other)
    with pytest.raises(ModelError, match="predicting runs WriteFile"):
        locate_model(ModelRequest(str(model)))
