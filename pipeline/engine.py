"""The engine that runs a pipeline: submits a job, waits for it, and cancels it when its launch is interrupted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, PortableOptions
from apache_beam.runners.runner import PipelineState

from pipeline.preflight.engine import Engine
from transforms.specs.messages import first_line

LOG = logging.getLogger("nightshift")
# Flink and Dataflow take some seconds to end a job; a scheduler that sent SIGTERM kills after 10 to 30 s.
CANCEL_SECONDS = 20.0
POLL_SECONDS = 0.2


class StillRunningError(KeyboardInterrupt):
    """The launch was interrupted, and the engine did not say in time that it cancelled the job."""


def run(pipeline: beam.Pipeline, options: PipelineOptions, on_interrupt: Callable[[], None], complain: Callable[[str], None]) -> None:
    """Run ``pipeline`` to its end; only submit it where it becomes a template.

    When the launch is interrupted while another process runs the job, call ``on_interrupt``, then cancel the job.

    Raises:
      KeyboardInterrupt: interrupted, and no job is running any more; a ``StillRunningError`` where one may be.
      Exception: whatever the engine raises when a job fails.
    """
    if Engine(options).is_local:
        pipeline.run().wait_until_finish()
        return
    _silence_engine()
    job = _Job(pipeline, options)
    try:
        job.wait()
    except KeyboardInterrupt:
        on_interrupt()
        job.cancel(complain)


class _Job:
    """A job on an engine; a thread submits it and waits for it, so that an interruption need not wait for the engine's client."""

    def __init__(self, pipeline: beam.Pipeline, options: PipelineOptions) -> None:
        self.pipeline, self.options = pipeline, options
        self.result: Any = None
        self.failure: BaseException | None = None
        self.sent = threading.Event()
        self.thread = threading.Thread(target=self._run, name="job", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self.pipeline.run()
            self.sent.set()
            if not Engine(self.options).is_template:
                self.result.wait_until_finish()
        except BaseException as error:  # ``wait`` raises it again
            self.failure = error
        finally:
            self.sent.set()

    def wait(self) -> None:
        """Wait for the job's end.

        Raises:
          BaseException: whatever the engine raised.
        """
        self.thread.join()
        if self.failure is not None:
            raise self.failure

    def cancel(self, complain: Callable[[str], None]) -> None:
        """Cancel the job; return only where it had already ended.

        Raises:
          KeyboardInterrupt: it is cancelled, or was never sent; a ``StillRunningError`` where it may run on.
        """
        complain("interrupted; the job is being cancelled on the engine")
        end = time.monotonic() + CANCEL_SECONDS
        self.sent.wait(CANCEL_SECONDS)
        if self.sent.is_set() and self.result is None:
            raise KeyboardInterrupt  # it could not be sent
        cancelling = _Cancelling(self.result, end)
        if self.result is not None:
            cancelling.start()
            cancelling.join(max(0.0, end - time.monotonic()))
        if cancelling.state == PipelineState.CANCELLED:
            complain(f"{self._name()} is cancelled")
            raise KeyboardInterrupt
        if PipelineState.is_terminal(cancelling.state):
            self.wait()
            return
        reason = cancelling.failure or f"the engine does not say within {CANCEL_SECONDS:.0f} s that it is"
        complain(f"{self._name()} could not be cancelled: {reason}. It may run on: {self._advice()}")
        raise StillRunningError

    def _name(self) -> str:
        return f"job {_job_id(self.result)}" if self.result is not None else "the job, which was being sent,"

    def _advice(self) -> str:
        cloud = self.options.view_as(GoogleCloudOptions)
        if Engine(self.options).is_dataflow:
            where = f"--region={cloud.region} --project={cloud.project}"
            return f"gcloud dataflow jobs cancel {_job_id(self.result) or 'ID'} {where}"
        endpoint = self.options.view_as(PortableOptions).job_endpoint
        return f"look for it at the engine{f', whose job server is {endpoint}' if endpoint else ''}"


class _Cancelling(threading.Thread):
    """Cancels a job on an engine and polls its state to the end; a thread, since an engine that is gone never answers."""

    def __init__(self, result: Any, end: float) -> None:
        super().__init__(name="cancel", daemon=True)
        self.result, self.end = result, end
        self.state: str = PipelineState.UNKNOWN
        self.failure = ""

    def run(self) -> None:
        try:
            self.result.cancel()
            while not PipelineState.is_terminal(state := self.result.state) and time.monotonic() < self.end:
                time.sleep(POLL_SECONDS)
            self.state = state
        except Exception as error:  # whatever an engine's client raises
            self.failure = first_line(error)


def _job_id(result: Any) -> str:
    """Return the engine's id of a job, a method or an attribute of ``result``; empty where it has none."""
    job_id = getattr(result, "job_id", None) or getattr(result, "_job_id", None) or ""
    return str(job_id() if callable(job_id) else job_id)


class _OwnWords(logging.Filter):
    """Drops a portable engine's messages, stacks of its workers; the useful line of them is printed at the end."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.module != "portable_runner"


def _silence_engine() -> None:
    if logging.getLogger("apache_beam").level > logging.ERROR:  # unless --verbose
        for handler in logging.getLogger().handlers:
            handler.addFilter(_OwnWords())
