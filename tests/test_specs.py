"""Specs check themselves, and name flag, value and range."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from transforms.rows.row_spec import row_spec
from transforms.specs.errors import SpecError
from transforms.specs.job import InputSpec, JobSpec, KeySpec
from transforms.specs.limits import Limits
from transforms.specs.models import ModelSpec, Structure
from transforms.specs.output import FolderOutput
from transforms.specs.signature import Signature, TensorSpec

SIGNATURE = Signature("s", ("serve",), (TensorSpec("x", "x:0", "float32", (None,)),), (TensorSpec("y", "y:0", "float32", (None,)),))


def job(**changes: Any) -> JobSpec:
    made = JobSpec(
        InputSpec(("a",)), KeySpec(), ModelSpec("m", SIGNATURE), FolderOutput("out"), "run-1", "launch", "2026-01-01T00:00:00.000Z"
    )
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    ("make", "flag", "says"),
    [
        (lambda: InputSpec(()), "input", "is empty"),
        (lambda: InputSpec(("a", "")), "input", "is empty"),
        (lambda: InputSpec(("a",), format="xml"), "input_format", "'xml' is not one of jsonl"),
        (lambda: InputSpec(("a",), include_fields=("b", "b")), "include_fields", "b is named twice"),
        (lambda: InputSpec(("a",), exclude_fields=("",)), "exclude_fields", "empty name"),
        (lambda: InputSpec(("a",), include_fields=("b",), exclude_fields=("b",)), "exclude_fields", "b is in --include_fields too"),
        (lambda: KeySpec(("a", "b", "a")), "key_field", "a is named twice"),
        (lambda: KeySpec(("",)), "key_field", "empty name"),
        (lambda: KeySpec(duplicates="drop"), "duplicate_keys", "'drop' is not one of fail, allow"),
        (lambda: ModelSpec("m", SIGNATURE, batch_size=0), "batch_size", "0 is not between 1 and 1000000 rows"),
        (lambda: ModelSpec("m", SIGNATURE, batch_size=1_000_001), "batch_size", "1000001 is not between"),
        (lambda: FolderOutput(""), "output", "is empty"),
        (lambda: FolderOutput("o", style="json"), "output_style", "'json' is not one of keyed, vertex, aiplatform, raw"),
        (lambda: FolderOutput("o", layout="flat"), "output_layout", "'flat' is not one of sharded, mirror"),
        (lambda: FolderOutput("o", nan="zero"), "nan", "'zero' is not one of null, string, error"),
        (lambda: FolderOutput("o", write_disposition="add"), "write_disposition", "'add' is not one of truncate, append, empty"),
        (lambda: FolderOutput("o", passthrough_fields=("*", "a")), "passthrough_fields", "'*' already names all fields"),
        (lambda: FolderOutput("o", passthrough_fields=("a", "a")), "passthrough_fields", "a is named twice"),
        (lambda: FolderOutput("o", style="raw", passthrough_fields=("a",)), "passthrough_fields", "has no place for fields"),
        (lambda: FolderOutput("o", passthrough_fields=("prediction",)), "passthrough_fields", "prediction is a name"),
        (lambda: FolderOutput("o", style="vertex", passthrough_fields=("instance",)), "passthrough_fields", "instance is a name"),
        (lambda: job(max_error_ratio=1.5), "max_error_ratio", "1.5 is not between 0 and 1"),
        (lambda: job(max_error_ratio=-0.1), "max_error_ratio", "-0.1 is not between 0 and 1"),
        (lambda: job(max_error_ratio=float("nan")), "max_error_ratio", "nan is not between 0 and 1"),
        (lambda: job(run_id="a/b"), "run_id", "'a/b' is not 1 to 128 letters"),
        (lambda: job(run_id="../up"), "run_id", "is not 1 to 128 letters"),
        (lambda: job(run_id="a\n"), "run_id", "is not 1 to 128 letters"),
        (
            lambda: job(key=KeySpec(("id",)), output=FolderOutput("o", style="aiplatform", passthrough_fields=("id",))),
            "passthrough_fields", "id is in the output already, as the key",
        ),
    ],
)  # fmt: skip
def test_values_out_of_range_name_their_flag(make: Any, flag: str, says: str) -> None:
    with pytest.raises(SpecError) as refusal:
        make()
    assert refusal.value.flag == flag
    assert str(refusal.value).startswith(f"--{flag}: ")
    assert says in str(refusal.value)


def test_values_at_the_borders_stand() -> None:
    assert ModelSpec("m", SIGNATURE, batch_size=1).batch_size == 1
    assert ModelSpec("m", SIGNATURE, batch_size=1_000_000).batch_size == 1_000_000
    assert job(max_error_ratio=0.0).max_error_ratio == 0
    assert job(max_error_ratio=1.0).max_error_ratio == 1
    assert job(run_id="a" * 128).run_id == "a" * 128
    assert FolderOutput("o", style="aiplatform", passthrough_fields=("key", "prediction")).passthrough_fields == ("key", "prediction")


def test_errors_lie_beside_the_results_unless_told_otherwise() -> None:
    assert FolderOutput("out").errors == "out"
    assert FolderOutput("out", errors_folder="bad").errors == "bad"


def test_the_staging_folder_is_of_this_launch_alone() -> None:
    assert job().staging_in("gs://b/out/") == "gs://b/out/_staging/run-1/launch"
    assert job(launch="other").staging_in("gs://b/out") != job().staging_in("gs://b/out")


def test_specs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        job().run_id = "other"  # type: ignore[misc]


def test_what_many_models_have_in_common_is_one_object_in_a_process_that_receives_it() -> None:
    """Thousands of elements wait in the shuffle at once: of each model's, only what is its own takes memory."""

    def model(name: str) -> ModelSpec:
        inputs, outputs = ((dataclasses.replace(spec),) for spec in (*SIGNATURE.inputs, *SIGNATURE.outputs))
        structure = Structure("1f" * 32, tuple((f"layer_{number}/kernel", f"variables/{number}") for number in range(20)))
        return ModelSpec(name, Signature("s", ("serve",), inputs, outputs), structure=structure)

    first, second = model("a"), model("b")
    assert first.signature is not second.signature
    received = [pickle.loads(pickle.dumps(one)) for one in (first, second)]
    assert received == [first, second]
    assert received[0].signature is received[1].signature
    assert received[0].structure is received[1].structure
    assert received[0].signature.inputs[0].tensor == "x:0"  # of no matter for equality, but for what is fed


def test_values_that_differ_in_what_is_not_compared_are_two() -> None:
    other = dataclasses.replace(SIGNATURE, inputs=(dataclasses.replace(SIGNATURE.inputs[0], tensor="other:0"),))
    assert other == SIGNATURE
    assert [pickle.loads(pickle.dumps(one)).inputs[0].tensor for one in (SIGNATURE, other)] == ["x:0", "other:0"]


def test_limits_are_positive_and_reach_the_reader_of_a_row() -> None:
    with pytest.raises(ValueError, match="block_bytes is 0; expected 1 or more"):
        Limits(block_bytes=0)
    small = Limits(block_bytes=10)
    assert row_spec(job(input=InputSpec(("a",), limits=small))).limits is small
    assert row_spec(job()).limits == Limits()
