"""Which ops of a SavedModel run when it is loaded and predicts, and which of them may not.

Looked at is what runs, not what lies in the file: the ancestors of the signature's outputs, of the operations that the loader runs
(restoring variables, filling tables), and all of the functions that those call, whether as a call, a branch, a loop or a data set's
function. TensorFlow 2's loader, which is asked where a Session can't be filled, also calls functions of the objects: those that make
and fill tables, and that save and restore what is no variable.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from transforms.model.ops import PYTHON, OpClass, Origin, Place, Text, class_of
from transforms.model.saved_model import MetaGraph
from transforms.specs.errors import ModelError
from transforms.specs.signature import INIT_SIGNATURE, Signature

NOTHING: Mapping[str, Text] = {}
ANYTHING, ASSET, CHECKPOINT = Text(Origin.ANYTHING), Text(Origin.ASSET), Text(Origin.CHECKPOINT)
# Calls whose inputs are the function's arguments, one by one; what branches, loops and data sets give theirs is not followed.
CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall", "TPUPartitionedCall"))
VARIABLE_READS = frozenset(("ReadVariableOp", "VarIsInitializedOp"))
PASSING = frozenset(("Identity", "StopGradient"))
# Grappler may put another function of the same interface in a called one's place (implementation_selector.cc).
INTERFACE = "api_implements"
DT_STRING = 7


@dataclasses.dataclass(frozen=True)
class Use:
    """An op that runs and may not."""

    op: OpClass
    when: str

    def __str__(self) -> str:
        return f"{self.op.op} ({self.op.name}: {self.op.reason})"


def check_ops(graph: MetaGraph, signature: Signature, model: str, allow_unsafe: bool) -> None:
    """Refuse a model whose ``signature`` reaches, or whose loading runs, ops that can harm the machine; ``allow_unsafe`` lets most through.

    Raises:
      ModelError: naming each op, its class and the reason.
    """
    uses = unsafe_uses(graph, signature)
    python = [use for use in uses if use.op.name == PYTHON]
    if python:
        raise ModelError(
            f"{model} can't run here: signature {signature.name} needs {_listed(python)}. Export the model again with its Python functions "
            "(tf.py_function, tf.numpy_function) written as TensorFlow ops, or left out of the signature"
        )
    if uses and not allow_unsafe:
        found = [(when, [use for use in uses if use.when == when]) for when in ("loading", "predicting")]
        raise ModelError(
            f"{model} holds ops that can reach files, other machines or the process itself: "
            f"{' and '.join(f'{when} runs {_listed(some)}' for when, some in found if some)}. If you trust it, give --allow_unsafe_ops=true"
        )


def _listed(uses: Iterable[Use]) -> str:
    return ", ".join(map(str, uses))


def unsafe_uses(graph: MetaGraph, signature: Signature) -> tuple[Use, ...]:
    """Return the ops that ``signature`` reaches, or that loading runs, and that may not run."""
    if signature.name not in graph.uses:
        graph.uses[signature.name] = tuple(_Search(graph).run(signature))
    found: tuple[Use, ...] = graph.uses[signature.name]
    return found


def initializers(meta_graph: Any) -> list[str]:
    """Return the nodes that the loader runs after the variables are restored."""
    collections = meta_graph.collection_def
    names = [name for key in ("saved_model_main_op", "legacy_init_op") if key in collections for name in collections[key].node_list.value]
    if INIT_SIGNATURE in meta_graph.signature_def:
        names += [info.name for _, info in sorted(meta_graph.signature_def[INIT_SIGNATURE].outputs.items())]
    return [name.partition(":")[0] for name in names]


def _fallback_initializers(meta_graph: Any) -> list[str]:
    """Return what TensorFlow 2's loader runs of a model of TensorFlow 1 that has no initializer: Scaffold.default_local_init_op()."""
    from tensorflow.core.framework import variable_pb2

    collections = meta_graph.collection_def
    names = [*collections["table_initializer"].node_list.value] if "table_initializer" in collections else []
    for content in collections["local_variables"].bytes_list.value if "local_variables" in collections else ():
        names.append(variable_pb2.VariableDef.FromString(content).initializer_name)
    return names


class _Search:
    """The search for ops that may not run, through one MetaGraph."""

    def __init__(self, graph: MetaGraph) -> None:
        self.meta_graph, self.assets = graph.proto, graph.assets
        library = self.meta_graph.graph_def.library
        self.functions = {function.signature.name: function for function in library.function}
        self.gradients = {gradient.function_name: gradient.gradient_func for gradient in library.gradient}
        self.interfaces: dict[bytes, list[str]] = {}
        for function in library.function:
            if INTERFACE in function.attr:
                self.interfaces.setdefault(function.attr[INTERFACE].s, []).append(function.signature.name)
        self.nodes = {node.name: node for node in self.meta_graph.graph_def.node}
        self.called: set[tuple[str, tuple[Text, ...]]] = set()
        self.when = ""
        self.found: dict[str, Use] = {}

    def run(self, signature: Signature) -> Iterable[Use]:
        """Return what may not run, in the order in which it was met."""
        saver = self.meta_graph.saver_def
        self.when = "predicting"
        self._walk([spec.tensor for spec in signature.outputs], {_port(spec.tensor): ANYTHING for spec in signature.inputs})
        self.when, self.called = "loading", set()
        assets = {_port(tensor): ASSET for tensor, _ in self.assets}
        self._walk([*initializers(self.meta_graph), *_fallback_initializers(self.meta_graph)], assets, self._asset_reads(assets))
        if saver.restore_op_name:
            self._walk([saver.restore_op_name], {_port(saver.filename_tensor_name): CHECKPOINT})
        self._call_objects(signature.name)
        return self.found.values()

    def _asset_reads(self, assets: Mapping[str, Text]) -> dict[str, Text]:
        """Return what reads the path of an asset from a variable that holds nothing else, as exports of TensorFlow 2 do it.

        Nothing may reach the variable but what fills it with the path, and what reads it, which has to wait for that.
        """
        if not assets:
            return {}
        frame = _Frame(self.nodes, {}, assets)
        handles = [node for node in self._all_nodes() if node.op == "VarHandleOp"]
        labels = Counter(_label(node) for node in handles)
        fills = {node.name: _node(node.input[0]) for node in self.nodes.values() if node.op == "AssignVariableOp" and len(node.input) > 1}
        filled = {fills[name] for name in fills if frame.text(self.nodes[name].input[1]) == ASSET}
        variables = {node.name for node in handles if node.name in filled and labels[_label(node)] == 1}
        for node in self.nodes.values():
            touched = variables.intersection(map(_node, node.input)) if variables else ()
            if touched and node.op not in VARIABLE_READS and not (node.name in fills and frame.text(node.input[1]) == ASSET):
                variables -= set(touched)
        return {
            _port(node.name): ASSET
            for node in self.nodes.values()
            if node.op == "ReadVariableOp" and (variable := _node(node.input[0])) in variables
            if any(fills.get(_node(waited)) == variable for waited in node.input[1:])
        }

    def _all_nodes(self) -> Iterator[Any]:
        yield from self.nodes.values()
        for function in self.functions.values():
            yield from function.node_def

    def _call_objects(self, signature: str) -> None:
        graph = self.meta_graph.object_graph_def
        kinds = dict(enumerate(node.WhichOneof("kind") for node in graph.nodes))
        for place in dict.fromkeys(_called_objects(graph, signature)):
            for name in _concrete_functions(graph.nodes[place]) if place in kinds else ():
                if name not in self.functions or name not in graph.concrete_functions:
                    continue
                captured = [ASSET if kinds.get(other) == "asset" else ANYTHING for other in graph.concrete_functions[name].bound_inputs]
                before = len(self.functions[name].signature.input_arg) - len(captured)
                self._call(name, [ANYTHING] * before + captured)

    def _walk(self, roots: Iterable[str], fed: Mapping[str, Text], known: Mapping[str, Text] = NOTHING) -> None:
        """Look at what ``roots``, tensors or operations of the main graph, are computed from; what is fed is not computed."""
        frame = _Frame(self.nodes, {}, {**fed, **known})
        seen: set[str] = set()
        waiting = list(roots)
        while waiting:
            tensor = waiting.pop()
            name = _node(tensor)
            if _port(tensor) in fed or name in seen or name not in self.nodes:
                continue
            seen.add(name)
            node = self.nodes[name]
            self._look(frame, node)
            waiting += node.input

    def _look(self, frame: _Frame, node: Any) -> None:
        if node.op in self.functions:
            self._call(node.op, self._arguments(frame, node))
            return
        op = class_of(node.op)
        if not op.is_allowed and not (op.where and all(_text(frame, node, place).is_one_of(place.allowed) for place in op.where)):
            self._find(op)
        for attribute in op.calls:
            for name in _functions(node, attribute):
                self._call(name, self._arguments(frame, node) if op.op in CALLS else ())
                if op.op == "SymbolicGradient" and name in self.gradients:
                    self._call(self.gradients[name], ())

    def _find(self, op: OpClass) -> None:
        from tensorflow.python.framework import op_def_registry

        if op_def_registry.get(op.op) is not None:  # else it is missing, which is said elsewhere
            self.found.setdefault(op.op, Use(op, self.when))

    def _arguments(self, frame: _Frame, node: Any) -> tuple[Text, ...]:
        return tuple(frame.text(tensor) for tensor in node.input if not tensor.startswith("^"))

    def _call(self, name: str, arguments: Sequence[Text]) -> None:
        """Look at all of a function's body: an op with a side effect runs though nothing asks for it."""
        function = self.functions.get(name)
        if function is None:
            return
        given = list(arguments) + [ANYTHING] * (len(function.signature.input_arg) - len(arguments))
        texts = tuple(
            text if argument.type == DT_STRING else ANYTHING for argument, text in zip(function.signature.input_arg, given, strict=False)
        )
        if (name, texts) in self.called:
            return
        self.called.add((name, texts))
        bound = {argument.name: text for argument, text in zip(function.signature.input_arg, texts, strict=False)}
        frame = _Frame({node.name: node for node in function.node_def}, bound, {})
        for node in function.node_def:
            self._look(frame, node)
        if INTERFACE in function.attr:
            for other in self.interfaces[function.attr[INTERFACE].s]:
                self._call(other, arguments)


@dataclasses.dataclass(frozen=True)
class _Frame:
    """One graph: the model's, or a function's body with what its arguments hold."""

    nodes: Mapping[str, Any]
    arguments: Mapping[str, Text]
    known: Mapping[str, Text]

    def text(self, tensor: str) -> Text:
        """Return what the text of ``tensor`` is, through what passes it on unchanged."""
        for _ in range(len(self.nodes) + 1):
            name = _node(tensor)
            if _port(tensor) in self.known:
                return self.known[_port(tensor)]
            if name in self.arguments:
                return self.arguments[name]
            node = self.nodes.get(name)
            if node is None or node.op not in PASSING or not node.input:
                return _constant(node)
            tensor = node.input[0]
        return ANYTHING  # a loop


def _constant(node: Any) -> Text:
    if node is None or node.op != "Const" or "value" not in node.attr or node.attr["value"].tensor.dtype != DT_STRING:
        return ANYTHING
    tensor = node.attr["value"].tensor
    if len(tensor.string_val) > 1 or any(dim.size != 1 for dim in tensor.tensor_shape.dim) or tensor.tensor_content:
        return ANYTHING
    return Text(Origin.CONSTANT, b"".join(tensor.string_val).decode("utf-8", "surrogateescape"))


def _text(frame: _Frame, node: Any, place: Place) -> Text:
    if place.input is not None:
        return frame.text(node.input[place.input]) if place.input < len(node.input) else ANYTHING
    if place.attribute in node.attr:
        value = node.attr[place.attribute]
    else:  # left out where it is the default
        from tensorflow.python.framework import op_def_registry

        value = next(attr.default_value for attr in op_def_registry.get(node.op).attr if attr.name == place.attribute)
    texts = [*value.list.s] if value.WhichOneof("value") == "list" else [value.s]
    return Text(Origin.CONSTANT, b" ".join(texts).decode("utf-8", "surrogateescape"))


def _functions(node: Any, attribute: str) -> Iterator[str]:
    if attribute not in node.attr:  # asking for it would put it there
        return
    value = node.attr[attribute]
    yield from (function.name for function in (value.list.func or [value.func]) if function.name)


def _called_objects(graph: Any, signature: str) -> Iterator[int]:
    """Yield the objects whose functions TensorFlow 2's loader calls, or a caller of ``signature`` through it.

    Of an object's children those whose names begin with an underscore: ``_create_resource``, ``_initialize`` and what else
    TensorFlow asks an object for by such a name.
    """
    for number, node in enumerate(graph.nodes):
        yield from (child.node_id for child in node.children if child.local_name.startswith("_"))
        for saved in node.saveable_objects.values():
            yield from (saved.save_function, saved.restore_function)
        for child in node.children if number == 0 else ():
            if child.local_name == "signatures" and 0 <= child.node_id < len(graph.nodes):
                yield from (each.node_id for each in graph.nodes[child.node_id].children if each.local_name == signature)


def _concrete_functions(node: Any) -> list[str]:
    kind = node.WhichOneof("kind")
    if kind == "function":
        return list(node.function.concrete_functions)
    return [node.bare_concrete_function.concrete_function_name] if kind == "bare_concrete_function" else []


def _label(node: Any) -> bytes:
    """Return the name by which a variable is known: nodes of one name are one variable."""
    shared = node.attr["shared_name"].s if "shared_name" in node.attr else b""
    label: bytes = shared or node.name.encode()
    return label


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _port(tensor: str) -> str:
    """Return a tensor of the main graph with the number of its output, which is left out where it is 0."""
    return tensor if ":" in tensor or tensor.startswith("^") else f"{tensor}:0"
