"""``nightshift serve``: the real program behind a real socket, asked by a real client."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from saved_models import Models

ROOT = Path(__file__).resolve().parents[1]
ROWS = 20
CALLERS = 50
JSON = {"content-type": "application/json"}


class Serving:
    """A service of its own process, with folders that it allows."""

    def __init__(self, folder: Path, model: str, *program: str) -> None:
        self.folder, self.model = folder, model
        self.log = folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        flags = [f"--allow_model={Path(model).parent}", f"--allow_input={folder}/in", f"--allow_output={folder}/out", f"--port={self.port}"]
        flags += ["--allow_get=true", "--allow_host=nightshift.example"]
        with self.log.open("wb") as log:
            command = [sys.executable, *(program or ("-m", "pipeline.main")), "serve", *flags]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120, trust_env=False)

    def wait(self) -> None:
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()
            try:
                assert self.client.get("/health").json()["status"] == "ok"
                return
            except httpx.ConnectError:
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def ask(self, **parameters: Any) -> httpx.Response:
        return self.client.get("/", params={"model": self.model, **parameters})

    def write(self, name: str, rows: int = ROWS, first: int = 0) -> str:
        path = self.folder / "in" / name / "rows.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps({"x": first + number}) + "\n" for number in range(rows)))
        return str(path.parent)

    def predictions(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.folder / "out" / name / "rows.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def serving(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    serving = Serving(tmp_path_factory.mktemp("serve"), models.get("half_plus_two"))
    try:
        serving.wait()
        yield serving
    finally:
        serving.process.terminate()
        assert serving.process.wait(60) == 0, serving.log.read_text()


def expected(first: int = 0) -> list[float]:
    return (np.float32(0.5) * np.arange(first, first + ROWS, dtype=np.float32) + np.float32(2)).tolist()


def test_job_writes_what_embedded_tf_wrote(serving: Serving) -> None:
    answer = serving.ask(input=serving.write("first"), output=f"{serving.folder}/out/first")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["status"], body["counts"]) == ("done", {"read": ROWS, "predicted": ROWS, "failed": 0})
    assert serving.predictions("first") == expected()
    again = serving.client.post(
        "/", json={"model": serving.model, "input": serving.write("posted"), "output": f"{serving.folder}/out/posted"}
    )
    assert again.status_code == 200, again.text
    assert serving.predictions("posted") == expected()


def test_fifty_at_once_lose_none_and_run_one_at_a_time(serving: Serving) -> None:
    refused = 0

    def call(number: int) -> dict[str, Any]:
        nonlocal refused
        source, output = serving.write(f"many-{number}", first=number), f"{serving.folder}/out/many-{number}"
        while True:
            answer = serving.ask(input=source, output=output)
            if answer.status_code == 200:
                return answer.json()
            assert answer.status_code == 429, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
            refused += 1
            time.sleep(int(answer.headers["retry-after"]))

    with ThreadPoolExecutor(CALLERS) as callers:
        answers = list(callers.map(call, range(CALLERS)))
    assert len({answer["run_id"] for answer in answers}) == CALLERS
    for number in range(CALLERS):
        assert serving.predictions(f"many-{number}") == expected(number)
    assert refused
    events = re.findall(r"job (\d+): (model|status)", serving.log.read_text())
    assert len(events) >= 2 * CALLERS
    for (one, began), (other, ended) in zip(events[::2], events[1::2], strict=True):
        assert (one, began, ended) == (other, "model", "status"), "two jobs at once"


REFUSED: dict[str, tuple[dict[str, str], int, str]] = {
    "no input": ({"input": ""}, 400, "input"),
    "an unknown parameter": ({"inputs": "x"}, 400, "inputs is no parameter; there are model"),
    "a bad value": ({"batch_size": "0"}, 400, "batch_size=0: expected a whole number"),
    "a model that is not there": ({"model": "{models}/none"}, 400, "none"),
    "a file that is not there": ({"input": "{folder}/in/none.jsonl"}, 400, "matches no file"),
    "a model elsewhere": ({"model": "/tmp"}, 403, "model=/tmp is not in"),
    "one input of two elsewhere": ({"input": "{folder}/in,/etc/passwd"}, 403, "input=/etc/passwd is not in"),
    "a way out": ({"input": "{folder}/in/../log"}, 403, "is not in"),
    "a neighbour of an allowed folder": ({"output": "{folder}/outside"}, 403, "output="),
    "failed rows elsewhere": ({"errors": "gs://elsewhere/errors"}, 403, "errors=gs://elsewhere/errors"),
    "a list of files": ({"input_format": "file-list"}, 403, "file-list"),
    "another's ops": ({"allow_unsafe_ops": "true"}, 400, "allow_unsafe_ops is no parameter"),
    "a query": ({"input_query": "SELECT 1"}, 400, "input_query is no parameter"),
    "Beam's flags": ({"runner": "DataflowRunner"}, 400, "runner is no parameter"),
    "too many failed rows": ({"input": "{bad}"}, 422, "max_error_ratio"),
}


def test_what_is_refused_is_a_problem_that_says_why(serving: Serving) -> None:
    serving.write("good")
    (serving.folder / "in" / "bad").mkdir()
    (serving.folder / "in" / "bad" / "rows.jsonl").write_text('{"x": "text"}\n')
    for what, (parameters, status, words) in REFUSED.items():
        places = {"folder": str(serving.folder), "models": str(Path(serving.model).parent), "bad": f"{serving.folder}/in/bad"}
        wrong = {name: value.format(**places) for name, value in parameters.items()}
        answer = serving.ask(**({"input": f"{serving.folder}/in/good", "output": f"{serving.folder}/out/refused"} | wrong))
        assert answer.status_code == status, (what, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", what
        problem = answer.json()
        assert (problem["status"], problem["type"]) == (status, "about:blank"), what
        assert words in problem["detail"], what
    assert problem["counts"] == {"read": 1, "predicted": 0, "failed": 1}


def test_other_paths_and_methods(serving: Serving) -> None:
    assert serving.client.get("/none").status_code == 404
    assert serving.client.delete("/").status_code == 405
    assert serving.client.head("/").status_code == 405
    assert serving.client.post("/", content=b"{", headers=JSON).json()["detail"].startswith("the body is not JSON")
    assert serving.client.post("/", json=["model"]).status_code == 400
    assert "GET /health" in serving.log.read_text()


def test_a_link_that_leaves_an_allowed_folder_is_refused(serving: Serving, tmp_path: Path) -> None:
    """And one that leads from one allowed folder into another is followed."""
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "rows.jsonl").write_text('{"x": 1}\n')
    links = serving.folder / "in" / "links"
    links.mkdir(parents=True)
    (links / "folder").symlink_to(outside)
    (links / "rows.jsonl").symlink_to(outside / "rows.jsonl")
    (links / "inside").symlink_to(serving.write("inside"))
    (serving.folder / "out").mkdir(exist_ok=True)
    (serving.folder / "out" / "link").symlink_to(outside)
    model = Path(serving.model).parent / "link"
    model.symlink_to(outside)
    good = {"input": f"{links}/inside", "output": f"{serving.folder}/out/linked"}
    assert serving.ask(**good).status_code == 200
    assert serving.predictions("linked") == expected()
    for name, value in (
        ("input", f"{links}/folder"),
        ("input", f"{links}/folder/rows.jsonl"),
        ("input", f"{links}/rows.jsonl"),
        ("output", f"{serving.folder}/out/link"),
        ("output", f"{serving.folder}/out/link/deeper"),
        ("errors", f"{serving.folder}/out/link"),
        ("model", str(model)),
    ):
        answer = serving.ask(**good | {name: value})
        assert (answer.status_code, answer.json()["detail"].partition(" is not in")[0]) == (403, f"{name}={value}")
    model.unlink()


# --- who asks, and how ---


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example:80"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": "10.0.0.1"}, 421),
        ({"host": ""}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_requests_of_other_sites_start_no_job(serving: Serving, method: str, headers: dict[str, str], status: int) -> None:
    jobs = serving.client.get("/health").json()["jobs"]
    parameters = {"model": serving.model, "input": f"{serving.folder}/in/*", "output": f"{serving.folder}/out/foreign"}
    how: dict[str, Any] = {"params": parameters} if method == "GET" else {"json": parameters}
    answer = serving.client.request(method, "/", headers=headers, **how)
    assert answer.status_code == status, answer.text
    assert serving.client.get("/health").json()["jobs"] == jobs


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost"},
        {"host": "LOCALHOST:8080"},
        {"host": "[::1]:8080"},
        {"host": "nightshift.example"},
        {"host": "nightshift.example.:443"},
        {"host": "nightshift.example", "origin": "https://nightshift.example"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin"},
    ],
)
def test_requests_of_ones_own_are_answered(serving: Serving, headers: dict[str, str]) -> None:
    answer = serving.client.post("/", json={"batch_size": 0}, headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (400, "batch_size=0: expected a whole number from 1 to 1000000")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""])
def test_other_bodies_than_json_are_refused(serving: Serving, kind: str) -> None:
    """A page of any site can send these without asking; JSON it can't."""
    answer = serving.client.post("/", content=b'{"model": "m"}', headers={"content-type": kind})
    assert answer.status_code == 415, answer.text


@pytest.mark.parametrize("chunked", [True, False])
def test_a_large_body_is_refused(serving: Serving, chunked: bool) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(300):
            yield b" " * 10_000

    body = b" " * 3_000_000
    answer = serving.client.post("/", content=parts() if chunked else body, headers=JSON)
    assert answer.status_code == 413, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 500_000, "nested too deep"),
        (b'{"model":' * 100_000, "nested too deep"),
        (b'{"model": "a\\u0000b"}', "without control characters"),
        (b'{"model": "a\\u001b[2Jb"}', "without control characters"),
        (b'{"model": "a\\ud800b"}', "without control characters"),
        (b'{"a\\u0000": "b"}', "without control characters"),
        (b'{"model": "\xff"}', "the body is not JSON"),
        (b'{"batch_size": 1e999}', "batch_size=inf"),
        (b'{"batch_size": ' + b"9" * 5000 + b"}", "the body is not JSON"),
        (b'{"model": null}', "expected an object of parameters"),
    ],
)
def test_hostile_bodies_are_bad_requests(serving: Serving, body: bytes, words: str) -> None:
    answer = serving.client.post("/", content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["detail"]


def test_hostile_queries_are_bad_requests(serving: Serving) -> None:
    for query in (b"model=a%00b", b"input=a%1b%5b2Jb", b"output=%0aGET", b"model=%ff%fe", b"%00=1"):
        answer = serving.client.get(b"/?".decode() + query.decode())
        assert answer.status_code in (400, 403), (query, answer.text)
    log = serving.log.read_text()
    assert "\x1b" not in log
    assert "Traceback" not in log


def test_half_open_requests_end_and_others_are_answered(serving: Serving) -> None:
    """More connections than the service takes: without a word, with half a head, with half a body, one byte now and then."""
    beginnings = (
        b"",
        b"GET /health HTT",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    )
    connections = []
    for number in range(600):
        connection = socket.create_connection(("127.0.0.1", serving.port))
        try:
            connection.sendall(beginnings[number % 3])
        except ConnectionError:  # beyond twice the limit it is closed at once
            pass
        connections.append(connection)
    for connection in connections:
        connection.settimeout(60)
        try:
            answer = connection.recv(1 << 16)
            assert answer[:12] in (b"", b"HTTP/1.1 408", b"HTTP/1.1 503"), answer
        except ConnectionResetError:
            pass
        connection.close()
    assert serving.client.get("/health").json()["status"] == "ok"
    assert serving.ask(input=serving.write("after"), output=f"{serving.folder}/out/after").status_code == 200


def test_a_get_starts_no_job_unless_allowed(serving: Serving) -> None:
    """And with 0.0.0.0 any address of the machine is its name, but no name that could be made to lead to it."""
    from starlette.requests import Request

    from pipeline.serve.requests import Callers, ProblemError

    def asked(host: str, method: str = "POST") -> Request:
        headers = [(b"host", host.encode()), (b"content-type", b"application/json")]
        return Request({"type": "http", "method": method, "headers": headers, "path": "/", "query_string": b""})

    with pytest.raises(ProblemError, match="--allow_get=true") as refused:
        Callers("127.0.0.1").check(asked("localhost", "GET"))
    assert refused.value.status == 405
    for host in ("10.1.2.3:8080", "[fe80::1]:80", "localhost:1"):
        Callers("0.0.0.0").check(asked(host))
    with pytest.raises(ProblemError, match="--allow_host"):
        Callers("0.0.0.0").check(asked("nightshift.example"))
    Callers("0.0.0.0", ("*",)).check(asked("nightshift.example"))


def test_changed_model_is_loaded_anew(serving: Serving, models: Models) -> None:
    import shutil

    model = Path(serving.model).parent / "changing"
    outputs = []
    for name in ("half_plus_two", "below_hundred"):
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(models.get(name), model)
        answer = serving.ask(model=str(model), input=serving.write(f"by {name}"), output=f"{serving.folder}/out/{name}")
        assert answer.status_code == 200, answer.text
        outputs.append(serving.predictions(name))
    assert outputs == [expected(), [number + 1.0 for number in range(ROWS)]]


def test_a_service_that_a_model_ends_is_no_success(tmp_path: Path) -> None:
    """Native code calls ``exit(0)`` in the middle of a job."""
    program = "import os, sys; from pipeline import main; main.run = lambda *_: os._exit(0); main.console()"
    ending = Serving(tmp_path, f"{tmp_path}/models/m", "-c", program)
    ending.wait()
    with pytest.raises(httpx.HTTPError):
        ending.ask(input=ending.write("rows"), output=f"{tmp_path}/out")
    assert ending.process.wait(60) == 1
    assert "the run's process ended with status 0 before its work was done" in ending.log.read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--allow_model is missing"),
        (("--allow_model=m", "--allow_input=i", "--allow_output=o", "--ports=1"), "unknown flag --ports; did you mean --port?"),
        (
            ("--allow_model=m", "--allow_input=i", "--allow_output=o", "--allow_host=http://n"),
            "--allow_host=http://n: expected hosts' names",
        ),
        (("--allow_model=m", "--allow_input=i", "--allow_output=o", "--port=0"), "--port=0: expected a whole number from 1 to 65535"),
    ],
)
def test_bad_flags(flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.main import main

    assert main(["serve", *flags]) == 2
    assert words in capsys.readouterr().err
    assert os.environ.get("PORT") is None
