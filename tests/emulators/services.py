"""A stand-in for the REST of Dataflow, Cloud Scheduler and Vertex AI's Model Registry.

It checks each body against the service's proto and records it.
A launched job is pending, then running, then done; one whose name holds "fails" fails. A second active job of a name is refused.
Run as ``python services.py FD LOG``; each request is a line of JSON in the log.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

JOBS: dict[str, dict[str, Any]] = {}
SCHEDULED: dict[str, dict[str, Any]] = {}
LOCK = threading.Lock()
COUNTERS = {"instances_read": 569, "predictions_written": 566, "rows_failed_key": 3}


class Handler(BaseHTTPRequestHandler):
    """Answers one client."""

    protocol_version = "HTTP/1.1"
    log_path = ""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with LOCK:
            with open(self.log_path, "a", encoding="utf-8") as log:
                log.write(json.dumps({"method": self.command, "path": self.path, "body": body.decode()}) + "\n")
            try:
                status, answer = self._route(unquote(self.path.split("?")[0]), json.loads(body or b"{}"))
            except ValueError as error:  # what the proto does not know
                status, answer = 400, str(error)
        if isinstance(answer, str):
            names = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS"}
            answer = {"error": {"code": status, "message": answer, "status": names[status]}}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815

    def _route(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if found := re.fullmatch(r"/v1b3/projects/([^/]+)/locations/([^/]+)/flexTemplates:launch", path):
            return _launch(found[1], found[2], body)
        if found := re.fullmatch(r"/v1b3/projects/[^/]+/locations/[^/]+/jobs/([^/]+)(/metrics)?", path):
            return _job(found[1], bool(found[2]))
        if found := re.fullmatch(r"/v1/(projects/[^/]+/locations/[^/]+/jobs)(/[^/]+)?", path):
            return _schedule(self.command, found[1], found[2], body)
        if found := re.fullmatch(r"/v1/projects/test-project/locations/europe-west1/models/([^/@]+)(?:@([^/]+))?", path):
            return _model(found[1], found[2] or "default")
        return 404, f"no such path: {path}"

    def log_message(self, *_: object) -> None:
        """Says nothing: the log is for requests."""


def _model(number: str, version: str) -> tuple[int, Any]:
    """A registered model: version 1, and 2, which is the default and has an alias.

    ``empty`` has no artifact, ``closed`` is not to be seen.
    """
    if number == "closed":
        return 403, "Permission 'aiplatform.models.get' denied"
    version = {"default": "2", "champion": "2"}.get(version, version)
    if number not in ("half_plus_two", "empty") or version not in ("1", "2"):
        return 404, f"The Model does not exist: {number}@{version}"
    artifact = {} if number == "empty" else {"artifactUri": f"gs://registry-of-models/{number}/{version}"}
    return 200, {"name": f"projects/test-project/locations/europe-west1/models/{number}", "versionId": version, **artifact}


def _launch(project: str, region: str, body: dict[str, Any]) -> tuple[int, Any]:
    from google.cloud import dataflow_v1beta3 as dataflow
    from google.protobuf.json_format import ParseError

    try:
        dataflow.LaunchFlexTemplateRequest.from_json(json.dumps(body), ignore_unknown_fields=False)
    except ParseError as error:
        raise ValueError(str(error)) from error
    name = body["launchParameter"]["jobName"]
    account = body["launchParameter"].get("environment", {}).get("serviceAccountEmail", "")
    if account.startswith("nobody@"):
        return 403, f"Current user cannot act as service account {account}. Enforced by IAM permission iam.serviceAccounts.actAs."
    if any(job["name"] == name and job["polls"] < 3 for job in JOBS.values()):
        return 409, f"There is already an active job named {name}."
    number = f"2026-11-26_00_00_00-{len(JOBS) + 1}"
    JOBS[number] = {"name": name, "polls": 0}
    return 200, {"job": {"id": number, "name": name, "projectId": project, "location": region}}


def _job(number: str, metrics: bool) -> tuple[int, Any]:
    job = JOBS.get(number)
    if job is None:
        return 404, f"no job {number}"
    if metrics:
        names = [{"name": name, "context": context} for name in COUNTERS for context in ({}, {"tentative": "true"})]
        found = [{"name": {"origin": "user", **name}, "scalar": COUNTERS[name["name"]]} for name in names]
        return 200, {"metrics": found if job["polls"] > 1 else []}
    job["polls"] += 1
    ended = "JOB_STATE_FAILED" if "fails" in job["name"] else "JOB_STATE_DONE"
    return 200, {
        "id": number,
        "name": job["name"],
        "currentState": ("JOB_STATE_PENDING", "JOB_STATE_RUNNING", ended)[min(job["polls"], 3) - 1],
    }


def _schedule(method: str, jobs: str, name: str | None, body: dict[str, Any]) -> tuple[int, Any]:
    from google.cloud import scheduler_v1
    from google.protobuf.json_format import ParseError

    try:
        scheduler_v1.Job.from_json(json.dumps(body), ignore_unknown_fields=False)
    except ParseError as error:
        raise ValueError(str(error)) from error
    full = body["name"] if method == "POST" else f"{jobs}{name}"
    if method == "POST" and full in SCHEDULED:
        return 409, f"Job {full} already exists."
    if method == "PATCH" and full not in SCHEDULED:
        return 404, f"Job {full} not found."
    SCHEDULED[full] = body
    return 200, body


def main(descriptor: int, log_path: str) -> None:
    Handler.log_path = log_path
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=descriptor)
    server.server_activate()
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
