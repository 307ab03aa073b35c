"""What a container's limits leave a process, and that a job holds them: in control groups like those of Kubernetes and Cloud Run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from containers import GIB, ROOT, Container
from saved_models import Models

from transforms.runtime import machine


@pytest.mark.parametrize(
    ("found", "cores"),
    [
        ({}, 8),
        ({"CPU_LIMIT": "max 100000"}, 8),
        ({"CPU_LIMIT": "200000 100000"}, 2),
        ({"CPU_LIMIT": "50000 100000"}, 1),
        ({"CPU_LIMIT": "6400000 100000"}, 8),
        ({"CPU_QUOTA": "-1", "CPU_PERIOD": "100000"}, 8),
        ({"CPU_QUOTA": "350000", "CPU_PERIOD": "100000"}, 3),
    ],
)
def test_cores(found: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    for name in ("CPU_LIMIT", "CPU_QUOTA", "CPU_PERIOD"):
        path = tmp_path / name
        if name in found:
            path.write_text(found[name] + "\n")
        monkeypatch.setattr(machine, name, str(path))
    assert machine.cores() == cores


@pytest.mark.parametrize(("limit", "is_less"), [("max", False), (str(1 << 62), False), (str(GIB), True), (None, False)])
def test_memory(limit: str | None, is_less: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "limit"
    if limit is not None:
        path.write_text(limit + "\n")
    monkeypatch.setattr(machine, "MEMORY_LIMITS", (str(path), str(tmp_path / "none")))
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.memory_bytes() == (GIB if is_less else there)


# --- in a control group --------------------------------------------------------------------------------------------------


def template_limits() -> tuple[int, int]:
    """The memory and cores that the file for Kubernetes gives a job."""
    job = yaml.safe_load((ROOT / "templates/kubernetes/cronjob.yaml").read_text())
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert limits["memory"].endswith("Gi")
    return int(limits["memory"].removesuffix("Gi")) * GIB, int(limits["cpu"])


@pytest.fixture
def container() -> Iterator[Container]:
    try:
        made = Container(*template_limits())
    except (OSError, StopIteration) as error:
        pytest.skip(f"this machine lets nobody make control groups here: {error!r}")
    if made.run("true").returncode:
        made.close()
        pytest.skip("this machine lets nobody mount control groups for one process")
    yield made
    made.close()


def test_a_process_sees_its_containers_limits(container: Container) -> None:
    found = container.run(sys.executable, "-c", "from transforms.runtime import machine; print(machine.memory_bytes(), machine.cores())")
    memory, cores = map(int, found.stdout.split())
    assert (memory, cores) == (template_limits()[0], min(template_limits()[1], len(os.sched_getaffinity(0))))


def test_a_job_of_more_models_than_fit_holds_the_templates_limits(container: Container, models: Models, tmp_path: Path) -> None:
    """Of 20 models of 256 MiB, none of which may share, those used last stay, and nothing is killed."""
    count, rows = 20, 5
    memory = template_limits()[0]
    assert count * (256 << 20) > memory
    unlike(Path(models.get("quarter_gib")), tmp_path / "models", count)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": row, "x": row}) + "\n" for row in range(rows)))
    tasks = [{"model": f"{tmp_path}/models/{number}", "input": f"{tmp_path}/rows.jsonl", "output": str(number)} for number in range(count)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    flags = [f"--model_map={tmp_path}/tasks.jsonl", "--key_field=id", f"--output={tmp_path}/out"]
    ended = container.run(sys.executable, "-m", "pipeline.main", "run", *flags)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert container.killed() == 0
    for number in range(count):
        (line, *_) = (tmp_path / "out" / str(number) / "prediction.results-00000-of-00001").read_text().splitlines()
        assert json.loads(line) == {"key": 0, "prediction": 1000.0 + number}
    report = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert report["counts"] == {"read": count * rows, "predicted": count * rows, "failed": 0}


def unlike(model: Path, folder: Path, count: int) -> None:
    """Makes models that differ by a constant, 1000.0 in ``model``, and have its variables for theirs."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    content = (model / "saved_model.pb").read_bytes()
    for number in range(count):
        shutil.copytree(model, folder / str(number), copy_function=os.link)
        saved = SavedModel.FromString(content)
        nodes = [node for function in saved.meta_graphs[0].graph_def.library.function for node in function.node_def if node.op == "Const"]
        constants = [node.attr["value"].tensor for node in nodes if list(node.attr["value"].tensor.float_val) == [1000.0]]
        assert constants
        for constant in constants:
            constant.float_val[:] = np.array([1000.0 + number], np.float32)
        path = folder / str(number) / "saved_model.pb"
        path.unlink()
        path.write_bytes(saved.SerializeToString())
