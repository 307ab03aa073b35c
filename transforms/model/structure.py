"""The structure of a model: a hash of what it computes, without the values of its variables. Models of one hash may share a Session.

Two rooted graphs with ordered inputs are equal if walks from their roots, in that order, write the same text. The walk covers
the signature's outputs and the initializers, through the bodies of functions. Names of nodes, functions and resources and
their order in the file are left out; the contents of assets are included. Variables are identified by their index in the walk, since
exports of one program name them in another order in each checkpoint. A model that is not certain to share has no hash, and is loaded
alone.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from transforms.model.reach import initializers
from transforms.model.restoring import VARIABLES, UnreadableRestoreError, restored_entries
from transforms.model.saved_model import MetaGraph
from transforms.specs.errors import NightshiftError
from transforms.specs.models import Structure
from transforms.specs.signature import Signature
from transforms.storage import files, paths

# Attributes that are names or hints for the runtime and do not change what an op computes.
IGNORED_ATTRIBUTES = frozenset((
    "_output_shapes", "_class", "debug_name", "_gradient_op_type", "_user_specified_name", "_read_only_resource_inputs", "config_proto",
    "_collective_manager_ids", "_acd_function_control_output", "_has_manual_control_dependencies", "_num_original_outputs",
))  # fmt: skip
# Stateful ops that do not prevent sharing: variables, which the restore operation fills, immutable tables with their
# initializers, and calls of functions, whose bodies are walked.
SHARED_STATE = frozenset((
    "VarHandleOp", "VariableV2", "ReadVariableOp", "HashTable", "HashTableV2", "InitializeTable", "InitializeTableV2",
    "InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "LookupTableFind", "LookupTableFindV2", "LookupTableImportV2",
    "LookupTableSizeV2", "StatefulPartitionedCall", "PartitionedCall", "If", "While", "Case",
    "Assert", "NoOp",
))  # fmt: skip
NAMED_RESOURCES = frozenset((*VARIABLES, "HashTable", "HashTableV2"))


class _DoubtError(NightshiftError):
    """The graph holds something that models may not share."""


def structure_of(graph: MetaGraph, signature: Signature, folder: str) -> Structure | None:
    """Return the structure of ``signature`` in a MetaGraph of the model in ``folder``, or None if sharing may be wrong."""
    assets = tuple((tensor, _digest(paths.join(folder, "assets", name))) for tensor, name in graph.assets)
    known = graph.structures
    if (signature.name, assets) not in known:
        try:
            known[signature.name, assets] = _structure(graph.proto, signature, assets)
        except (_DoubtError, UnreadableRestoreError, RecursionError):
            known[signature.name, assets] = None
    return known[signature.name, assets]


def _structure(meta_graph: Any, signature: Signature, assets: tuple[tuple[str, str], ...]) -> Structure:
    if not meta_graph.saver_def.restore_op_name or not meta_graph.saver_def.filename_tensor_name:
        raise _DoubtError("no restore operation")
    leaves = {_node(spec.tensor): f"input {index} {spec.name}" for index, spec in enumerate(signature.inputs)}
    if len(leaves) != len(signature.inputs):
        raise _DoubtError("two inputs are one tensor")
    leaves |= {_node(tensor): f"asset {digest}" for tensor, digest in assets}
    walk = _Walk({node.name: node for node in meta_graph.graph_def.node}, leaves, _Functions(meta_graph.graph_def.library))
    for spec in signature.outputs:
        walk.visit(spec.tensor)
    doubtful = walk.stateful - SHARED_STATE
    entries = restored_entries(meta_graph)
    variables = walk.variables()
    if doubtful or not all(name in entries for name in variables):
        raise _DoubtError(f"state that no checkpoint holds: {', '.join(doubtful) or 'a variable'}")
    _check_initializers(_Walk(walk.nodes, leaves, walk.functions), meta_graph, entries)
    for name in initializers(meta_graph):
        walk.visit(f"^{name}")
    versions = meta_graph.graph_def.versions
    tensors = [(spec.name, spec.dtype, spec.shape) for spec in (*signature.inputs, *signature.outputs)]
    head = repr((signature.name, signature.tags, tensors, versions.producer, versions.min_consumer))
    digest = hashlib.sha256("\n".join((head, *walk.lines)).encode("utf-8", "surrogateescape")).hexdigest()
    return Structure(digest, tuple((name, entries[name]) for name in variables))


def _check_initializers(walk: _Walk, meta_graph: Any, entries: Mapping[str, str]) -> None:
    """Raise _DoubtError if initializers, which run once for all models, use variables that a checkpoint fills, or have other state."""
    for name in initializers(meta_graph):
        walk.visit(f"^{name}")
    doubtful = walk.stateful - SHARED_STATE - {"AssignVariableOp"}  # which fills variables with the paths of assets
    if doubtful or any(name in entries for name in walk.variables()):
        raise _DoubtError("the initializers do more than fill tables")


def _digest(path: str) -> str:
    return hashlib.sha256(files.read_bytes(path)).hexdigest()


class _Walk:
    """A walk over one graph (of the model or of a function's body) that writes a line for each node once, after its inputs."""

    def __init__(self, nodes: Mapping[str, Any], leaves: Mapping[str, str], functions: _Functions) -> None:
        self.nodes, self.leaves, self.functions = nodes, leaves, functions
        self.lines: list[str] = []
        self.stateful: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._resources: dict[str, int] = {}

    def variables(self) -> list[str]:
        """Return the names of the variables visited so far, in the order of the walk."""
        return [name for name in self._numbers if name in self.nodes and name not in self.leaves and self.nodes[name].op in VARIABLES]

    def has_visited(self, name: str) -> bool:
        """Return whether the walk has visited the node ``name``."""
        return name in self._numbers

    def visit(self, tensor: str) -> None:
        """Write the nodes that ``tensor`` is computed from, then ``tensor`` as a root."""
        self._walk(_node(tensor))
        self.lines.append(f"root {self._edge(tensor)}")

    def _walk(self, root: str) -> None:
        path: dict[str, Iterator[str]] = {}
        waiting = [root]
        while waiting:
            name = waiting[-1]
            if name in self._numbers:
                waiting.pop()
                continue
            if name in self.leaves:
                self._write(waiting.pop(), self.leaves[name])
                continue
            if name not in path:
                if name not in self.nodes:
                    raise _DoubtError(f"no node {name}")
                path[name] = map(_node, self.nodes[name].input)
            below = next((other for other in path[name] if other not in self._numbers), None)
            if below is None:
                del path[name]
                self._write(waiting.pop(), self._node_text(self.nodes[name]))
            elif below in path:
                raise _DoubtError("a loop")
            else:
                waiting.append(below)

    def _write(self, name: str, text: str) -> None:
        self._numbers[name] = len(self._numbers)
        self.lines.append(text)

    def _edge(self, tensor: str) -> str:
        """Format an input as ``node:port`` with the node's number, and a control input as ``^node:0``."""
        name, _, port = tensor.removeprefix("^").partition(":")
        return f"{'^' if tensor.startswith('^') else ''}{self._numbers[name]}:{port or '0'}"

    def _node_text(self, node: Any) -> str:
        op = node.op
        if op in self.functions:
            self.stateful |= self.functions.stateful(op)
            op = f"function {self.functions.hash(op)}"
        elif _is_stateful(op):
            self.stateful.add(op)
        inputs = " ".join(map(self._edge, node.input))
        attributes = " ".join(self._attribute(node, name) for name in sorted(node.attr) if name not in IGNORED_ATTRIBUTES)
        return f"{op} {node.device} {inputs} | {attributes}"

    def _attribute(self, node: Any, name: str) -> str:
        value = node.attr[name]
        kind = value.WhichOneof("value")
        if kind == "func" or (kind == "list" and value.list.func):
            functions = [value.func.name] if kind == "func" else [function.name for function in value.list.func]
            for function in functions:
                self.stateful |= self.functions.stateful(function)
            return f"{name}={','.join(map(self.functions.hash, filter(None, functions)))}"
        if name in ("shared_name", "container") and node.op in NAMED_RESOURCES:
            # Nodes of one name are one resource; the resource's number is written instead of its name.
            label = value.s.decode("utf-8", "replace") or node.name
            return f"{name}={self._resources.setdefault(label, len(self._resources))}" if name == "shared_name" else ""
        return f"{name}={hashlib.sha256(value.SerializeToString(deterministic=True)).hexdigest()}"


class _Functions:
    """The functions of a graph's library, each hashed once by its body."""

    def __init__(self, library: Any) -> None:
        self._definitions = {function.signature.name: function for function in library.function}
        self._known: dict[str, tuple[str, set[str]]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._definitions

    def hash(self, name: str) -> str:
        """Return the hash of a function's body."""
        return self._look(name)[0]

    def stateful(self, name: str) -> set[str]:
        """Return the stateful ops in a function's body and in the functions that it calls."""
        return self._look(name)[1] if name else set()

    def _look(self, name: str) -> tuple[str, set[str]]:
        if name not in self._known:
            if name not in self._definitions:
                raise _DoubtError(f"no function {name}")
            self._known[name] = self._hash_body(self._definitions[name])
        return self._known[name]

    def _hash_body(self, function: Any) -> tuple[str, set[str]]:
        signature = function.signature
        leaves = {argument.name: f"argument {index} {argument.type}" for index, argument in enumerate(signature.input_arg)}
        nodes = {node.name: node for node in function.node_def}
        walk = _Walk(nodes, leaves, self)
        for output in signature.output_arg:
            walk.visit(function.ret[output.name])
        for control in signature.control_output:
            walk.visit(f"^{function.control_ret[control]}")
        for node in function.node_def:  # an op with a side effect runs even if no output depends on it
            if (_is_stateful(node.op) or node.op in self) and not walk.has_visited(node.name):
                walk.visit(f"^{node.name}")
        if walk.stateful & VARIABLES:
            raise _DoubtError("a function has variables of its own")
        return hashlib.sha256("\n".join(walk.lines).encode("utf-8", "surrogateescape")).hexdigest(), walk.stateful


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


@functools.cache
def _is_stateful(op: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(op)
    return definition is None or definition.is_stateful
