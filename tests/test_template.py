"""The Flex Template: metadata from the flags, the container spec, and a launch as the launcher makes it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import launcher
import pytest
from gcp_fixtures import CloudStorage
from saved_models import Models

from pipeline.dataflow import template
from pipeline.flags import parse, table

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "us-docker.pkg.dev/test-project/nightshift/nightshift:0.1.0"


# --- metadata and container spec -------------------------------------------------------------------------------------------


def test_metadata_is_as_generated() -> None:
    assert (ROOT / template.METADATA).read_text(encoding="utf-8") == template.metadata_text(), "run 'make docs'"


def test_every_flag_is_a_parameter_of_the_right_type() -> None:
    parameters = {parameter["name"]: parameter for parameter in template.metadata()["parameters"]}
    assert list(parameters) == [flag.name for flag in table.FLAGS]
    kinds = {name: parameter["paramType"] for name, parameter in parameters.items()}
    assert kinds["batch_size"] == kinds["max_error_ratio"] == "NUMBER"
    assert kinds["verbose"] == kinds["allow_unsafe_ops"] == "BOOLEAN"
    assert kinds["model"] == kinds["run_id"] == kinds["tags"] == "TEXT"
    assert kinds["output_format"] == "ENUM"
    assert [option["value"] for option in parameters["nan"]["enumOptions"]] == ["null", "string", "error"]
    for parameter in parameters.values():
        if "parentName" in parameter:
            above = parameters[parameter["parentName"]]
            assert set(parameter["parentTriggerValues"]) <= {option["value"] for option in above["enumOptions"]}
    assert set(template.SHOWN) <= set(parameters)


def test_service_takes_metadata_and_container_spec() -> None:
    from google.cloud import dataflow_v1beta3 as dataflow

    spec = template.container_spec(IMAGE)
    read = dataflow.ContainerSpec.from_json(json.dumps(spec), ignore_unknown_fields=False)
    assert read.image == read.default_environment.sdk_container_image == IMAGE
    assert read.sdk_info.language == dataflow.SDKInfo.Language.PYTHON
    assert len(read.metadata.parameters) == len(table.FLAGS)
    assert {parameter.param_type.name for parameter in read.metadata.parameters} == {"TEXT", "NUMBER", "BOOLEAN", "ENUM"}
    for parameter in read.metadata.parameters:
        assert parameter.label
        assert parameter.help_text
        assert parameter.group_name
        for regex in parameter.regexes:
            re.compile(regex)


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gcloud_builds_the_same_container_spec(tmp_path: Path) -> None:
    command = ["gcloud", "dataflow", "flex-template", "build", "gs://bucket/nightshift.json", f"--image={IMAGE}", "--sdk-language=PYTHON"]
    command += [f"--metadata-file={ROOT / template.METADATA}", "--print-only", "--format=value(.)"]
    environment = os.environ | {"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    read = json.loads(printed)
    expected = template.container_spec(IMAGE)
    assert read["metadata"] == expected["metadata"]
    assert (read["image"], read["sdkInfo"]["language"]) == (IMAGE, "PYTHON")


@pytest.mark.parametrize("image", ["", "nightshift", "us-docker.pkg.dev/p/r/nightshift", "gs://bucket/image:1", "a/b:1 c"])
def test_image_without_full_name_and_tag_is_refused(image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert template.main([image, str(tmp_path / "spec.json")]) == 2
    assert f"image {image!r}: expected the full name with a tag" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_make_template_writes_the_spec(tmp_path: Path) -> None:
    assert template.main([IMAGE, str(tmp_path / "deep" / "spec.json")]) == 0
    assert json.loads((tmp_path / "deep" / "spec.json").read_text()) == template.container_spec(IMAGE)


GOOD = {"model": "gs://b/model", "input": "gs://b/in/*.jsonl, gs://b/more", "output": "gs://b/out"}
REFUSED: dict[str, dict[str, str | None]] = {
    "a local model": {"model": "/models/m"},
    "one local input of two": {"input": "gs://b/in,rows.jsonl"},
    "a local output": {"output": "out"},
    "a bad run id": {"run_id": "a b"},
    "a choice that is none": {"output_format": "xml"},
    "an unknown flag": {"outputs": "gs://b/out"},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_service_would_refuse_is_refused_before(what: str) -> None:
    spec = template.container_spec(IMAGE)
    assert template.refuse(spec, GOOD) is None
    launcher.check(spec["metadata"], GOOD)
    (name,) = REFUSED[what]
    parameters = {key: value for key, value in (GOOD | REFUSED[what]).items() if value is not None}
    message = template.refuse(spec, parameters)
    assert message is not None
    assert message.startswith(f"--{name}")
    with pytest.raises(launcher.RefusedError, match=name):
        launcher.check(spec["metadata"], parameters)


ACCELERATOR = "accelerator=type:nvidia-l4;count:1;install-nvidia-driver"

# --- a launch --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(gcs: CloudStorage, models: Models) -> str:
    bucket = gcs.make_bucket()
    gcs.upload_folder(models.get("half_plus_two"), f"{bucket}/model")
    gcs.write(f"{bucket}/in/rows.jsonl", b'{"id": "a", "x": 1}\n')
    return bucket


def launch(bucket: str, **environment: Any) -> dict[str, Any]:
    return {
        "jobName": "nightly",
        "parameters": {
            "model": f"{bucket}/model",
            "input": f"{bucket}/in/*",
            "output": f"{bucket}/out",
            "key_field": "id",
            "max_error_ratio": "0.05",
            "verbose": "false",
        },
        "environment": {"stagingLocation": f"{bucket}/staging", "tempLocation": f"{bucket}/temp", **environment},
    }


@pytest.fixture(scope="module")
def launched(gcs: CloudStorage, bucket: str) -> dict[str, Any]:
    """What the real DataflowRunner made of a launch: the job and the pipeline, as they lie in the bucket."""
    from apache_beam.portability.api import beam_runner_api_pb2
    from google.cloud import dataflow_v1beta3 as dataflow

    from pipeline.main import main

    request = launch(
        bucket,
        machineType="n2-standard-4",
        maxWorkers=7,
        diskSizeGb=40,
        flexrsGoal="FLEXRS_COST_OPTIMIZED",
        serviceAccountEmail="worker@test-project.iam.gserviceaccount.com",
        additionalPipelineOptions=["number_of_worker_harness_threads=2", "resource_hints=min_ram=12GB", f"resource_hints={ACCELERATOR}"],
        ipConfiguration="WORKER_IP_PRIVATE",
    )
    assert main(launcher.arguments(template.container_spec(IMAGE), request, seed=1)) == 0
    staged = gcs.list(f"{bucket}/staging")
    pipeline = beam_runner_api_pb2.Pipeline()
    (name,) = [name for name in staged if name.endswith("pipeline.pb")]
    pipeline.ParseFromString(gcs.read(f"{bucket}/staging/{name}"))
    (name,) = [name for name in staged if name.endswith("job_object")]
    text = gcs.read(f"{bucket}/staging/{name}").decode()
    dataflow.Job.from_json(text, ignore_unknown_fields=False)
    return {"job": json.loads(text), "pipeline": pipeline, "staged": staged}


def test_launch_asks_for_our_image_on_the_machines_that_were_asked_for(launched: dict[str, Any]) -> None:
    environment = launched["job"]["environment"]
    (pool,) = environment["workerPools"]
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert pool["machineType"] == "n2-standard-4"
    assert pool["diskSizeGb"] == 40
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 7
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
    assert environment["serviceAccountEmail"] == "worker@test-project.iam.gserviceaccount.com"
    assert environment["flexResourceSchedulingGoal"] == "FLEXRS_COST_OPTIMIZED"
    assert launched["job"]["name"] == "nightly"
    assert launched["job"]["type"] == "JOB_TYPE_BATCH"


def test_resource_hints_reach_every_step(launched: dict[str, Any]) -> None:
    hints = [environment.resource_hints for environment in launched["pipeline"].components.environments.values()]
    assert hints
    for hint in hints:
        assert hint["beam:resources:min_ram_bytes:v1"] == str(12 * 10**9).encode()
        assert hint["beam:resources:accelerator:v1"] == ACCELERATOR.removeprefix("accelerator=").encode()


def test_order_of_the_arguments_does_not_matter(bucket: str) -> None:
    spec = template.container_spec(IMAGE)
    orders = [launcher.arguments(spec, launch(bucket), seed) for seed in range(20)]
    assert len({tuple(order) for order in orders}) == 20
    read = [parse.parse(order) for order in orders]
    values = [(dataclasses.replace(one, given=(), beam=()), set(one.given), set(one.beam)) for one in read]
    assert all(one == values[0] for one in values)


def test_launch_stages_no_code(launched: dict[str, Any]) -> None:
    """The image holds all of it: nothing is pickled from ``__main__``, and workers install nothing."""
    names = [os.path.basename(name) for name in launched["staged"]]
    assert not [name for name in names if "main_session" in name or "requirements" in name or name.endswith((".tar.gz", ".whl"))]
    for environment in launched["pipeline"].components.environments.values():
        assert not environment.dependencies or {d.role_urn for d in environment.dependencies} <= {
            "beam:artifact:role:staging_to:v1",
            "beam:artifact:role:submission_environment_dependencies:v1",
        }, environment.dependencies


def test_publishing_is_a_step_of_the_graph(launched: dict[str, Any], gcs: CloudStorage, bucket: str) -> None:
    """The launcher is gone when the rows come: whatever follows them must be in the graph."""
    steps = {transform.unique_name for transform in launched["pipeline"].components.transforms.values()}
    for verb in ("PlanJob/PlanSplits", "ReadInstances", "Predict", "WriteShards", "Publish"):
        assert verb in steps, sorted(steps)
    assert not gcs.list(f"{bucket}/out")


def test_launch_without_our_image_is_refused(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.main import main

    spec = template.container_spec(IMAGE) | {"defaultEnvironment": {}}
    assert main(launcher.arguments(spec, launch(bucket))) == 2
    assert "--sdk_container_image is missing" in capsys.readouterr().err
