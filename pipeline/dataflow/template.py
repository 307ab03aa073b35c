"""The files of the Flex Template: its metadata, made from the flags, and the container spec that names its image.

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
# With a tag or a digest: the image behind ":latest" may change under a scheduled job.
IMAGE = re.compile(r"[a-z0-9][a-z0-9.:-]*(/[A-Za-z0-9._-]+)+(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})")


@dataclasses.dataclass(frozen=True)
class Shown:
    """The properties of a flag in a template's form that the flag itself does not have.

    ``regex`` is what its value has to match; it applies where the flag ``parent`` has one of ``parent_values``.
    """

    regex: str = ""
    parent: str = ""
    parent_values: tuple[str, ...] = ()


# A worker in the cloud can't see the launching machine's disk: every path needs a scheme.
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
    """Return the template's metadata: the proto ``TemplateMetadata`` as JSON."""
    return {"name": NAME, "description": DESCRIPTION, "parameters": [_parameter(flag) for flag in table.FLAGS]}


def metadata_text() -> str:
    """Return the content of ``templates/metadata.json``."""
    return json.dumps(metadata(), indent=2, ensure_ascii=False) + "\n"


def _parameter(flag: Flag) -> dict[str, Any]:
    shown = SHOWN.get(flag.name, Shown())
    kind = _kind(flag)
    parameter: dict[str, Any] = {
        "name": flag.name,
        "label": flag.name.replace("_", " ").capitalize(),
        "helpText": f"{flag.help}. Expected: {flag.allowed}. Default: {table.default_text(flag)}.",
        "groupName": flag.group,
        "isOptional": True,  # each flag that a job needs can be replaced by others (--model_map, --job); the launch checks for missing ones
        "paramType": kind,
    }
    if kind == "ENUM":
        parameter["enumOptions"] = [{"value": choice, "label": choice} for choice in flag.choices]
    if shown.regex:
        parameter["regexes"] = [f"^{shown.regex}$"]
    if shown.parent:
        parameter |= {"parentName": shown.parent, "parentTriggerValues": list(shown.parent_values)}
    if flag.default not in (None, ()) and not flag.default_help:
        parameter["defaultValue"] = table.default_text(flag)
    return parameter


def _kind(flag: Flag) -> str:
    """Return the type of a flag's parameter, by the flag's choices or the values that it parses."""
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
    """Return the container spec, the proto ``ContainerSpec`` as JSON, of an image for launcher and workers.

    Raises:
      UsageError: ``image`` is not a full name with a tag or digest.
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
    """Return why the service would refuse ``parameters`` for the template of ``spec``, or None.

    The template may be older than this checkout, so its own metadata counts.
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
    """Write the container spec: ``python -m pipeline.dataflow.template IMAGE FILE``."""
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
