"""Find a model: its folder and version, its graphs, and the fingerprint of its files."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence

from transforms.model.fingerprint import PROTOBUFS, fingerprint
from transforms.model.reach import check_ops
from transforms.model.saved_model import MetaGraph, check_outputs, parse_saved_model, select_meta_graph, select_signature
from transforms.model.structure import structure_of
from transforms.model.vertex_registry import find_artifact, is_registered
from transforms.specs.errors import ModelError
from transforms.specs.models import ModelRequest, ModelSpec
from transforms.storage import files, paths

# Exports of one program often differ only in their variables: equal graphs of up to KEPT_GRAPH_BYTES are parsed once.
KEPT_GRAPHS = 64
KEPT_GRAPH_BYTES = 1 << 20
LATEST = "latest"
SHARD = re.compile(r"variables/variables\.data-\d{5}-of-(\d{5})")


class MissingVariablesError(ModelError):
    """A SavedModel has its protobuf, but lacks its variables."""


def locate_model(request: ModelRequest, shares: bool = False) -> ModelSpec:
    """Find a model and check its protobuf, without loading it; with ``shares``, also return the structure for sharing a Session.

    Raises:
      ModelError: the model, version or signature does not exist, or it can't or may not run here.
    """
    model = request.location
    folder, version = find_folder(model, request.version)
    graphs, files_fingerprint = _read(folder)
    graph = select_meta_graph(graphs, request.tags, model)
    outside = [name for _, name in graph.assets if not _is_below(name)]
    if outside:
        raise ModelError(f"{model} names files outside of its folder as its assets: {', '.join(outside)}. Export the model again")
    if graph.missing_ops:
        raise ModelError(
            f"{model} needs custom ops that are not in this TensorFlow: {', '.join(graph.missing_ops)}. "
            "Install the library that registers them, or export the model without them"
        )
    signature = select_signature(graph, request.signature_name, model)
    check_ops(graph, signature, model, request.allow_unsafe_ops)
    check_outputs(signature, request.batch_size, model)
    return ModelSpec(
        location=folder,
        signature=signature,
        version=version,
        batch_size=request.batch_size,
        allow_unsafe_ops=request.allow_unsafe_ops,
        threads=request.threads,
        structure=structure_of(graph, signature, folder) if shares else None,
        fingerprint=files_fingerprint,
    )


def _is_below(path: str) -> bool:
    """Return whether ``path`` stays below its folder, as the names of assets do that TensorFlow writes."""
    return bool(path) and not path.startswith("/") and "://" not in path and ".." not in path.split("/")


def find_folder(model: str, version: str | None) -> tuple[str, str | None]:
    """Return the SavedModel folder of ``model``, a folder or a registered name, and its version.

    Raises:
      ModelError: the model, version or SavedModel does not exist.
    """
    if not is_registered(model):
        return find_version(model, version)
    artifact, registered = find_artifact(model, version)
    return find_version(artifact, None)[0], registered


def find_version(model: str, version: str | None) -> tuple[str, str | None]:
    """Return the SavedModel folder in the folder ``model``, and its version.

    ``model`` is a SavedModel folder, or a folder of numbered ones as for TensorFlow Serving: the highest number with a complete
    SavedModel is taken, so that one still being copied is skipped. A file named ``latest`` beside the numbers, or a file
    named as ``version`` is an alias: it holds the number to take.

    Raises:
      ModelError: the folder, version or SavedModel does not exist.
    """
    folder = model.rstrip("/") or model
    children = files.list_children(folder)
    if not children:
        raise ModelError(f"no model at {model}: the folder does not exist or is empty. Check --model")
    if set(PROTOBUFS) & set(children):
        if version is not None:
            raise ModelError(f"{model} is one SavedModel, without numbered versions; leave out --model_version={version}")
        return folder, None
    numbered = sorted((name for name in children if name.isascii() and name.isdigit()), key=int)
    alias = version or LATEST
    if alias in children and alias not in numbered and "/" not in alias and files.exists(paths.join(folder, alias)):
        version = _read_alias(paths.join(folder, alias))
    if version is not None:
        if version not in children:
            raise ModelError(f"{model} has no version {version}; its versions are: {', '.join(numbered) or '(none)'}")
        return _checked_version(paths.join(folder, version)), version
    for name in reversed(numbered):
        if _is_whole(paths.join(folder, name)):
            return paths.join(folder, name), name
    raise ModelError(f"{model} holds no SavedModel ({' or '.join(PROTOBUFS)}){_what_else(children)}")


def _read_alias(path: str) -> str:
    text = files.read_bytes(path)[:200].decode("utf-8", "replace").strip()
    if not text or "/" in text:
        raise ModelError(f"{path} should hold the name of a version, such as 7; found {text!r}")
    return text


def _checked_version(folder: str) -> str:
    children = files.list_children(folder)
    if not set(PROTOBUFS) & set(children):
        raise ModelError(f"{folder} holds no SavedModel ({' or '.join(PROTOBUFS)}){_what_else(children)}")
    return folder


def _is_whole(folder: str) -> bool:
    """Return whether a version's folder has all its files, by their names and the protobuf."""
    names = {file.relative for file in files.list_folder(folder)}
    if not set(PROTOBUFS) & names:
        return False
    shards = [match for name in names if (match := SHARD.fullmatch(name))]
    if shards:
        return "variables/variables.index" in names and len(shards) == int(shards[0].group(1))
    try:
        read_meta_graphs(folder)  # a model may have no variables; if it has some, they are still being copied
    except ModelError as error:
        return not isinstance(error, MissingVariablesError)
    return True


def _what_else(children: Sequence[str]) -> str:
    if "export.meta" in children:
        return ": it is a Session Bundle of TensorFlow 0.x; export it again as a SavedModel"
    if any(name.endswith((".keras", ".h5")) for name in children):
        return ": it holds a Keras file; export it with model.export(folder)"
    return f"; it holds {', '.join(children[:5])}{', …' if len(children) > 5 else ''}"


def read_meta_graphs(folder: str) -> tuple[MetaGraph, ...]:
    """Read the protobuf of a SavedModel folder, without its weights.

    Raises:
      ModelError: the protobuf is missing or damaged, or the variables are missing.
    """
    return _read(folder)[0]


def _read(folder: str) -> tuple[tuple[MetaGraph, ...], str]:
    """Read the protobuf of a SavedModel folder; return its graphs, and the fingerprint of the model."""
    model_files = files.list_folder(folder)
    names = {file.relative for file in model_files}
    name = next((name for name in PROTOBUFS if name in names), None)
    if name is None:
        raise ModelError(f"{folder} holds no SavedModel ({' or '.join(PROTOBUFS)})")
    path = paths.join(folder, name)
    content = files.read_bytes(path)
    graphs = _parse(content, path)
    if any(graph.has_variables for graph in graphs) and "variables/variables.index" not in names:
        raise MissingVariablesError(f"{folder} has variables, but variables/variables.index is missing: copy the whole folder again")
    return graphs, fingerprint(content, model_files)


def _parse(content: bytes, path: str) -> tuple[MetaGraph, ...]:
    if len(content) > KEPT_GRAPH_BYTES:
        return parse_saved_model(content, path)
    try:
        return _parse_small(content, os.path.basename(path))
    except ModelError:
        return parse_saved_model(content, path)  # for a message with the whole path


_parse_small = functools.lru_cache(KEPT_GRAPHS)(parse_saved_model)
