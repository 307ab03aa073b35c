"""``nightshift serve``: jobs over HTTP, one at a time; also by ``GET /?model=&input=&output=``, as Embedded-tf had it.

TensorFlow and Beam are loaded once, and models stay loaded between jobs. Errors are problem details (RFC 9457).
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pipeline.flags.arguments import Arguments, read_arguments, read_options
from pipeline.flags.flag import Flag, boolean, integer, whole_names
from pipeline.flags.help import command_help
from pipeline.flags.options import RunOptions
from pipeline.flags.parse import make_options
from pipeline.process.terminal import say
from pipeline.serve.requests import MAX_CONNECTIONS, Callers, ProblemError, Protocol, is_host, parameters
from transforms.specs.errors import RefusedError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from transforms.specs.manifest import Manifest

LOG = logging.getLogger("nightshift")
Run = Callable[[RunOptions, Callable[[str], None]], int]


def _hosts(text: str) -> tuple[str, ...]:
    names = whole_names(text.lower())
    if not is_host(names):
        raise ValueError(text)
    return names


FLAGS = (
    Flag("allow_model", "Serve", "folders below which models may lie", "folders separated by commas", whole_names, (), "required"),
    Flag("allow_input", "Serve", "folders below which inputs may lie", "folders separated by commas", whole_names, (), "required"),
    Flag(
        "allow_output", "Serve", "folders below which outputs and failed rows may go", "folders separated by commas",
        whole_names, (), "required",
    ),
    Flag("host", "Serve", "the address to listen on", "an address; 0.0.0.0 in a container", default="127.0.0.1"),
    Flag(
        "port", "Serve", "the port to listen on", "a whole number from 1 to 65535", integer(1, 65535),
        default_help="the environment's PORT, else 8080",
    ),
    Flag(
        "allow_host", "Serve", "names under which the service is asked, beside localhost and the address it listens on",
        "hosts' names separated by commas, or *", _hosts, (), "none",
    ),
    Flag("allow_get", "Serve", "let GET /?model=&input=&output= start a job", "true or false", boolean, False),
    Flag("keep_models", "Serve", "models that stay loaded, the last used", "a whole number from 1 to 1000", integer(1, 1000), 8),
)  # fmt: skip
REQUIRED = ("allow_model", "allow_input", "allow_output")
USAGE = "serve --allow_model=DIRS --allow_input=DIRS --allow_output=DIRS [--flag=value …]"
ENDING = (
    "POST / with the parameters as a JSON object runs a job, with --allow_get=true GET /?model=&input=&output= does as well; "
    "GET /health answers at any time."
)
PREFIXES = {"model": "allow_model", "input": "allow_input", "output": "allow_output", "errors": "allow_output"}
# Parameters of a request; flags that reach other data (queries, maps of models, unsafe ops, lists of files) are not among them.
PARAMETERS = (
    "model", "model_version", "signature_name", "tags", "batch_size", "input", "input_format", "key_field", "duplicate_keys",
    "include_fields", "exclude_fields", "passthrough_fields", "output", "output_format", "output_style", "output_layout", "errors",
    "max_error_ratio", "nan", "csv_formulas", "write_disposition", "run_id", "report", "time_zone", "date",
)  # fmt: skip
# As in Embedded-tf: a file of bare predictions for each input file, with its relative path.
DEFAULTS = {"output_layout": "mirror", "report": "false"}
DEFAULTS_OF_LINES = {"output_style": "raw"}
STATUS = {2: HTTPStatus.BAD_REQUEST, 3: HTTPStatus.UNPROCESSABLE_ENTITY, 1: HTTPStatus.INTERNAL_SERVER_ERROR}
# Each job freezes the objects in memory; the garbage among them is collected after so many jobs.
COLLECT_EVERY_JOBS = 25
# Longer than a client or proxy keeps an idle connection (Google's: 600 s), so that the service never closes one that gets a request.
KEEP_ALIVE_SECONDS = 620


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The values of the command's flags."""

    allow_model: tuple[str, ...]
    allow_input: tuple[str, ...]
    allow_output: tuple[str, ...]
    host: str
    port: int | None
    allow_host: tuple[str, ...]
    allow_get: bool
    keep_models: int


@dataclasses.dataclass(frozen=True)
class Allowed:
    """Folders in which the deployer allows models, inputs and outputs, by the deployer's flag."""

    prefixes: dict[str, tuple[str, ...]]

    def check(self, flag: str, path: str) -> None:
        """Check that ``path``, the value of a parameter ``flag``, is in an allowed folder.

        Raises:
          ProblemError: 403, it is not.
        """
        allowed = self.prefixes[PREFIXES[flag]]
        if ".." in path.split("/") or not any(_is_under(path, prefix) for prefix in allowed):
            raise ProblemError(
                HTTPStatus.FORBIDDEN, f"{flag}={path} is not in {', '.join(allowed)}, which this service was started to allow"
            )


def _is_under(path: str, prefix: str) -> bool:
    if "://" not in path and not path.startswith("projects/"):
        path, prefix = os.path.realpath(path), prefix if "://" in prefix else os.path.realpath(prefix)
    prefix = prefix.rstrip("/")
    return path.rstrip("/") == prefix or path.startswith(prefix + "/")


class Service:
    """Runs one job at a time; a request while one runs is answered 429, with the seconds to wait."""

    def __init__(self, allowed: Allowed, run: Run) -> None:
        self.allowed = allowed
        self.jobs = 0
        self._run = run
        self._running = threading.Lock()
        self._last_seconds = 1.0

    async def predict(self, parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Run the job of ``parameters``, to its end even if the caller disconnects; return the body of the response.

        Raises:
          ProblemError: the job can't be run, or ended without results.
        """
        options = self._options(parameters)
        if not self._running.acquire(blocking=False):
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS, "a job is running, and this container runs one at a time; try again", retry_after=self._wait()
            )
        return await asyncio.get_running_loop().run_in_executor(None, self._job, options)

    def _wait(self) -> int:
        return min(60, math.ceil(self._last_seconds))

    def _options(self, parameters: Sequence[tuple[str, str]]) -> RunOptions:
        """Make a run's options of the parameters and the service's defaults, and check every path among them."""
        unknown = [name for name, _ in parameters if name not in PARAMETERS]
        if unknown:
            raise ProblemError(HTTPStatus.BAD_REQUEST, f"{unknown[0]} is no parameter; there are {', '.join(PARAMETERS)}")
        values = dict(parameters)
        if values.get("input_format") == "file-list":
            raise ProblemError(HTTPStatus.FORBIDDEN, "input_format=file-list names files anywhere, which this service does not allow")
        defaults = DEFAULTS | (DEFAULTS_OF_LINES if values.get("output_format", "jsonl") == "jsonl" else {})
        pairs = [*parameters, *((name, value) for name, value in defaults.items() if name not in values)]
        try:
            options = make_options(Arguments(tuple(pairs)))
        except RefusedError as error:
            raise ProblemError(HTTPStatus.BAD_REQUEST, str(error).replace("--", "")) from error
        for flag in PREFIXES:
            value = options.value_of(flag)
            for path in value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ():
                self.allowed.check(flag, path)
        return options

    def _job(self, options: RunOptions) -> dict[str, Any]:
        """Run a job in this thread; return the body of the response."""
        started = time.monotonic()
        complaints: list[str] = []
        self.jobs += 1
        number = self.jobs
        LOG.info("job %d: model %s, input %s, output %s", number, options.model, ",".join(options.input), options.output)
        try:
            status = self._run(options, complaints.append)
            manifest = _read_manifest(options.output) if status in (0, 3) else None
            if number % COLLECT_EVERY_JOBS == 0:
                gc.unfreeze()
                gc.collect()
        finally:
            self._last_seconds = time.monotonic() - started
            self._running.release()
        LOG.info("job %d: status %d after %.2f s", number, status, self._last_seconds)
        if status != 0:
            raise ProblemError(STATUS[status], complaints[0] if complaints else str(manifest and manifest.reason), **_short(manifest))
        return {"status": "done", "seconds": round(self._last_seconds, 3), "output": options.output, **_short(manifest)}


def _read_manifest(folder: str) -> Manifest:
    from transforms.specs.manifest import decode_manifest
    from transforms.specs.own_names import MANIFEST
    from transforms.storage import files, paths

    return decode_manifest(files.read_bytes(paths.join(folder, MANIFEST)))


def _short(manifest: Manifest | None) -> dict[str, Any]:
    """Return the entries of a manifest that a response has, too."""
    import msgspec

    entries = msgspec.to_builtins(manifest) if manifest is not None else {}
    return {name: entries[name] for name in ("run_id", "counts", "errors") if name in entries}


# --- HTTP ------------------------------------------------------------------------------------------------------------------


def application(service: Service, callers: Callers) -> Starlette:
    """Make the ASGI application: ``/`` runs a job, ``/health`` answers at any time."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def predict(request: Request) -> Response:
        if request.method == "HEAD":  # routed with GET, and must not run a job
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED)
        callers.check(request)
        return JSONResponse(await service.predict(await parameters(request)))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "jobs": service.jobs})

    async def problem(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = ProblemError(HTTPStatus(error.status_code), str(error.detail))
        if not isinstance(error, ProblemError):
            LOG.error("unexpected", exc_info=error)
            error = ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}; the log has more")
        status = error.status
        body = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": error.detail, **error.members}
        headers = {"Retry-After": str(error.members["retry_after"])} if "retry_after" in error.members else None
        return JSONResponse(body, status.value, headers, media_type="application/problem+json")

    routes = [Route("/", predict, methods=["GET", "POST"]), Route("/health", health, methods=["GET"])]
    return Starlette(routes=routes, exception_handlers={ProblemError: problem, HTTPException: problem, Exception: problem})


def serve(arguments: Sequence[str], run: Run) -> int:
    """Serve until a signal stops the process; a job that is running then is finished first. Return the exit status."""
    if {"--help", "-h"} & set(arguments):
        return 0 if say(command_help(USAGE, FLAGS, ENDING)) else 1
    options = read_options(ServeOptions, FLAGS, read_arguments(arguments, FLAGS, "serve", with_beams=False).given, REQUIRED)
    import uvicorn

    _load_all(options.keep_models)
    port = options.port or int(os.environ.get("PORT", "8080"))
    allowed = Allowed({"allow_model": options.allow_model, "allow_input": options.allow_input, "allow_output": options.allow_output})
    service = Service(allowed, run)
    callers = Callers(options.host, options.allow_host, options.allow_get)
    try:
        uvicorn.run(
            application(service, callers),
            host=options.host,
            port=port,
            http=Protocol,
            log_config=None,  # the program's own logging escapes control characters
            log_level="info",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            limit_concurrency=MAX_CONNECTIONS,
        )
    except KeyboardInterrupt:  # uvicorn passes the signal on when it has shut down in order
        pass
    return 0


def _load_all(keep_models: int) -> None:
    """Load TensorFlow and all modules of a job, so that the first request does not wait for them."""
    from pipeline import summary  # noqa: F401
    from transforms.model import kept_between_jobs
    from transforms.model.import_tensorflow import import_tensorflow

    import_tensorflow()
    kept_between_jobs.keep(keep_models)
