"""The model that is loaded is the model that was checked: its fingerprint is compared; docs/reliability.md lists it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gcp_fixtures import CloudStorage
from jobs import lines, manifest, run, write_lines

from pipeline import run as running
from transforms.model import kept_between_jobs
from transforms.model.locate import locate_model
from transforms.model.model_files import ModelChangedError
from transforms.model.pool import ModelPool
from transforms.model.session import LoadedModel
from transforms.runtime import temporary_folders
from transforms.specs.models import ModelRequest
from transforms.storage import paths

Capture = pytest.CaptureFixture[str]


def save(folder: Path, weight: float, written: Path | None = None) -> Path:
    """A model that multiplies by ``weight``, a variable, and may write a file."""
    import tensorflow as tf

    module = tf.Module()
    module.weight = tf.Variable(weight)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def function(x: Any) -> Any:
        if written is not None:
            tf.io.write_file(str(written), "content")
        return {"y": x * module.weight}

    module.function = function
    tf.saved_model.save(module, str(folder), signatures=function.get_concrete_function())
    return folder


def swap(folder: str, other: Path, name: str, gcs: CloudStorage | None) -> None:
    """Put files of another model in place of a model's, as a deployer or an attacker does."""
    for path in sorted(other.rglob("*")):
        relative = path.relative_to(other)
        if path.is_file() and relative.parts[0] == name:
            if gcs is not None:
                gcs.write(f"{folder}/{relative}", path.read_bytes())
            else:
                shutil.copy(path, f"{folder}/{relative}")


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Does something between the planning of a run and its start."""

    def add(do: Callable[[], None]) -> None:
        execute = running.execute

        def first(*args: Any) -> int:
            do()
            return execute(*args)

        monkeypatch.setattr(running, "execute", first)

    return add


@pytest.mark.parametrize("place", ["disk", "bucket"])
@pytest.mark.parametrize(("name", "part"), [("saved_model.pb", "graph"), ("variables", "variables")])
def test_a_model_that_changed_since_it_was_checked_does_not_run(
    request: pytest.FixtureRequest, between: Any, tmp_path: Path, capsys: Capture, place: str, name: str, part: str
) -> None:
    gcs = request.getfixturevalue("gcs") if place == "bucket" else None
    written = tmp_path / "written"
    local, other = save(tmp_path / "model", 2.0), save(tmp_path / "other", 3.0, written)
    model = gcs.upload_folder(local, f"{gcs.make_bucket()}/model") if gcs else str(local)
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 5, "id": 1}])
    assert run(tmp_path / "out", model=model, input=data, key_field="id") == 0
    before = manifest(tmp_path / "out")
    between(lambda: swap(model, other, name, gcs))
    assert run(tmp_path / "out", model=model, input=data, key_field="id") == 1
    said = capsys.readouterr().err
    assert f"{model} changed since this run was planned (what differs: {part})" in said
    assert manifest(tmp_path / "out") == before
    assert lines(tmp_path / "out") == [{"key": 1, "prediction": 10.0}]
    assert not written.exists()


def test_a_task_whose_model_changed_fails_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = [save(tmp_path / f"model{number}", 2.0 + number) for number in range(2)]
    other = save(tmp_path / "other", 9.0)
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 5, "id": 1}])
    tasks = [{"model": str(model), "input": str(data), "output": f"t{number}"} for number, model in enumerate(models)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    get = ModelPool.get

    def change(self: ModelPool, spec: Any) -> LoadedModel:
        if spec.location == str(models[1]):
            swap(spec.location, other, "variables", None)
        return get(self, spec)

    monkeypatch.setattr(ModelPool, "get", change)
    assert run(tmp_path / "out", model_map=tmp_path / "tasks.jsonl", key_field="id") == 3
    assert lines(tmp_path / "out" / "t0") == [{"key": 1, "prediction": 10.0}]
    assert not (tmp_path / "out" / "t1" / "_SUCCESS").exists()
    failed = [path.read_text() for path in (tmp_path / "out").rglob("prediction.errors-*") if path.read_text()]
    assert len(failed) == 1
    assert "changed since this run was planned" in failed[0]


def test_variables_that_change_between_two_turns_of_a_shared_session_are_seen(tmp_path: Path) -> None:
    specs = [locate_model(ModelRequest(str(save(tmp_path / f"model{number}", 2.0 + number))), shares=True) for number in range(3)]
    pool = ModelPool()
    rows = [np.array([5.0], np.float32)]
    assert [float(pool.get(spec).call(rows)[0][0]) for spec in (*specs, *specs)] == [10.0, 15.0, 20.0] * 2
    assert len(pool.sharing) == 2, "they share one Session"
    swap(specs[1].location, save(tmp_path / "other", 9.0), "variables", None)
    with pytest.raises(ModelChangedError):
        pool.get(specs[1]).call(rows)
    assert float(pool.get(specs[2]).call(rows)[0][0]) == 20.0


def test_the_fingerprint_is_of_the_content_wherever_it_lies(gcs: CloudStorage, tmp_path: Path) -> None:
    model = save(tmp_path / "model", 2.0)
    (model / "assets" / "deep").mkdir(parents=True)
    (model / "assets" / "deep" / "words.txt").write_text("a\n")
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 5}])
    bucket = gcs.upload_folder(model, f"{gcs.make_bucket()}/model")
    shutil.copytree(model, tmp_path / "copy")
    told = []
    for place in (str(model), bucket, str(tmp_path / "copy")):
        assert run(tmp_path / "out", model=place, input=data) == 0
        told.append(manifest(tmp_path / "out")["model"]["fingerprint"])
    assert len(set(told)) == 1
    graph, variables, assets = told[0].split("-")
    assert graph == hashlib.sha256((model / "saved_model.pb").read_bytes()).hexdigest()[:32]
    for name, place in (("variables", 1), ("assets", 2)):
        other = tmp_path / name
        shutil.copytree(model, other)
        path = other / "variables" / "variables.index" if name == "variables" else other / "assets" / "deep" / "words.txt"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        changed = locate_model(ModelRequest(str(other))).fingerprint.split("-")
        assert [part == same for part, same in zip(changed, (graph, variables, assets), strict=True)] == [
            number != place for number in range(3)
        ]


def test_tensorflow_2s_loader_gets_the_graph_that_was_checked(tmp_path: Path) -> None:
    """Of a Keras 3 model, whose variables a Session's restore operation does not fill."""
    import keras

    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.layers.Input((1,), name="x"), keras.layers.Dense(1)])
    import tensorflow as tf

    tf.saved_model.save(network, str(tmp_path / "model"))
    spec = locate_model(ModelRequest(str(tmp_path / "model")))
    model = LoadedModel(spec)
    assert model.session is None, "a Session has loaded it: this test is of another case"
    rows = np.array([[2.0]], np.float32)
    assert np.allclose(model.call([rows])[0], network(rows).numpy())
    (tmp_path / "model" / "saved_model.pb").write_bytes((save(tmp_path / "other", 3.0) / "saved_model.pb").read_bytes())
    with pytest.raises(ModelChangedError, match="what differs: graph"):
        LoadedModel(spec)


def test_a_service_keeps_no_copies_of_its_models(gcs: CloudStorage, tmp_path: Path) -> None:
    model = gcs.upload_folder(save(tmp_path / "model", 2.0), f"{gcs.make_bucket()}/model")
    spec = locate_model(ModelRequest(model))
    before = {*os.listdir(temporary_folders.own_folder("models"))}
    kept_between_jobs.keep(2)
    try:
        loaded, is_new = kept_between_jobs.load(spec)
        assert is_new
        assert {*os.listdir(temporary_folders.own_folder("models"))} == before
        assert float(loaded.call([np.array([5.0], np.float32)])[0][0]) == 10.0
    finally:
        kept_between_jobs.keep(0)
    assert paths.is_remote(spec.location)
