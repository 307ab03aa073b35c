"""A proxy before fake-gcs-server that mends its batches and lists the requests.

fake-gcs-server passes over the parts of a batch that have no Content-ID, and Google's client for Python sends none; here
each part gets one. All else goes through as it comes. Each request is a line of the log: method, path, and for a batch
the number of its parts.

Run as ``python gcs_proxy.py PORT SERVER_PORT LOG``.
"""

from __future__ import annotations

import http.client
import itertools
import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}
BATCH_PART = re.compile(rb"(?m)^Content-Type: application/http\r?$")
WRITING = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """Passes one client's requests on, over one connection to the server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_port = 0
    log_path = ""
    connection_to_server: http.client.HTTPConnection | None = None

    def _pass_on(self) -> None:
        body = self._read_body()
        parts = 1
        if self.command == "POST" and self.path.startswith("/batch/"):
            numbers = itertools.count()
            body, parts = BATCH_PART.subn(lambda match: match[0].rstrip() + b"\r\nContent-ID: <part+%d>" % next(numbers), body)
        with WRITING, open(self.log_path, "a", encoding="utf-8") as log:
            log.write(f"{self.command} {self.path} {parts}\n")
        response, data = self._ask(body)
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
        self.wfile.write(data)

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

    def _ask(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        if self.connection_to_server is None:
            self.connection_to_server = http.client.HTTPConnection("127.0.0.1", self.server_port, timeout=120)
            self.connection_to_server.connect()
            self.connection_to_server.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self.connection_to_server
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP and name.lower() != "host":
                connection.putheader(name, value)
        # The server makes the address of an upload's session from it.
        connection.putheader("Host", self.headers.get("Host", "storage.googleapis.com"))
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response, response.read()

    def log_message(self, *_: object) -> None:
        """Says nothing: the log is for requests."""


def main(port: int, server_port: int, log_path: str) -> None:
    Handler.server_port, Handler.log_path = server_port, log_path
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
