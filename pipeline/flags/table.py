"""The table of flags: every flag of a run, its help, unit, allowed values and default."""

from __future__ import annotations

import datetime

from pipeline.flags import dates
from pipeline.flags.flag import Flag, boolean, choice, integer, names, number, whole_names
from transforms.specs.job import DUPLICATE_KEYS, INPUT_FORMATS, REPORTS
from transforms.specs.output import CSV_FORMULAS, NAN_POLICIES, OUTPUT_FORMATS, OUTPUT_LAYOUTS, OUTPUT_STYLES, WRITE_DISPOSITIONS


def _choices(flag: str, group: str, help_text: str, allowed: tuple[str, ...], default: str | None, default_help: str = "") -> Flag:
    return Flag(flag, group, help_text, f"one of {', '.join(allowed)}", choice(*allowed), default, default_help, allowed)


FLAGS = (
    Flag(
        "model", "Model", "SavedModel folder, local or gs://, a folder of numbered versions, or projects/P/locations/L/models/M[@version] "
        "of Vertex AI's registry", "a folder or a registered model", default_help="required",
    ),
    Flag(
        "model_map", "Model", "many models in one run: tasks {model, input, output} as JSON-lines, CSV or a table of BigQuery, for "
        "--model and --input",
        "a file or table", default_help="none",
    ),
    Flag(
        "retry_failed", "Model", "instead of --model_map: the manifest.json of an earlier run, whose failed tasks run again",
        "a file", default_help="none",
    ),
    Flag(
        "model_field", "Model", "each row names its model in this field, whose value takes its place in --model=models/{field}/",
        "a field's name", default_help="none",
    ),
    Flag(
        "model_column", "Model", "with --model_field: the results' field for the model's version (its folder, if it has no versions)",
        "a field's name", default_help="none",
    ),
    Flag("model_version", "Model", "which numbered version", "the name of a version's folder", default_help="the highest"),
    Flag(
        "signature_name", "Model", "which signature", "a signature's name",
        default_help="the only one, else serving_default",
    ),
    Flag("tags", "Model", "tags of the MetaGraph", "tags separated by commas", whole_names, default_help="serve"),
    Flag("batch_size", "Model", "rows a model call", "a whole number from 1 to 1000000", integer(1, 1_000_000), default_help="computed"),
    Flag(
        "model_memory_mb", "Model", "memory that a process's loaded models may take, in MiB", "a whole number from 1 to 1000000",
        integer(1, 1_000_000), default_help="0.4 of the worker's, shared by its processes",
    ),
    Flag(
        "allow_unsafe_ops", "Model", "run a model whose ops reach files, other machines or the process itself", "true or false",
        boolean, False,
    ),
    Flag(
        "input", "Input", "files, folders or patterns, local or gs://; or a table, bq://project.dataset.table",
        "paths separated by commas", names, (), "required",
    ),
    Flag("input_query", "Input", "a query of BigQuery, instead of --input", "a SELECT of BigQuery's SQL", default_help="none"),
    Flag("row_restriction", "Input", "which rows of a table are read", "a condition as in a WHERE of BigQuery's SQL", default_help="all"),
    _choices("input_format", "Input", "format of the input", INPUT_FORMATS, None, "by each file's extension"),
    Flag(
        "key_field", "Input", "field that holds the instance key; several make a composite key", "field names separated by commas",
        names, (), "none: keys are made from file and byte offset",
    ),
    _choices("duplicate_keys", "Input", "what happens when a key occurs twice", DUPLICATE_KEYS, "fail"),
    Flag(
        "include_fields", "Input", "fields of a row that the model is fed", "field names separated by commas",
        names, (), "those the signature names",
    ),
    Flag("exclude_fields", "Input", "fields of a row that the model is not fed", "field names separated by commas", names, (), "none"),
    Flag(
        "passthrough_fields", "Output", "fields copied from the row to its prediction; * for all", "field names separated by commas, or *",
        names, (), "none",
    ),
    Flag(
        "output", "Output", "folder of the results, local or gs://; or a table, bq://project.dataset[.table]", "a folder or table",
        default_help="required",
    ),
    _choices("output_format", "Output", "format of the predictions", OUTPUT_FORMATS, None, "jsonl, or bigquery for a table"),
    _choices("output_style", "Output", "shape of a row of JSON", OUTPUT_STYLES, "keyed"),
    _choices(
        "output_layout", "Output", "sharded, or mirror: one output file an input file, same relative path and order",
        OUTPUT_LAYOUTS, "sharded",
    ),
    Flag("errors", "Output", "folder of the failed rows", "a folder", default_help="beside the results"),
    Flag(
        "max_error_ratio", "Output", "failed ÷ read above which nothing is published", "a number from 0 to 1", number(0, 1), 0.1,
    ),
    _choices("nan", "Output", "NaN and infinities in text: null, a string, or the row fails", NAN_POLICIES, "null"),
    _choices(
        "csv_formulas", "Output", "texts in CSV that a spreadsheet would run (= + - @ first): keep them, or put an apostrophe before",
        CSV_FORMULAS, "keep",
    ),
    _choices(
        "write_disposition", "Output", "replace what is in the folder or table, add to a table, or refuse",
        WRITE_DISPOSITIONS, "truncate",
    ),
    Flag("create_dataset", "Output", "make the dataset of a table, in --location, if it does not exist", "true or false", boolean, False),
    Flag("partition_field", "Output", "column that partitions a new table", "a column of DATE, DATETIME or TIMESTAMP", default_help="none"),
    Flag("cluster_fields", "Output", "columns that cluster a new table", "up to 4 column names separated by commas", names, (), "none"),
    _choices(
        "report", "Output", "gather statistics of the rows and write statistics.json and report.html; tasks: for each task of many too",
        REPORTS, "true",
    ),
    Flag(
        "baseline", "Compare", "an earlier run, with whose statistics.json inputs and predictions are compared",
        "a run's folder, or the file", default_help="none",
    ),
    Flag(
        "max_drift", "Compare", "drift of any of them above which nothing is published", "a number from 0 to 100", number(0, 100), None,
        "none: the summary names what drifts more than 0.2",
    ),
    Flag(
        "compare_model", "Compare", "a second model that predicts the same rows, to be compared with the first", "as --model",
        default_help="none",
    ),
    Flag(
        "compare_version", "Compare", "which numbered version of the second model", "the name of a version's folder",
        default_help="the highest",
    ),
    Flag(
        "compare_tolerance", "Compare", "difference, absolute or relative, up to which two numbers agree", "a number from 0 to 1",
        number(0, 1), 0.01,
    ),
    Flag(
        "max_disagreement", "Compare", "share of the rows on which the two may disagree; above it nothing is published",
        "a number from 0 to 1", number(0, 1), None, "none",
    ),
    Flag(
        "compare_share", "Compare", "instead of comparing: the second model predicts this share of the keys in the first's place, "
        "always the same ones; the field model_variant says which did", "a number from 0 to 1", number(0, 1), None, "none",
    ),
    Flag(
        "location", "Run", "where BigQuery runs queries and loads", "a location of BigQuery, such as EU or us-central1",
        default_help="where the data is",
    ),
    Flag(
        "run_id", "Run", "names the run; the same id twice is the same run", "1 to 128 letters, digits, '_', '.' or '-'",
        default_help="made from the time",
    ),
    Flag(
        "resume", "Run", "with the run_id of a run that failed or was stopped: finished splits count, and only the rest is predicted",
        "true or false", boolean, False,
    ),
    Flag(
        "job", "Run", "body of an AI Platform or Vertex AI batch prediction job, whose fields become flags; flags given here win",
        "a file of JSON", default_help="none",
    ),
    Flag(
        "date", "Run", "the day that {date} is replaced by in paths, queries and the run's id", "a day such as 2026-11-26",
        datetime.date.fromisoformat, default_help="today",
    ),
    Flag("time_zone", "Run", "where today is", "a name such as Europe/Berlin", dates.read_zone, dates.UTC, "UTC"),
    Flag("verbose", "Run", "show what TensorFlow and Beam log", "true or false", boolean, False),
)  # fmt: skip
BY_NAME = {flag.name: flag for flag in FLAGS}
REQUIRED = ("model", "input", "output")
MANY = ("model_map", "retry_failed")


def default_text(flag: Flag) -> str:
    if flag.default_help:
        return flag.default_help
    return str(flag.default).lower() if isinstance(flag.default, bool) else str(flag.default)
