"""Jobs on an engine, by way of Beam's job service in Python, a process of its own: interrupted, they publish nothing, and it is said."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import child
import grpc
import pytest
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from jobs import run, write_lines
from saved_models import Models

from pipeline import engine, summary
from pipeline.preflight.engine import Engine, EngineError
from transforms.model import crashes
from transforms.model.handler import SavedModelHandler
from transforms.model.locate import locate_model
from transforms.runtime import worker_causes
from transforms.specs.errors import ModelError
from transforms.specs.models import ModelRequest

ROOT = Path(__file__).resolve().parents[1]
STATES = beam_job_api_pb2.JobState


class JobService:
    """Beam's job service in Python, which runs jobs in its own process: what it cancels runs on to its end."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "service.log"
        port = folder / "port"
        program = [sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main", f"--port_file={port}"]
        with open(self.log, "wb") as log:
            variables = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
            self.process = subprocess.Popen(program, stdout=log, stderr=log, env=os.environ | variables, cwd=folder)
        child.wait_until(lambda: port.exists() and port.read_text(), 120)
        self.address = f"localhost:{port.read_text()}"
        self.flags = {"runner": "PortableRunner", "job_endpoint": self.address, "environment_type": "beam:env:embedded_python:v1"}

    def states(self) -> list[str]:
        stub = beam_job_api_pb2_grpc.JobServiceStub(grpc.insecure_channel(self.address))
        return [STATES.Enum.Name(job.state) for job in stub.GetJobs(beam_job_api_pb2.GetJobsRequest()).job_info]

    def is_predicting(self) -> bool:
        """Whether one of its threads is in a model call."""
        return any(path.read_bytes()[:4] != bytes(4) for path in crashes.folder().glob(f"{self.process.pid}.*"))

    def has_said(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    started = JobService(tmp_path)
    yield started
    started.stop()


def slow(models: Models, tmp_path: Path) -> dict[str, Any]:
    """Flags of a job of one model call, which takes some seconds."""
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 20_000, "id": number} for number in range(100)])
    return {"model": models.get("slow"), "input": data, "key_field": "id"}


@contextlib.contextmanager
def interrupting(when: Any, before: Any) -> Iterator[None]:
    """Interrupts the main thread as Ctrl-C does, once ``when`` is so; ``before`` is called first."""

    def interrupt() -> None:
        child.wait_until(when, 240)
        before()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_launch_cancels_its_job(number: int, service: JobService, models: Models, tmp_path: Path) -> None:
    out, said = tmp_path / "out", tmp_path / "said"
    whole = child.start(out, said, **slow(models, tmp_path), **service.flags)
    child.wait_until(service.is_predicting, 240)
    assert whole.pid is not None
    os.kill(whole.pid, number)
    whole.join(60)
    assert whole.exitcode == 130, said.read_text()
    assert "is cancelled" in said.read_text()
    assert "nothing was published" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert service.states() == ["CANCELLED"]
    # This service does not stop what it cancels: the job comes to its last step, and finds that it may not publish.
    child.wait_until(lambda: service.has_said("was interrupted: it publishes nothing"), 240)
    assert not list(out.glob("[!_]*"))
    assert not (out / "_SUCCESS").exists()


def test_an_engine_that_does_not_answer_is_named_and_can_not_publish_later(
    service: JobService, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "CANCEL_SECONDS", 1.0)
    out = tmp_path / "out"
    with interrupting(service.is_predicting, lambda: service.process.send_signal(signal.SIGSTOP)):
        assert run(out, **slow(models, tmp_path), **service.flags) == 130
    said = capfd.readouterr().err
    assert "could not be cancelled: the engine does not say within 1 s that it is" in said
    assert f"whose job server is {service.address}" in said
    assert "nothing was published" not in said
    service.process.send_signal(signal.SIGCONT)
    child.wait_until(lambda: service.has_said("was interrupted: it publishes nothing"), 240)
    assert not list(out.glob("[!_]*"))
    # what was left is swept by the next run
    data = write_lines(tmp_path / "few.jsonl", [{"x": 1.0, "id": 1}])
    assert run(out, model=models.get("half_plus_two"), input=data, key_field="id") == 0
    assert not (out / "_staging").exists()


def test_an_interruption_that_comes_too_late_does_not_deny_the_output(
    service: JobService, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Published between the last look at the job and Ctrl-C: the run is done, and says so."""
    monkeypatch.setattr(engine, "CANCEL_SECONDS", 1.0)
    out = tmp_path / "out"
    data = write_lines(tmp_path / "few.jsonl", [{"x": 1.0, "id": 1}])
    flags = {"model": models.get("half_plus_two"), "input": data, "key_field": "id"}

    def is_published() -> bool:
        return (out / "_SUCCESS").exists()

    # stopped as soon as it has published: nobody hears that the job is done
    with interrupting(is_published, lambda: service.process.send_signal(signal.SIGSTOP)):
        status = run(out, **flags, **service.flags)
        time.sleep(0.5)
    assert status == 0, capfd.readouterr().err
    assert (out / "_SUCCESS").exists()


# --- paths that only this machine knows ------------------------------------------------------------------------------------------

ELSEWHERE = {"runner": "PortableRunner", "job_endpoint": "localhost:1", "environment_type": "EXTERNAL", "environment_config": "localhost:2"}


@pytest.mark.parametrize("flag", ["model", "input", "output", "errors", "baseline", "compare_model"])
def test_a_relative_path_is_refused_where_workers_are_elsewhere(
    flag: str, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1.0, "id": 1}])
    values: dict[str, Any] = {"model": models.get("half_plus_two"), "input": data, "output": tmp_path / "out", "key_field": "id"}
    values |= {flag: "a/b"} if flag != "input" else {flag: f"{data},a/b"}
    out = values.pop("output")
    assert run(out, **values, **ELSEWHERE) == 2
    said = capsys.readouterr().err
    assert f"--{flag}=a/b: expected an absolute path or one of Cloud Storage, found a relative one" in said
    assert "PortableRunner" in said
    assert str(tmp_path / "a" / "b") in said


@pytest.mark.parametrize("name", ["model", "input"])
def test_a_relative_path_of_a_task_is_refused_where_workers_are_elsewhere(
    name: str, models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1.0, "id": 1}])
    task = {"model": models.get("half_plus_two"), "input": str(data), "output": "site"}
    tasks = write_lines(tmp_path / "tasks.jsonl", [task, task | {"output": "other", name: "a/b"}])
    assert run(tmp_path / "out", model_map=tasks, **ELSEWHERE) == 2
    assert f"task 2: {name}=a/b: expected an absolute path" in capsys.readouterr().err


def test_a_relative_path_is_taken_where_the_workers_are_in_this_process(tmp_path: Path) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions

    for flags in ([], ["--runner=DirectRunner"], ["--runner=PortableRunner", "--environment_type=LOOPBACK"]):
        here = Engine(PipelineOptions(flags))
        assert not here.has_workers_elsewhere
        here.check_path("--model", "a/b")
    elsewhere = Engine(PipelineOptions([f"--{name}={value}" for name, value in ELSEWHERE.items()]))
    assert (elsewhere.has_workers_elsewhere, elsewhere.runner) == (True, "PortableRunner")
    for path in ("gs://bucket/a", "bq://project.dataset.table", "/a/b", "projects/p/locations/l/models/m@3"):
        elsewhere.check_path("--model", path)
    with pytest.raises(EngineError):
        elsewhere.check_path("--model", "projects/p")


# --- workers that do not start ---------------------------------------------------------------------------------------------------

MISSING_WORKER = (
    "java.lang.RuntimeException: java.util.concurrent.TimeoutException: No client connected within timeout\n\tat org.apache.Beam"
)


def test_what_kept_a_worker_from_starting_is_said_whatever_the_engine_says(models: Models, tmp_path: Path) -> None:
    """Flink starts a worker that failed three times more, and reports only that the last one is missing."""
    model = Path(models.get("quarter_gib"))
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    (values,) = broken.glob("variables/*data*")
    values.write_bytes(values.read_bytes()[:1000])
    spec = locate_model(ModelRequest(str(broken)))
    staging = tmp_path / "staging"
    for _ in range(2):
        with pytest.raises(ModelError):
            SavedModelHandler(spec, staging=str(staging)).load_model()
    noted = worker_causes.first_cause(str(staging))
    assert noted is not None
    assert noted.startswith(f"{broken} can't be loaded")
    assert summary.cause(RuntimeError(MISSING_WORKER), noted) == noted
    # what the worker's own exception says is not overridden by what an earlier worker wrote
    own = "transforms.model.saved_model.ModelError: another reason [while running 'Predict']"
    assert summary.cause(RuntimeError(f"Traceback\n{own}"), noted) == "another reason"


def test_a_missing_worker_of_which_nothing_is_known_gets_advice(tmp_path: Path) -> None:
    assert worker_causes.first_cause(str(tmp_path / "staging")) is None
    assert "the log of the worker pool at --environment_config says why" in summary.cause(RuntimeError(MISSING_WORKER))


def test_a_model_that_can_not_be_loaded_is_named_by_a_run_on_an_engine(
    service: JobService, models: Models, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = Path(models.get("quarter_gib"))
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    (values,) = broken.glob("variables/*data*")
    values.write_bytes(values.read_bytes()[:1000])
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1.0, "id": 1}])
    assert run(tmp_path / "out", model=broken, input=data, **service.flags) == 1
    said = capfd.readouterr().err
    assert f"{broken} can't be loaded" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "out").glob("**/*"))
