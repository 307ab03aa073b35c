"""A SavedModel's signatures, read from its protobuf without loading weights.

TensorFlow is imported when the first protobuf is parsed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from transforms.model.import_tensorflow import import_tensorflow
from transforms.specs.errors import ModelError
from transforms.specs.signature import DEFAULT_SIGNATURE, DEFAULT_TAGS, DTYPES, INIT_SIGNATURE, Batching, Signature, TensorSpec


@dataclasses.dataclass(frozen=True)
class MetaGraph:
    """One graph of a SavedModel with its tags and signatures.

    Attributes:
      signatures: SignatureDef by name.
      missing_ops: ops that this TensorFlow does not have.
      assets: pairs of the tensor that is fed with an asset's path, and the asset's name in the folder ``assets``.
      structures: cache of ``structure_of``.
      uses: cache of ``unsafe_uses``.
    """

    tags: tuple[str, ...]
    signatures: dict[str, Any]
    missing_ops: tuple[str, ...]
    has_variables: bool
    assets: tuple[tuple[str, str], ...]
    proto: Any = dataclasses.field(repr=False, compare=False)
    structures: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    uses: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)


def parse_saved_model(content: bytes, path: str) -> tuple[MetaGraph, ...]:
    """Parse ``content``, the bytes of the ``saved_model.pb`` or ``.pbtxt`` at ``path``, into its graphs.

    Raises:
      ModelError: the bytes are not a SavedModel; the message says what they are instead.
    """
    if not content:
        raise ModelError(f"{path} is empty: the export or the copy broke off; export the model again")
    if content.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a Git LFS pointer, not the model: run 'git lfs pull' where it was cloned, and copy again")
    if content.lstrip()[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(f"{path} holds a web page, not a SavedModel: the download needed a login or a direct link")
    saved = parse_proto(content, path)
    if not saved.meta_graphs:
        raise ModelError(f"{path} holds no MetaGraph: export the model again")
    return tuple(_meta_graph(graph) for graph in saved.meta_graphs)


def parse_proto(content: bytes, path: str) -> Any:
    """Parse the bytes of a SavedModel's protobuf, which are text if ``path`` ends in ``.pbtxt``.

    Raises:
      ModelError: the bytes are not a SavedModel.
    """
    import_tensorflow()
    from google.protobuf import message, text_format
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        if path.endswith(".pbtxt"):
            text_format.Parse(content.decode("utf-8"), saved)
        else:
            saved.ParseFromString(content)
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is damaged, not a whole SavedModel ({error}): export or copy the model again") from error
    return saved


def _meta_graph(graph: Any) -> MetaGraph:
    nodes = [*graph.graph_def.node, *(n for f in graph.graph_def.library.function for n in f.node_def)]
    ops = {node.op for node in nodes}
    functions = {function.signature.name for function in graph.graph_def.library.function}
    signatures = {name: s for name, s in graph.signature_def.items() if name != INIT_SIGNATURE}
    return MetaGraph(
        tags=tuple(sorted(graph.meta_info_def.tags)),
        signatures=signatures,
        missing_ops=_unregistered(ops - functions),
        has_variables=bool(graph.saver_def.restore_op_name) and bool(ops & {"VarHandleOp", "VariableV2", "Variable"}),
        assets=_assets(graph),
        proto=graph,
    )


def _assets(graph: Any) -> tuple[tuple[str, str], ...]:
    """Return the assets as TensorFlow's loader does: models of TensorFlow 1 have them in a collection."""
    from tensorflow.core.protobuf import meta_graph_pb2

    assets = list(graph.asset_file_def)
    if not assets and "saved_model_assets" in graph.collection_def:
        for message in graph.collection_def["saved_model_assets"].any_list.value:
            assets.append(meta_graph_pb2.AssetFileDef())
            message.Unpack(assets[-1])
    return tuple((asset.tensor_info.name, asset.filename) for asset in assets)


def _unregistered(ops: set[str]) -> tuple[str, ...]:
    """Return those of ``ops`` that this TensorFlow does not have: custom ones, and those removed from it."""
    from tensorflow.python.framework import op_def_registry

    return tuple(sorted(op for op in ops if op_def_registry.get(op) is None))


def select_meta_graph(graphs: tuple[MetaGraph, ...], tags: tuple[str, ...] | None, model: str) -> MetaGraph:
    """Return the MetaGraph with exactly ``tags`` (default ``serve``), else the only one that has all of them.

    Raises:
      ModelError: no MetaGraph matches, or several do; the message lists the tags of all.
    """
    wanted = set(tags or DEFAULT_TAGS)
    exact = [graph for graph in graphs if set(graph.tags) == wanted]
    matches = exact or [graph for graph in graphs if wanted < set(graph.tags)]
    if len(matches) == 1:
        return matches[0]
    existing = "; ".join(",".join(graph.tags) or "(none)" for graph in graphs)
    number = "no MetaGraph" if not matches else "several MetaGraphs"
    raise ModelError(
        f"{model} has {number} with the tags {','.join(sorted(wanted))}. Its tags are: {existing}. Give one of them as --tags=…"
    )


def select_signature(graph: MetaGraph, name: str | None, model: str) -> Signature:
    """Return the signature ``name``; without a name the only signature, else ``serving_default``.

    Raises:
      ModelError: the graph lacks that signature or has none, or rows can't be fed to it.
    """
    names = sorted(graph.signatures)
    if not names:
        raise ModelError(f"{model} has no serving signature (tags {','.join(graph.tags)}): export it with signatures=…")
    if name is None:
        name = names[0] if len(names) == 1 else DEFAULT_SIGNATURE
        if name not in graph.signatures:
            raise ModelError(f"{model} has several signatures and none is {name}; give --signature_name, one of: {', '.join(names)}")
    if name not in graph.signatures:
        raise ModelError(f"{model} has no signature {name!r}; --signature_name can be: {', '.join(names)}")
    definition = graph.signatures[name]
    signature = Signature(
        name=name,
        tags=graph.tags,
        inputs=tuple(_tensor_spec(alias, definition.inputs[alias], "input", name) for alias in sorted(definition.inputs)),
        outputs=tuple(_tensor_spec(alias, definition.outputs[alias], "output", name) for alias in sorted(definition.outputs)),
    )
    if not signature.inputs:
        raise ModelError(f"signature {name} of {model} has no input, so rows can't be fed to it")
    if not signature.outputs:
        raise ModelError(f"signature {name} of {model} has no output, so there is nothing to predict")
    if signature.batching is Batching.FIXED and signature.fixed_rows == 0:
        raise ModelError(f"signature {name} of {model} takes zero rows a call: export it with a free batch dimension")
    return signature


def _tensor_spec(alias: str, info: Any, role: str, signature: str) -> TensorSpec:
    if info.WhichOneof("encoding") != "name":
        raise ModelError(f"{role} {alias!r} of signature {signature} is sparse or composite; export a signature of dense tensors")
    dtype = DTYPES.get(info.dtype % 100)  # 100 and above: a reference to a variable of dtype - 100
    if dtype is None:
        from tensorflow.core.framework import types_pb2

        kind = types_pb2.DataType.Name(info.dtype) if info.dtype in types_pb2.DataType.values() else f"number {info.dtype}"
        raise ModelError(f"{role} {alias!r} of signature {signature} has dtype {kind}, which no file can hold")
    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(alias, info.name, dtype, shape)


def check_outputs(signature: Signature, batch_size: int | None, model: str) -> None:
    """Refuse a signature whose fixed dimensions show that an output can't have one row an instance.

    Raises:
      ModelError: an output has another number of rows; the message names it.
    """
    if signature.batching is not Batching.FREE:
        return
    for spec in signature.outputs:
        if spec.shape == ():
            raise ModelError(
                f"output {spec.name!r} of signature {signature.name} of {model} is one scalar for a whole batch, "
                "not one row an instance: export a signature without it"
            )
        if spec.shape and spec.shape[0] is not None and spec.shape[0] != batch_size:
            raise ModelError(
                f"output {spec.name!r} of signature {signature.name} of {model} always has {spec.shape[0]} row(s), "
                f"whatever the number of instances: export a signature without it, or give --batch_size={spec.shape[0]} "
                "if it really gives one row an instance then"
            )
