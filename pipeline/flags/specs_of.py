"""The options of a run → its specs."""

from __future__ import annotations

from pipeline.flags.options import RunOptions
from transforms.specs import table_name
from transforms.specs.errors import SpecError
from transforms.specs.job import BigQuerySpec, InputSpec, KeySpec, check_together
from transforms.specs.models import EACH_TASKS_MODEL, VARIANT, CompareSpec, ModelRequest, RouteSpec
from transforms.specs.output import OWN_FIELDS, FolderOutput, OutputSpec, TableOutput, check_shape


def check_specs(options: RunOptions) -> None:
    """Check the options by making every spec once, before anything heavy is imported.

    Raises:
      SpecError: a value out of its range, or flags that don't go together.
    """
    route_spec(options)
    input, key, output = input_spec(options), key_spec(options), output_spec(options)
    if options.tasks_flag is None:  # each task may have a key of its own
        check_together(input, key, output)
    bigquery_spec(options, None)
    compare_spec(options)


def input_spec(options: RunOptions) -> InputSpec:
    """Make the spec of the input; its patterns are a placeholder where tasks name their own."""
    patterns = options.input if options.tasks_flag is None else ("each task's own",)
    return InputSpec(
        patterns=patterns,
        format=options.input_format,
        include_fields=options.include_fields,
        exclude_fields=options.exclude_fields,
        query=options.input_query,
        row_restriction=options.row_restriction,
        limits=options.limits,
    )


def model_request(options: RunOptions, threads: int) -> ModelRequest:
    """Return the request for the run's model; its location is a placeholder where tasks name their own."""
    return ModelRequest(
        location=options.model or EACH_TASKS_MODEL.location,
        version=options.model_version,
        signature_name=options.signature_name,
        tags=options.tags,
        batch_size=options.batch_size,
        allow_unsafe_ops=options.allow_unsafe_ops,
        threads=threads,
    )


def route_spec(options: RunOptions, threads: int = 1) -> RouteSpec | None:
    """Make the spec of how rows name their models; None where they do not.

    Raises:
      SpecError: flags that don't go together.
    """
    if options.model_field is None:
        if options.model_column is not None:
            raise SpecError("model_column", "is for rows that name their models: give --model_field too")
        return None
    if options.tasks_flag:
        raise SpecError("model_field", f"and --{options.tasks_flag} exclude each other: tasks name their models")
    if options.model_column is not None:
        _check_column(options, options.model_column)
    return RouteSpec(options.model_field, model_request(options, threads), options.model_column)


def _check_column(options: RunOptions, column: str) -> None:
    side_by_side = options.key_field if options.output_style == "aiplatform" else ()
    taken = (*OWN_FIELDS[options.output_style], *side_by_side, *options.passthrough_fields)
    if options.output_style == "raw" or "*" in taken or column in taken:
        raise SpecError("model_column", f"{column!r} has no place of its own with --output_style={options.output_style} and these fields")


def compare_spec(options: RunOptions) -> CompareSpec:
    """Make the spec of what the run is compared with, without the second model, which preflight locates.

    Raises:
      SpecError: flags that don't go together.
    """
    for name, needed in (
        ("max_drift", "baseline"),
        ("compare_version", "compare_model"),
        ("max_disagreement", "compare_model"),
        ("compare_share", "compare_model"),
    ):
        if options.value_of(name) is not None and options.value_of(needed) is None:
            raise SpecError(name, f"has no meaning without --{needed}: give it too")
    if options.compare_model is not None or options.baseline is not None:
        given = "compare_model" if options.compare_model is not None else "baseline"
        many = options.tasks_flag or ("model_field" if options.model_field else None)
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


def _check_second_model(options: RunOptions) -> None:
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


def key_spec(options: RunOptions) -> KeySpec:
    return KeySpec(options.key_field, options.duplicate_keys)


def bigquery_spec(options: RunOptions, project: str | None) -> BigQuerySpec:
    return BigQuerySpec(project, options.location)


def output_spec(options: RunOptions, staging: str | None = None) -> OutputSpec:
    """Make the spec of the output, a folder or a table; a table's shards and manifest go to ``staging``.

    Raises:
      SpecError: a value out of its range, or flags that don't go together.
    """
    if table_name.is_table(options.output):
        return _table_output(options, staging or options.output)
    for name in ("create_dataset", "partition_field", "cluster_fields"):
        if options.value_of(name):
            raise SpecError(name, "is for tables: leave it out, or give bq://PROJECT.DATASET.TABLE as --output")
    format = options.output_format or "jsonl"
    return FolderOutput(
        folder=options.output,
        errors_folder=options.errors,
        format=format,
        style=options.output_style,
        layout=options.output_layout,
        passthrough_fields=_passthrough_fields(options, format),
        nan=options.nan,
        csv_formulas=options.csv_formulas,
        write_disposition=options.write_disposition,
    )


def _table_output(options: RunOptions, staging: str) -> TableOutput:
    """Make the spec of a table, which for a dataset's name is its table ``predictions``; refuse flags that are for folders."""
    output = TableOutput(
        table=table_name.name_or_default(options.output),
        folder=staging,
        passthrough_fields=_passthrough_fields(options, TableOutput.format),
        nan=options.nan,
        write_disposition=options.write_disposition,
        create_dataset=options.create_dataset,
        partition_field=options.partition_field,
        cluster_fields=options.cluster_fields,
    )
    if options.output_format not in (None, output.format):
        raise SpecError("output_format", f"{options.output_format!r} is no format of a table; leave it out, or give a folder as --output")
    if options.output_layout != output.layout:
        raise SpecError("output_layout", f"{options.output_layout!r} is for folders; leave it out")
    if options.errors is not None:
        raise SpecError("errors", f"the failed rows of a table go to a table beside it, {output.errors_name}: leave it out")
    check_shape(output.format, options.output_style, options.csv_formulas)
    return output


def _passthrough_fields(options: RunOptions, format: str) -> tuple[str, ...]:
    """Return the fields passed through, and the one that names the model where the results need a column for it."""
    fields = options.passthrough_fields
    if options.compare_share is not None and "*" not in fields:
        fields = (*(name for name in fields if name != VARIANT), VARIANT)
    return (*fields, options.model_column) if options.model_column is not None and format != "jsonl" else fields
