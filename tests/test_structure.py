"""What two models may share: pairs that differ in one hidden thing each share nothing; real exports of one program share."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transforms.model import pool as pool_module
from transforms.model.locate import locate_model
from transforms.model.model_files import ModelChangedError
from transforms.model.pool import ModelPool, is_equal
from transforms.model.restoring import restored_entries
from transforms.model.session import LoadedModel
from transforms.runtime import machine
from transforms.specs.errors import ModelError
from transforms.specs.models import ModelRequest, ModelSpec


def save(folder: Path, make: Callable[[Any], Callable[..., Any]], names: tuple[str, ...] = ("w", "b"), scale: float = 1.0) -> ModelSpec:
    """Exports ``make(module)`` of a module with variables ``names``, made in this order."""
    import tensorflow as tf

    module = tf.Module()
    for name in names:
        setattr(module, name, tf.Variable([scale * (1.0 + "bw".index(name))] * 2, name=name))
    module.function = tf.function(make(module), input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    tf.saved_model.save(module, str(folder), signatures=module.function.get_concrete_function())
    return locate_model(ModelRequest(str(folder)), shares=True)


def plain(module: Any) -> Callable[..., Any]:
    return lambda x: {"y": x * module.w + module.b}


def with_vocabulary(folder: Path, words: list[str]) -> Callable[[Any], Callable[..., Any]]:
    import tensorflow as tf

    path = folder.with_suffix(".txt")
    path.write_text("\n".join(words))

    def make(module: Any) -> Callable[..., Any]:
        initializer = tf.lookup.TextFileInitializer(
            str(path), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        module.table = tf.lookup.StaticHashTable(initializer, -1)
        return lambda x: {"y": x * module.w + tf.cast(module.table.lookup(tf.constant(["b"])), tf.float32) + module.b}

    return make


def with_pairs(values: list[int]) -> Callable[[Any], Callable[..., Any]]:
    import tensorflow as tf

    def make(module: Any) -> Callable[..., Any]:
        module.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant(values, tf.int64)), -1)
        return lambda x: {"y": x * module.w + tf.cast(module.table.lookup(tf.constant(["b"])), tf.float32) + module.b}

    return make


def with_body(factor: float) -> Callable[[Any], Callable[..., Any]]:
    import tensorflow as tf

    @tf.function
    def inner(x: Any) -> Any:
        return x * factor

    return lambda module: lambda x: {"y": inner(x) * module.w + module.b}


def with_matmul(transpose: bool) -> Callable[[Any], Callable[..., Any]]:
    import tensorflow as tf

    def make(module: Any) -> Callable[..., Any]:
        return lambda x: {"y": tf.linalg.matmul(x, [[1.0, 2.0], [3.0, 4.0]], transpose_b=transpose) * module.w + module.b}

    return make


def with_branches(first: float, second: float) -> Callable[[Any], Callable[..., Any]]:
    """Branches of a switch are functions of one attribute, a list."""
    import tensorflow as tf

    def make(module: Any) -> Callable[..., Any]:
        return lambda x: {"y": tf.switch_case(tf.size(x) % 2, [lambda: x * first, lambda: x * second]) * module.w + module.b}

    return make


def maker(kind: str, which: int, folder: Path) -> Callable[[Any], Callable[..., Any]]:
    import tensorflow as tf

    return {
        "constant": lambda module: lambda x: {"y": x * module.w + module.b + (1.0, 2.0)[which]},
        "asset": with_vocabulary(folder, [["a", "b"], ["b", "a"]][which]),
        "table": with_pairs([[5, 6], [5, 7]][which]),
        "signature's tensor": lambda module: lambda x: {"y": (x * module.w, x * module.w + module.b)[which]},
        "op's attribute": with_matmul(bool(which)),
        "function's body": with_body((3.0, 4.0)[which]),
        "a branch of a switch": with_branches((3.0, 4.0)[which], 5.0),
        "order of operands": lambda module: lambda x: {"y": (x * module.w - module.b, module.b - x * module.w)[which]},
        "which variable": lambda module: lambda x: {"y": (x * module.w + module.b, x * module.w + module.w)[which]},
        "dtype": lambda module: lambda x: {"y": tf.cast(x * module.w + module.b, (tf.float32, tf.float64)[which])},
    }[kind]  # fmt: skip


KINDS = (
    "constant",
    "asset",
    "table",
    "signature's tensor",
    "op's attribute",
    "function's body",
    "a branch of a switch",
    "order of operands",
    "which variable",
    "dtype",
)


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_differ_in_one_hidden_thing_do_not_share(kind: str, tmp_path: Path) -> None:
    specs = [save(tmp_path / f"{which}", maker(kind, which, tmp_path / f"{which}")) for which in (0, 1)]
    again = save(tmp_path / "again", maker(kind, 0, tmp_path / "again"), scale=3.0)
    digests = [spec.structure.digest for spec in specs if spec.structure]
    assert len(digests) == 2, "both have a structure"
    assert digests[0] != digests[1]
    assert again.structure is not None
    assert again.structure.digest == digests[0], "another export of the first, with other values, has its structure"
    rows = np.array([[1.0, 2.0], [3.0, -4.0]], np.float32)
    pool = ModelPool()
    for spec in (*specs, again, specs[0], again):
        import tensorflow as tf

        wanted = tf.saved_model.load(spec.location).signatures["serving_default"](x=tf.constant(rows))["y"].numpy()
        np.testing.assert_array_equal(pool.get(spec).call([rows])[0], wanted)


def test_a_saver_that_changes_values_is_not_shared(tmp_path: Path) -> None:
    """A restore operation that does more than to fill variables would be passed over by ours."""
    import tensorflow as tf

    def build(folder: Path, factor: float) -> None:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, [None, 2], "x")
            w = tf.compat.v1.get_variable("w", initializer=[2.0, 3.0], use_resource=True)
            y = tf.identity(x * w, "y")
            session.run(tf.compat.v1.global_variables_initializer())
            saver = tf.compat.v1.train.Saver([w])
            graph = tf.compat.v1.get_default_graph().as_graph_def()
            builder = tf.compat.v1.saved_model.Builder(str(folder))
            signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": y})
            builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, saver=saver)
            builder.save()
            assert graph.node
        if factor != 1.0:
            _scale_restore(folder / "saved_model.pb", factor)

    build(tmp_path / "plain", 1.0)
    build(tmp_path / "scaled", 2.0)
    assert locate_model(ModelRequest(str(tmp_path / "plain")), shares=True).structure is not None
    assert locate_model(ModelRequest(str(tmp_path / "scaled")), shares=True).structure is None


def _scale_restore(path: Path, factor: float) -> None:
    """Puts a multiplication between the checkpoint and the variable."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    graph = saved.meta_graphs[0].graph_def
    assign = next(node for node in graph.node if node.op == "AssignVariableOp" and node.name.startswith("save/"))
    constant = graph.node.add(name="factor", op="Const")
    constant.attr["dtype"].type = 1
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(factor, tf.float32))
    product = graph.node.add(name="product", op="Mul", input=[assign.input[1], "factor"])
    product.attr["T"].type = 1
    assign.input[1] = "product"
    path.write_bytes(saved.SerializeToString())


def test_state_that_no_checkpoint_holds_is_not_shared(tmp_path: Path) -> None:
    import tensorflow as tf

    def counting(module: Any) -> Callable[..., Any]:
        return lambda x: {"y": x * module.w.assign_add([1.0, 1.0]) + module.b}

    def random(module: Any) -> Callable[..., Any]:
        return lambda x: {"y": x * module.w + module.b + tf.random.uniform([2])}

    assert save(tmp_path / "counting", counting).structure is None
    assert save(tmp_path / "random", random).structure is None


def test_variables_are_bound_by_place_not_by_their_names_in_the_checkpoint(tmp_path: Path) -> None:
    """The other export gives its variables to the checkpoint the other way round."""

    def swapped(module: Any) -> Callable[..., Any]:
        return lambda x: {"y": x * module.b + module.w}

    one, other = save(tmp_path / "one", plain), save(tmp_path / "other", swapped)
    assert one.structure is not None
    assert other.structure is not None
    assert one.structure.digest == other.structure.digest
    assert [entry for _, entry in one.structure.variables] == [entry for _, entry in other.structure.variables][::-1]
    rows = np.ones((2, 2), np.float32)
    pool = ModelPool()
    for _ in range(2):
        np.testing.assert_array_equal(pool.get(one).call([rows])[0], np.full((2, 2), 3.0))
        np.testing.assert_array_equal(pool.get(other).call([rows])[0], np.full((2, 2), 3.0))
    third = save(tmp_path / "third", swapped, scale=10.0)
    np.testing.assert_array_equal(pool.get(third).call([2 * rows])[0], np.full((2, 2), 2 * 10.0 + 20.0))


def test_the_least_recently_used_goes_when_memory_is_short(tmp_path: Path) -> None:
    specs = [save(tmp_path / f"{kind}", maker(kind, 0, tmp_path / f"{kind}")) for kind in ("constant", "dtype", "order of operands")]
    rows = np.ones((1, 2), np.float32)
    pool = ModelPool(memory_bytes=1)
    first = [pool.get(spec).call([rows])[0] for spec in specs]
    assert len(pool.loaded) == 1, "one stays, whatever it takes"
    for spec, wanted in zip(specs, first, strict=True):
        np.testing.assert_array_equal(pool.get(spec).call([rows])[0], wanted)


@pytest.mark.parametrize("used", ["itself", "a new model that shares its Session", "a model that shares its Session, again"])
def test_a_model_that_was_used_stays_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: str) -> None:
    """Each model takes ten bytes, and two have room: the third takes the place of the one that was not used since."""
    sizes = itertools.count(0, 10)
    monkeypatch.setattr(machine, "resident_bytes", lambda: next(sizes))
    first, second = save(tmp_path / "first", plain), save(tmp_path / "second", with_body(3.0))
    third, sharer = save(tmp_path / "third", with_body(4.0)), save(tmp_path / "sharer", plain, scale=2.0)
    pool = ModelPool(memory_bytes=25)
    kept = pool.get(first)
    if used.endswith("again"):
        pool.get(sharer)
    dropped = pool.get(second)
    pool.get(first if used == "itself" else sharer)
    pool.get(third)
    assert pool.get(first) is kept
    assert pool.get(second) is not dropped


def test_threads_that_share_a_session_get_their_own_models_values(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    specs = [save(tmp_path / f"{scale}", plain, scale=float(scale)) for scale in range(1, 9)]
    rows = np.ones((3, 2), np.float32)
    pool = ModelPool()

    def call(number: int) -> None:
        scale = number % 8 + 1
        np.testing.assert_array_equal(pool.get(specs[scale - 1]).call([rows])[0], np.full((3, 2), 3.0 * scale))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(400)))


def test_variables_that_are_cut_off_fail_their_model_alone(tmp_path: Path) -> None:
    good, bad = save(tmp_path / "good", plain), save(tmp_path / "bad", plain, scale=5.0)
    third = save(tmp_path / "third", plain, scale=7.0)
    data = tmp_path / "bad" / "variables" / "variables.data-00000-of-00001"
    rows = np.ones((1, 2), np.float32)
    pool = ModelPool()
    assert pool.get(good).call([rows])[0].tolist() == [[3.0, 3.0]]
    shutil.copy(data, tmp_path / "kept")
    data.write_bytes(b"")
    for _ in range(2):  # a Session that was restored by half is nobody's: the second time it would predict with other values
        with pytest.raises(ModelChangedError, match=r"bad changed since this run was planned \(what differs: variables\)"):
            pool.get(bad).call([rows])
    assert pool.get(third).call([rows])[0].tolist() == [[21.0, 21.0]]


def test_a_session_that_was_restored_by_half_belongs_to_no_model(tmp_path: Path) -> None:
    """One variable of a checkpoint has another shape: others are filled before that is seen."""
    import tensorflow as tf

    good, third = save(tmp_path / "good", plain), save(tmp_path / "third", plain, scale=7.0)
    save(tmp_path / "bad", plain, scale=5.0)
    module = tf.Module()
    module.w, module.b = tf.Variable([5.0, 5.0], name="w"), tf.Variable([10.0, 10.0, 10.0], name="b")
    module.function = tf.function(lambda x: {"y": x * module.w + module.b[:2]}, input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    tf.saved_model.save(module, str(tmp_path / "wider"), signatures=module.function.get_concrete_function())
    shutil.copytree(tmp_path / "wider" / "variables", tmp_path / "bad" / "variables", dirs_exist_ok=True)
    bad = locate_model(ModelRequest(str(tmp_path / "bad")), shares=True)
    assert bad.structure is not None
    assert good.structure is not None
    assert bad.structure.digest == good.structure.digest
    rows = np.ones((1, 2), np.float32)
    pool = ModelPool()
    assert pool.get(good).call([rows])[0].tolist() == [[3.0, 3.0]]
    assert pool.get(third).call([rows])[0].tolist() == [[21.0, 21.0]]
    for _ in range(2):
        with pytest.raises(ModelError, match="bad can't be loaded"):
            pool.get(bad).call([rows])
        assert pool.get(third).call([rows])[0].tolist() == [[21.0, 21.0]], "the Session was taken for the third's still"


def test_the_first_two_models_of_a_structure_are_compared_before_they_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two that compute otherwise, should their hash ever be one: here they are given the same by hand."""

    def doubled(module: Any) -> Callable[..., Any]:
        return lambda x: {"y": x * module.w + module.b + module.b}

    one, other = save(tmp_path / "one", plain), save(tmp_path / "other", doubled, scale=2.0)
    assert one.structure is not None
    assert other.structure is not None
    assert one.structure != other.structure
    other = dataclasses.replace(other, structure=dataclasses.replace(other.structure, digest=one.structure.digest))
    third = save(tmp_path / "third", plain, scale=7.0)
    rows = np.ones((1, 2), np.float32)
    pool = ModelPool()
    assert pool.get(one).call([rows])[0].tolist() == [[3.0, 3.0]]
    with caplog.at_level("WARNING", logger="nightshift"):
        assert pool.get(other).call([rows])[0].tolist() == [[8.0, 8.0]]
    assert "have one structure but different outputs: models of this structure are loaded separately" in caplog.text
    assert pool.get(third).call([rows])[0].tolist() == [[21.0, 21.0]]
    assert len(pool.loaded) == 3
    assert not pool.sharing


def test_each_load_is_timed_once_however_often_a_model_is_asked_for(tmp_path: Path) -> None:
    spec = save(tmp_path / "plain", plain)
    pool = ModelPool()
    for _ in range(3):
        pool.get(spec)
    (seconds,) = pool.take_load_seconds()
    assert seconds > 0
    pool.get(spec)
    assert pool.take_load_seconds() == ()


@pytest.mark.parametrize("values", [["a", "b"], [1, 2], [1.0, np.nan], [True, False]])
def test_models_agree_only_where_each_value_does(values: list[Any]) -> None:
    """The comparison by which the first two models of a structure may share, on outputs of every kind."""
    one = np.array(values)
    assert is_equal(one, one.copy()) is True
    other = one.copy()
    other[0] = other[1]
    assert is_equal(one, other) is False
    assert is_equal(one, one[:1]) is False


def test_models_that_share_a_session_go_when_it_goes(tmp_path: Path) -> None:
    """Memory is short: a second structure takes the first one's place, and its sharers load again when they are asked for."""
    plains = [save(tmp_path / f"plain{scale}", plain, scale=float(scale)) for scale in (1, 2, 3)]
    others = [save(tmp_path / f"other{scale}", with_body(3.0), scale=float(scale)) for scale in (1, 2)]
    rows = np.ones((1, 2), np.float32)
    pool = ModelPool(memory_bytes=1)

    def values(specs: list[ModelSpec]) -> list[Any]:
        return [pool.get(spec).call([rows])[0].tolist() for spec in specs]

    first, second = values(plains), values(others)
    assert first == [[[3.0 * scale] * 2] for scale in (1, 2, 3)]
    assert len(pool.loaded) == 1
    assert {model.session for model in pool.sharing.values()} == {model.session for model, _ in pool.loaded.values()}
    assert (values(plains), values(others)) == (first, second)


def test_doubts_load_alone(tmp_path: Path) -> None:
    """Initializers that do more than fill tables, functions with variables of their own, variables that no checkpoint holds, and inputs
    that are one tensor.
    """

    def counted(graph: Any) -> None:
        """The initializer adds to a variable that the checkpoint fills."""
        variable = next(node for node in graph.graph_def.node if node.op == "VarHandleOp")
        one = graph.graph_def.node.add(name="one", op="Const")
        one.attr["dtype"].type = 1
        one.attr["value"].tensor.CopyFrom(tensor_proto())
        add = graph.graph_def.node.add(name="add", op="AssignAddVariableOp", input=[variable.name, "one"])
        add.attr["dtype"].type = 1
        main = graph.graph_def.node.add(name="main", op="NoOp", input=["^add"])
        graph.collection_def["saved_model_main_op"].node_list.value.append(main.name)

    def assigned(graph: Any) -> None:
        """As before, by an assignment, which initializers may make to variables for the paths of assets."""
        counted(graph)
        next(node for node in graph.graph_def.node if node.name == "add").op = "AssignVariableOp"

    def owned(graph: Any) -> None:
        """A function makes a variable."""
        name = next(node.attr["f"].func.name for node in graph.graph_def.node if node.op == "StatefulPartitionedCall")
        function = next(each for each in graph.graph_def.library.function if each.signature.name == name)
        handle = function.node_def.add(name="own", op="VarHandleOp")
        handle.attr["dtype"].type = 1
        handle.attr["shape"].shape.dim.add(size=2)

    def unsaved(graph: Any) -> None:
        """The signature reads a variable that the restore operation does not fill."""
        twin = graph.graph_def.node.add()
        call = next(node for node in graph.graph_def.node if node.op == "StatefulPartitionedCall")
        variable = next(node for node in graph.graph_def.node if node.name == call.input[1])
        twin.CopyFrom(variable)
        twin.name, twin.attr["shared_name"].s = "twin", b"twin"
        call.input[1] = "twin"

    def sliced(graph: Any) -> None:
        """A variable is a slice of an entry of the checkpoint, as those of partitioned variables are."""
        nodes = [*graph.graph_def.node, *(node for function in graph.graph_def.library.function for node in function.node_def)]
        restore = next(node for node in nodes if node.op == "RestoreV2")
        name = restore.input[2].partition(":")[0]
        slices = next(node for node in nodes if node.name == name).attr["value"].tensor
        count = slices.tensor_shape.dim[0].size
        del slices.string_val[:]
        slices.string_val.extend([b"2 0,2"] * count)

    def computed(graph: Any) -> None:
        """The names of the checkpoint's entries are computed."""
        nodes = [*graph.graph_def.node, *(node for function in graph.graph_def.library.function for node in function.node_def)]
        restore = next(node for node in nodes if node.op == "RestoreV2")
        name = restore.input[1].partition(":")[0]
        next(node for node in nodes if node.name == name).op = "StringLower"

    def called(graph: Any) -> None:
        """A function, called by its name as TensorFlow 1 does, keeps state that no checkpoint holds."""
        call = next(node for node in graph.graph_def.node if node.op == "StatefulPartitionedCall")
        function = next(each for each in graph.graph_def.library.function if each.signature.name == call.attr["f"].func.name)
        keeper = function.node_def.add(name="keeper", op="MutableHashTableV2")
        keeper.attr["key_dtype"].type, keeper.attr["value_dtype"].type = 7, 1
        call.op = function.signature.name
        del call.attr["f"], call.attr["config_proto"]

    def twice(graph: Any) -> None:
        """Two inputs of the signature are one tensor."""
        graph.signature_def["serving_default"].inputs["z"].CopyFrom(graph.signature_def["serving_default"].inputs["x"])

    for edit in (counted, assigned, owned, unsaved, sliced, computed, called, twice):
        spec = save(tmp_path / edit.__name__, plain)
        assert spec.structure is not None
        change(tmp_path / edit.__name__, edit)
        assert locate_model(ModelRequest(spec.location), shares=True).structure is None, edit.__doc__


def test_names_of_entries_may_pass_through_other_nodes(tmp_path: Path) -> None:
    def pass_through(graph: Any) -> None:
        for nodes in (graph.graph_def.node, *(function.node_def for function in graph.graph_def.library.function)):
            for restore in [node for node in nodes if node.op == "RestoreV2"]:
                node = nodes.add(name="passing", op="Identity", input=[restore.input[1]])
                node.attr["T"].type = 7
                restore.input[1] = "passing:output:0" if nodes is not graph.graph_def.node else "passing"
                edited.append(restore.name)

    spec = save(tmp_path / "model", plain)
    edited: list[str] = []
    change(tmp_path / "model", pass_through)
    assert edited
    found = locate_model(ModelRequest(spec.location), shares=True).structure
    assert found is not None
    assert spec.structure is not None
    assert found.variables == spec.structure.variables


def test_models_that_reject_made_up_rows_share_all_the_same(tmp_path: Path) -> None:
    import tensorflow as tf

    def picky(module: Any) -> Callable[..., Any]:
        def predict(x: Any) -> Any:
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x > 0), ["not positive"])]):
                return {"y": x * module.w + module.b}

        return predict

    specs = [save(tmp_path / f"{scale}", picky, scale=float(scale)) for scale in (1, 2)]
    pool = ModelPool()
    assert [pool.get(spec).call([np.ones((1, 2), np.float32)])[0].tolist() for spec in specs] == [[[3.0, 3.0]], [[6.0, 6.0]]]
    assert len(pool.sharing) == 1


def test_the_pool_keeps_so_many_models_that_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "KEPT_SHARING", 1)
    specs = [save(tmp_path / f"{scale}", plain, scale=float(scale)) for scale in (1, 2, 3)]
    pool = ModelPool()
    for _ in range(2):
        for scale, spec in enumerate(specs, 1):
            assert pool.get(spec).call([np.ones((1, 2), np.float32)])[0].tolist() == [[3.0 * scale] * 2]
            assert len(pool.sharing) <= 1


def test_a_restore_operation_may_name_an_assignment_twice() -> None:
    """As one of TensorFlow 1 does, whose assignments are nodes of the graph."""
    from tensorflow.core.protobuf import meta_graph_pb2

    meta_graph = meta_graph_pb2.MetaGraphDef()
    nodes = meta_graph.graph_def.node
    for name, values in (("names", [b"a", b"b"]), ("slices", [b"", b""])):
        tensor = nodes.add(name=name, op="Const").attr["value"].tensor
        tensor.tensor_shape.dim.add(size=2)
        tensor.string_val.extend(values)
    nodes.add(name="restore", op="RestoreV2", input=["file", "names", "slices"])
    nodes.add(name="file", op="Placeholder")
    for index, name in enumerate("ab"):
        nodes.add(name=name, op="VarHandleOp")
        nodes.add(name=f"assign_{name}", op="AssignVariableOp", input=[name, f"restore:{index}"])
    nodes.add(name="all", op="NoOp", input=["^assign_a", "^assign_b", "^assign_b"])
    meta_graph.saver_def.restore_op_name = "all"
    assert restored_entries(meta_graph) == {"a": "a", "b": "b"}


def test_an_op_that_nothing_depends_on_is_no_difference(tmp_path: Path) -> None:
    def add_dead(graph: Any) -> None:
        for function in graph.graph_def.library.function:
            node = function.node_def.add(name="dead", op="Const")
            node.attr["dtype"].type = 1
            node.attr["value"].tensor.CopyFrom(tensor_proto())

    spec = save(tmp_path / "model", plain)
    change(tmp_path / "model", add_dead)
    assert spec.structure is not None
    assert locate_model(ModelRequest(spec.location), shares=True).structure == spec.structure


@pytest.mark.parametrize(
    ("what", "advice"),
    [
        ("no variables", "copy the whole folder again"),
        ("variables cut off", "copy the whole folder again"),
        ("op", "custom op that is not installed here"),
        ("attribute", "can't be loaded: type attr not found: T$"),
    ],
)
def test_a_model_that_can_not_be_loaded_says_what_to_do(tmp_path: Path, what: str, advice: str) -> None:
    def rename(graph: Any) -> None:
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                node.op = "NoSuchOp" if node.op == "Mul" else node.op

    def drop(graph: Any) -> None:
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                if node.op == "Mul":
                    del node.attr["T"]

    spec = save(tmp_path / "model", plain)
    if what == "op":
        change(tmp_path / "model", rename)
    if what == "attribute":
        change(tmp_path / "model", drop)
    for path in (tmp_path / "model" / "variables").iterdir():
        if what == "no variables":
            path.unlink()
        elif what == "variables cut off":
            path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(ModelError, match=advice):
        LoadedModel(dataclasses.replace(spec, structure=None, fingerprint=""))


def tensor_proto() -> Any:
    import tensorflow as tf

    return tf.make_tensor_proto([1.0, 1.0], tf.float32)


def change(model: Path, edit: Callable[[Any], None]) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((model / "saved_model.pb").read_bytes())
    edit(saved.meta_graphs[0])
    (model / "saved_model.pb").write_bytes(saved.SerializeToString())
