"""Checks of a job before it starts: its model exists and can run, its input matches files, its output can be written."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import os
import uuid
from collections.abc import Iterable, Iterator

from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.flags import specs_of
from pipeline.flags.options import RunOptions
from pipeline.preflight import comparison
from pipeline.preflight.engine import Engine, check_engine
from pipeline.preflight.row_models import find_example, find_models
from transforms.bigquery.check_table import check_table
from transforms.bigquery.find_table import find_table
from transforms.formats.catalog import format_of, known_types
from transforms.many.row_models import check_format, check_route
from transforms.model.import_tensorflow import import_tensorflow
from transforms.model.locate import locate_model
from transforms.model.vertex_registry import is_registered
from transforms.output import journal
from transforms.output.journal import JournalError
from transforms.output.mirror import MirrorCheck
from transforms.output.published_names import PUBLISHED
from transforms.output.publisher import refuse_occupied
from transforms.rows.row_spec import RowSpec, make_row_spec
from transforms.specs.errors import RefusedError, SpecError
from transforms.specs.job import InputSpec, JobSpec
from transforms.specs.messages import first_line
from transforms.specs.output import FolderOutput, OutputSpec, TableOutput
from transforms.specs.own_names import is_own
from transforms.specs.run import JobRun
from transforms.specs.signature import Signature
from transforms.specs.table_name import is_table, name_or_default, parse_table
from transforms.staging import split_records
from transforms.storage import files, paths
from transforms.storage.files import FoundFile
from transforms.write_shards import make_encoder

# Enough to be sure of the formats and to show progress by bytes; more would cost a launcher memory and minutes.
LOOKED_AT_FILES = 10_000


class PreflightError(RefusedError):
    """Something the job needs is missing or wrong; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class InputFound:
    """What the patterns matched, at launch; ``whole`` False: there are more files than the first ``LOOKED_AT_FILES``."""

    files: int
    bytes: int
    whole: bool
    first: tuple[str, ...] = ()  # one file a pattern


def prepare(options: RunOptions, beam_options: PipelineOptions, probe_output: bool = True) -> tuple[JobRun, InputFound]:
    """Make the run and the summary of its input from the options, with every check that is possible before the start.

    ``probe_output`` False writes nothing, not even the file that shows that the output can be written.

    Raises:
      RefusedError: a check fails; the message says what is wrong and what to do.
    """
    engine = Engine(beam_options)
    check_engine(options, engine)
    import_tensorflow()
    try:
        job, found = _make_job(options, engine)
        if isinstance(job.output, TableOutput):
            check_table(job, job.output)
        make_encoder(job)  # refuses outputs that the format can't hold
        if job.route is None:
            models = (options.model, job.model.location, options.compare_model)
            refuse_in_models(filter(None, models), (job.output.folder, job.output.errors))
        if probe_output:
            finish_publishing(job.output.folder, job.output.errors)
        _check_disposition(job)
        identity = split_records.identify(job)
        run = JobRun(
            job=job,
            model_memory_bytes=memory_bytes(options),
            processes=engine.processes,
            identity=identity,
            resumed=_find_launches(job, identity) if options.resume else (),
        )
        (_check_output if probe_output else _look_at_output)(run)
    except OSError as error:
        raise PreflightError(str(error)) from error
    return run, found


def _make_job(options: RunOptions, engine: Engine) -> tuple[JobSpec, InputFound]:
    """Locate the model, look at the input and make the job."""
    route = specs_of.route_spec(options, engine.threads)
    model = locate_model(specs_of.model_request(options, engine.threads)) if route is None else find_models(route)
    input, key = specs_of.input_spec(options), specs_of.key_spec(options)
    found = InputFound(1, 0, whole=False) if input.is_bigquery else _check_input(options)
    output = specs_of.output_spec(options, _table_staging(options, engine.temporary_folder))
    bigquery = specs_of.bigquery_spec(options, engine.project)
    compare = comparison.compare_spec(options, model.signature, engine.threads)
    if route is None:
        _check_fields(input, model.signature)
    else:
        check_route(input, output)
    rows = make_row_spec(model.signature, input, key, output, compare, route)
    types = find_table(input, bigquery, rows).columns if input.is_bigquery else {}
    _check_formats(found, input, rows)
    if isinstance(output, FolderOutput):
        types = {}  # texts of JSON need none
    elif not input.is_bigquery:
        types = known_types(found.first, input.format)
    now = datetime.datetime.now(datetime.UTC)
    job = JobSpec(
        input=input,
        key=key,
        model=model,
        output=output,
        run_id=options.run_id or make_run_id(now),
        launch=uuid.uuid4().hex,
        started=now.isoformat(timespec="milliseconds"),
        max_error_ratio=options.max_error_ratio,
        flags=options.given,
        bigquery=bigquery,
        route=route,
        example=None if route is None else find_example(route, output.format),
        # The column of the models' versions is ours, whatever the input has under its name.
        field_types=tuple((name, kind) for name, kind in types.items() if name != options.model_column),
        report=options.report != "false",
        compare=compare,
    )
    return job, found


def make_run_id(now: datetime.datetime) -> str:
    """Make the id of a run from its start, with four random hexadecimal digits."""
    return now.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:4]


def _find_launches(job: JobSpec, identity: str) -> tuple[str, ...]:
    """Find the staging folders of the run's earlier launches, whose finished splits count.

    Raises:
      SpecError: the job can't be resumed.
    """
    reason = "the streams of a table are others on every launch" if job.input.is_bigquery else None
    if not identity:
        raise SpecError("resume", f"is for a run of one model on files: {reason or 'two models or a model a row are predicted in one go'}")
    return split_records.find_launches(job, identity)


# --- model -----------------------------------------------------------------------------------------------------------------


def memory_bytes(options: RunOptions) -> int | None:
    """Return the bytes of memory for a process's models; None: a share of the worker's memory."""
    return options.model_memory_mb << 20 if options.model_memory_mb else None


def _check_fields(spec: InputSpec, signature: Signature) -> None:
    """Refuse field lists that no row could satisfy.

    Raises:
      SpecError: naming the flag and the fields.
    """
    inputs = [tensor.name for tensor in signature.inputs]
    raw_line = len(inputs) == 1 and signature.inputs[0].dtype == "string"
    if spec.include_fields and not raw_line:
        unknown = [name for name in spec.include_fields if name not in inputs]
        if unknown:
            raise SpecError(
                "include_fields", f"{', '.join(unknown)} is no input of signature {signature.name}; inputs are {', '.join(inputs)}"
            )
        left_out = [name for name in inputs if name not in spec.include_fields]
        if left_out:
            raise SpecError("include_fields", f"leaves out {', '.join(left_out)}, which signature {signature.name} needs")
    needed = [name for name in spec.exclude_fields if name in inputs]
    if needed:
        raise SpecError("exclude_fields", f"leaves out {', '.join(needed)}, which signature {signature.name} needs")


# --- input and output --------------------------------------------------------------------------------------------------------


def _check_input(options: RunOptions) -> InputFound:
    sizes: dict[str, int] = {}  # by place: each file is read once
    first: list[str] = []
    output = specs_of.output_spec(options)
    places = tuple(map(files.place, (output.folder, output.errors)))
    mirrors = MirrorCheck(output) if output.layout == "mirror" else None
    whole = True
    for pattern in options.input:
        _refuse_output_in(pattern, places)
        matched = 0
        formats: dict[str, str] = {}  # one file of each
        for found in itertools.islice(files.match(pattern), LOOKED_AT_FILES):
            matched += 1
            if matched == 1:
                first.append(found.path)
            formats.setdefault(format_of(found.path, options.input_format).name, found.path)
            _refuse_replaced(found, places, output)
            if mirrors is not None and found.place not in sizes:
                mirrors.add(found)
            sizes.setdefault(found.place, found.size_bytes)
        if not matched:
            raise PreflightError(
                f"--input={pattern} matches no file: check the path, and quote a pattern so that the shell leaves it alone"
            )
        if len(formats) > 1:
            examples = ", ".join(f"{path} is {name}" for name, path in formats.items())
            raise PreflightError(
                f"--input={pattern} holds files of several formats ({examples}), and one pattern's files are read as one: give a pattern "
                "for each, or --input_format where they are alike"
            )
        whole = whole and matched < LOOKED_AT_FILES
    return InputFound(len(sizes), sum(sizes.values()), whole, tuple(first))


def _refuse_replaced(found: FoundFile, outputs: tuple[str, ...], output: OutputSpec) -> None:
    """Raise PreflightError where the run would replace its own input."""
    for folder in outputs:
        if found.place.startswith(folder + "/"):
            relative = found.place[len(folder) + 1 :]
            if output.layout == "mirror" or is_own(relative) or PUBLISHED.fullmatch(os.path.basename(relative)):
                raise PreflightError(
                    f"input {found.path} lies in the output folder {folder}, where the run would replace it: give another --output"
                )


def _check_formats(found: InputFound, input: InputSpec, rows: RowSpec) -> None:
    """Refuse input whose format lacks what ``rows`` need, by the first file of each pattern.

    Raises:
      PreflightError: naming the file and the reason.
    """
    for path in found.first:
        format = format_of(path, input.format)
        if rows.model_field is not None:
            check_format(format)
        reason = format.why_unreadable(rows, path)
        if reason is not None:
            raise PreflightError(reason)


def _refuse_output_in(pattern: str, outputs: tuple[str, ...]) -> None:
    folder = files.place(pattern)
    is_folder = paths.is_remote(pattern) or os.path.isdir(pattern)
    for output in outputs:
        if is_folder and (output == folder or output.startswith(folder + "/")):
            raise PreflightError(
                f"the output folder {output} lies in the input folder {pattern}: the next run would read its own output. "
                "Give another --output, or a pattern such as --input='" + pattern.rstrip("/") + "/*.jsonl'"
            )


def _table_staging(options: RunOptions, temporary: str | None) -> str | None:
    """Return the folder for the shards and the manifest of a table; None where the output is a folder.

    Raises:
      SpecError: there is no folder of Cloud Storage to stage them in.
    """
    if not is_table(options.output):
        return None
    if not (temporary or "").startswith("gs://"):
        found = f"--temp_location={temporary}" if temporary else "none"
        raise SpecError("temp_location", f"BigQuery loads the predictions from a folder of Cloud Storage: expected gs://…, found {found}")
    return paths.join(temporary or "", "nightshift", parse_table(name_or_default(options.output)).dotted)


def _check_disposition(job: JobSpec) -> None:
    if job.output.write_disposition == "empty" and isinstance(job.output, FolderOutput):
        for folder in dict.fromkeys((job.output.folder, job.output.errors)):
            refuse_occupied(folder)


def finish_publishing(*folders: str) -> None:
    """Finish the publishing of a run that was cut off in it; no other run publishes to ``folders`` meanwhile.

    Raises:
      PreflightError: the run's journal can't be followed, or the folder can't be written.
    """
    try:
        if any(journal.read(folder) is not None for folder in folders):
            with journal.alone(*folders):
                pass
    except JournalError as error:
        raise PreflightError(str(error)) from error
    except OSError as error:
        raise PreflightError(f"{folders[0]} can't be written: {error}. Check the path and your permissions") from error


def refuse_in_models(models: Iterable[str], outputs: Iterable[str]) -> None:
    """Refuse an output in a model's folder: it would change the model, and a folder of digits would become a version of it.

    Raises:
      PreflightError: naming both.
    """
    places = {files.place(model): model for model in models if not is_registered(model)}
    real = functools.cache(files.place)  # of the folders above: 100,000 tasks lie side by side
    for output in outputs:
        above, _, name = output.rstrip("/").rpartition("/")
        place = paths.join(real(above), name) if above and not (paths.is_remote(output) or os.path.islink(output)) else files.place(output)
        model = next((places[above] for above in _with_parents(place) if above in places), None)
        if model is not None:
            raise PreflightError(f"the output folder {output} lies in the model's folder {model}, which it would change: give another")


def _with_parents(place: str) -> Iterator[str]:
    """Yield a folder and those above it, the nearest first."""
    yield place
    while "/" in place:
        place = place.rpartition("/")[0]
        yield place or "/"


def _check_output(run: JobRun) -> None:
    for folder in run.folders:
        check_writable(folder, run.staging_in(folder))


def _look_at_output(run: JobRun) -> None:
    """Refuse a local folder that can't be written or made, by the permissions of the nearest existing folder; write nothing."""
    for folder in run.folders:
        if not paths.is_remote(folder):
            above = next(path for path in _with_parents(files.place(folder)) if os.path.lexists(path))
            if not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
                raise PreflightError(
                    f"{folder} can't be written: {above} is no folder in which this user may. Check the path and your permissions"
                )


def check_writable(folder: str, staging: str) -> None:
    """Check that ``folder`` can be written: write a file into ``staging``, a folder inside it, and delete it.

    Raises:
      PreflightError: it can't be written.
    """
    above = folder if os.path.isdir(folder) else os.path.dirname(folder)
    probe = paths.join(staging, "probe")
    try:
        files.write_bytes(probe, b"")
        files.delete([probe])
    except Exception as error:  # storage clients raise types of their own
        raise PreflightError(f"{folder} can't be written: {first_line(error)}. Check the path and your permissions") from error
    files.delete_empty(staging, above)
