"""A stand-in for the metadata server of a Google virtual machine: a project and a token, without secrets.

Run as ``python metadata_server.py FD``, where FD is an inherited, bound socket. A client finds it by GCE_METADATA_HOST and
GCE_METADATA_IP, which google.auth reads when it is imported.
"""

from __future__ import annotations

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT = "test-project"
# With an address of a real service account, google.auth would ask a real host for its allowed locations.
EMAIL = "default"
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
TOKEN = {"access_token": "no-secret", "expires_in": 3599, "token_type": "Bearer"}
ROOT = "/computeMetadata/v1"
ACCOUNT = f"{ROOT}/instance/service-accounts/default"
ANSWERS = {
    "": "ok",
    ROOT: "ok",
    f"{ROOT}/project/project-id": PROJECT,
    f"{ROOT}/project/numeric-project-id": "123456789012",
    f"{ROOT}/universe/universe-domain": "googleapis.com",
    ACCOUNT: {"email": EMAIL, "aliases": ["default"], "scopes": SCOPES},
    f"{ACCOUNT}/email": EMAIL,
    f"{ACCOUNT}/token": TOKEN,
}


class Handler(BaseHTTPRequestHandler):
    """Answers from the table above."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answer = ANSWERS.get(self.path.split("?")[0].replace("_", "-").rstrip("/"))
        kind = "text/plain" if answer is None or isinstance(answer, str) else "application/json"
        body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(descriptor: int) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=descriptor)
    server.server_activate()
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
