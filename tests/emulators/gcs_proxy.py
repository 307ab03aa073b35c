"""A proxy before fake-gcs-server that mends its batches and lists the requests.

fake-gcs-server passes over the parts of a batch that have no Content-ID, and Google's client for Python sends none; here
each part gets one. It does not know an upload's session any more whose last piece it has, and Google's storage does: a client that
did not get the answer gets it again. It looks at ``ifGenerationMatch`` when an object is made, and passes over it when one is copied or
deleted; here the generation is compared before. All else goes through as it comes. Each request is a line of the log: method, path, and
for a batch the number of its parts; those of a batch that names generations have lines of their own, which begin with PART.

While there is a file ``LOG.faults``, of JSON, the storage has faults: ``{"kinds": ["503", "reset"], "share": 0.3, "seed": 1}``, of
the kinds ``503``, ``429`` (or another HTTP status), ``reset`` (the connection, unanswered), ``cut`` (the connection, in the
middle of the answer), ``short`` (an object's bytes, half of those asked for, as a whole answer) and ``slow``.

Run as ``python gcs_proxy.py PORT SERVER_PORT LOG``.
"""

from __future__ import annotations

import email
import http.client
import itertools
import json
import random
import re
import socket
import struct
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}
BATCH_PART = re.compile(rb"(?m)^Content-Type: application/http\r?$")
WRITING = threading.Lock()
# What is compared before a change is so until the change is made.
CHANGING = threading.RLock()
CONDITION = re.compile(r"[?&]ifGenerationMatch=(\d+)")
CHANGED_OBJECT = re.compile(r"/storage/v1/b/([^/]+)/o/([^/?]+)(?:/(?:copyTo|rewriteTo)/b/([^/]+)/o/([^/?]+))?(?:\?|$)")
REFUSED = b'{"error": {"code": 412, "message": "Precondition failed"}}'


SLOW_SECONDS = 0.3


class Faults:
    """Which request fails, and how, by a seed: the same for the same requests in the same order."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.text = ""

    def next(self) -> str | None:
        with self.lock:
            try:
                with open(self.path, encoding="utf-8") as file:
                    text = file.read()
            except FileNotFoundError:
                return None
            if text != self.text:
                self.text, self.wanted = text, json.loads(text)
                self.random = random.Random(self.wanted["seed"])
            return self.random.choice(self.wanted["kinds"]) if self.random.random() < self.wanted["share"] else None


class Answer:
    """An answer that is not the server's."""

    def __init__(self, status: int, reason: str, headers: dict[str, str]) -> None:
        self.status, self.reason, self.headers = status, reason, headers

    def getheaders(self) -> list[tuple[str, str]]:
        return list(self.headers.items())


class Handler(BaseHTTPRequestHandler):
    """Passes one client's requests on, over one connection to the server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_port = 0
    log_path = ""
    faults = Faults("")
    connection_to_server: http.client.HTTPConnection | None = None
    finished: ClassVar[dict[str, tuple[http.client.HTTPResponse, bytes]]] = {}

    def _pass_on(self) -> None:
        body = self._read_body()
        fault = self.faults.next()
        if fault is not None:
            with WRITING, open(self.log_path, "a", encoding="utf-8") as log:
                log.write(f"FAULT {fault} {self.command} {self.path}\n")
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        elif fault == "reset":
            self._reset()
            return
        elif fault is not None and fault.isdigit():
            self.send_response_only(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        parts = 1
        if self.command == "POST" and self.path.startswith("/batch/"):
            numbers = itertools.count()
            body, parts = BATCH_PART.subn(lambda match: match[0].rstrip() + b"\r\nContent-ID: <part+%d>" % next(numbers), body)
        with WRITING, open(self.log_path, "a", encoding="utf-8") as log:
            log.write(f"{self.command} {self.path} {parts}\n")
        if "upload_id=" in self.path and self.path in self.finished:
            response, data = self.finished[self.path]
        else:
            response, data = self._ask_in_order(body)
            if fault == "cut" and "upload_id=" in self.path and response.status in (200, 201):
                self.finished[self.path] = response, data
        if fault == "short" and self.path.startswith("/download/"):
            data = data[: len(data) // 2]
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() == "location":  # of an upload's session; the server does not know that TLS is before it
                self.send_header(name, value.replace("http://", "https://", 1))
            elif name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if self.command == "HEAD" and response.headers.get("Content-Length"):
            self.send_header("Content-Length", response.headers["Content-Length"])
        elif response.status not in (204, 304):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(data[: len(data) // 2])
            self._reset()
        else:
            self.wfile.write(data)

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _pass_on  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _ask_in_order(self, body: bytes) -> tuple[Any, bytes]:
        """Asks the server; a change that names a generation only where the object is of it."""
        if self.command == "GET":
            return self._ask(self.command, self.path, dict(self.headers), body)
        with CHANGING:
            if self.path.startswith("/batch/") and b"ifGenerationMatch=" in body:
                return self._ask_each(body)
            return self._ask_if_unchanged(self.command, self.path, dict(self.headers), body)

    def _ask_if_unchanged(self, command: str, path: str, headers: dict[str, str], body: bytes) -> tuple[Any, bytes]:
        condition, target = CONDITION.search(path), CHANGED_OBJECT.search(path)
        if condition and target:
            bucket, name = (target[3], target[4]) if target[3] else (target[1], target[2])
            found, data = self._ask("GET", f"/storage/v1/b/{bucket}/o/{name}", {"Host": headers.get("Host", "")}, b"")
            generation = int(json.loads(data)["generation"]) if found.status == 200 else 0
            if generation != int(condition[1]) and not (command == "DELETE" and not generation):
                return Answer(412, "Precondition Failed", {"Content-Type": "application/json"}), REFUSED
        return self._ask(command, path, headers, body)

    def _ask_each(self, body: bytes) -> tuple[Any, bytes]:
        """Asks for the parts of a batch one by one, and makes one answer of theirs."""
        whole = email.message_from_bytes(f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode() + body)
        answers = []
        for part in whole.get_payload():
            head, _, content = part.get_payload(decode=True).replace(b"\r\n", b"\n").partition(b"\n\n")
            line, *fields = head.decode().split("\n")
            command, url, _ = line.split(" ")
            headers = dict(field.split(": ", 1) for field in fields if ": " in field)
            address = urllib.parse.urlsplit(url)
            path = address.path + (f"?{address.query}" if address.query else "")
            with WRITING, open(self.log_path, "a", encoding="utf-8") as log:
                log.write(f"PART {command} {path}\n")
            response, data = self._ask_if_unchanged(command, path, headers | {"Host": self.headers.get("Host", "")}, content)
            status = f"HTTP/1.1 {response.status} {response.reason}\r\nContent-Type: application/json\r\n".encode()
            answers.append(b"Content-Type: application/http\r\n\r\n" + status + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        content = b"".join(b"--answers\r\n" + answer + b"\r\n" for answer in answers) + b"--answers--\r\n"
        return Answer(200, "OK", {"Content-Type": "multipart/mixed; boundary=answers"}), content

    def _ask(self, command: str, path: str, headers: dict[str, str], body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        if self.connection_to_server is None:
            self.connection_to_server = http.client.HTTPConnection("127.0.0.1", self.server_port, timeout=120)
            self.connection_to_server.connect()
            self.connection_to_server.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self.connection_to_server
        connection.putrequest(command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP and name.lower() != "host":
                connection.putheader(name, value)
        # The server makes the address of an upload's session from it.
        connection.putheader("Host", headers.get("Host") or "storage.googleapis.com")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response, response.read()

    def log_message(self, *_: object) -> None:
        """Says nothing: the log is for requests."""


def main(port: int, server_port: int, log_path: str) -> None:
    Handler.server_port, Handler.log_path, Handler.faults = server_port, log_path, Faults(f"{log_path}.faults")
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
