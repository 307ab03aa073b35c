"""The Flex Template as files: its metadata, written from the flags, and the container spec that names its image.

Google's names and rules: https://docs.cloud.google.com/dataflow/docs/guides/templates/configuring-flex-templates
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from pipeline.flags import table
from pipeline.flags.flag import Flag, UsageError
from pipeline.process.terminal import complain, say

METADATA = "templates/metadata.json"
NAME = "Nightshift"
DESCRIPTION = "Batch prediction with TensorFlow SavedModels: keyed predictions, every row accounted for, published whole or not at all."
# A tag or a digest is asked for: what ":latest" means changes under a job that is scheduled.
IMAGE = re.compile(r"[a-z0-9][a-z0-9.:-]*(/[A-Za-z0-9._-]+)+(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})")


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a template's form knows of a flag beyond the flag itself: a regex, or the value of another that makes it apply."""

    regex: str = ""
    parent: str = ""
    parent_values: tuple[str, ...] = ()


# A worker in the cloud can't see the launching machine's disk: every place has a scheme there.
PLACE = r"[a-z][a-z0-9]*://.+"
SHOWN = {
    "model": Shown(regex=rf"({PLACE}|projects/.+)"),
    "model_map": Shown(regex=PLACE),
    "job": Shown(regex=PLACE),
    "input": Shown(regex=r"[a-z][a-z0-9]*://[^,]+(,\s*[a-z][a-z0-9]*://[^,]+)*"),
    "output": Shown(regex=PLACE),
    "errors": Shown(regex=PLACE),
    "run_id": Shown(regex=r"[A-Za-z0-9{][A-Za-z0-9_.%:{}-]{0,127}"),
    "output_style": Shown(parent="output_format", parent_values=("jsonl",)),
    "csv_formulas": Shown(parent="output_format", parent_values=("csv",)),
    "nan": Shown(parent="output_format", parent_values=("jsonl", "csv")),
}


def metadata() -> dict[str, Any]:
    """Gives the template's metadata, as the proto ``TemplateMetadata`` has it."""
    return {"name": NAME, "description": DESCRIPTION, "parameters": [_parameter(flag) for flag in table.FLAGS]}


def metadata_text() -> str:
    return json.dumps(metadata(), indent=2, ensure_ascii=False) + "\n"


def _parameter(flag: Flag) -> dict[str, Any]:
    shown = SHOWN.get(flag.name, Shown())
    kind = _kind(flag)
    found: dict[str, Any] = {
        "name": flag.name,
        "label": flag.name.replace("_", " ").capitalize(),
        "helpText": f"{flag.help}. Expected: {flag.allowed}. Default: {table.default_text(flag)}.",
        "groupName": flag.group,
        "isOptional": True,  # each flag that a job needs has others in its place (--model_map, --job); the launch says which is missing
        "paramType": kind,
    }
    if kind == "ENUM":
        found["enumOptions"] = [{"value": choice, "label": choice} for choice in flag.choices]
    if shown.regex:
        found["regexes"] = [f"^{shown.regex}$"]
    if shown.parent:
        found |= {"parentName": shown.parent, "parentTriggerValues": list(shown.parent_values)}
    if flag.default not in (None, ()) and not flag.default_help:
        found["defaultValue"] = table.default_text(flag)
    return found


def _kind(flag: Flag) -> str:
    """The parameter's type, by the choices a flag has or by what it reads."""
    if flag.choices:
        return "ENUM"
    for text, kind, types in (("true", "BOOLEAN", bool), ("1", "NUMBER", (int, float))):
        try:
            if isinstance(flag.parse(text), types):
                return kind
        except ValueError:
            continue
    return "TEXT"


def container_spec(image: str) -> dict[str, Any]:
    """Gives the container spec: the proto ``ContainerSpec``. Launcher and workers are one image.

    Raises:
      UsageError: ``image`` is no full name with a tag or digest.
    """
    if not IMAGE.fullmatch(image):
        raise UsageError(f"image {image!r}: expected the full name with a tag or digest, such as REGION-docker.pkg.dev/P/R/nightshift:1")
    return {
        "image": image,
        "sdkInfo": {"language": "PYTHON"},
        "metadata": metadata(),
        "defaultEnvironment": {"sdkContainerImage": image},
    }


def refuse(spec: dict[str, Any], parameters: dict[str, str]) -> str | None:
    """Says what in ``parameters`` the template of ``spec`` would refuse, as the service would; None for nothing.

    The template may be older than this checkout: its own metadata counts.
    """
    declared = {parameter["name"]: parameter for parameter in spec.get("metadata", {}).get("parameters", [])}
    for name, parameter in declared.items():
        if not parameter.get("isOptional") and name not in parameters:
            return f"--{name} is missing: the template needs it"
    for name, text in parameters.items():
        if name not in declared:
            return f"--{name} is not known to the template, which was built from another version: run 'make template' and copy it again"
        for regex in declared[name].get("regexes", []):
            if not re.search(regex, text):
                return f"--{name}={text}: the template expects a match of {regex}; local paths can't be seen by a worker"
        allowed = [option["value"] for option in declared[name].get("enumOptions", [])]
        if allowed and text not in allowed:
            return f"--{name}={text}: the template expects one of {', '.join(allowed)}"
    return None


def main(arguments: Sequence[str]) -> int:
    """Writes the container spec: ``python -m pipeline.dataflow.template IMAGE FILE``."""
    image, path = arguments
    try:
        text = json.dumps(container_spec(image), indent=2, ensure_ascii=False) + "\n"
    except UsageError as error:
        complain(f"make template: {error}")
        return error.exit_status
    from transforms.storage import files

    files.write_bytes(path, text.encode())
    say(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
