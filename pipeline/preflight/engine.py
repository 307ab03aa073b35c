"""What is known of the engine that runs a job: where its workers run, and with how many threads and processes."""

from __future__ import annotations

import dataclasses
import functools
import os

from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from pipeline.flags import specs_of
from pipeline.flags.options import RunOptions
from transforms.model.vertex_registry import is_registered
from transforms.runtime import machine
from transforms.specs.errors import RefusedError
from transforms.storage import paths

# Runners whose workers are this process or its children, by their names in lower case; no name is the first of them.
LOCAL_RUNNERS = ("directrunner", "fnapirunner", "switchingdirectrunner")
DATAFLOW = "dataflowrunner"
# The portable runner's environment whose workers are threads of the launching process, with its working folder.
LOOPBACK = "LOOPBACK"


class EngineError(RefusedError):
    """The engine's workers could not do what the job needs, or not find it; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """The engine of a job, by Beam's options; each fact is read once, since Beam takes 14 ms to parse its options."""

    options: PipelineOptions

    @functools.cached_property
    def runner(self) -> str:
        """Return the runner's name without its module; empty where none is given."""
        return (self.options.view_as(StandardOptions).runner or "").rsplit(".", 1)[-1]

    @property
    def is_local(self) -> bool:
        """Return whether the job runs on this machine, in this process or its children."""
        return self.runner == "" or self.runner.lower() in LOCAL_RUNNERS

    @property
    def is_dataflow(self) -> bool:
        """Return whether Dataflow runs the job."""
        return self.runner.lower() == DATAFLOW

    @functools.cached_property
    def is_template(self) -> bool:
        """Return whether this launch only makes a template of the job, as a Flex Template's launcher does."""
        return self.options.view_as(GoogleCloudOptions).template_location is not None

    @functools.cached_property
    def has_workers_elsewhere(self) -> bool:
        """Return whether the workers have working folders of their own."""
        return not self.is_local and (self.options.view_as(PortableOptions).environment_type or "").upper() != LOOPBACK

    @functools.cached_property
    def threads(self) -> int:
        """Return the number of TensorFlow's threads in a process: one where each core has a process, else the cores a process."""
        if not self.is_local:
            return 1
        workers = self.options.view_as(DirectOptions).direct_num_workers or machine.cores()
        return max(1, machine.cores() // workers)

    @functools.cached_property
    def processes(self) -> int:
        """Return how many processes of one worker load models."""
        if self.is_local and self.options.view_as(DirectOptions).direct_running_mode != "multi_processing":
            return 1
        return max(1, machine.cores() // self.threads)

    @functools.cached_property
    def project(self) -> str | None:
        """Return the Google Cloud project of the job."""
        return self.options.view_as(GoogleCloudOptions).project

    @functools.cached_property
    def temporary_folder(self) -> str | None:
        """Return ``--temp_location``."""
        return self.options.view_as(GoogleCloudOptions).temp_location

    def check_image(self) -> None:
        """Refuse a Dataflow job whose workers would start from Beam's own image, without this project or TensorFlow.

        Raises:
          EngineError: no image is named.
        """
        image = self.options.view_as(WorkerOptions).sdk_container_image
        if self.is_dataflow and not (image or self.options.view_as(SetupOptions).setup_file):
            raise EngineError(
                "--sdk_container_image is missing: Dataflow's workers run the image that 'make image' builds. Name it, or launch the "
                "template, which names it itself"
            )

    def check_path(self, what: str, path: str | None) -> None:
        """Refuse a relative path, which ``what`` names, where the workers would look for it in working folders of their own.

        Raises:
          EngineError: naming it, and what to give instead.
        """
        if not path or not self.has_workers_elsewhere or paths.is_remote(path) or os.path.isabs(path) or is_registered(path):
            return
        raise EngineError(
            f"{what}={path}: expected an absolute path or one of Cloud Storage, found a relative one, which the workers of {self.runner} "
            f"would look for in their own working folders. Give gs://…, or {os.path.abspath(path)} where they see this machine's disk"
        )


def check_engine(options: RunOptions, engine: Engine) -> None:
    """Refuse what the engine's workers could not do, or could not find.

    Raises:
      EngineError: a Dataflow job without an image; a relative path where workers have working folders of their own.
    """
    engine.check_image()
    inputs = () if specs_of.input_spec(options).is_bigquery or options.tasks_flag else options.input
    named = {
        "model": options.model,
        "compare_model": options.compare_model,
        "baseline": options.baseline,
        "output": options.output,
        "errors": options.errors,
    }
    for flag, path in (*named.items(), *(("input", pattern) for pattern in inputs)):
        engine.check_path(f"--{flag}", path)
