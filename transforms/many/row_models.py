"""Models named by rows (``--model_field``): their folders, and what such a job can't have."""

from __future__ import annotations

import dataclasses
import re

from transforms.formats.catalog import FORMATS, Format
from transforms.specs.errors import ModelError, SpecError
from transforms.specs.job import InputSpec
from transforms.specs.models import ModelRequest, RouteSpec
from transforms.specs.output import OutputSpec

# The name of one folder: a row's value must not lead to any other path.
SAFE = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")


def check_route(input: InputSpec, output: OutputSpec) -> None:
    """Check that a job whose rows name their models has a format and layout that allow it.

    Raises:
      SpecError: it does not.
    """
    check_format(FORMATS.get(input.format or ""))
    if output.layout != "sharded":
        raise SpecError("output_layout", "'mirror' keeps a file's rows together, and --model_field parts them by model: leave it out")


def check_format(format: Format | None) -> None:
    """Check that the rows of an input's format can be kept until their model is known.

    Raises:
      SpecError: they can't.
    """
    if format is not None and not format.keeps_rows:
        kept = ", ".join(name for name, one in FORMATS.items() if one.keeps_rows)
        raise SpecError("model_field", f"is for {kept} and bigquery, not for {format.name}: make a task of each model with --model_map")


def fixed_folder(route: RouteSpec) -> str:
    """Return the folder that holds all models of the template."""
    return route.template.partition(route.placeholder)[0].rpartition("/")[0]


def folder_of(route: RouteSpec, name: str) -> str:
    """Return the folder of the model that a row names.

    Raises:
      ModelError: ``name`` is not the name of one folder.
    """
    if not SAFE.fullmatch(name) or name in (".", ".."):
        raise ModelError(f"field {route.field!r} is {name[:60]!r}, expected the name of one folder, without '/'")
    return route.template.replace(route.placeholder, name)


def request_of(route: RouteSpec, folder: str) -> ModelRequest:
    """Return the request for the model in ``folder``, one of those that rows name."""
    return dataclasses.replace(route.models, location=folder)
