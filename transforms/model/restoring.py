"""The entry of a checkpoint that fills each variable, read from a graph's restore operation without running it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transforms.specs.errors import NightshiftError

VARIABLES = frozenset(("VarHandleOp", "VariableV2"))
ASSIGNS = frozenset(("AssignVariableOp", "Assign"))
CALLS = frozenset(("StatefulPartitionedCall", "PartitionedCall"))
PASSING = frozenset(("Identity", "NoOp"))
MAX_DEPTH = 10


class UnreadableRestoreError(NightshiftError):
    """The restore operation does more than fill variables from entries of the checkpoint."""


def restored_entries(meta_graph: Any) -> dict[str, str]:
    """Return the checkpoint's entry of each variable, under the name of the variable's node.

    Raises:
      UnreadableRestoreError: a value is changed between checkpoint and variable, or is not from the checkpoint.
    """
    functions = {function.signature.name: function for function in meta_graph.graph_def.library.function}
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    entries: dict[str, str] = {}
    _Frame(nodes, {}, functions, entries, 0).follow(_name(meta_graph.saver_def.restore_op_name))
    return entries


class _Frame:
    """One graph: the model's, or a function's body with the sources of its arguments; adds to ``entries``."""

    def __init__(
        self,
        nodes: Mapping[str, Any],
        arguments: Mapping[str, tuple[str, str]],
        functions: Mapping[str, Any],
        entries: dict[str, str],
        depth: int,
    ) -> None:
        self.nodes, self.arguments, self.functions, self.entries, self.depth = nodes, arguments, functions, entries, depth
        self.seen: set[str] = set()
        self.texts: dict[str, list[str]] = {}
        if depth > MAX_DEPTH:
            raise UnreadableRestoreError("functions call each other too deep")

    def follow(self, name: str) -> None:
        """Read node ``name`` and all nodes that it depends on."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            if name in self.seen or name in self.arguments:
                continue
            self.seen.add(name)
            node = self._node(name)
            if node.op in ASSIGNS:
                self._assign(node)
            elif node.op in CALLS:
                self._call(node)
            waiting += [_name(tensor) for tensor in node.input]

    def _node(self, name: str) -> Any:
        if name not in self.nodes:
            raise UnreadableRestoreError(f"there is no node {name}")
        return self.nodes[name]

    def _assign(self, node: Any) -> None:
        kind, variable = self._source(node.input[0])
        value, entry = self._source(node.input[1])
        if kind != "variable" or value != "entry" or self.entries.get(variable, entry) != entry:
            raise UnreadableRestoreError(f"{node.name} fills a variable with something else than an entry of the checkpoint")
        self.entries[variable] = entry

    def _call(self, node: Any) -> None:
        function = self.functions.get(node.attr["f"].func.name)
        if function is None:
            raise UnreadableRestoreError(f"{node.name} calls a function that does not exist")
        inputs = [tensor for tensor in node.input if not tensor.startswith("^")]
        sources = {argument.name: self._source(tensor) for argument, tensor in zip(function.signature.input_arg, inputs, strict=True)}
        frame = _Frame({inner.name: inner for inner in function.node_def}, sources, self.functions, self.entries, self.depth + 1)
        for name in (*map(_name, function.ret.values()), *function.control_ret.values()):
            frame.follow(name)

    def _source(self, tensor: str) -> tuple[str, str]:
        """Return the source of a tensor as kind and name: ``variable`` and its node, ``entry`` and its name, or ``else`` and the node."""
        name, _, port = tensor.partition(":")
        if name in self.arguments:
            return self.arguments[name]
        node = self._node(name)
        if node.op in PASSING and node.input:
            return self._source(node.input[0])
        if node.op in VARIABLES:
            return "variable", name
        if node.op == "RestoreV2":
            names, slices = (self._texts(tensor) for tensor in node.input[1:3])
            index = int(port.rpartition(":")[2] or 0)
            if slices[index]:
                raise UnreadableRestoreError("a variable is a slice of an entry")
            return "entry", names[index]
        return "else", name

    def _texts(self, tensor: str) -> list[str]:
        node = self._node(_name(tensor))
        if node.op in PASSING and node.input:
            return self._texts(node.input[0])
        if node.op != "Const":
            raise UnreadableRestoreError("the names of entries are computed")
        if node.name not in self.texts:
            self.texts[node.name] = _strings(node.attr["value"].tensor)
        return self.texts[node.name]


def _strings(tensor: Any) -> list[str]:
    """Return the strings of a constant; a protobuf writes equal strings at its end once."""
    size = math.prod(dim.size for dim in tensor.tensor_shape.dim)
    strings = [text.decode("utf-8") for text in tensor.string_val]
    return strings + strings[-1:] * (size - len(strings))


def _name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
