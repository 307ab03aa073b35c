"""Arguments → options → specs; the only place that reads flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pipeline.flags import dates
from pipeline.flags.arguments import Arguments, read_arguments, read_values
from pipeline.flags.flag import UsageError
from pipeline.flags.table import BY_NAME, FLAGS, MANY, REQUIRED, default_text
from transforms.specs import table_name
from transforms.specs.errors import SpecError
from transforms.specs.job import RUN_ID, BigQuerySpec, InputSpec, KeySpec, OutputSpec
from transforms.specs.models import VARIANT, CompareSpec, RouteSpec


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
    return make(read_arguments(argv, FLAGS, "run", with_beams=True))


def make(arguments: Arguments) -> Options:
    """Makes the options of a run of its ``arguments``, and checks all that needs no look at the world.

    Raises:
      UsageError, SpecError: a bad value, a flag missing, flags that don't go together.
    """
    given = arguments.given
    values = read_values(FLAGS, given)
    at = dates.moment(values["date"], values["time_zone"])
    values |= {name: BY_NAME[name].read(dates.fill(name, text, at)) for name, text in given if name in dates.FILLED}
    missing = [name for name in _required(values) if not values[name] and not (name == "input" and values["input_query"] is not None)]
    if missing:
        raise UsageError(f"--{missing[0]} is missing: {BY_NAME[missing[0]].help}")
    options = Options(values, given, arguments.beam)
    (
        route_spec(options),
        input_spec(options),
        key_spec(options),
        output_spec(options),
        bigquery_spec(options, None),
        compare_spec(options),
    )  # each checks itself, before anything heavy is imported
    if options.resume and options.run_id is None:
        raise UsageError("--resume=true needs the --run_id of the run to go on with; its message, its manifest and the log name it")
    if options.run_id is not None and not RUN_ID.fullmatch(options.run_id):
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


# --- flags → specs ---------------------------------------------------------------------------------------------------------


def input_spec(options: Options) -> InputSpec:
    patterns = options.input if not any(options.values[name] for name in MANY) else ("each task's own",)
    return InputSpec(
        patterns, options.input_format, options.include_fields, options.exclude_fields, options.input_query, options.row_restriction
    )


def route_spec(options: Options, threads: int = 1) -> RouteSpec | None:
    if options.model_field is None:
        if options.model_column is not None:
            raise SpecError("model_column", "is for rows that name their models: give --model_field too")
        return None
    many = next((name for name in MANY if options.values[name]), None)
    if many:
        raise SpecError("model_field", f"and --{many} exclude each other: tasks name their models")
    return RouteSpec(
        field=options.model_field,
        template=options.model,
        column=options.model_column,
        version=options.model_version,
        signature_name=options.signature_name,
        tags=options.tags,
        batch_size=options.batch_size,
        allow_unsafe_ops=options.allow_unsafe_ops,
        threads=threads,
    )


def compare_spec(options: Options) -> CompareSpec:
    """What the run is held against; its second model is found in preflight."""
    for name, needed in (
        ("max_drift", "baseline"),
        ("compare_version", "compare_model"),
        ("max_disagreement", "compare_model"),
        ("compare_share", "compare_model"),
    ):
        if options.values[name] is not None and options.values[needed] is None:
            raise SpecError(name, f"has no meaning without --{needed}: give it too")
    if options.compare_model is not None or options.baseline is not None:
        given = "compare_model" if options.compare_model is not None else "baseline"
        many = next((name for name in (*MANY, "model_field") if options.values[name]), None)
        if many:
            raise SpecError(given, f"and --{many} exclude each other: one run compares one model's rows")
    if options.baseline is not None and options.report == "false":
        raise SpecError("report", "'false' gathers no statistics, and --baseline compares them: leave one out")
    spec = CompareSpec(
        baseline=options.baseline,
        max_drift=options.max_drift,
        max_disagreement=options.max_disagreement,
        tolerance=options.compare_tolerance,
        share=options.compare_share,
    )
    if options.compare_model is not None:
        _check_second_model(options)
    return spec


def _check_second_model(options: Options) -> None:
    if options.compare_share is None:
        if table_name.is_table(options.output):
            raise SpecError("compare_model", "writes both predictions of each row to files: give a folder as --output")
        return
    if options.max_disagreement is not None:
        raise SpecError("max_disagreement", "compares two predictions of a row; with --compare_share each has one")
    if options.output_layout == "mirror":
        raise SpecError("compare_share", "parts the rows of a file, whose order --output_layout=mirror keeps: leave one out")
    if options.output_style == "raw":
        raise SpecError("compare_share", f"--output_style=raw has no place for the field {VARIANT}")


def key_spec(options: Options) -> KeySpec:
    return KeySpec(options.key_field, options.duplicate_keys)


def bigquery_spec(options: Options, project: str | None) -> BigQuerySpec:
    return BigQuerySpec(project, options.location, options.create_dataset, options.partition_field, options.cluster_fields)


def output_spec(options: Options) -> OutputSpec:
    table = table_name.name_or_default(options.output) if table_name.is_table(options.output) else None
    passed = options.passthrough_fields
    if options.compare_share is not None and "*" not in passed:
        passed = (*(name for name in passed if name != VARIANT), VARIANT)
    return OutputSpec(
        folder=options.output,
        table=table,
        errors_folder=options.errors,
        format=options.output_format or ("bigquery" if table else "jsonl"),
        style=options.output_style,
        layout=options.output_layout,
        passthrough_fields=passed,
        nan=options.nan,
        csv_formulas=options.csv_formulas,
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


def markdown_table() -> str:
    """Gives the README's table of flags."""
    rows = [f"| `--{flag.name}` | {flag.help} | {flag.allowed} | {default_text(flag)} |" for flag in FLAGS]
    return "\n".join(["| flag | meaning | value | default |", "|---|---|---|---|", *rows])
