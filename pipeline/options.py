"""Every flag, its help and unit; the only place that reads flags."""

from __future__ import annotations

import ast
import dataclasses
import datetime
import difflib
import functools
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline import dates
from transforms import specs


class UsageError(Exception):
    """A flag or its value is wrong; the message names flag, value, what is allowed and what to do."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of ours; ``allowed`` is what a person reads of its values, ``parse`` what reads them."""

    name: str
    group: str
    help: str
    allowed: str
    parse: Callable[[str], Any] = str
    default: Any = None
    default_help: str = ""
    choices: tuple[str, ...] = ()

    def read(self, text: str) -> Any:
        try:
            return self.parse(text)
        except ValueError:
            raise UsageError(f"--{self.name}={text}: expected {self.allowed}") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _tags(text: str) -> tuple[str, ...]:
    if not all(_names(text)):
        raise ValueError(text)
    return _names(text)


def _boolean(text: str) -> bool:
    words = {"true": True, "false": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(text)
        return text

    return parse


def _choices(flag: str, group: str, help_text: str, allowed: tuple[str, ...], default: str | None, default_help: str = "") -> Flag:
    return Flag(flag, group, help_text, f"one of {', '.join(allowed)}", _choice(*allowed), default, default_help, allowed)


FLAGS = (
    Flag("model", "Model", "SavedModel folder, local or gs://, or a folder of numbered versions", "a folder", default_help="required"),
    Flag(
        "model_map", "Model", "many models in one run: a file of tasks {model, input, output}, JSON-lines or CSV, for --model and --input",
        "a file", default_help="none",
    ),
    Flag(
        "retry_failed", "Model", "instead of --model_map: the manifest.json of an earlier run, whose failed tasks run again",
        "a file", default_help="none",
    ),
    Flag("model_version", "Model", "which numbered version", "the name of a version's folder", default_help="the highest"),
    Flag(
        "signature_name", "Model", "which signature", "a signature's name",
        default_help="the only one, else serving_default",
    ),
    Flag("tags", "Model", "tags of the MetaGraph", "tags separated by commas", _tags, default_help="serve"),
    Flag("batch_size", "Model", "rows a model call", "a whole number from 1 to 1000000", _integer(1, 1_000_000), default_help="computed"),
    Flag(
        "model_memory_mb", "Model", "memory that a process's loaded models may take, in MiB", "a whole number from 1 to 1000000",
        _integer(1, 1_000_000), default_help="0.4 of the worker's, shared by its processes",
    ),
    Flag(
        "allow_unsafe_ops", "Model", "run a model that reads or writes files or runs Python code", "true or false",
        _boolean, False,
    ),
    Flag(
        "input", "Input", "files, folders or patterns, local or gs://; or a table, bq://project.dataset.table",
        "paths separated by commas", _names, (), "required",
    ),
    Flag("input_query", "Input", "a query of BigQuery, instead of --input", "a SELECT of BigQuery's SQL", default_help="none"),
    Flag("row_restriction", "Input", "which rows of a table are read", "a condition as in a WHERE of BigQuery's SQL", default_help="all"),
    _choices("input_format", "Input", "format of the input", specs.INPUT_FORMATS, None, "by each file's extension"),
    Flag(
        "key_field", "Input", "field that holds the instance key; several make a composite key", "field names separated by commas",
        _names, (), "none: keys are made from file and byte offset",
    ),
    _choices("duplicate_keys", "Input", "what a key that stands twice does", specs.DUPLICATE_KEYS, "fail"),
    Flag(
        "include_fields", "Input", "fields of a row that the model is fed", "field names separated by commas",
        _names, (), "those the signature names",
    ),
    Flag("exclude_fields", "Input", "fields of a row that the model is not fed", "field names separated by commas", _names, (), "none"),
    Flag(
        "passthrough_fields", "Output", "fields copied from the row to its prediction; * for all", "field names separated by commas, or *",
        _names, (), "none",
    ),
    Flag("output", "Output", "folder of the results, local or gs://", "a folder", default_help="required"),
    _choices("output_format", "Output", "format of the predictions", specs.OUTPUT_FORMATS, "jsonl"),
    _choices("output_style", "Output", "shape of a row of JSON", specs.OUTPUT_STYLES, "keyed"),
    _choices(
        "output_layout", "Output", "sharded, or mirror: one output file an input file, same relative path and order",
        specs.OUTPUT_LAYOUTS, "sharded",
    ),
    Flag("errors", "Output", "folder of the failed rows", "a folder", default_help="beside the results"),
    Flag(
        "max_error_ratio", "Output", "failed ÷ read above which nothing is published", "a number from 0 to 1", _ratio, 0.1,
    ),
    _choices("nan", "Output", "NaN and infinities in text: null, a string, or the row fails", specs.NAN_POLICIES, "null"),
    _choices("write_disposition", "Output", "replace what is in the folder, or refuse", specs.WRITE_DISPOSITIONS, "truncate"),
    Flag(
        "location", "Run", "where BigQuery runs queries and loads", "a location of BigQuery, such as EU or us-central1",
        default_help="where the data lies",
    ),
    Flag(
        "run_id", "Run", "names the run; the same id twice is the same run", "1 to 128 letters, digits, '_', '.' or '-'",
        default_help="made from the time",
    ),
    Flag(
        "job", "Run", "body of an AI Platform or Vertex AI batch prediction job, whose fields stand for flags; those given here win",
        "a file of JSON", default_help="none",
    ),
    Flag(
        "date", "Run", "the day that {date} stands for in paths, queries and the run's id", "a day such as 2026-11-26",
        datetime.date.fromisoformat, default_help="today",
    ),
    Flag("time_zone", "Run", "where today is", "a name such as Europe/Berlin", dates.read_zone, dates.UTC, "UTC"),
    Flag("verbose", "Run", "show what TensorFlow and Beam log", "true or false", _boolean, False),
)  # fmt: skip
BY_NAME = {flag.name: flag for flag in FLAGS}
REQUIRED = ("model", "input", "output")
MANY = ("model_map", "retry_failed")


@dataclasses.dataclass(frozen=True)
class Options:
    """Our flags' values, by name, and Beam's own arguments as given."""

    values: dict[str, Any]
    given: tuple[tuple[str, str], ...]
    beam: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        if name not in BY_NAME:
            raise AttributeError(name)
        return self.values[name]


def parse(argv: Sequence[str]) -> Options:
    """Reads ``argv`` (without program and command).

    Raises:
      UsageError: an unknown flag, a bad value, a flag missing.
    """
    given, beam = _sort_arguments(list(argv))
    values = {flag.name: flag.default for flag in FLAGS}
    for name, text in given:
        if sum(other == name for other, _ in given) > 1:
            raise UsageError(f"--{name} is given twice")
        values[name] = BY_NAME[name].read(text)
    at = dates.moment(values["date"], values["time_zone"])
    values |= {name: BY_NAME[name].read(dates.fill(name, text, at)) for name, text in given if name in dates.FILLED}
    missing = [name for name in _required(values) if not values[name] and not (name == "input" and values["input_query"] is not None)]
    if missing:
        raise UsageError(f"--{missing[0]} is missing: {BY_NAME[missing[0]].help}")
    options = Options(values, tuple(given), tuple(beam))
    input_spec(options), key_spec(options), output_spec(options)  # each checks itself, before anything heavy is imported
    if options.run_id is not None and not specs.RUN_ID.fullmatch(options.run_id):
        raise UsageError(f"--run_id={options.run_id}: expected {BY_NAME['run_id'].allowed}, beginning with a letter or digit")
    return options


def _required(values: dict[str, Any]) -> tuple[str, ...]:
    """The flags that must be given beside those that are; a run of many takes models and inputs from its tasks."""
    many = [name for name in MANY if values[name]]
    if not many:
        return REQUIRED
    clash = [*many[1:], *(name for name in ("model", "input") if values[name])]
    if clash:
        raise UsageError(f"--{clash[0]} and --{many[0]} exclude each other: the tasks name models and inputs")
    return ("output",)


def _sort_arguments(argv: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Tells our flags, with their values, from Beam's arguments."""
    ours: list[tuple[str, str]] = []
    beam: list[str] = []
    known = beam_flags()
    while argv:
        argument = argv.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise UsageError(f"{argument!r} is no flag; flags are given as --name=value")
        name, equals, text = argument[2:].partition("=")
        if name in BY_NAME:
            if not equals:
                if not argv or argv[0].startswith("--"):
                    raise UsageError(f"--{name} has no value: give --{name}=…, {BY_NAME[name].allowed}")
                text = argv.pop(0)
            ours.append((name, text))
        elif name in known:
            beam += _beam_switch(name, equals, text) if known[name] else [argument]
            if not known[name] and not equals and argv and not argv[0].startswith("--"):
                beam.append(argv.pop(0))
        else:
            raise UsageError(f"unknown flag --{name}{_nearest(name, known)}")
    return ours, beam


def _beam_switch(name: str, equals: str, text: str) -> list[str]:
    """A flag of Beam's without a value; a template's launcher can only give it as ``--name=true``, which Beam refuses."""
    if equals and text.lower() not in ("true", "false"):
        raise UsageError(f"--{name}={text}: expected --{name}, --{name}=true or --{name}=false")
    return [] if text.lower() == "false" else [f"--{name}"]


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), [*BY_NAME], 1, 0.6) or difflib.get_close_matches(name, sorted(known), 1, 0.8)
    return f"; did you mean --{close[0]}?" if close else "; nightshift run --help lists the flags"


@functools.cache
def beam_flags() -> dict[str, bool]:
    """The flags of the installed Beam, and whether each is a switch without a value.

    Read from its source: importing it takes seconds, and a typo should not.
    """
    spec = importlib.util.find_spec("apache_beam")
    if spec is None or spec.origin is None:
        raise UsageError("apache_beam is not installed; run 'make setup'")
    path = os.path.join(os.path.dirname(spec.origin), "options", "pipeline_options.py")
    with open(path, encoding="utf-8") as source:
        tree = ast.parse(source.read())
    return {
        argument.value[2:]: any(word.arg == "action" and "store_" in ast.unparse(word.value) for word in call.keywords)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr.endswith("argument")
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and argument.value.startswith("--")
    }


# --- flags → specs ---------------------------------------------------------------------------------------------------------


def input_spec(options: Options) -> specs.InputSpec:
    patterns = options.input if not any(options.values[name] for name in MANY) else ("each task's own",)
    return specs.InputSpec(
        patterns, options.input_format, options.include_fields, options.exclude_fields, options.input_query, options.row_restriction
    )


def key_spec(options: Options) -> specs.KeySpec:
    return specs.KeySpec(options.key_field, options.duplicate_keys)


def bigquery_spec(options: Options, project: str | None) -> specs.BigQuerySpec:
    return specs.BigQuerySpec(project, options.location)


def output_spec(options: Options) -> specs.OutputSpec:
    return specs.OutputSpec(
        folder=options.output,
        errors_folder=options.errors,
        format=options.output_format,
        style=options.output_style,
        layout=options.output_layout,
        passthrough_fields=options.passthrough_fields,
        nan=options.nan,
        write_disposition=options.write_disposition,
    )


# --- help ----------------------------------------------------------------------------------------------------------------


def help_text() -> str:
    """Gives ``nightshift run --help``."""
    lines = ["usage: nightshift run --model=DIR --input=FILES --output=DIR [--flag=value …]", ""]
    for group in dict.fromkeys(flag.group for flag in FLAGS):
        lines.append(f"{group}:")
        for flag in FLAGS:
            if flag.group == group:
                lines.append(f"  --{flag.name:<20} {flag.help}")
                lines.append(f"    {'':<20} {flag.allowed}; default: {default_text(flag)}")
        lines.append("")
    lines.append("Apache Beam's own flags (--runner, --direct_num_workers, --project, …) are passed on.")
    lines.append("Exit status: 0 done; 2 wrong flags or preflight; 3 the gate stayed shut; 1 anything else.")
    return "\n".join(lines)


def default_text(flag: Flag) -> str:
    if flag.default_help:
        return flag.default_help
    return str(flag.default).lower() if isinstance(flag.default, bool) else str(flag.default)


def markdown_table() -> str:
    """Gives the README's table of flags."""
    rows = [f"| `--{flag.name}` | {flag.help} | {flag.allowed} | {default_text(flag)} |" for flag in FLAGS]
    return "\n".join(["| flag | meaning | value | default |", "|---|---|---|---|", *rows])
