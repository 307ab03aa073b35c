"""The ops of a SavedModel that run when it is loaded and when it predicts, and those of them that may not run.

Only ops that run are examined, not all in the file: the ancestors of the signature's outputs, of the operations that the loader runs
(restoring variables, filling tables), and all functions that those call, be it as a call, a branch, a loop or a data set's
function. TensorFlow 2's loader, which is used if a Session can't be filled, also calls functions of the model's objects: those that make
and fill tables, and those that save and restore other things than variables.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from transforms.model.ops import PYTHON, Condition, OpClass, Origin, Text, class_of
from transforms.model.saved_model import MetaGraph
from transforms.specs.errors import ModelError
from transforms.specs.signature import INIT_SIGNATURE, Signature

NOTHING: Mapping[str, Text] = {}
ANYTHING, ASSET, CHECKPOINT = Text(Origin.ANYTHING), Text(Origin.ASSET), Text(Origin.CHECKPOINT)
# Calls whose inputs are the function's arguments, one by one; the arguments of branches, loops and data sets are not followed.
CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall", "TPUPartitionedCall"))
VARIABLE_READS = frozenset(("ReadVariableOp", "VarIsInitializedOp"))
PASSING = frozenset(("Identity", "StopGradient"))
# Grappler may replace a called function by another of the same interface (implementation_selector.cc).
INTERFACE = "api_implements"
DT_STRING = 7


@dataclasses.dataclass(frozen=True)
class Use:
    """An op that would run, while loading or predicting, and may not."""

    op: OpClass
    when: str

    def __str__(self) -> str:
        return f"{self.op.op} ({self.op.name}: {self.op.reason})"


def check_ops(graph: MetaGraph, signature: Signature, model: str, allow_unsafe: bool) -> None:
    """Refuse a model whose ``signature`` or loading runs ops that can harm the machine; ``allow_unsafe`` allows all but Python functions.

    Raises:
      ModelError: such ops run; the message names each op, its class and the reason.
    """
    uses = unsafe_uses(graph, signature)
    python = [use for use in uses if use.op.name == PYTHON]
    if python:
        raise ModelError(
            f"{model} can't run here: signature {signature.name} needs {_listed(python)}. Export the model again with its Python functions "
            "(tf.py_function, tf.numpy_function) written as TensorFlow ops, or left out of the signature"
        )
    if uses and not allow_unsafe:
        phases = [(when, [use for use in uses if use.when == when]) for when in ("loading", "predicting")]
        raise ModelError(
            f"{model} holds ops that can reach files, other machines or the process itself: "
            f"{' and '.join(f'{when} runs {_listed(ops)}' for when, ops in phases if ops)}. If you trust it, give --allow_unsafe_ops=true"
        )


def _listed(uses: Iterable[Use]) -> str:
    return ", ".join(map(str, uses))


def unsafe_uses(graph: MetaGraph, signature: Signature) -> tuple[Use, ...]:
    """Return the ops that ``signature`` reaches, or that loading runs, and that may not run."""
    if signature.name not in graph.uses:
        graph.uses[signature.name] = tuple(Search(graph).run(signature))
    uses: tuple[Use, ...] = graph.uses[signature.name]
    return uses


def initializers(meta_graph: Any) -> list[str]:
    """Return the nodes that the loader runs after the variables are restored."""
    collections = meta_graph.collection_def
    names = [name for key in ("saved_model_main_op", "legacy_init_op") if key in collections for name in collections[key].node_list.value]
    if INIT_SIGNATURE in meta_graph.signature_def:
        names += [info.name for _, info in sorted(meta_graph.signature_def[INIT_SIGNATURE].outputs.items())]
    return [name.partition(":")[0] for name in names]


def _fallback_initializers(meta_graph: Any) -> list[str]:
    """Return the nodes that TensorFlow 2's loader runs for a TensorFlow 1 model without initializer: Scaffold.default_local_init_op()."""
    from tensorflow.core.framework import variable_pb2

    collections = meta_graph.collection_def
    names = [*collections["table_initializer"].node_list.value] if "table_initializer" in collections else []
    for content in collections["local_variables"].bytes_list.value if "local_variables" in collections else ():
        names.append(variable_pb2.VariableDef.FromString(content).initializer_name)
    return names


class Search:
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
        self.uses: dict[str, Use] = {}

    def run(self, signature: Signature) -> Iterable[Use]:
        """Return the ops that may not run, in the order in which the search meets them."""
        saver = self.meta_graph.saver_def
        self.when = "predicting"
        self._walk([spec.tensor for spec in signature.outputs], {_port(spec.tensor): ANYTHING for spec in signature.inputs})
        self.when, self.called = "loading", set()
        assets = {_port(tensor): ASSET for tensor, _ in self.assets}
        self._walk([*initializers(self.meta_graph), *_fallback_initializers(self.meta_graph)], assets, self._asset_reads(assets))
        if saver.restore_op_name:
            self._walk([saver.restore_op_name], {_port(saver.filename_tensor_name): CHECKPOINT})
        self._call_objects(signature.name)
        return self.uses.values()

    def _asset_reads(self, assets: Mapping[str, Text]) -> dict[str, Text]:
        """Return the reads of variables that hold an asset's path and nothing else, as exports of TensorFlow 2 have them.

        Only two kinds of ops may use such a variable: the one that fills it with the path, and reads that wait for that.
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
        for number in dict.fromkeys(_called_objects(graph, signature)):
            for name in _concrete_functions(graph.nodes[number]) if number in kinds else ():
                if name not in self.functions or name not in graph.concrete_functions:
                    continue
                captured = [ASSET if kinds.get(other) == "asset" else ANYTHING for other in graph.concrete_functions[name].bound_inputs]
                before = len(self.functions[name].signature.input_arg) - len(captured)
                self._call(name, [ANYTHING] * before + captured)

    def _walk(self, roots: Iterable[str], fed: Mapping[str, Text], known: Mapping[str, Text] = NOTHING) -> None:
        """Examine the ops that ``roots``, tensors or operations of the main graph, are computed from, up to ``fed`` tensors."""
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
        if not op.is_allowed and not (op.where and all(_text(frame, node, one).is_one_of(one.allowed) for one in op.where)):
            self._find(op)
        for attribute in op.calls:
            for name in _functions(node, attribute):
                self._call(name, self._arguments(frame, node) if op.op in CALLS else ())
                if op.op == "SymbolicGradient" and name in self.gradients:
                    self._call(self.gradients[name], ())

    def _find(self, op: OpClass) -> None:
        from tensorflow.python.framework import op_def_registry

        if op_def_registry.get(op.op) is not None:  # else it is a missing op, which MetaGraph.missing_ops lists
            self.uses.setdefault(op.op, Use(op, self.when))

    def _arguments(self, frame: _Frame, node: Any) -> tuple[Text, ...]:
        return tuple(frame.text(tensor) for tensor in node.input if not tensor.startswith("^"))

    def _call(self, name: str, arguments: Sequence[Text]) -> None:
        """Examine all of a function's body: an op with a side effect runs even if no output depends on it."""
        function = self.functions.get(name)
        if function is None:
            return
        padded = list(arguments) + [ANYTHING] * (len(function.signature.input_arg) - len(arguments))
        texts = tuple(
            text if argument.type == DT_STRING else ANYTHING for argument, text in zip(function.signature.input_arg, padded, strict=False)
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
    """One graph: the model's, or a function's body with the texts of its arguments; ``known`` are the texts of further tensors."""

    nodes: Mapping[str, Any]
    arguments: Mapping[str, Text]
    known: Mapping[str, Text]

    def text(self, tensor: str) -> Text:
        """Return the text of ``tensor``, followed through ops that pass it on unchanged."""
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


def _text(frame: _Frame, node: Any, condition: Condition) -> Text:
    """Return the text of the input or attribute of ``node`` that ``condition`` names."""
    if condition.input is not None:
        return frame.text(node.input[condition.input]) if condition.input < len(node.input) else ANYTHING
    if condition.attribute in node.attr:
        value = node.attr[condition.attribute]
    else:  # the attribute has its default
        from tensorflow.python.framework import op_def_registry

        value = next(attr.default_value for attr in op_def_registry.get(node.op).attr if attr.name == condition.attribute)
    texts = [*value.list.s] if value.WhichOneof("value") == "list" else [value.s]
    return Text(Origin.CONSTANT, b" ".join(texts).decode("utf-8", "surrogateescape"))


def _functions(node: Any, attribute: str) -> Iterator[str]:
    if attribute not in node.attr:  # indexing would add it
        return
    value = node.attr[attribute]
    yield from (function.name for function in (value.list.func or [value.func]) if function.name)


def _called_objects(graph: Any, signature: str) -> Iterator[int]:
    """Yield the numbers of the objects whose functions are called by TensorFlow 2's loader, or through it by a call of ``signature``.

    The loader calls children whose names begin with an underscore, such as ``_create_resource`` and ``_initialize``.
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
    """Return the name of a variable: nodes of one name are one variable."""
    shared = node.attr["shared_name"].s if "shared_name" in node.attr else b""
    label: bytes = shared or node.name.encode()
    return label


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _port(tensor: str) -> str:
    """Return a tensor's name with the number of its output, which may be left out if it is 0."""
    return tensor if ":" in tensor or tensor.startswith("^") else f"{tensor}:0"
