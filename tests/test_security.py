"""What a model, a row, a folder or a request could do that it must not: docs/reliability.md lists it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from gcp_fixtures import CloudStorage
from jobs import lines, manifest, run, write_lines
from saved_models import Models

Capture = pytest.CaptureFixture[str]
SECRET = "the content of another file"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "secret.jsonl"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


def test_an_asset_outside_of_its_model_is_refused(models: Models, secret: Path, tmp_path: Path, capsys: Capture) -> None:
    """A table of words whose file the protobuf says lies elsewhere: without the check its lines would be predictions."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    model = tmp_path / "model"
    module = tf.Module()
    index = tf.lookup.TextFileIndex
    module.words = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(str(words), tf.int64, index.LINE_NUMBER, tf.string, index.WHOLE_LINE),
        "?",
    )
    module.function = tf.function(lambda n: {"word": module.words.lookup(n)}, input_signature=[tf.TensorSpec([None], tf.int64, "n")])
    tf.saved_model.save(module, str(model), signatures=module.function.get_concrete_function())
    flags = {"model": model, "input": write_lines(tmp_path / "rows.jsonl", [{"n": 0, "id": 1}]), "key_field": "id"}
    assert run(tmp_path / "before", **flags) == 0
    assert lines(tmp_path / "before") == [{"key": 1, "prediction": "a"}]

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((model / "saved_model.pb").read_bytes())
    for asset in saved.meta_graphs[0].asset_file_def:
        asset.filename = os.path.relpath(secret, model / "assets")
    (model / "saved_model.pb").write_bytes(saved.SerializeToString())
    assert run(tmp_path / "after", **flags) == 2
    said = capsys.readouterr().err
    assert "names files outside of its folder as its assets: ../../elsewhere/secret.jsonl" in said
    assert not (tmp_path / "after").exists()


def test_an_object_whose_name_leaves_the_model_is_refused(gcs: CloudStorage, models: Models, tmp_path: Path, capsys: Capture) -> None:
    model = gcs.upload_folder(models.get("half_plus_two"), f"{gcs.make_bucket()}/model")
    gcs.write(f"{model}/variables/../../../escaped", b"content")
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1}])
    assert run(tmp_path / "out", model=model, input=data) != 0
    assert "/variables/../../../escaped has '..' in its name" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["in", "in/*.jsonl", "in/**/*.jsonl", "in/*/secret.jsonl"])
def test_a_link_that_leaves_the_input_folder_is_refused(
    models: Models, secret: Path, tmp_path: Path, capsys: Capture, pattern: str
) -> None:
    write_lines(tmp_path / "in" / "rows.jsonl", [{"x": 1}])
    if pattern == "in/*/secret.jsonl":
        (tmp_path / "in" / "folder").symlink_to(secret.parent)
    else:
        (tmp_path / "in" / "more.jsonl").symlink_to(secret)
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=tmp_path / pattern, max_error_ratio=1) == 2
    said = capsys.readouterr().err
    assert f"is a link that leaves the folder, to {secret}" in said
    assert not (tmp_path / "out").exists()


def test_links_inside_of_the_input_folder_and_to_it_are_followed(models: Models, tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "kept" / "rows.jsonl", [{"x": 1, "id": 1}])
    write_lines(tmp_path / "data" / "night" / "more.jsonl", [{"x": 2, "id": 2}])
    (tmp_path / "data" / "night" / "rows.jsonl").symlink_to("../kept/rows.jsonl")
    (tmp_path / "in").symlink_to("data")
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=tmp_path / "in" / "*" / "more.jsonl", key_field="id") == 0
    for pattern in ("in", "in/*/*.jsonl"):
        assert run(tmp_path / "out", input=tmp_path / pattern, model=models.get("half_plus_two"), key_field="id") == 0
        assert sorted(row["key"] for row in lines(tmp_path / "out")) == [1, 2], "a link beside its target is no second file"
    assert run(tmp_path / "out", input=tmp_path / "in" / "night" / "*.jsonl", model=models.get("half_plus_two"), key_field="id") == 2
    named = tmp_path / "in" / "night" / "rows.jsonl"
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=named, key_field="id") == 0, "a file that is named is meant"


def test_an_unknown_flag_is_named_without_its_value(tmp_path: Path, capsys: Capture) -> None:
    assert run(tmp_path / "out", model="m", input="i", api_password="hunter2") == 2
    captured = capsys.readouterr()
    assert "unknown flag --api_password" in captured.err
    assert "hunter2" not in captured.err + captured.out


def test_what_an_engine_is_told_is_in_no_file(models: Models, tmp_path: Path) -> None:
    """The manifest has this program's own flags; an engine's may hold what no reader of an output should see."""
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1}])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=data, labels="team=hunter2") == 0
    assert manifest(tmp_path / "out")["flags"] == {
        "model": models.get("half_plus_two"),
        "input": str(data),
        "output": str(tmp_path / "out"),
    }
    assert not [path for path in (tmp_path / "out").iterdir() if b"hunter2" in path.read_bytes()]


def test_a_row_can_not_choose_a_file_as_its_model(models: Models, tmp_path: Path) -> None:
    shutil.copytree(models.get("half_plus_two"), tmp_path / "models" / "north")
    shutil.copytree(models.get("half_plus_two"), tmp_path / "private" / "south")
    names: list[Any] = ["north", "../private/south", "..", ".", "/etc", "a/../north", str(tmp_path / "private" / "south"), "north\x00"]
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1, "site": name, "id": number} for number, name in enumerate(names)])
    flags = {"model": f"{tmp_path}/models/{{site}}", "model_field": "site", "key_field": "id", "max_error_ratio": 1}
    assert run(tmp_path / "out", input=data, **flags) == 0
    assert [row["key"] for row in lines(tmp_path / "out")] == [0]
    assert {row["code"] for row in lines(tmp_path / "out", "prediction.errors")} <= {
        "MODEL_NOT_FOUND",
        "MODEL_LOAD_FAILED",
        "BAD_MODEL_NAME",
    }
    assert manifest(tmp_path / "out")["counts"]["failed"] == len(names) - 1
