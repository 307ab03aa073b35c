"""Flags: told from Beam's, checked, and refused with a message before anything heavy is imported."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import verify
from pipeline.check import flags as check_flags
from pipeline.check.flags import CheckOptions
from pipeline.dataflow import launch, schedule
from pipeline.dataflow.launch import LaunchOptions
from pipeline.dataflow.schedule import ScheduleOptions
from pipeline.flags import arguments, specs_of
from pipeline.flags.flag import Flag, UsageError
from pipeline.flags.help import run_help
from pipeline.flags.options import RunOptions
from pipeline.flags.parse import parse
from pipeline.flags.table import BY_NAME, FLAGS, default_text
from pipeline.main import main
from pipeline.serve import service
from pipeline.serve.service import ServeOptions
from pipeline.verify import VerifyOptions
from transforms.specs.errors import SpecError

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ["--model=m", "--input=i", "--output=o"]


def refused(*given: str) -> str:
    with pytest.raises((UsageError, SpecError)) as refusal:
        parse([*NEEDED, *given])
    return str(refusal.value)


def test_defaults() -> None:
    found = parse(NEEDED)
    assert (found.model, found.input, found.output) == ("m", ("i",), "o")
    assert found.output_style == "keyed"
    assert found.max_error_ratio == 0.1
    assert found.nan == "null"
    assert found.write_disposition == "truncate"
    assert found.duplicate_keys == "fail"
    assert found.key_field == ()
    assert found.batch_size is None
    assert found.allow_unsafe_ops is False
    assert found.beam == ()


def test_values_are_read() -> None:
    found = parse(
        [
            "--model",
            "a b",
            "--input=x.jsonl, y.jsonl",
            "--output=gs://b/o=1",
            "--key_field=site,day",
            "--batch_size=64",
            "--tags=serve,gpu",
            "--allow_unsafe_ops=TRUE",
            "--max_error_ratio=1e-3",
            "--passthrough_fields=*",
            "--run_id=nightly-2026.01_01",
        ]
    )
    assert found.model == "a b"
    assert found.input == ("x.jsonl", "y.jsonl")
    assert found.output == "gs://b/o=1"
    assert found.key_field == ("site", "day")
    assert found.batch_size == 64
    assert found.tags == ("serve", "gpu")
    assert found.allow_unsafe_ops is True
    assert found.max_error_ratio == 0.001
    assert found.given[0] == ("model", "a b")


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("--modell=m", "--model?"),
        ("--input-format=jsonl", "--input_format?"),
        ("--keyfield=a", "--key_field?"),
        ("--batchsize=3", "--batch_size?"),
        ("--max_errors_ratio=0", "--max_error_ratio?"),
        ("--runer=DirectRunner", "--runner?"),
        ("--worker_machine_typ=n2", "--worker_machine_type?"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_nearest_name(typo: str, nearest: str) -> None:
    message = refused(typo)
    assert message.startswith(f"unknown flag {typo.split('=')[0]}; did you mean {nearest}")


def test_a_flag_like_no_other_points_to_help() -> None:
    assert refused("--qqqqqq=1") == "unknown flag --qqqqqq; nightshift run --help lists the flags"


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--batch_size=0", "a whole number from 1 to 1000000"),
        ("--batch_size=1000001", "from 1 to 1000000"),
        ("--batch_size=1.5", "a whole number"),
        ("--batch_size=", "a whole number"),
        ("--max_error_ratio=1.1", "a number from 0 to 1"),
        ("--max_error_ratio=nan", "a number from 0 to 1"),
        ("--max_error_ratio=-0.1", "from 0 to 1"),
        ("--max_error_ratio=10%", "from 0 to 1"),
        ("--nan=zero", "one of null, string, error"),
        ("--output_style=json", "one of keyed, vertex, aiplatform, raw"),
        ("--output_layout=flat", "one of sharded, mirror"),
        ("--duplicate_keys=drop", "one of fail, allow"),
        ("--write_disposition=add", "one of truncate, append, empty"),
        ("--input_format=xml", "one of jsonl"),
        ("--allow_unsafe_ops=yes", "true or false"),
        ("--verbose=1", "true or false"),
        ("--run_id=a/b", "letters, digits"),
        ("--run_id=-a", "beginning with"),
        ("--run_id=" + "a" * 129, "1 to 128"),
        ("--tags=", "tags separated by commas"),
        ("--tags=serve,", "tags separated by commas"),
    ],
)
def test_a_bad_value_is_refused_with_flag_value_and_range(argument: str, says: str) -> None:
    message = refused(argument)
    assert message.startswith(f"{argument}: expected ")
    assert says in message


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--key_field=a,a"], "--key_field: a is named twice"),
        (["--key_field=a,,b"], "--key_field: holds an empty name"),
        (["--passthrough_fields=*,a"], "--passthrough_fields: '*' already names all fields"),
        (["--passthrough_fields=key"], "--passthrough_fields: key is a name that --output_style=keyed uses itself"),
        (["--passthrough_fields=a", "--output_style=raw"], "--passthrough_fields: --output_style=raw has no place for fields"),
        (["--include_fields=a", "--exclude_fields=a,b"], "--exclude_fields: a is in --include_fields too"),
        (["--model=other"], "--model is given twice"),
        (["--nan=null", "--nan=null"], "--nan is given twice"),
        (["--batch_size"], "--batch_size has no value"),
        (["--nan", "--verbose=true"], "--nan has no value"),
        (["--num_workers"], "--num_workers has no value"),
        (["--num_workers", "--nan=null"], "--num_workers has no value"),
        (["rows.jsonl"], "argument 4 after 'run' is no flag"),
        (["-v"], "argument 4 after 'run' is no flag"),
        (["--"], "argument 4 after 'run' is no flag"),
        ([""], "argument 4 after 'run' is no flag"),
        (["--nan", "null", "rows.jsonl"], "argument 6 after 'run' is no flag"),
    ],
)
def test_flags_that_do_not_go_together(arguments: list[str], says: str) -> None:
    assert refused(*arguments).startswith(says)


@pytest.mark.parametrize("name", ["model", "input", "output"])
def test_what_is_needed_is_asked_for(name: str) -> None:
    others = [argument for argument in NEEDED if not argument.startswith(f"--{name}=")]
    for given in (others, [*others, f"--{name}="]):
        with pytest.raises((UsageError, SpecError), match=f"--{name}"):
            parse(given)


def test_beams_flags_pass_through() -> None:
    beam = [
        "--runner=DirectRunner",
        "--project=p",
        "--experiments=a",
        "--experiments=b",
        "--streaming",
        "--num_workers=3",
        "--temp_location=gs://b/t=1",
    ]
    assert parse([*beam[:3], *NEEDED, *beam[3:]]).beam == tuple(beam)
    apart = [part for flag in beam for part in flag.split("=", 1)]
    assert parse([*apart[:4], *NEEDED, *apart[4:]]).beam == tuple(beam)


@pytest.mark.parametrize("command", ["launch", "schedule"])
def test_launch_and_schedule_read_their_flags_as_run_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.main import main

    flags = ["--template=gs://b/t.json", "--project=p", "--region=r", "--dry_run=true", "--model=gs://b/m", "--input=gs://b/i"]
    flags += ["--output=gs://b/o", "--machine_type=n2-standard-4", "--max_num_workers=3", "--labels=a=b"]
    if command == "schedule":
        flags += ["--schedule=0 3 * * *", "--scheduler_account=a@b"]
    assert main([command, *flags]) == 0
    together = capsys.readouterr().out
    assert main([command, *(part for flag in flags for part in flag.split("=", 1))]) == 0
    assert capsys.readouterr().out == together
    assert json.loads(together)


def test_a_bad_value_of_beams_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    """Its parser would end the process with its usage, and with that status 2 a service that asks."""
    from pipeline.main import main

    assert main([*NEEDED, "--num_workers=three"]) == 2
    assert capsys.readouterr().err == "nightshift: argument --num_workers: invalid int value: 'three'\n"


def test_nul_in_a_value_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.main import main

    job = {"inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": ["a\0b"]}}, "outputConfig": {"predictionsFormat": "jsonl"}}
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert main([f"--job={tmp_path}/job.json", "--model=m", "--output=o"]) == 2
    assert "--input: expected text without NUL" in capsys.readouterr().err


def test_a_job_nested_too_deep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.main import main

    (tmp_path / "job.json").write_text("[" * 200_000)
    assert main([f"--job={tmp_path}/job.json"]) == 2
    assert "expected a JSON object" in capsys.readouterr().err


SECRET = "hunter2"


@pytest.mark.parametrize(
    "given",
    [
        [SECRET],
        ["run", SECRET],
        ["run", *NEEDED, "--nan", "null", SECRET],
        ["run", *NEEDED, "--streaming", SECRET],
        ["run", *NEEDED, f"--pasword={SECRET}"],
        ["run", *NEEDED, "--pasword", SECRET],
        ["check", SECRET],
        ["launch", SECRET],
        ["schedule", "--project", "p", SECRET],
        ["serve", "--port", "80", SECRET],
        ["serve", "--runner", SECRET],
    ],
)
def test_a_text_that_is_no_flags_value_is_not_repeated(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.main import main

    assert main(given) == 2
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert said.err.startswith("nightshift: ")


def test_beams_switches_take_true_and_false_as_a_template_gives_them() -> None:
    assert parse([*NEEDED, "--streaming=true", "--save_main_session=false", "--no_auth=True"]).beam == ("--streaming", "--no_auth")
    assert refused("--streaming=maybe") == "--streaming=maybe: expected --streaming, --streaming=true or --streaming=false"
    assert refused("--streaming", "rows.jsonl").startswith("argument 5 after 'run' is no flag"), "not taken for the switch's value"


def test_beams_flags_are_those_of_the_installed_beam() -> None:
    """Read from its source; here the parser itself is asked."""
    import argparse

    from apache_beam.options.pipeline_options import PipelineOptions

    parser = argparse.ArgumentParser(allow_abbrev=False)
    for some in PipelineOptions.__subclasses__():
        if some.__module__ == "apache_beam.options.pipeline_options":
            some._add_argparse_args(parser)
    real = {name[2:]: action.nargs == 0 for action in parser._actions for name in action.option_strings if name.startswith("--")}
    real.pop("help", None)
    found = arguments.beam_flags()
    assert set(real) <= set(found)
    assert {name: found[name] for name in real} == real


def test_ours_and_beams_names_are_apart() -> None:
    assert not set(BY_NAME) & set(arguments.beam_flags())


def test_the_options_have_a_field_for_each_flag_and_the_table_alone_has_defaults() -> None:
    fields = dataclasses.fields(RunOptions)
    assert [field.name for field in fields] == [*(flag.name for flag in FLAGS), "given", "beam", "limits"]
    assert all(field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING for field in fields)


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        (CheckOptions, check_flags.CHECK_FLAGS),
        (LaunchOptions, launch.FLAGS),
        (ScheduleOptions, schedule.FLAGS),
        (ServeOptions, service.FLAGS),
        (VerifyOptions, verify.FLAGS),
    ],
)
def test_each_command_has_options_with_a_field_for_each_flag(kind: Any, flags: Sequence[Flag]) -> None:
    fields = dataclasses.fields(kind)
    assert [field.name for field in fields if field.name != "run"] == [flag.name for flag in flags]
    assert all(field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING for field in fields)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "verify takes one folder"),
        ([""], "verify takes one folder"),
        (["a", "b"], "verify takes one folder"),
        (["a", "--output=b"], "verify takes one folder"),
        (["--output"], "--output has no value"),
        (["--outptu=a"], "did you mean --output?"),
        (["gs://"], "expected a name after gs://"),
        (["bq://p.d.t"], "bq://p.d.t is a table"),
    ],
)
def test_a_folder_that_verify_can_not_take_is_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nowhere"], ["--output=nowhere"], ["--output", "nowhere"]])
def test_verify_takes_its_folder_with_and_without_the_flag(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *arguments]) == 2
    assert "nowhere has no manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["create_dataset=true", "partition_field=day", "cluster_fields=key"])
def test_flags_of_tables_are_refused_where_the_output_is_a_folder(flag: str) -> None:
    with pytest.raises(SpecError, match=f"--{flag.partition('=')[0]}: is for tables"):
        specs_of.output_spec(parse([*NEEDED, f"--{flag}"]))


# A text that each kind of flag reads; the others read any.
READ = {
    "date": "2026-11-26",
    "time_zone": "Europe/Berlin",
    "allow_unsafe_ops": "true",
    "create_dataset": "true",
    "resume": "true",
    "verbose": "true",
}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_flags_values_have_the_type_of_its_field(flag: Flag) -> None:
    hint = typing.get_type_hints(RunOptions)[flag.name]
    texts = flag.choices or (READ.get(flag.name, "1"),)
    defaults = () if flag.name in ("input", "output") else (flag.default,)  # the output is always given, the input or a query
    for value in (*map(flag.read, texts), *defaults):
        assert any(
            isinstance(value, typing.get_origin(kind) or kind) and (kind is not float or not isinstance(value, bool))
            for kind in (typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,))
        ), f"{value!r} is no {hint}"


def test_a_misspelt_option_is_an_error_of_types(tmp_path: Path) -> None:
    source = tmp_path / "misspelt.py"
    source.write_text(
        "from pipeline.flags.options import RunOptions\n\n\ndef f(options: RunOptions) -> object:\n    return options.compare_modell\n"
    )
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", str(source)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 'has no attribute "compare_modell"' in checked.stdout, checked.stdout + checked.stderr


def test_options_can_be_copied() -> None:
    found = parse(NEEDED)
    assert copy.deepcopy(found) == found
    assert pickle.loads(pickle.dumps(found)) == found


def test_help_names_every_flag_with_its_values_and_default() -> None:
    text = run_help()
    for flag in FLAGS:
        assert f"--{flag.name} " in text
        assert flag.allowed in text
        assert flag.help in text
        assert default_text(flag) not in ("", "None", "()")


# --- in a process of its own -----------------------------------------------------------------------------------------------

LIGHT = """
import sys
import types
import typing
from pipeline.main import main
status = main(sys.argv[1:])
heavy = sorted({"tensorflow", "apache_beam", "pyarrow", "numpy"} & set(sys.modules))
print("imported:", heavy)
sys.exit(status)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LIGHT, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--modell=m"], 2, "unknown flag --modell; did you mean --model?"),
        (["run", *NEEDED, "--nan=zero"], 2, "--nan=zero: expected one of null, string, error"),
        ([*NEEDED, "--passthrough_fields=key"], 2, "--passthrough_fields: key"),
        ([], 2, "--model is missing"),
        (["predict", *NEEDED], 2, "the commands are run, check, verify, launch, schedule, serve"),
        (["--help"], 0, "usage: nightshift run"),
        (["run", "-h"], 0, "--max_error_ratio"),
    ],
)
def test_a_typo_and_help_wait_for_nothing_heavy(arguments: list[str], status: int, says: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == status, ended.stderr
    assert says in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert "imported: []" in ended.stdout
