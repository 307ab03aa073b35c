"""Request bodies of other services as jobs: whole runs, field by field against the protos, and what is refused."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud.aiplatform_v1.types import BatchPredictionJob
from saved_models import Models

from pipeline.flags.arguments import beam_flags
from pipeline.flags.flag import UsageError
from pipeline.flags.job_file import AI_PLATFORM, VERTEX, expand
from pipeline.flags.parse import parse
from pipeline.flags.table import BY_NAME
from pipeline.main import main

VERTEX_BODY: dict[str, Any] = {
    "displayName": "nightly",
    "labels": {"team": "energy"},
    "model": "gs://models/m",
    "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": ["gs://data/a.jsonl", "gs://data/b*.jsonl"]}},
    "instanceConfig": {"instanceType": "object", "keyField": "id", "excludedFields": ["id", "day"]},
    "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": "gs://results/night"}},
    "dedicatedResources": {
        "machineSpec": {"machineType": "n1-standard-4", "acceleratorType": "NVIDIA_TESLA_T4", "acceleratorCount": 1},
        "startingReplicaCount": 2,
        "maxReplicaCount": 10,
    },
    "manualBatchTuningParameters": {"batchSize": 64},
    "serviceAccount": "batch@project.iam.gserviceaccount.com",
    "encryptionSpec": {"kmsKeyName": "projects/p/locations/l/keyRings/r/cryptoKeys/k"},
    "generateExplanation": False,
    "modelParameters": None,
}
AI_PLATFORM_BODY: dict[str, Any] = {
    "jobId": "night_1",
    "labels": {"team": "energy"},
    "predictionInput": {
        "dataFormat": "TF_RECORD_GZIP",
        "outputDataFormat": "JSON",
        "inputPaths": ["gs://data/*.gz"],
        "outputPath": "gs://results/night",
        "maxWorkerCount": "20",
        "region": "us-central1",
        "runtimeVersion": "1.15",
        "batchSize": "64",
        "signatureName": "serving_default",
        "uri": "gs://models/m",
    },
}


def job(folder: Path, body: Any) -> str:
    path = folder / "job.json"
    path.write_text(body if isinstance(body, str) else json.dumps(body))
    return f"--job={path}"


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(body))
    *above, last = path.split(".")
    place = copy
    for name in above:
        place = place.setdefault(name, {})
    place[last] = value
    return copy


def as_snake(value: Any) -> Any:
    if isinstance(value, dict):
        return {name if name == "team" else re.sub(r"(?=[A-Z])", "_", name).lower(): as_snake(inner) for name, inner in value.items()}
    return value


def test_a_vertex_body_becomes_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for body in (VERTEX_BODY, as_snake(VERTEX_BODY), {"parent": "projects/p/locations/l", "batchPredictionJob": VERTEX_BODY}):
        assert sorted(expand([job(tmp_path, body)])[1:]) == [
            "--batch_size=64",
            "--dataflow_kms_key=projects/p/locations/l/keyRings/r/cryptoKeys/k",
            "--exclude_fields=id,day",
            "--input=gs://data/a.jsonl,gs://data/b*.jsonl",
            "--input_format=jsonl",
            "--key_field=id",
            "--machine_type=n1-standard-4",
            "--max_num_workers=10",
            "--model=gs://models/m",
            "--num_workers=2",
            "--output=gs://results/night",
            "--output_format=jsonl",
            "--output_style=vertex",
            "--service_account_email=batch@project.iam.gserviceaccount.com",
        ]
        warned = capsys.readouterr().err
        assert warned.count("\n") == 1
        assert "labels" in warned
        assert "displayName" in warned or "display_name" in warned


def test_an_ai_platform_body_becomes_flags(tmp_path: Path) -> None:
    expected = [
        "--batch_size=64",
        "--input=gs://data/*.gz",
        "--input_format=tf-record",
        "--max_num_workers=20",
        "--model=gs://models/m",
        "--output=gs://results/night",
        "--output_format=jsonl",
        "--output_style=aiplatform",
        "--region=us-central1",
        "--signature_name=serving_default",
    ]
    for body in (AI_PLATFORM_BODY, as_snake(AI_PLATFORM_BODY)):
        assert sorted(expand([job(tmp_path, body)])[1:]) == sorted([*expected, "--run_id=night_1"])
    for body in (AI_PLATFORM_BODY["predictionInput"], as_snake(AI_PLATFORM_BODY["predictionInput"])):
        assert sorted(expand([job(tmp_path, body)])[1:]) == expected


@pytest.mark.parametrize("name", ["jsonl", "csv", "bigquery", "tf-record", "tf-record-gzip", "file-list"])
def test_every_format_of_instances_is_known(tmp_path: Path, name: str) -> None:
    source = {"bigquerySource": {"inputUri": "bq://p.d.t"}} if name == "bigquery" else {"gcsSource": {"uris": ["gs://data/x"]}}
    options = parse(expand([job(tmp_path, {**VERTEX_BODY, "inputConfig": {"instancesFormat": name, **source}})]))
    assert options.input_format == name.removesuffix("-gzip")
    assert options.input == (("bq://p.d.t",) if name == "bigquery" else ("gs://data/x",))


def test_flags_of_the_command_line_win(tmp_path: Path) -> None:
    argument = job(tmp_path, changed(AI_PLATFORM_BODY, "predictionInput.modelName", "projects/p/models/m"))
    with pytest.raises(UsageError, match=r"predictionInput\.modelName: AI Platform's own list of models is gone"):
        expand([argument])
    options = parse(expand(["--model=mine", argument, "--output_style=keyed", "--batch_size", "7"]))
    assert (options.model, options.output_style, options.batch_size) == ("mine", "keyed", 7)
    options = parse(expand([job(tmp_path, VERTEX_BODY), "--output_format=parquet"]))
    assert (options.output_format, options.output_style) == ("parquet", "keyed")
    options = parse(expand([job(tmp_path, VERTEX_BODY), "--input_query=SELECT 1"]))
    assert (options.input, options.input_format) == ((), None)


def test_flags_are_left_alone_without_a_job() -> None:
    assert expand(["--model=m", "--input", "i"]) == ["--model=m", "--input", "i"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("modelParameters", {"confidence": 0.5}, "modelParameters: a SavedModel's signature has inputs and no parameters"),
        ("generateExplanation", True, "generateExplanation: predictions only are made"),
        ("explanationSpec", {"parameters": {"topK": 3}}, "explanationSpec: predictions only are made"),
        ("instanceConfig.instanceType", "array", "instanceConfig.instanceType: an instance here is an object"),
        ("unmanagedContainerModel.containerSpec", {"imageUri": "gcr.io/p/mine"}, "unmanagedContainerModel.containerSpec: what a container"),
        ("unmanagedContainerModel.artifactUri", "gs://other", "model and unmanagedContainerModel.artifactUri both say --model"),
        ("inputConfig.vertexMultimodalDatasetSource", {"datasetName": "d"}, "a multimodal dataset can't be read"),
        ("inputConfig.instancesFormat", "xml", "inputConfig.instancesFormat: expected one of jsonl, csv, bigquery, tf-record"),
        ("inputConfig.gcsSource.uris", "gs://data/x", "inputConfig.gcsSource.uris: expected a list of texts, found"),
        ("inputConfig.gcsSource.uris", ["gs://data/a,b"], "inputConfig.gcsSource.uris: expected texts without commas"),
        ("inputConfig.gcsSource", "gs://data/x", "inputConfig.gcsSource: expected an object, found"),
        ("instanceConfig.keyFeld", "id", "instanceConfig.keyFeld is no field .*; did you mean instanceConfig.keyField"),
        ("manualBatchTuningParameters.batchSize", 1.5, "batchSize: expected a whole number, found 1.5"),
        ("instanceConfig.keyField", ["id"], "instanceConfig.keyField: expected a text, found"),
    ],
)
def test_what_does_not_apply_is_refused_by_name(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        expand([job(tmp_path, changed(VERTEX_BODY, path, value))])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "expected a JSON object, the body of a batch prediction job"),
        ("[]", "found list"),
        ({"model": "m"}, "is neither a Vertex AI BatchPredictionJob, which has an inputConfig"),
        ({"jobId": "a", "trainingInput": {"scaleTier": "BASIC"}}, "trainingInput: a training job"),
    ],
)
def test_what_is_no_body_is_refused(tmp_path: Path, body: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        expand([job(tmp_path, body)])


def test_a_missing_file_is_refused_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", f"--job={tmp_path}/none.json"]) == 2
    assert "can't be read" in capsys.readouterr().err


def test_a_container_that_only_serves_is_passed_over(tmp_path: Path) -> None:
    image = "us-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-11:latest"
    model = {"artifactUri": "gs://models/m", "containerSpec": {"imageUri": image}, "predictSchemata": {"instanceSchemaUri": "gs://s"}}
    body = {name: value for name, value in VERTEX_BODY.items() if name != "model"} | {"unmanagedContainerModel": model}
    assert "--model=gs://models/m" in expand([job(tmp_path, body)])


def fields(message: Any, above: str = "", seen: tuple[Any, ...] = ()) -> Iterator[str]:
    """The fields of a proto, by their dotted names, down to where the table ends."""
    for field in message.meta.fields.values():
        name = above + field.name
        inner = field.message if any(known.startswith(name + ".") for known in VERTEX) and name not in VERTEX else None
        if inner is not None:
            yield from fields(inner, name + ".", (*seen, message))
        else:
            yield name


def test_every_field_of_the_proto_is_decided() -> None:
    there = set(fields(BatchPredictionJob))
    assert len(there) > 30
    assert there - set(VERTEX) == set(), "fields that the table does not know"
    known = {name for name in VERTEX if not name.startswith("dedicated_resources.")}
    assert known - there == set(), "entries that no field has"


def test_every_flag_of_the_tables_exists() -> None:
    for field in (*VERTEX.values(), *AI_PLATFORM.values()):
        assert field.flag is None or field.flag in BY_NAME or field.flag in beam_flags()


def test_bodies_run_end_to_end(models: Models, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"x": float(row), "id": row, "day": "d"}) + "\n" for row in range(20)))
    table = tmp_path / "rows.csv"
    table.write_text("id,x\n" + "".join(f"{row},{row}.5\n" for row in range(20)))
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(data.read_bytes()))
    model = models.get("half_plus_two")
    vertex = {
        "displayName": "nightly",
        "unmanagedContainerModel": {"artifactUri": model},
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [str(data)]}},
        "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": str(tmp_path / "vertex")}},
    }
    keyed = changed(
        changed(vertex, "instanceConfig.keyField", "id"), "outputConfig.gcsDestination.outputUriPrefix", str(tmp_path / "keyed")
    )
    csv = changed(changed(keyed, "inputConfig", {"instancesFormat": "csv", "gcsSource": {"uris": [str(table)]}}), "outputConfig", {
        "predictionsFormat": "csv", "gcsDestination": {"outputUriPrefix": str(tmp_path / "csv")},
    })  # fmt: skip
    ai_platform = {
        "jobId": "night_1",
        "predictionInput": {"dataFormat": "JSON", "inputPaths": [str(packed)], "outputPath": str(tmp_path / "ai"), "uri": model},
    }  # fmt: skip
    for body in (vertex, keyed, csv, ai_platform):
        assert main(["run", job(tmp_path, body)]) == 0
    found = {name: sorted("".join(path.read_text() for path in (tmp_path / name).glob("prediction.results-*")).splitlines())
             for name in ("vertex", "keyed", "csv", "ai")}  # fmt: skip
    assert json.loads(found["vertex"][0]).keys() == {"instance", "prediction"}
    assert {json.loads(line)["key"]: json.loads(line)["prediction"] for line in found["keyed"]} == {row: row / 2 + 2 for row in range(20)}
    assert found["csv"] == sorted(['"key","y"', *(f'"{row}",{(row + 0.5) / 2 + 2:g}' for row in range(20))])
    assert sorted(json.loads(line)["y"] for line in found["ai"]) == [row / 2 + 2 for row in range(20)]
    assert json.loads((tmp_path / "ai" / "manifest.json").read_text())["run_id"] == "night_1"
