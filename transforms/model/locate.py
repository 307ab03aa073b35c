"""Where a model is: its folder, its version, and a copy of it on this worker's disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence

from transforms import files
from transforms.signature import MetaGraph, ModelError, parse_saved_model

PROTOBUFS = ("saved_model.pb", "saved_model.pbtxt")
# TensorFlow takes a path with these for a pattern when it restores variables.
GLOB_CHARACTERS = frozenset("[]*?\\")


def find_version(model: str, version: str | None) -> tuple[str, str | None]:
    """Gives the SavedModel folder that ``model`` names and its version.

    ``model`` is a SavedModel folder, or a folder of numbered ones as TensorFlow Serving keeps them: the highest number
    that holds a SavedModel wins, so that one still being copied (its ``saved_model.pb`` comes last) is passed over.

    Raises:
      ModelError: there is no such folder, version or SavedModel.
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
    if version is not None:
        if version not in children:
            there = ", ".join(numbered) or "none"
            raise ModelError(f"{model} has no version {version}; versions there are: {there}")
        numbered = [version]
    for name in reversed(numbered):
        if set(PROTOBUFS) & set(files.list_children(files.join(folder, name))):
            return files.join(folder, name), name
    raise ModelError(f"{model} holds no SavedModel ({' or '.join(PROTOBUFS)}){_what_else(children)}")


def _what_else(children: Sequence[str]) -> str:
    if "export.meta" in children:
        return ": it is a Session Bundle of TensorFlow 0.x; export it again as a SavedModel"
    if any(name.endswith((".keras", ".h5")) for name in children):
        return ": it holds a Keras file; export it with model.export(folder)"
    return f"; it holds {', '.join(children[:5])}{', …' if len(children) > 5 else ''}"


def read_meta_graphs(folder: str) -> tuple[MetaGraph, ...]:
    """Reads the protobuf of a SavedModel folder, without its weights.

    Raises:
      ModelError: it is not there, damaged, or its variables are missing.
    """
    there = {found.relative for found in files.list_folder(folder)}
    name = next((name for name in PROTOBUFS if name in there), None)
    if name is None:
        raise ModelError(f"{folder} holds no SavedModel ({' or '.join(PROTOBUFS)})")
    path = files.join(folder, name)
    graphs = parse_saved_model(files.read_bytes(path), path)
    if any(graph.has_variables for graph in graphs) and "variables/variables.index" not in there:
        raise ModelError(f"{folder} has variables, but variables/variables.index is missing: copy the whole folder again")
    return graphs


def copy_to_worker(folder: str, cache: str | None = None) -> str:
    """Gives a local folder with the SavedModel of ``folder`` that TensorFlow can load.

    A local folder with a plain name is used as it is. Another is copied once a worker, whatever the number of processes:
    each makes a copy under a name of its own and the first to finish keeps it.
    """
    if not files.is_remote(folder) and not GLOB_CHARACTERS & set(folder):
        return folder
    found = files.list_folder(folder)
    state = hashlib.sha256(repr([(f.path, f.size_bytes, f.updated) for f in found]).encode()).hexdigest()[:32]
    cache = cache or os.path.join(tempfile.gettempdir(), "nightshift-models")
    target = os.path.join(cache, state)
    if os.path.isdir(target):
        return target
    os.makedirs(cache, exist_ok=True)
    partial = tempfile.mkdtemp(prefix=f"{state}.", dir=cache)
    try:
        for file in found:
            _copy(file, os.path.join(partial, *file.relative.split("/")))
        os.replace(partial, target)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not os.path.isdir(target):
            raise
    return target


def _copy(found: files.FoundFile, destination: str) -> None:
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    with files.open_raw(found.path) as source, open(destination, "wb") as copy:
        shutil.copyfileobj(source, copy, 8 << 20)
    size = os.path.getsize(destination)
    if size != found.size_bytes:
        raise OSError(f"{found.path}: copied {size} of {found.size_bytes} bytes")
