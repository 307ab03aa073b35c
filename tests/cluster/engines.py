"""Engines whose workers are processes of their own: Prism, Beam's portable runner, and Flink with Beam's job server.

``python tests/cluster/engines.py prism`` (or ``flink``) starts one, prints the flags that a run needs, and stops it at Ctrl-C; ``fetch``
only brings what they need. Each process is ended by its own id.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "cluster"
UP_WITHIN_SECONDS = 90.0
TASK_MANAGERS = 2
POOL = "worker-pool"
FLINK = "1.20"
FLINK_DIST = "1.20.5"
JOB_SERVER = f"org.apache.beam:beam-runners-flink-{FLINK}-job-server:2.77.0"


class EngineMissingError(Exception):
    """What the engine needs can't be had on this machine; the message says what."""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


class Processes:
    """Processes that belong together, each with a log of its own in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: object, port: int | None = None, **variables: str) -> None:
        """Starts a program and waits until something listens on ``port``."""
        with open(self.folder / f"{name}.log", "ab") as log:
            self.started[name] = subprocess.Popen(
                [str(part) for part in command], stdout=log, stderr=log, env=os.environ | variables, cwd=self.folder
            )
        end = time.monotonic() + UP_WITHIN_SECONDS
        while port is not None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            if self.started[name].poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} does not come up:\n{self.log(name)[-3000:]}")
            time.sleep(0.05)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stop(self, name: str | None = None) -> None:
        for each in [name] if name else list(self.started)[::-1]:
            process = self.started.pop(each)
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def prism_program() -> Path:
    """Builds Prism of Beam's own version, once.

    Raises:
      EngineMissingError: there is no Go.
    """
    program = BUILD / "prism"
    if not program.exists():
        go = shutil.which("go")
        if go is None:
            raise EngineMissingError("Prism is built with Go, and there is none on the PATH")
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [go, "build", "-mod=readonly", "-o", str(program), "github.com/apache/beam/sdks/v2/go/cmd/prism"], cwd=HERE, check=True
        )
    return program


def start_worker_pool(processes: Processes, name: str) -> int:
    """Starts a pool that starts a Python worker for each job; gives its port."""
    port = free_port()
    # The pool starts its workers with whatever ``python`` is: it has to be this one, which has everything installed.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    module = "apache_beam.runners.worker.worker_pool_main"
    processes.start(name, sys.executable, "-m", module, f"--service_port={port}", port=port, PATH=path)
    return port


@contextlib.contextmanager
def prism() -> Iterator[tuple[Processes, list[str]]]:
    """Runs Prism and a worker pool; gives the processes and a run's flags."""
    program = prism_program()
    with tempfile.TemporaryDirectory(prefix="prism-") as folder:
        processes = Processes(Path(folder))
        try:
            job, web = free_port(), free_port()
            processes.start("prism", program, f"--job_port={job}", f"--web_port={web}", port=job)
            yield processes, _flags(job, start_worker_pool(processes, "workers"))
        finally:
            processes.stop()


def _flags(job: int, workers: int, host: str = "127.0.0.1") -> list[str]:
    return [
        "--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{job}",
        "--environment_type=EXTERNAL", f"--environment_config={host}:{workers}",
    ]  # fmt: skip


def flink_distribution() -> Path:
    """Gives the folder of Flink's distribution, fetched from PyPI once.

    Raises:
      EngineMissingError: there is no Java, or it can't be had.
    """
    if shutil.which("java") is None:
        raise EngineMissingError("Flink needs Java, and there is none on the PATH")
    distribution = BUILD / f"flink-{FLINK_DIST}"
    if not distribution.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        fetched = Path(f"{distribution}.new")
        uv = [Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--target", fetched]
        _run_or_say([*uv, f"apache-flink-libraries=={FLINK_DIST}"], f"apache-flink-libraries {FLINK_DIST} can't be had from PyPI")
        fetched.rename(distribution)
    return distribution / "pyflink"


def job_server() -> Path:
    """Gives Beam's job server for Flink, from Maven's repository or as ``BEAM_FLINK_JOB_SERVER`` names it.

    Raises:
      EngineMissingError: it can't be had.
    """
    if named := os.environ.get("BEAM_FLINK_JOB_SERVER"):
        return Path(named)
    server = BUILD / f"{JOB_SERVER.split(':')[1]}-{JOB_SERVER.split(':')[2]}.jar"
    if not server.exists():
        copy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
        _run_or_say(
            ["mvn", "-q", "-B", copy, f"-Dartifact={JOB_SERVER}", f"-DoutputDirectory={BUILD}"],
            f"{JOB_SERVER} can't be had from Maven's repository; name a copy of it with BEAM_FLINK_JOB_SERVER",
        )
    return server


def _run_or_say(command: Sequence[object], message: str) -> None:
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise EngineMissingError(f"{message} ({error})") from error
    if done.returncode:
        raise EngineMissingError(message)


@contextlib.contextmanager
def flink() -> Iterator[tuple[Processes, list[str]]]:
    """Runs a JobManager, two TaskManagers with a slot and a worker pool each, and Beam's job server; gives processes and flags."""
    server = job_server()
    distribution = flink_distribution()
    with tempfile.TemporaryDirectory(prefix="flink-") as folder:
        processes = Processes(Path(folder))
        try:
            rest, job = start_flink(processes, distribution), free_port()
            artifacts = Path(folder, "artifacts")  # where the job server and the workers both see them
            processes.start(
                "job-server", "java", "-jar", server, f"--flink-master=127.0.0.1:{rest}", f"--artifacts-dir={artifacts}",
                f"--job-port={job}", f"--artifact-port={free_port()}", "--expansion-port=0", "--job-host=127.0.0.1", port=job,
            )  # fmt: skip
            yield processes, [*_flags(job, start_pools(processes), POOL), "--parallelism=2"]
        finally:
            processes.stop()


def start_pools(processes: Processes) -> int:
    """Starts a worker pool for each TaskManager; returns the one port of all.

    Both TaskManagers call their first worker ``1-1``, and a pool for two ends the wrong one. On machines of their own each would find its
    pool at ``localhost``; here each has an address of its own for the name ``POOL``.
    """
    port = free_port()
    for number in range(TASK_MANAGERS):
        pool = start_worker_pool(processes, f"workers-{number}")
        forwarding = ("forward.py", f"{_pool_address(number)}:{port}", f"127.0.0.1:{pool}")
        processes.start(f"forward-{number}", sys.executable, HERE / forwarding[0], *forwarding[1:])
    return port


def _pool_address(number: int) -> str:
    return f"127.0.0.{2 + number}"


def start_flink(processes: Processes, distribution: Path) -> int:
    """Starts Flink's own processes; gives the port of its REST interface."""
    rest, rpc = free_port(), free_port()
    configuration = processes.folder / "conf"
    configuration.mkdir()
    (configuration / "config.yaml").write_text(
        f"jobmanager.rpc.address: 127.0.0.1\njobmanager.rpc.port: {rpc}\nrest.port: {rest}\nrest.address: 127.0.0.1\n"
        "jobmanager.memory.process.size: 1024m\ntaskmanager.memory.process.size: 1536m\ntaskmanager.numberOfTaskSlots: 1\n"
        "heartbeat.interval: 1000\nheartbeat.timeout: 8000\n"
        "restart-strategy.type: fixed-delay\nrestart-strategy.fixed-delay.attempts: 3\nrestart-strategy.fixed-delay.delay: 1s\n"
    )
    processes.start(
        "jobmanager", *_java(distribution), "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
        "--configDir", configuration, port=rest,
    )  # fmt: skip
    for number in range(TASK_MANAGERS):
        start_task_manager(processes, distribution, f"taskmanager-{number}")
    return rest


def start_task_manager(processes: Processes, distribution: Path, name: str) -> None:
    """Starts one more TaskManager of a slot, which finds the JobManager by the configuration that ``start_flink`` wrote.

    ``name`` ends in its number, and a new one of that number has the worker pool of the old.
    """
    sizes = {
        "framework.heap.size": "128m", "task.heap.size": "384m", "framework.off-heap.size": "128m", "task.off-heap.size": "0b",
        "managed.size": "384m", "network.min": "128m", "network.max": "128m", "jvm-metaspace.size": "256m", "jvm-overhead.min": "128m",
        "jvm-overhead.max": "128m",
    }  # fmt: skip
    hosts = processes.folder / f"{name}.hosts"
    hosts.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n{_pool_address(int(name[-1]))} {POOL}\n")
    settings = [part for size, value in sizes.items() for part in ("-D", f"taskmanager.memory.{size}={value}")]
    processes.start(
        name, *_java(distribution, f"-Djdk.net.hosts.file={hosts}"), "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
        "--configDir", processes.folder / "conf", "-D", "taskmanager.cpu.cores=1.0", *settings,
    )  # fmt: skip


def _java(distribution: Path, *settings: str) -> list[object]:
    opened = [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in ("java.lang", "java.util", "java.net", "java.nio", "java.time")]
    return ["java", "-Xmx512m", *opened, *settings, "-cp", f"{distribution}/lib/*"]


ENGINES = {"prism": prism, "flink": flink}


def fetch() -> None:
    """Fetches and builds what the engines need, before tests lead every client to emulators; says what can't be had."""
    wanted: list[tuple[str, Callable[[], Path]]] = [("prism", prism_program), ("Beam's job server for Flink", job_server)]
    if "NIGHTSHIFT_FLINK" in os.environ:
        wanted.append(("Flink", flink_distribution))
    for name, get in wanted:
        try:
            print(f"{name}: {get()}", flush=True)
            if get is job_server:
                wanted.append(("Flink", flink_distribution))
        except (EngineMissingError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}", flush=True)


def main(name: str) -> None:
    with ENGINES[name]() as (_, run_flags):
        print(" ".join(run_flags), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    try:
        fetch() if sys.argv[1] == "fetch" else main(sys.argv[1])
    except EngineMissingError as error:
        sys.exit(f"{error}")
