"""Runs of many models: every prediction against NumPy, what fails a task and what does not, and running the failed ones again."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import read_lines, run, run_of_tasks, task_lines, write_lines
from saved_models import Models, export_linear

from transforms.many.tasks import TaskError, check_tasks
from transforms.specs.run import Task

MODELS = 300
BROKEN = 10


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]], dict[str, np.ndarray]]:
    """300 linear models, each fitted to rows of its own of a real data set; gives folder, tasks and NumPy's predictions by output."""
    from sklearn.datasets import load_diabetes

    folder = tmp_path_factory.mktemp("sites")
    data = load_diabetes()
    tasks, expected = [], {}
    for site in range(MODELS):
        rows = np.random.default_rng(site).choice(len(data.data), 60, replace=False)
        x, y = data.data[rows].round(6), data.target[rows]
        solution = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
        export_linear(folder / "models" / f"{site}", solution[:-1], solution[-1])
        few = x[: 5 + site % 7]
        write_lines(folder / "data" / f"{site}.jsonl", [{"id": f"{site}-{number}", "x": row.tolist()} for number, row in enumerate(few)])
        output = f"region-{site % 3}/site-{site}"
        tasks.append({"model": f"{folder}/models/{site}", "input": f"{folder}/data/{site}.jsonl", "output": output})
        expected[output] = few @ solution[:-1] + solution[-1]
    return folder, tasks, expected


def break_models(folder: Path) -> list[int]:
    """Damages ten models, each in another way; gives their numbers."""
    models = folder / "models"
    (models / "3" / "saved_model.pb").write_bytes(b"")
    (models / "31" / "saved_model.pb").write_bytes(b"<html>login</html>")
    shutil.rmtree(models / "59")
    shutil.rmtree(models / "87" / "variables")
    data = models / "115" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:10])
    (models / "143" / "variables" / "variables.index").write_bytes(b"no index")
    content = (models / "171" / "saved_model.pb").read_bytes()
    (models / "171" / "saved_model.pb").write_bytes(content[: len(content) // 2])
    (models / "199" / "variables" / "variables.data-00000-of-00001").unlink()
    (models / "227" / "saved_model.pb").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (models / "255" / "saved_model.pb").unlink()
    return [3, 31, 59, 87, 115, 143, 171, 199, 227, 255]


def test_three_hundred_models_of_which_ten_are_broken(
    sites: tuple[Path, list[dict[str, str]], dict[str, np.ndarray]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, tasks, expected = sites
    folder = tmp_path / "sites"
    shutil.copytree(source, folder)
    tasks = [{name: value.replace(str(source), str(folder)) for name, value in task.items()} for task in tasks]
    broken = break_models(folder)
    out = tmp_path / "out"
    assert run(out, model_map=write_lines(tmp_path / "tasks.jsonl", tasks), key_field="id") == 3
    lines = task_lines(out)
    assert [line["number"] for line in lines] == list(range(MODELS))
    assert [line["number"] for line in lines if line["status"] != "done"] == broken
    for line in lines:
        place = out / line["output"]
        if line["number"] in broken:
            assert f"models/{line['number']}" in line["reason"], line["reason"]
            assert not (place / "_SUCCESS").exists()
            assert not list(place.glob("prediction.results*"))
            continue
        rows = read_lines(place / "prediction.results-00000-of-00001")
        wanted = expected[line["output"]]
        assert [row["key"] for row in rows] == [f"{line['number']}-{number}" for number in range(len(wanted))]
        np.testing.assert_allclose([row["prediction"] for row in rows], wanted, rtol=1e-9)
        assert line["counts"] == {"read": len(wanted), "predicted": len(wanted), "failed": 0}
        assert (place / "_SUCCESS").exists()
        assert not (place / "_staging").exists()
    assert not (out / "_staging").exists()
    report = json.loads((out / "manifest.json").read_text())
    assert report["tasks"] == {"count": MODELS, "done": MODELS - BROKEN, "failed": BROKEN, "files": ["tasks-00000-of-00001.jsonl"]}
    assert report["counts"]["read"] == report["counts"]["predicted"] + report["counts"]["failed"]
    assert not (out / "_SUCCESS").exists()
    assert re.search(r"^ +tasks +300 +290 done, 10 failed$", capsys.readouterr().out, re.MULTILINE)

    shutil.rmtree(folder / "models")
    shutil.copytree(source / "models", folder / "models")
    assert run(out, retry_failed=out / "manifest.json", key_field="id") == 0
    again = task_lines(out)
    assert [line["output"] for line in again] == [tasks[number]["output"] for number in broken]
    for line in again:
        rows = read_lines(out / line["output"] / "prediction.results-00000-of-00001")
        np.testing.assert_allclose([row["prediction"] for row in rows], expected[line["output"]], rtol=1e-9)
    assert (out / "_SUCCESS").exists()


def test_tasks_of_many_kinds_keep_to_themselves(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", [{"x": 1.0, "id": "a"}, {"x": "no", "id": "b"}, {"x": 3.0, "id": "c"}])
    twice = write_lines(tmp_path / "twice.jsonl", [{"x": 1.0, "id": 1}, {"x": 2.0, "id": 1}])
    half, below = models.get("half_plus_two"), models.get("below_hundred")
    tasks = [
        {"model": half, "input": str(data), "output": "half", "key_field": "id"},
        {"model": below, "input": str(data), "output": str(tmp_path / "elsewhere" / "below")},
        {"model": half, "input": str(twice), "output": "twice", "key_field": "id"},
        {"model": half, "input": str(twice), "output": "made"},
        {"model": half, "input": str(tmp_path / "nothing*.jsonl"), "output": "nothing"},
        {"model": half, "input": str(data), "output": "no signature", "signature_name": "other"},
    ]
    out = tmp_path / "out"
    assert run(out, model_map=write_lines(tmp_path / "tasks.jsonl", tasks), max_error_ratio=0.5) == 3
    status = {line["output"]: line for line in task_lines(out)}
    done = {name for name, line in status.items() if line["status"] == "done"}
    assert done == {"half", str(tmp_path / "elsewhere" / "below"), "made"}
    assert read_lines(out / "half" / "prediction.results-00000-of-00001") == [
        {"key": "a", "prediction": 2.5},
        {"key": "c", "prediction": 3.5},
    ]
    below_rows = read_lines(tmp_path / "elsewhere" / "below" / "prediction.results-00000-of-00001")
    assert [row["prediction"] for row in below_rows] == [2.0, 4.0]
    assert "1 keys occur more than once" in status["twice"]["reason"]
    assert "matches no file" in status["nothing"]["reason"]
    assert "has no signature 'other'" in status["no signature"]["reason"]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="this system has no second disk at /dev/shm")
def test_a_tasks_output_may_lie_on_another_disk(models: Models, tmp_path: Path) -> None:
    """Below the run's folder, where the files of all tasks are staged, a task's own may be mounted from elsewhere."""
    write_lines(tmp_path / "rows.jsonl", [{"id": 1, "x": 4}])
    tasks = [
        {"model": models.get("half_plus_two"), "input": str(tmp_path / "rows.jsonl"), "output": output} for output in ("here", "there")
    ]
    flags = {"model_map": write_lines(tmp_path / "tasks.jsonl", tasks), "key_field": "id"}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert os.stat(other).st_dev != os.stat(tmp_path).st_dev
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "there").symlink_to(other)
        for _ in range(2):  # the second replaces a whole output
            assert run(tmp_path / "out", **flags) == 0
            for output in ("here", "there"):
                assert read_lines(tmp_path / "out" / output / "prediction.results-00000-of-00001") == [{"key": 1, "prediction": 4.0}]
                assert not list((tmp_path / "out" / output).glob("*.tmp"))


def test_csv_maps_and_one_huge_input(models: Models, tmp_path: Path) -> None:
    large = write_lines(tmp_path / "large.jsonl", [{"x": float(row)} for row in range(2000)])
    small = write_lines(tmp_path / "small.jsonl", [{"x": 4.0}])
    rows = "\n".join(f"{models.get('half_plus_two')},{large if number == 7 else small},task-{number}" for number in range(20))
    (tmp_path / "tasks.csv").write_text(f"model,input,output\n{rows}\n")
    out = tmp_path / "out"
    assert run(out, model_map=tmp_path / "tasks.csv") == 0
    assert len(read_lines(out / "task-7" / "prediction.results-00000-of-00001")) == 2000
    assert json.loads((out / "manifest.json").read_text())["counts"] == {"read": 2019, "predicted": 2019, "failed": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model": "m", "input": "i"}', "line 1: the task lacks output"),
        ('{"model": "m", "input": "i", "output": "o", "modell": "m"}', "line 1: unknown field modell"),
        ('{"model": "m", "input": 7, "output": "o"}', "line 1: input is 7, expected text"),
        ("\n[1]", "line 2: expected an object with model, input, output, found list"),
        ("{", "line 1: expected a JSON object, found '{'"),
        ('{"model": "m", "input": "i", "output": "o"}\n{"model": "m", "input": "i", "output": "o/"}', "the folder of task 1 too"),
        ('{"model": "m", "input": "i", "output": "../o"}', "leaves its folder"),
        *(
            (
                json.dumps({"model": "m", "input": "i", "output": "t"}) + "\n" + json.dumps({"model": "m", "input": "i", "output": other}),
                said,
            )
            for other, said in (
                ("./t", "task 2: output ./t is"),
                ("t/.", "the folder of task 1 too"),
                (".//t//", "the folder of task 1 too"),
                ("t/deep/er", "task 1: the output of task 2"),
                ("./", "the run's own manifest"),
            )
        ),
        *(
            (json.dumps({"model": "m", "input": "i", "output": name}), "is a name that the run itself uses")
            for name in (
                "_staging/x",
                "./_staging/x",
                "_nightshift",
                "_refused/x/y",
                "manifest.json",
                "_SUCCESS",
                "report.html/x",
                "tasks-00000-of-00001.jsonl",
                "statistics.json",
            )
        ),
        ('{"model": "m", "input": "i,,j", "output": "o"}', "--input: is empty"),
        ("", "holds no task"),
    ],
)
def test_a_map_that_is_none_is_refused_before_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "tasks.jsonl").write_text(content)
    assert run(tmp_path / "out", model_map=tmp_path / "tasks.jsonl") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("t", "link", "the folder of task 1 too"),
        ("link/x", "{out}/t//x", "the folder of task 1 too"),
        ("t", "{out}/../out/t", "without '..'"),
        ("t", "link/x", "task 1: the output of task 2"),
        ("link/x", "t", "task 2: the output of task 1"),
        ("t", "{above}", "task 2: the output of task 1"),
        ("t", "{out}", "the run's own manifest"),
        ("t", "beside", "the run's own manifest"),
        ("t", "link/../t2", "without '..'"),
        ("t", "hidden/x", "a name that the run itself uses"),
    ],
)
def test_outputs_that_are_one_folder_or_one_inside_the_other_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str, second: str, message: str
) -> None:
    out = tmp_path / "above" / "out"
    (out / "t").mkdir(parents=True)
    (out / "link").symlink_to("t")
    (out / "beside").symlink_to(".")
    (out / "hidden").symlink_to("_staging")
    names = [name.format(out=out, above=tmp_path / "above") for name in (first, second)]
    tasks = write_lines(tmp_path / "tasks.jsonl", [{"model": "m", "input": "i", "output": name} for name in names])
    assert run(out, model_map=tasks) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["beside", "hidden", "link", "t"]


def test_outputs_in_a_bucket_are_one_however_they_are_spelled(gcs: Any) -> None:
    bucket = gcs.make_bucket()
    for first, second, message in (
        ("t", f"{bucket}/out//t/", "the folder of task 1 too"),
        ("t", f"{bucket}/./out/t", "the folder of task 1 too"),
        ("t", f"{bucket}/out", "the run's own manifest"),
        (f"{bucket}/out/_staging/x", "t", "a name that the run itself uses"),
        ("t", f"{bucket}/out/t/_staging", "task 1: the output of task 2"),
        ("t", bucket, "task 2: the output of task 1"),
    ):
        tasks = [Task(number, "m", "i", output) for number, output in enumerate((first, second))]
        with pytest.raises(TaskError, match=message):
            check_tasks(tasks, run_of_tasks(f"{bucket}/out", 2))


def test_a_tasks_input_in_its_own_output_fails_the_task_and_stays(models: Models, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "out" / "t" / "rows.jsonl", [{"x": 1}])
    task = {"model": models.get("half_plus_two"), "input": str(data.parent), "output": "t"}
    tasks = write_lines(tmp_path / "tasks.jsonl", [task])
    assert run(tmp_path / "out", model_map=tasks, output_layout="mirror") == 3
    (line,) = task_lines(tmp_path / "out")
    assert "rows.jsonl lies in the task's output" in line["reason"]
    assert data.read_text() == '{"x": 1}\n'


def test_each_task_names_the_keys_that_its_own_rows_have_twice(models: Models, tmp_path: Path) -> None:
    """A key of one task is none of another's, and places are those of its own files."""
    ids = (["a", "a", "b"], ["b", "c", "c"], ["a", "b", "c"])
    tasks = [
        {
            "model": models.get("half_plus_two"),
            "input": str(write_lines(tmp_path / f"{number}.jsonl", [{"id": key, "x": 1.0} for key in keys])),
            "output": f"t{number}",
        }
        for number, keys in enumerate(ids)
    ]
    out = tmp_path / "out"
    assert run(out, model_map=write_lines(tmp_path / "tasks.jsonl", tasks), key_field="id") == 3
    found = [(line["status"], line["reason"]) for line in task_lines(out)]
    assert found == [
        (
            "failed",
            f'1 keys occur more than once, such as "{key}" ({tmp_path}/{number}.jsonl at byte {first}), "{key}" '
            f"({tmp_path}/{number}.jsonl at byte {second}); correct them or give --duplicate_keys=allow",
        )
        for number, key, first, second in ((0, "a", 0, 22), (1, "c", 22, 44))
    ] + [("done", None)]


def test_flags_that_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, model_map="tasks.jsonl", model="m") == 2
    assert "--model and --model_map exclude each other" in capsys.readouterr().err
    assert run(tmp_path, model_map=tmp_path / "none.jsonl") == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_tasks_of_a_table(bigquery: Any, models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of tasks, with a column that is none of a task's and one that a task leaves out."""
    source = write_lines(tmp_path / "in.jsonl", [{"id": "a", "x": 1.0}, {"id": "b", "x": 2.0}])
    model = models.get("half_plus_two")
    rows = [
        {"model": model, "input": str(source), "output": "north", "key_field": "id", "owner": "someone"},
        {"model": model, "input": str(source), "output": "south", "key_field": None, "owner": "someone"},
    ]
    name = bigquery.load(f"{bigquery.make_dataset()}.tasks", rows)
    assert run(tmp_path / "out", model_map=name, project="test-project") == 0
    assert [line["key"] for line in read_lines(tmp_path / "out/north/prediction.results-00000-of-00001")] == ["a", "b"]
    assert [line["prediction"] for line in read_lines(tmp_path / "out/south/prediction.results-00000-of-00001")] == [2.5, 3.0]
    lacking = bigquery.load(f"{bigquery.make_dataset()}.tasks", [{"model": model, "output": "north"}])
    for wrong, said in (
        (lacking if lacking.startswith("bq://") else f"bq://{lacking}", "no column input"),
        (f"{name}_none", "can't be read"),
    ):
        assert run(tmp_path / "other", model_map=wrong, project="test-project") == 2
        assert said in capsys.readouterr().err
