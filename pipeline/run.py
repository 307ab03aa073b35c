"""One run, from its options to its exit status."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.flags.flag import UsageError
from pipeline.flags.options import RunOptions
from pipeline.process import stopping
from pipeline.process.terminal import complain as to_terminal
from pipeline.process.terminal import quiet_logs
from transforms.runtime import temporary_folders
from transforms.specs.errors import NightshiftError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipeline.preflight.job import InputFound
    from transforms.specs.run import RunSpec

DONE, INTERRUPTED = 0, 130
LOG = logging.getLogger("nightshift")


def run(options: RunOptions, complain: Callable[[str], None] = to_terminal) -> int:
    """Run the job that ``options`` describe and return its exit status; ``complain`` gets the message of a failure."""
    try:
        beam_options = start(options)
        with temporary_folders.folder_of_run() as folder:
            return _run_in(folder, options, beam_options, complain)
    except (NightshiftError, OSError) as error:
        return status_of(error, complain)


def status_of(error: NightshiftError | OSError, complain: Callable[[str], None]) -> int:
    """Pass the message of ``error`` to ``complain``, and return its exit status."""
    if isinstance(error, NightshiftError):
        complain(str(error))
        return error.exit_status
    complain(f"a disk or storage failed: {error}; manifest.json in the output says which run it holds")
    return NightshiftError.exit_status


def start(options: RunOptions) -> PipelineOptions:
    """Import Beam and return its options.

    Raises:
      UsageError: Beam refuses one of its own flags, or does not have the engine.
    """
    quiet_logs(options.verbose)
    # Imported only now that the flags are checked: Beam takes seconds, TensorFlow more.
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions, TypeOptions

    beam_options = PipelineOptions(list(options.beam))
    with contextlib.redirect_stderr(io.StringIO()) as output:
        try:
            beam_options.get_all_options()
        except SystemExit:  # Beam's parser exits at the first read of a bad value
            raise UsageError(output.getvalue().strip().rpartition("error: ")[2]) from None
    _check_runner(beam_options.view_as(StandardOptions).runner)
    beam_options.view_as(SetupOptions).save_main_session = False
    # DirectRunner would first try to download Prism, a runner that needs workers of its own; pipelines that allow
    # "unsafe triggers" stay in this process, and this pipeline has no triggers.
    beam_options.view_as(TypeOptions).allow_unsafe_triggers = True
    FileSystems.set_options(beam_options)  # before preflight's first access to a bucket, which fixes this process's credentials
    return beam_options


def _check_runner(name: str | None) -> None:
    """Refuse an engine that Beam does not have, before anything is read."""
    from apache_beam.runners.runner import create_runner

    try:
        if name is not None:
            create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(f"--runner={name}: {error}") from None


def _run_in(folder: Path, options: RunOptions, beam_options: PipelineOptions, complain: Callable[[str], None]) -> int:
    from pipeline.preflight import job as preflight
    from pipeline.preflight import tasks
    from pipeline.preflight.engine import Engine

    run, input_found = tasks.prepare(options, beam_options) if options.tasks_flag else preflight.prepare(options, beam_options)
    if options.resume and _is_done(run, complain):
        return DONE
    try:
        return execute(run, input_found, beam_options, complain, folder)
    except KeyboardInterrupt as interrupt:
        from pipeline import engine

        if isinstance(interrupt, engine.StillRunningError):
            return INTERRUPTED
        _leave_staging(run, complain)
        if not Engine(beam_options).is_local:  # the mark went with the folder, and some engine's worker may not know yet
            _stop_publishing(run, complain)
        raise


def execute(run: RunSpec, input_found: InputFound, beam_options: PipelineOptions, complain: Callable[[str], None], folder: Path) -> int:
    """Run the pipeline to its end, print the summary, and return the exit status, which the manifest decides, not the engine."""
    import apache_beam as beam

    from pipeline import engine, graph, summary
    from pipeline.preflight.engine import Engine
    from transforms.output import publisher

    progress_folder = _make_progress_folder(folder) if Engine(beam_options).is_local else None
    # While the graph is built, the collector would repeatedly scan all objects of TensorFlow and Beam.
    gc.freeze()
    failure: Exception | None = None
    with stopping.noticed() as stops:
        try:
            with temporary_folders.beside(folder):  # Beam makes a folder of its own as soon as there is a pipeline
                pipeline = beam.Pipeline(options=beam_options)
            graph.build(pipeline, run, progress_folder)
            with summary.show_progress(progress_folder, input_found):
                engine.run(pipeline, beam_options, lambda: _stop_publishing(run, complain), complain)
            if Engine(beam_options).is_template:
                LOG.info("the template is written; the job's output will go to %s", run.folder)
                return DONE
        except KeyboardInterrupt:
            if publisher.published_by(run) is None:
                raise  # otherwise it came after the publishing
        except Exception as error:  # whatever an engine raises when a job fails
            if stops:  # the local runner turns Ctrl-C during a bundle into an error of its own
                raise KeyboardInterrupt from error
            failure = error
    manifest = publisher.ended(run)
    if manifest is None:
        what = "was cut off while it published" if publisher.is_cut_off(run) else "failed and nothing was published"
        complain(f"the job {what}: {_crashed(run) or summary.cause(failure, _noted(run))}")
        _leave_staging(run, complain)
        LOG.debug("what the engine said", exc_info=failure)
        return NightshiftError.exit_status
    summary.print_summary(manifest, run)
    return DONE if manifest.is_done else publisher.GateShutError.exit_status


def _make_progress_folder(folder: Path) -> str:
    progress_folder = folder / "progress"
    progress_folder.mkdir()
    return str(progress_folder)


def _stop_publishing(run: RunSpec, complain: Callable[[str], None]) -> None:
    """Keep a job that an engine runs from publishing, however long the engine takes to cancel it."""
    from transforms.staging import cancelled

    try:
        cancelled.mark(run)
    except Exception as error:  # storage clients raise types of their own
        complain(f"the job can't be kept from publishing: {error}")


def _noted(run: RunSpec) -> str | None:
    """Return a worker's own message on why it could not start; None where no worker left one."""
    from transforms.runtime import worker_causes

    try:
        return worker_causes.first_cause(run.staging_in(run.folder))
    except Exception:  # a storage that fails now must not hide why the job failed
        return None


def _crashed(run: RunSpec) -> str | None:
    """Return what a worker's process on this machine was predicting when it died; the engine reports only that it is gone."""
    from transforms.model.crashes import find_crashes

    crashes = {str(crash): path for path, crash in find_crashes() if crash.launch == run.launch}
    for path in crashes.values():
        path.unlink(missing_ok=True)
    return f"a worker's process died, killed or crashed, while it ran {'; another, '.join(crashes)}" if crashes else None


def _is_done(run: RunSpec, complain: Callable[[str], None]) -> bool:
    """Return whether the run to resume is already complete; say that, or that there is nothing to resume."""
    from pipeline import summary
    from transforms.output import publisher
    from transforms.output.manifest import find_done
    from transforms.specs.output import TableOutput

    manifest = find_done(run.folder, run.run_id, dict(run.flags), isinstance(run.output, TableOutput))
    if manifest is not None:
        publisher.sweep(run)
        complain(f"run {run.run_id} is done already")
        summary.print_summary(manifest, run)
    elif run.identity and not run.resumed:
        complain(f"nothing of run {run.run_id} is there to go on with, in {run.folder}: all of it is predicted")
    return manifest is not None


def _leave_staging(run: RunSpec, complain: Callable[[str], None]) -> None:
    """Keep the staged files and print how to resume, where splits are finished; delete them otherwise."""
    from transforms.many.tasks import written_folders
    from transforms.output import publisher
    from transforms.staging import removal, split_records
    from transforms.storage import files

    if publisher.is_cut_off(run):
        complain(f"what it has staged stays: the next run to {run.folder} finishes the change first")
        return
    finished = split_records.recorded(run.staging_in(run.folder)) if run.identity else []
    if split_records.are_worth_keeping(finished):
        kept = f"{len(finished)} splits of the input are finished, in {run.staging_in(run.folder)}"
        complain(f"{kept}: the same flags with --run_id={run.run_id} --resume=true predict the rest; a run without takes them away")
        return
    for folder in written_folders(run):
        removal.remove(run.staging_in(folder))
        files.delete_empty(run.staging_in(folder), folder)
