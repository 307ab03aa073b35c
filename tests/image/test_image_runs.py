"""The image, which ``make image-test`` has built by its recipe, is run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from image import building
from saved_models import Models

from pipeline.main import main

if os.environ.get("NIGHTSHIFT_IMAGE") != "1":
    pytest.skip("builds an image, which takes minutes: make image-test", allow_module_level=True)

ROWS = 500
PROGRAM = "/opt/nightshift/lib/python3.11/site-packages/pipeline/main.py"


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Iterator[building.Container]:
    """The image's container; its ``/data`` has a model and rows."""
    data = tmp_path_factory.mktemp("data")
    shutil.copytree(models.get("half_plus_two"), data / "model")
    (data / "rows.jsonl").write_text("".join(json.dumps({"id": row, "x": row / 4}) + "\n" for row in range(ROWS)))
    data.chmod(0o777)
    container = building.Container(data)
    yield container
    container.close()


def test_what_runs_is_ours(container: building.Container) -> None:
    found = container.run("python", "-c", "import pipeline, transforms, sys; print(pipeline.__file__, transforms.__file__, sys.prefix)")
    folder = "/opt/nightshift/lib/python3.11/site-packages"
    assert found.split() == [f"{folder}/pipeline/__init__.py", f"{folder}/transforms/__init__.py", "/opt/nightshift"]
    assert container.run("python", "-m", "pip", "check").strip() == "No broken requirements found."


def test_it_says_what_dataflow_asks_of_it(container: building.Container) -> None:
    config = building.config()
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert config["Entrypoint"] == ["/opt/apache/beam/boot"]
    assert environment["FLEX_TEMPLATE_PYTHON_PY_FILE"] == PROGRAM
    assert environment["PATH"].startswith("/opt/nightshift/bin:")
    assert not {"FLEX_TEMPLATE_PYTHON_REQUIREMENTS_FILE", "FLEX_TEMPLATE_PYTHON_SETUP_FILE"} & environment.keys()
    for program in ("/opt/google/dataflow/python_template_launcher", "/opt/apache/beam/boot"):
        assert "stand-in" in container.run(program)


@pytest.mark.parametrize("user", ["root", "1000:1000"])
def test_it_predicts_as_this_machine_does(container: building.Container, user: str, tmp_path: Path) -> None:
    """As the places without Dataflow run it: the program of the template, the in-process runner, any user."""
    name = f"out-{user.split(':')[0]}"
    flags = ["--model=/data/model", "--input=/data/rows.jsonl", "--key_field=id", f"--output=/data/{name}"]
    said = container.run("python", PROGRAM, "run", *flags, user=user)
    assert f"predicted           {ROWS}" in said or f"predicted {ROWS}" in " ".join(said.split())
    here = [flag.replace("/data", str(container.data)) for flag in flags[:-1]]
    assert main(["run", *here, f"--output={tmp_path / 'out'}"]) == 0
    results = "prediction.results-00000-of-00001"
    assert (container.data / name / results).read_bytes() == (tmp_path / "out" / results).read_bytes()
    assert json.loads((container.data / name / "manifest.json").read_text())["counts"] == {"read": ROWS, "predicted": ROWS, "failed": 0}


def test_a_wrong_flag_ends_it_with_two(container: building.Container) -> None:
    with pytest.raises(RuntimeError, match=r"status 2[\s\S]*--modle"):
        container.run("python", PROGRAM, "run", "--modle=/data/model")
