"""Requests that the service accepts: from which callers, of which kind and size, how slow and how many at once."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import h11
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.process.terminal import plain
from transforms.specs.errors import NightshiftError

# Enough for parameters: a list of a thousand paths of a thousand characters.
MAX_BODY_BYTES = 1 << 20
# From the connection, or the end of the last response, to the end of the request's head, and again to the end of its body.
REQUEST_SECONDS = 10.0
# Above it a request is answered 503; above twice as many a new connection is closed at once, since each takes a descriptor.
MAX_CONNECTIONS = 256
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})


class ProblemError(NightshiftError):
    """A problem response (RFC 9457): its status, detail and further ``members``."""

    def __init__(self, status: HTTPStatus, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.members = status, detail, members


@dataclasses.dataclass(frozen=True)
class Callers:
    """Rules for requests that start a job.

    ``bound`` is the address that the service listens on, ``hosts`` are further names that requests may be addressed to, and ``get`` says
    whether a GET may start a job.
    """

    bound: str
    hosts: tuple[str, ...] = ()
    get: bool = False

    def check(self, request: Request) -> None:
        """Refuse requests that a page of another site can make a browser send, and requests of other methods and types.

        A page of any site can send a GET or a POST of text to 127.0.0.1, and one whose name resolves to that address (DNS rebinding) can
        also read the response. A browser names the first in Sec-Fetch-Site and Origin; the second has its own name as Host.
        https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site

        Raises:
          ProblemError: 403, 405, 415 or 421.
        """
        host = request.headers.get("host", "")
        if not self._is_ours(_name(host)):
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"Host: {host} is not this service's; its deployer names its hosts with --allow_host",
            )
        site = request.headers.get("sec-fetch-site", "none")
        origin = request.headers.get("origin")
        if site not in ("none", "same-origin") or (origin is not None and origin.partition("://")[2] != host):
            raise ProblemError(HTTPStatus.FORBIDDEN, "a page of another site sent this request, and none may start a job")
        if request.method == "GET" and not self.get:
            raise ProblemError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "a GET starts a job only where the service was started with --allow_get=true; POST the parameters as a JSON object",
            )
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected Content-Type: application/json and an object of parameters")

    def _is_ours(self, name: str) -> bool:
        if name in LOCAL_HOSTS or name == self.bound or name in self.hosts or "*" in self.hosts:
            return True
        return self.bound in ANY_ADDRESS and _is_address(name)  # a name could be made to resolve to this service


def _name(host: str) -> str:
    """Return the name or address in a Host header, without port and brackets, in lower case."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    return name.strip("[]").rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def parameters(request: Request) -> list[tuple[str, str]]:
    """Return the request's parameters as pairs of name and text: from the query of a GET, else from a JSON object in the body.

    Raises:
      ProblemError: 400, 408 or 413.
    """
    pairs = request.query_params.multi_items() if request.method == "GET" else _members(await _body(request))
    for name, value in pairs:
        if plain(name) != name or plain(value) != value or "\n" in value:
            raise ProblemError(HTTPStatus.BAD_REQUEST, f"{plain(name)}: expected text without control characters")
    return pairs


def _members(body: bytes) -> list[tuple[str, str]]:
    try:
        members = json.loads(body)
    except RecursionError:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "the body is nested too deep; expected an object of parameters") from None
    except ValueError as error:
        raise ProblemError(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from error
    if not isinstance(members, dict) or not all(isinstance(value, str | int | float) for value in members.values()):
        raise ProblemError(HTTPStatus.BAD_REQUEST, 'expected an object of parameters, such as {"model": "gs://…", "input": …}')
    return [(name, str(value)) for name, value in members.items()]


async def _body(request: Request) -> bytes:
    """Read the body, up to ``MAX_BODY_BYTES`` and for up to ``REQUEST_SECONDS``."""
    size, parts = 0, []
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MAX_BODY_BYTES:,} bytes")
                parts.append(part)
    except TimeoutError:
        raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {REQUEST_SECONDS:g} s") from None
    return b"".join(parts)


class Protocol(H11Protocol):
    """uvicorn's protocol, which also closes connections that send no complete head in time, and those above twice ``MAX_CONNECTIONS``."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= 2 * MAX_CONNECTIONS:
            transport.abort()
            return
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self.transport is None:  # closed by ``connection_made``
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._late is None:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self.transport is not None:
            super().connection_lost(exc)

    def _expect_head(self) -> None:
        """Close the connection in ``REQUEST_SECONDS``, unless ``_stop_waiting`` is called before."""
        self._late = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def is_host(names: Sequence[str]) -> bool:
    """Return whether each of ``names`` is a host's name or address, without scheme, port and path, or ``*``."""
    return all(name == "*" or ((name and not set(name) & set("/:@ *")) or _is_address(name)) for name in names)
