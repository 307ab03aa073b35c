"""Rows that name their models: what is known of the models before the rows are read."""

from __future__ import annotations

import re

from transforms.many.row_models import fixed_folder, folder_of, request_of
from transforms.model.locate import locate_model
from transforms.model.vertex_registry import is_registered
from transforms.specs.errors import ModelError, RefusedError, SpecError
from transforms.specs.models import RouteSpec, UnknownModel
from transforms.specs.signature import Signature
from transforms.storage import files

# The most models that are tried to get the columns of the results from one.
LOOKED_AT = 100


def find_models(route: RouteSpec) -> UnknownModel:
    """Return the models that rows will name, after a look at their folder.

    Raises:
      ModelError: the folder of the models does not exist or is empty.
    """
    folder = fixed_folder(route)
    if folder and not is_registered(route.template) and not files.list_children(folder):
        raise ModelError(f"no models at {folder}, the folder of --model={route.template}: it does not exist or is empty")
    return route.unknown_model(route.template)


def find_example(route: RouteSpec, format: str) -> Signature | None:
    """Find the signature whose outputs are the columns of the results; None for a format of lines.

    Raises:
      ModelError: no model can be read.
      SpecError: the models are not known before the rows, or the version's field is an output.
    """
    if format == "jsonl":
        return None
    example = _first_signature(route, format)
    if route.column in [spec.name for spec in example.outputs]:
        raise SpecError("model_column", f"{route.column!r} is an output of the models too: give it another name")
    return example


def _first_signature(route: RouteSpec, format: str) -> Signature:
    """Return the signature of the first model, by name, that can be read.

    Raises:
      ModelError, SpecError: as ``find_example``.
    """
    if is_registered(route.template):
        raise SpecError(
            "model_field", f"--output_format={format} has columns, and the models of a registry are not known before the rows: write jsonl"
        )
    folder = fixed_folder(route)
    segment = route.template[len(folder) :].lstrip("/").partition("/")[0]
    named = re.compile(re.escape(segment).replace(re.escape(route.placeholder), "(.+)"))
    names = sorted(match.group(1) for name in files.list_children(folder or ".") if (match := named.fullmatch(name)))
    reason = "there is none"
    for name in names[:LOOKED_AT]:
        try:
            return locate_model(request_of(route, folder_of(route, name))).signature
        except RefusedError as error:
            reason = str(error)
    raise ModelError(
        f"--output_format={format} has the models' outputs as its columns, and no model of {route.template} can be read: {reason}"
    )
