"""report.html and statistics.json of whole runs, and the page in a real browser."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import check_output, lines, manifest, run, run_of_tasks, write_lines
from saved_models import Models

from transforms.report import page
from transforms.specs.manifest import Counts, Manifest, TaskLine, TasksEntry
from transforms.statistics import tf_metadata

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)

# A browser calls home by itself; here it has nothing to say to anyone.
ALONE = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--no-proxy-server")


def statistics_of(out: Path, data: str = tf_metadata.PREDICTIONS) -> dict[str, Any]:
    described = tf_metadata.decode((out / "statistics.json").read_bytes())
    return {one.path.step[0]: one for each in described.datasets if each.name == data for one in each.features}


@pytest.fixture
def reported(models: Models, tmp_path: Path) -> Path:
    """The folder of a run of many rows, of which some fail."""
    rows: list[Any] = [{"id": f"r{number}", "x": number, "s": ["red", "green", "blue"][number % 3]} for number in range(3000)]
    rows[7] = {"id": "bad", "x": "<script>alert(1)</script>", "s": "red"}
    rows[8] = {"id": "short", "s": "red"}
    source = write_lines(tmp_path / "in.jsonl", rows)
    assert run(tmp_path / "out", model=models.get("two_outputs"), input=source, key_field="id") == 0
    return tmp_path / "out"


def test_a_run_is_described(reported: Path) -> None:
    found, inputs = statistics_of(reported), statistics_of(reported, tf_metadata.INPUTS)
    predicted = lines(reported)
    double = np.array([line["prediction"]["double"] for line in predicted])
    assert found["double"].num_stats.common_stats.num_non_missing == len(double) == 2998
    assert found["double"].num_stats.mean == pytest.approx(double.mean())
    assert (found["double"].num_stats.min, found["double"].num_stats.max) == (double.min(), double.max())
    assert {one.value for one in found["upper"].string_stats.top_values} == {"RED", "GREEN", "BLUE"}
    assert inputs["x"].num_stats.common_stats.num_missing == 1
    effort = check_output(reported)["effort"]
    assert effort["model_calls"] > 0
    assert effort["models_loaded"] == 1
    assert all(seconds > 0 for seconds in effort["seconds"].values())


def test_the_page_says_what_happened_and_escapes_what_rows_hold(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    assert "3,000 read = 2,998 predicted + 2 failed" in page
    for code in ("WRONG_TYPE", "INPUT_MISSING"):
        assert code in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "http://" not in page
    assert "https://" not in page
    assert len(page) < 100_000


def test_the_documents_way_to_read_statistics_runs(reported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (reported.parent / "demo").mkdir()
    (reported.parent / "demo/out").symlink_to(reported)
    monkeypatch.chdir(reported.parent)
    page = (Path(__file__).resolve().parents[1] / "docs/report.md").read_text()
    program = page.split("python -c '")[1].split("'\n```")[0]
    capsys.readouterr()
    exec(program, {})
    assert "predictions double" in capsys.readouterr().out


def test_a_shut_gate_says_why(models: Models, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"x": "a"}, {"x": 1.0}])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=source) == 3
    page = (tmp_path / "out/report.html").read_text()
    assert "1 of 2 rows failed (50.00%)" in page
    assert 'class="failed"' in page


def test_without_a_report_none_of_an_earlier_run_stays(models: Models, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"x": 1.0}])
    flags = {"model": models.get("half_plus_two"), "input": source}
    assert run(tmp_path / "out", **flags) == 0
    assert (tmp_path / "out/report.html").exists()
    assert run(tmp_path / "out", **flags, report="false") == 0
    assert not (tmp_path / "out/report.html").exists()
    assert not (tmp_path / "out/statistics.json").exists()
    assert "effort" not in manifest(tmp_path / "out")


def test_a_run_without_rows_has_a_report(models: Models, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [])
    assert run(tmp_path / "out", model=models.get("half_plus_two"), input=source) == 0
    assert "0 read = 0 predicted + 0 failed" in (tmp_path / "out/report.html").read_text()


def test_two_workers_give_the_statistics_of_one(models: Models, tmp_path: Path) -> None:
    for part in range(2):
        write_lines(tmp_path / f"in/{part}.jsonl", [{"x": float(part * 500 + number)} for number in range(500)])
    flags = {"model": models.get("half_plus_two"), "input": f"{tmp_path}/in/*.jsonl"}
    workers = {"direct_num_workers": 2, "direct_running_mode": "multi_threading"}
    assert run(tmp_path / "one", **flags) == run(tmp_path / "two", **flags, **workers) == 0
    one, two = (statistics_of(tmp_path / name)["y"].num_stats for name in ("one", "two"))
    assert (one.mean, one.min, one.max, one.common_stats) == (two.mean, two.min, two.max, two.common_stats)


@pytest.mark.parametrize(("asked", "of_a_task"), [("true", False), ("tasks", True), ("false", False)])
def test_tasks(models: Models, tmp_path: Path, asked: str, of_a_task: bool) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"x": 1.0}])
    tasks = [{"model": models.get("half_plus_two"), "input": str(source), "output": name} for name in ("a", "b")]
    tasks.append({"model": "nowhere", "input": str(source), "output": "c"})
    tasks_file = write_lines(tmp_path / "tasks.jsonl", tasks)
    assert run(tmp_path / "out", model_map=tasks_file, report=asked) == 3
    assert (tmp_path / "out/report.html").exists() == (asked != "false")
    assert (tmp_path / "out/a/report.html").exists() == (tmp_path / "out/a/statistics.json").exists() == of_a_task
    if asked != "false":
        assert "nowhere" in (tmp_path / "out/report.html").read_text()


def page_of_many(count: int) -> bytes:
    spec = run_of_tasks("out", count)
    tasks = [
        TaskLine(
            model=f"gs://models/site-{number:05}/", input="in", output="out", number=number, location="", version="7",
            seconds=number / 1000, counts=Counts(20, 20, 0),
            status="failed" if number % 100 == 99 else "done", reason="the model is not there" if number % 100 == 99 else None,
        )
        for number in range(count)
    ]  # fmt: skip
    said = Manifest(
        run_id="nightly", status="failed", reason="some tasks failed", started=spec.started, seconds=60.0, flags={},
        counts=Counts(20 * count, 20 * count, 0), tasks=TasksEntry(count=count, done=count, files=[]),
    )  # fmt: skip
    return page.run_report(spec, said, tasks)["report.html"]


def test_thousands_of_models_stay_small() -> None:
    assert len(page_of_many(3000)) < 2 << 20
    more = page_of_many(20_000)
    assert len(more) < 2 << 20
    assert b"3,000 of 20,000" in more
    assert more.count(b"the model is not there") == 200


# --- in a browser ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Any:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *ALONE], env=environment)
        yield started
        started.close()


def opened(browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(path.resolve().as_uri())
    return page, said


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_is_quiet_and_accessible(browser: Any, reported: Path, tmp_path: Path, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    many = tmp_path / "many.html"
    many.write_bytes(page_of_many(50))
    for path in (reported / "report.html", many):
        page, said = opened(browser, path, width, scheme)
        picture = tmp_path / f"{path.parent.name}-{width}-{scheme}.png"
        page.screenshot(path=picture, full_page=True)
        assert picture.stat().st_size > 20_000
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the screen"
        assert said == []
        # axe-core is put into the page by the test, which the page's own policy would forbid: it is checked in a page without.
        unguarded = tmp_path / "unguarded.html"
        unguarded.write_text(path.read_text().replace("Content-Security-Policy", "X-Left-Out"))
        page, _ = opened(browser, unguarded, width, scheme)
        found = Axe().run(page).response["violations"]
        assert not [(one["id"], [node["html"] for node in one["nodes"][:3]]) for one in found if one["impact"] in ("serious", "critical")]


def test_the_table_sorts_and_filters(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "many.html"
    path.write_bytes(page_of_many(3000))
    page, said = opened(browser, path)

    def first() -> str:
        return page.locator("#table tbody tr:not([hidden])").first.locator("td").first.inner_text()

    page.get_by_role("button", name="seconds").click()
    page.get_by_role("button", name="seconds").click()
    assert first() == "gs://models/site-02999/"
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("seconds")
    page.get_by_role("button", name="model").press("Enter")
    assert first() == "gs://models/site-00000/"
    page.get_by_label("Show those with").fill("not there")
    assert page.locator("#shown").inner_text() == "30 shown"
    assert page.locator("#table tbody tr:visible").count() == 30
    assert said == []
