"""What a model computes, but for the values of its variables, as one hash: models of one hash may share a Session.

Two rooted graphs whose inputs are ordered are equal when walks from their roots, in that order, write down the same. Walked are
the signature's outputs and the initializers, down through the bodies of functions. Names of nodes, functions and resources, and
their order in the file, are left out; the contents of assets are taken in. Variables are known by their place in the walk: exports of
one program give them to their checkpoints under names in another order each time. Whatever is in doubt has no hash, and its
model loads alone.
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

# Attributes that name things or are notes for the runtime; all others count.
UNTOLD = frozenset((
    "_output_shapes", "_class", "debug_name", "_gradient_op_type", "_user_specified_name", "_read_only_resource_inputs", "config_proto",
    "_collective_manager_ids", "_acd_function_control_output", "_has_manual_control_dependencies", "_num_original_outputs",
))  # fmt: skip
# Ops with state that a model may have and yet share: variables, which the restore operation fills, immutable tables with their
# initializers, and calls of functions, whose bodies are walked.
SHARED_STATE = frozenset((
    "VarHandleOp", "VariableV2", "ReadVariableOp", "HashTable", "HashTableV2", "InitializeTable", "InitializeTableV2",
    "InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "LookupTableFind", "LookupTableFindV2", "LookupTableImportV2",
    "LookupTableSizeV2", "StatefulPartitionedCall", "PartitionedCall", "If", "While", "Case",
    "Assert", "NoOp",
))  # fmt: skip
NAMED_RESOURCES = frozenset((*VARIABLES, "HashTable", "HashTableV2"))


class _DoubtError(NightshiftError):
    """The graph holds something that may not be shared."""


def structure_of(graph: MetaGraph, signature: Signature, folder: str) -> Structure | None:
    """Gives what ``signature`` of a MetaGraph of the model in ``folder`` computes; None where sharing is in doubt."""
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
    leaves = {_node(spec.tensor): f"input {place} {spec.name}" for place, spec in enumerate(signature.inputs)}
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
    digest = hashlib.sha256("\n".join((head, *walk.told)).encode("utf-8", "surrogateescape")).hexdigest()
    return Structure(digest, tuple((name, entries[name]) for name in variables))


def _check_initializers(walk: _Walk, meta_graph: Any, entries: Mapping[str, str]) -> None:
    """They run once, for the first model: what they do must not depend on the variables that a checkpoint fills, nor fill them."""
    for name in initializers(meta_graph):
        walk.visit(f"^{name}")
    doubtful = walk.stateful - SHARED_STATE - {"AssignVariableOp"}  # of variables for the paths of assets
    if doubtful or any(name in entries for name in walk.variables()):
        raise _DoubtError("the initializers do more than to fill tables")


def _digest(path: str) -> str:
    return hashlib.sha256(files.read_bytes(path)).hexdigest()


class _Walk:
    """A walk over one graph (of the model or of a function's body) that writes down each node once, after its inputs."""

    def __init__(self, nodes: Mapping[str, Any], leaves: Mapping[str, str], functions: _Functions) -> None:
        self.nodes, self.leaves, self.functions = nodes, leaves, functions
        self.told: list[str] = []
        self.stateful: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._resources: dict[str, int] = {}

    def variables(self) -> list[str]:
        """The names of the variables met so far, in the order of the walk."""
        return [name for name in self._numbers if name in self.nodes and name not in self.leaves and self.nodes[name].op in VARIABLES]

    def has_met(self, name: str) -> bool:
        return name in self._numbers

    def visit(self, tensor: str) -> None:
        """Writes down ``tensor`` as a root, and what it is made of."""
        self._walk(_node(tensor))
        self.told.append(f"root {self._edge(tensor)}")

    def _walk(self, root: str) -> None:
        path: dict[str, Iterator[str]] = {}
        waiting = [root]
        while waiting:
            name = waiting[-1]
            if name in self._numbers:
                waiting.pop()
                continue
            if name in self.leaves:
                self._tell(waiting.pop(), self.leaves[name])
                continue
            if name not in path:
                if name not in self.nodes:
                    raise _DoubtError(f"no node {name}")
                path[name] = map(_node, self.nodes[name].input)
            below = next((other for other in path[name] if other not in self._numbers), None)
            if below is None:
                del path[name]
                self._tell(waiting.pop(), self._node_text(self.nodes[name]))
            elif below in path:
                raise _DoubtError("a loop")
            else:
                waiting.append(below)

    def _tell(self, name: str, text: str) -> None:
        self._numbers[name] = len(self._numbers)
        self.told.append(text)

    def _edge(self, tensor: str) -> str:
        """An input by the number of its node; a control input is one of no output."""
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
        attributes = " ".join(self._attribute(node, name) for name in sorted(node.attr) if name not in UNTOLD)
        return f"{op} {node.device} {inputs} | {attributes}"

    def _attribute(self, node: Any, name: str) -> str:
        value = node.attr[name]
        kind = value.WhichOneof("value")
        if kind == "func" or (kind == "list" and value.list.func):
            called = [value.func.name] if kind == "func" else [function.name for function in value.list.func]
            for function in called:
                self.stateful |= self.functions.stateful(function)
            return f"{name}={','.join(map(self.functions.hash, filter(None, called)))}"
        if name in ("shared_name", "container") and node.op in NAMED_RESOURCES:
            # Nodes of one name are one resource: which one counts, not what it is called.
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
        return self._look(name)[0]

    def stateful(self, name: str) -> set[str]:
        """The ops with state in a function's body, those of the functions it calls too."""
        return self._look(name)[1] if name else set()

    def _look(self, name: str) -> tuple[str, set[str]]:
        if name not in self._known:
            if name not in self._definitions:
                raise _DoubtError(f"no function {name}")
            self._known[name] = self._hash_body(self._definitions[name])
        return self._known[name]

    def _hash_body(self, function: Any) -> tuple[str, set[str]]:
        signature = function.signature
        leaves = {argument.name: f"argument {place} {argument.type}" for place, argument in enumerate(signature.input_arg)}
        nodes = {node.name: node for node in function.node_def}
        walk = _Walk(nodes, leaves, self)
        for output in signature.output_arg:
            walk.visit(function.ret[output.name])
        for control in signature.control_output:
            walk.visit(f"^{function.control_ret[control]}")
        for node in function.node_def:  # one with a side effect runs though nothing asks for it
            if (_is_stateful(node.op) or node.op in self) and not walk.has_met(node.name):
                walk.visit(f"^{node.name}")
        if walk.stateful & VARIABLES:
            raise _DoubtError("a function has variables of its own")
        return hashlib.sha256("\n".join(walk.told).encode("utf-8", "surrogateescape")).hexdigest(), walk.stateful


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


@functools.cache
def _is_stateful(op: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(op)
    return definition is None or definition.is_stateful
