"""The same jobs on engines whose workers are processes of their own, over Beam's portable interfaces: the same rows.

``make test-cluster`` runs it; it needs Go for Prism, and for Flink Java, Maven and Beam's job server.
"""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import child
import pytest
from gcp_fixtures import BigQuery, CloudStorage
from jobs import check_output, lines, manifest, write_lines
from saved_models import Models

from cluster import engines
from transforms.specs.limits import Limits

pytestmark = [
    pytest.mark.skipif("NIGHTSHIFT_CLUSTER" not in os.environ, reason="'make test-cluster' runs the tests on engines of their own"),
    pytest.mark.filterwarnings("default"),  # shown, and no errors: the connections to an engine end as it pleases
]

ROWS = int(os.environ.get("NIGHTSHIFT_CLUSTER_ROWS", "50000"))
MODELS = int(os.environ.get("NIGHTSHIFT_CLUSTER_MODELS", "50"))
WITHIN_SECONDS = 400
LIMITS = Limits(split_bytes=100_000)


@pytest.fixture(scope="module", params=[*engines.ENGINES])
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[engines.Processes, dict[str, str]]]:
    try:
        with engines.ENGINES[request.param]() as (processes, flags):
            yield processes, dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    except engines.EngineMissingError as error:
        if request.param == "prism" and os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def run(out: Path | str, said: Path, **flags: Any) -> int:
    process = child.start(out, said, limits=LIMITS, **flags)
    process.join(WITHIN_SECONDS)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"the run hangs:\n{said.read_text()}")
    assert process.exitcode is not None
    return process.exitcode


def predicting(processes: engines.Processes) -> int | None:
    """The worker that is in a model call, of whichever pool."""
    pools = [process.pid for name, process in processes.started.items() if name.startswith("workers")]
    return next(filter(None, map(child.predicting, pools)), None)


def test_the_main_job(engine: Any, models: Models, tmp_path: Path) -> None:
    rows: list[Any] = [{"x": number % 50 if number % 1000 else "no", "id": number} for number in range(ROWS)]
    data, said = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "said"
    flags = {"model": models.get("half_plus_two"), "input": data, "key_field": "id"}
    assert run(tmp_path / "here", said, **flags) == 0, said.read_text()
    assert run(tmp_path / "there", said, **flags, **engine[1]) == 0, said.read_text()
    for kind in ("prediction.results", "prediction.errors"):
        here, there = (sorted(map(json.dumps, lines(tmp_path / place, kind))) for place in ("here", "there"))
        assert here == there
        assert here
    assert check_output(tmp_path / "there")["counts"] == manifest(tmp_path / "here")["counts"]


def test_many_models(engine: Any, tmp_path: Path) -> None:
    import numpy as np
    import tensorflow as tf

    class Line(tf.Module):
        def __init__(self, slope: float) -> None:
            self.slope = tf.Variable(slope)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def predict(self, x: Any) -> Any:
            return {"y": self.slope * x}

    tasks = []
    for number in range(MODELS):
        line = Line(float(number))
        tf.saved_model.save(line, str(tmp_path / "models" / f"{number}"), signatures=line.predict)
        data = write_lines(tmp_path / "in" / f"{number}.jsonl", [{"x": row, "id": row} for row in range(20)])
        tasks.append({"model": str(tmp_path / "models" / f"{number}"), "input": str(data), "output": f"site-{number}"})
    flags = {"model_map": write_lines(tmp_path / "tasks.jsonl", tasks), "key_field": "id"}
    said = tmp_path / "said"
    assert run(tmp_path / "there", said, **flags, **engine[1]) == 0, said.read_text()
    for number in range(MODELS):
        found = {row["key"]: row["prediction"] for row in lines(tmp_path / "there" / f"site-{number}")}
        assert found == {row: float(np.float32(number) * np.float32(row)) for row in range(20)}
    assert manifest(tmp_path / "there")["counts"] == {"read": 20 * MODELS, "predicted": 20 * MODELS, "failed": 0}


def test_from_bigquery_to_bigquery(engine: Any, models: Models, gcs: CloudStorage, bigquery: BigQuery, tmp_path: Path) -> None:
    dataset = bigquery.make_dataset()
    source = bigquery.load(f"{dataset}.rows", [{"id": number, "x": number / 4} for number in range(500)])
    flags = {"model": models.get("half_plus_two"), "input": source, "key_field": "id", "temp_location": f"{gcs.make_bucket()}/temp"}
    said = tmp_path / "said"
    assert run(f"{dataset}.here", said, **flags) == 0, said.read_text()
    assert run(f"{dataset}.there", said, **flags, **engine[1]) == 0, said.read_text()
    here, there = (bigquery.rows(f"{dataset}.{name}", "key") for name in ("here", "there"))
    assert here == there
    assert [row["y"] for row in sorted(there, key=lambda row: row["key"])] == [number / 8 + 2 for number in range(500)]


def test_a_killed_worker_is_started_again_or_named(engine: Any, models: Models, tmp_path: Path) -> None:
    """An engine may start the worker again, or give up: then the run says on what it died, publishes nothing, and can be run again."""
    processes, on_engine = engine
    out, said = tmp_path / "out", tmp_path / "said"
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 20_000, "id": number} for number in range(100)])
    flags = {"model": models.get("slow"), "input": data, "key_field": "id"} | on_engine
    whole = child.start(out, said, limits=LIMITS, **flags)
    os.kill(child.wait_until(lambda: predicting(processes), 120), signal.SIGKILL)
    whole.join(WITHIN_SECONDS)
    assert not whole.is_alive(), f"the run hangs:\n{said.read_text()}"
    if whole.exitcode != 0:
        assert whole.exitcode == 1, said.read_text()
        assert f"died, killed or crashed, while it ran {flags['model']} on 100 rows of {data}" in said.read_text()
        assert not (out / "manifest.json").exists()
        assert run(out, said, **flags) == 0, said.read_text()
    assert {row["key"]: row["prediction"] for row in lines(out)} == dict.fromkeys(range(100), 10_002.0)
    check_output(out)


def test_an_interrupted_launch_cancels_its_job(engine: Any, models: Models, tmp_path: Path) -> None:
    """The engine ends the job's worker, and nothing is published, then or later."""
    processes, on_engine = engine
    out, said = tmp_path / "out", tmp_path / "said"
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 20_000, "id": number} for number in range(100)])
    whole = child.start(out, said, limits=LIMITS, model=models.get("slow"), input=data, key_field="id", **on_engine)
    child.wait_until(lambda: predicting(processes), 120)
    assert whole.pid is not None
    os.kill(whole.pid, signal.SIGINT)
    whole.join(WITHIN_SECONDS)
    assert whole.exitcode == 130, said.read_text()
    assert "is cancelled" in said.read_text()
    child.wait_until(lambda: predicting(processes) is None, 120)
    assert not [path for path in out.glob("*") if path.name != "_staging"]


def test_a_task_manager_is_killed_and_another_started(engine: Any, models: Models, tmp_path: Path) -> None:
    """Flink gives its splits to the one that is left, or to the new one, and the output is that of a quiet run."""
    processes, on_engine = engine
    if "taskmanager-0" not in processes.started:
        pytest.skip("this engine has no TaskManagers")
    out, said = tmp_path / "out", tmp_path / "said"
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 20_000, "id": number} for number in range(100)])
    whole = child.start(out, said, limits=LIMITS, model=models.get("slow"), input=data, key_field="id", **on_engine)
    child.wait_until(lambda: predicting(processes), 120)
    processes.started["taskmanager-0"].kill()
    processes.stop("taskmanager-0")
    engines.start_task_manager(processes, engines.flink_distribution(), "taskmanager-0")
    whole.join(WITHIN_SECONDS)
    assert whole.exitcode == 0, said.read_text()
    assert {row["key"]: row["prediction"] for row in lines(out)} == dict.fromkeys(range(100), 10_002.0)
    check_output(out)


@pytest.mark.skipif("NIGHTSHIFT_FLINK" not in os.environ, reason="NIGHTSHIFT_FLINK=1 fetches Flink, 230 MB, and starts it")
def test_flink_comes_up_loses_a_task_manager_and_gets_another(tmp_path: Path) -> None:
    """As far as it goes without Beam's job server: Flink's own processes, found through its REST interface."""
    distribution = engines.flink_distribution()
    processes = engines.Processes(tmp_path)
    try:
        rest = engines.start_flink(processes, distribution)

        def task_managers() -> int:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{rest}/overview") as answer:
                    return int(json.load(answer)["taskmanagers"])
            except urllib.error.HTTPError:  # 503: the JobManager is up and not yet the leader
                return -1

        child.wait_until(lambda: task_managers() == 2, 60)
        processes.started["taskmanager-1"].kill()
        processes.stop("taskmanager-1")
        child.wait_until(lambda: task_managers() == 1, 60)
        engines.start_task_manager(processes, distribution, "taskmanager-1")
        child.wait_until(lambda: task_managers() == 2, 60)
    finally:
        processes.stop()
