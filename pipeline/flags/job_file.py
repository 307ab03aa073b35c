"""Request bodies of other services as flags: ``--job=job.json``.

Reads the body of an AI Platform batch prediction job (``projects.jobs.create``, or its ``predictionInput`` alone) and of a Vertex AI
``BatchPredictionJob``, in camelCase or snake_case. Each field is one entry of a table: the flag that says the same, or that it
changes nothing here, or why it can't be and what to do. What neither table knows is refused.

The fields and values are those of https://cloud.google.com/ai-platform/prediction/rest/v1/projects.jobs and
``google.cloud.aiplatform_v1.types.BatchPredictionJob``.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.flags.arguments import beam_flags
from pipeline.flags.flag import UsageError
from pipeline.process.terminal import complain
from transforms.specs.errors import NightshiftError


class _FieldError(NightshiftError):
    """A field of another type or value; the message is what was expected."""


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _FieldError("a text")
    return str(value)


def _count(value: Any) -> str:
    """Read a whole number; the services write 64-bit ones as texts."""
    if isinstance(value, bool) or not isinstance(value, str | int) or not re.fullmatch(r"[0-9]+", str(value)):
        raise _FieldError("a whole number")
    return str(value)


def _list(value: Any) -> str:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise _FieldError("a list of texts")
    if any("," in item for item in value):
        raise _FieldError("texts without commas, which part the values of a flag")
    return ",".join(value)


def _one_of(names: Mapping[str, str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise _FieldError(f"one of {', '.join(names)}")
        return names[value]

    return read


@dataclasses.dataclass(frozen=True)
class Field:
    """One field: the ``flag`` it becomes and the function that ``read``s its value, or why it is ``refused``; with neither it is ignored.

    A refused field is ignored where the command line has its ``flag``, or its value is in ``harmless``.
    """

    flag: str | None = None
    read: Callable[[Any], str] = _text
    refused: str | None = None
    harmless: tuple[Any, ...] = (None, "", [], {})


IGNORED = Field()
PLAIN_CONTAINER = re.compile(r"/(prediction/tf|vertex-ai/prediction/tf|tensorflow/serving)|^tensorflow/serving")
CONTAINER = (
    "what a container of its own does beside serving the SavedModel is not done here; take the field out if it only serves the model, "
    "or put the steps into the model"
)

VERTEX = {
    "name": IGNORED,
    "display_name": IGNORED,
    "labels": IGNORED,
    "model": Field("model"),
    "model_version_id": Field("model_version"),
    "unmanaged_container_model.artifact_uri": Field("model"),
    "unmanaged_container_model.predict_schemata": IGNORED,
    "unmanaged_container_model.container_spec": Field(refused=CONTAINER),
    "input_config.instances_format": Field(
        "input_format",
        _one_of(
            {
                "jsonl": "jsonl",
                "csv": "csv",
                "bigquery": "bigquery",
                "tf-record": "tf-record",
                "tf-record-gzip": "tf-record",
                "file-list": "file-list",
            }
        ),
    ),
    "input_config.gcs_source.uris": Field("input", _list),
    "input_config.bigquery_source.input_uri": Field("input"),
    "input_config.vertex_multimodal_dataset_source": Field(
        "input", refused="a multimodal dataset can't be read; give its table or files as --input"
    ),
    "instance_config.instance_type": Field(
        refused="an instance here is an object that names the signature's inputs, or in JSON-lines one input's bare value; "
        "name the columns as the inputs are, or take the field out if each line holds the list",
        harmless=(None, "", "object"),
    ),
    "instance_config.key_field": Field("key_field"),
    "instance_config.included_fields": Field("include_fields", _list),
    "instance_config.excluded_fields": Field("exclude_fields", _list),
    "model_parameters": Field(
        refused="a SavedModel's signature has inputs and no parameters; make each parameter an input, or a constant of the model"
    ),
    "output_config.predictions_format": Field(
        "output_format", _one_of({"jsonl": "jsonl", "csv": "csv", "bigquery": "bigquery", "tf-record": "tf-record", "parquet": "parquet"})
    ),
    "output_config.gcs_destination.output_uri_prefix": Field("output"),
    "output_config.bigquery_destination.output_uri": Field("output"),
    "output_config.vertex_multimodal_dataset_destination": Field(
        "output", refused="a multimodal dataset can't be written; give a folder or a table as --output"
    ),
    "dedicated_resources.machine_spec.machine_type": Field("machine_type"),
    "dedicated_resources.machine_spec": IGNORED,
    "dedicated_resources.starting_replica_count": Field("num_workers", _count),
    "dedicated_resources.max_replica_count": Field("max_num_workers", _count),
    "dedicated_resources": IGNORED,
    "service_account": Field("service_account_email"),
    "manual_batch_tuning_parameters.batch_size": Field("batch_size", _count),
    "generate_explanation": Field(refused="predictions only are made, no explanations; set it to false", harmless=(None, False)),
    "explanation_spec": Field(refused="predictions only are made, no explanations; take the field out"),
    "encryption_spec.kms_key_name": Field("dataflow_kms_key"),
    "disable_container_logging": IGNORED,
    **dict.fromkeys(
        (
            "state", "error", "partial_failures", "output_info", "resources_consumed", "completion_stats", "create_time", "start_time",
            "end_time", "update_time", "satisfies_pzs", "satisfies_pzi",
        ),
        IGNORED,
    ),
}  # fmt: skip

OWN_MODEL = "AI Platform's own list of models is gone; give the SavedModel's folder as 'uri', or as --model"
PREDICTION_INPUT = {
    "data_format": Field(
        "input_format", _one_of({"JSON": "jsonl", "TEXT": "jsonl", "TF_RECORD": "tf-record", "TF_RECORD_GZIP": "tf-record"})
    ),
    "input_paths": Field("input", _list),
    "output_path": Field("output"),
    "output_data_format": Field("output_format", _one_of({"JSON": "jsonl", "CSV": "csv"})),
    "uri": Field("model"),
    "model_name": Field("model", refused=OWN_MODEL),
    "version_name": Field("model", refused=OWN_MODEL),
    "signature_name": Field("signature_name"),
    "batch_size": Field("batch_size", _count),
    "max_worker_count": Field("max_num_workers", _count),
    "region": Field("region"),
    "runtime_version": IGNORED,
    "accelerator": IGNORED,
}
AI_PLATFORM = {
    **PREDICTION_INPUT,
    **{f"prediction_input.{name}": field for name, field in PREDICTION_INPUT.items()},
    "job_id": Field("run_id"),
    "training_input": Field(refused="a training job; only batch prediction jobs are run"),
    **dict.fromkeys(
        ("labels", "create_time", "start_time", "end_time", "state", "error_message", "prediction_output", "etag", "job_position"), IGNORED
    ),
}
# By a flag of the file, the flags that replace it when the command line has them.
ALSO_WON_BY = {"input": ("input_query", "model_map"), "input_format": ("input_query", "model_map"), "model": ("model_map",)}


def expand(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` with the flags of the file of ``--job`` added; flags in ``argv`` itself win.

    Raises:
      UsageError: the file can't be read, or a field of it can't be done here.
    """
    path = _job_in(argv)
    if path is None:
        return list(argv)
    given = {argument[2:].partition("=")[0] for argument in argv if argument.startswith("--")}
    body = _read(path, argv)
    table, style = _table(path, body)
    texts: dict[str, tuple[str, str]] = {}  # by flag: the field's place, the flag's text
    ignored = []
    for place, name, value in _fields(path, body, table):
        field = _softened(table[name], name, value)
        if field.refused is not None:
            if value not in field.harmless and field.flag not in given:
                raise UsageError(f"--job={path}: {place}: {field.refused}")
        elif field.flag is None:
            ignored.append(place)
        elif value is not None and value != "" and value != []:
            if field.flag in texts:
                raise UsageError(f"--job={path}: {texts[field.flag][0]} and {place} both say --{field.flag}; leave one of them out")
            texts[field.flag] = place, _value(path, place, field, value)
    if ignored:
        complain(f"--job={path}: changes nothing here: {', '.join(ignored)}")
    flags = {flag: text for flag, (_, text) in texts.items() if not given & {flag, *ALSO_WON_BY.get(flag, ())}}
    return [*argv, *(f"--{flag}={text}" for flag, text in _with_style(flags, style, argv, given).items())]


def _job_in(argv: Sequence[str]) -> str | None:
    """Return the value of ``--job``, given as ``--job=FILE`` or ``--job FILE``; None without it."""
    for number, argument in enumerate(argv):
        if argument.startswith("--job="):
            return argument.partition("=")[2]
        if argument == "--job" and number + 1 < len(argv):
            return argv[number + 1]
    return None


def _read(path: str, argv: Sequence[str]) -> dict[str, Any]:
    """Read the job's body from the file, local or gs://.

    Raises:
      UsageError: the file can't be read, or is no JSON object.
    """
    try:
        body = json.loads(_read_remote(path, argv) if "://" in path else Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"--job={path}: can't be read: {error}") from None
    except (ValueError, RecursionError) as error:  # not JSON, or nested too deep
        raise UsageError(f"--job={path}: expected a JSON object, the body of a batch prediction job: {error}") from None
    if not isinstance(body, dict):
        raise UsageError(f"--job={path}: expected a JSON object, the body of a batch prediction job; found {type(body).__name__}")
    wrapped = body.get("batchPredictionJob", body.get("batch_prediction_job"))
    return wrapped if isinstance(wrapped, dict) else body


def _read_remote(path: str, argv: Sequence[str]) -> bytes:
    from apache_beam.io.filesystems import FileSystems  # takes seconds, and a local file does not need it
    from apache_beam.options.pipeline_options import PipelineOptions

    from transforms.storage import files

    known = beam_flags()
    FileSystems.set_options(PipelineOptions([argument for argument in argv if argument[2:].partition("=")[0] in known]))
    return files.read_bytes(path)


def _table(path: str, body: Mapping[str, Any]) -> tuple[Mapping[str, Field], str]:
    """Return the table of fields of the service whose job ``body`` is, and the style of that service's output.

    Raises:
      UsageError: it is neither service's.
    """
    names = {_snake(name) for name in body}
    if names & {"input_config", "output_config", "instance_config"}:
        return VERTEX, "vertex"
    if names & {"prediction_input", "input_paths", "data_format", "output_path", "training_input"}:
        return AI_PLATFORM, "aiplatform"
    raise UsageError(
        f"--job={path}: is neither a Vertex AI BatchPredictionJob, which has an inputConfig, nor an AI Platform prediction job, "
        f"which has a predictionInput or inputPaths; found {', '.join(sorted(body)) or 'nothing'}"
    )


def _fields(path: str, body: Mapping[str, Any], table: Mapping[str, Field], above: tuple[str, ...] = ()) -> Iterator[tuple[str, str, Any]]:
    """Yield each field of ``body``: its place as the file spells it, its name in ``table``, and its value.

    Raises:
      UsageError: a field that ``table`` does not have, or with a value instead of an object.
    """
    for key, value in body.items():
        place = ".".join([*above, key])
        name = ".".join(map(_snake, [*above, key]))
        inner = any(known.startswith(name + ".") for known in table)
        if inner and isinstance(value, dict):
            yield from _fields(path, value, table, (*above, key))
        elif name in table:
            yield place, name, value
        elif inner:
            raise UsageError(f"--job={path}: {place}: expected an object, found {json.dumps(value)}")
        elif (over := next((one for one in _above(name) if one in table), None)) is not None:
            yield place, over, value
        else:
            close = difflib.get_close_matches(name, table, 1, 0.6)
            meant = f"; did you mean {_camel(close[0])}?" if close else ""
            raise UsageError(f"--job={path}: {place} is no field of such a job that is known here{meant}")


def _above(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _softened(field: Field, name: str, value: Any) -> Field:
    """Return ``field``, or ``IGNORED`` for a container that only serves SavedModels, which is done here anyway."""
    image = value.get("imageUri", value.get("image_uri", "")) if isinstance(value, dict) else ""
    return IGNORED if name.endswith("container_spec") and PLAIN_CONTAINER.search(str(image)) else field


def _value(path: str, place: str, field: Field, value: Any) -> str:
    try:
        return field.read(value)
    except _FieldError as error:
        raise UsageError(f"--job={path}: {place}: expected {error}, found {json.dumps(value)}") from None


def _with_style(flags: dict[str, str], style: str, argv: Sequence[str], given: set[str]) -> dict[str, str]:
    """Add the service's style to ``flags`` where predictions are lines of JSON, and its scheme to a table's URI without one."""
    if flags.get("input_format") == "bigquery" and "input" in flags and "://" not in flags["input"]:
        flags["input"] = "bq://" + flags["input"]
    chosen = {name: text for name, _, text in (argument[2:].partition("=") for argument in argv if argument.startswith("--"))} | flags
    is_json = chosen.get("output_format", "jsonl") == "jsonl" and not chosen.get("output", "").startswith("bq://")
    return flags | {"output_style": style} if is_json and "output_style" not in given else flags


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), name)


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)
