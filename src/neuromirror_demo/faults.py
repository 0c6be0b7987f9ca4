"""Faults in front of the demo's servers, and their request logs."""

from __future__ import annotations

import gzip
import inspect
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request, Response

from neuromirror_demo.archive import DemoError
from neuromirror_demo.bucket_state import key_bytes
from neuromirror_demo.s3 import LISTING_FAULTS, ListingFaults, error_response
from neuromirror_demo.web import html_response, json_response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from neuromirror_demo.volumes import Voxels

ASSETS = r"^/api/dandisets/\d+/versions/[^/]+/assets/$"
_DETAILS = {
    401: "Authentication credentials were not provided.",
    403: "You do not have permission to perform this action.",
    404: "Not found.",
    429: "Request was throttled.",
}
_S3_CODES = {403: "AccessDenied", 404: "NoSuchKey", 503: "SlowDown"}


@dataclass(eq=False)
class Fault:
    """A fault that is enabled until :meth:`clear`, or the end of a ``with`` block.

    It applies to requests to ``server`` (``api`` or ``s3``) whose path (without the query) matches
    the regular expression ``path``, whose query matches the regular expression ``query``, whose
    method is ``method`` and whose ``page`` parameter is ``page`` (None: any). The first ``skip``
    requests pass, the next ``times`` fail (None: all); ``struck`` counts them.
    """

    kind: Kind | str
    path: str
    server: str
    method: str | None = None
    query: str = ""
    page: int | None = None
    skip: int = 0
    times: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    struck: int = 0
    finished: threading.Event = field(default_factory=threading.Event)
    cleared: Callable[[Fault], None] = lambda fault: None

    def clear(self) -> None:
        """Disable the fault; hanging requests are answered."""
        self.finished.set()
        self.cleared(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def concerns(self, server: str, request: Request) -> bool:
        """Return whether the fault may apply to the request."""
        return (
            server == self.server
            and re.search(self.path, request.path) is not None
            and self.method in {None, request.method}
            and re.search(self.query, request.environ["QUERY_STRING"]) is not None
            and (self.page is None or request.args.get("page", "1") == str(self.page))
        )


@dataclass(frozen=True)
class Exchange:
    """A request to which a fault applies.

    ``respond`` returns the response without this fault, ``get`` the server's own response to
    another request, and ``refuse`` its response of a status.
    """

    fault: Fault
    request: Request
    respond: Callable[[], Response]
    get: Callable[[str], Response]
    refuse: Refuse


Kind = Callable[..., Response]
"""Returns the response to an :class:`Exchange`; its other parameters are options of the fault."""

Refuse = Callable[[int, "int | None"], Response]
"""Returns the response of a status, with the value of Retry-After or None."""


def _status(exchange: Exchange, status: int = 503, retry_after: int | None = None) -> Response:
    response = exchange.refuse(status, retry_after)
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def _html(exchange: Exchange) -> Response:
    return html_response("<html><body>Down for maintenance</body></html>")


def _hang(exchange: Exchange, seconds: float = 30.0) -> Response:
    exchange.fault.finished.wait(seconds)
    return exchange.respond()


def _reset(exchange: Exchange) -> Response:
    exchange.request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return exchange.respond()


def _slow(exchange: Exchange, delay: float = 0.05, chunk: int = 4096) -> Response:
    response = exchange.respond()
    data = response.get_data()

    def drip() -> Iterator[bytes]:
        for start in range(0, len(data), chunk):
            if start:
                exchange.fault.finished.wait(delay)
            yield data[start : start + chunk]

    response.response = drip()
    return response


def _cut(exchange: Exchange, keep: float = 0.5, lying: bool = False) -> Response:
    response = exchange.respond()
    data = response.get_data()
    length = response.headers.get("Content-Length", str(len(data)))
    response.set_data(data[: int(len(data) * keep)])
    if lying:
        response.headers["Content-Length"] = length
    return response


def _wrong_bytes(exchange: Exchange) -> Response:
    response = exchange.respond()
    response.set_data(bytes(byte ^ 0xFF for byte in response.get_data()))
    return response


def _listing(
    exchange: Exchange, without: Iterable[str] = (), after: bytes | None = None, ends: str = ""
) -> Response:
    hidden = frozenset(map(key_bytes, without))
    exchange.request.environ[LISTING_FAULTS] = ListingFaults(hidden, after, ends)
    return exchange.respond()


def _voxels(change: Callable[[Voxels], Voxels]) -> Kind:
    def changed(exchange: Exchange) -> Response:
        exchange.request.environ["neuromirror_demo.voxels"] = change
        return exchange.respond()

    return changed


KINDS: Mapping[str, Kind] = {
    "status": _status,
    "html": _html,
    "hang": _hang,
    "reset": _reset,
    "slow": _slow,
    "cut": _cut,
    "wrong_bytes": _wrong_bytes,
    "listing": _listing,
    "wrong_shape": _voxels(lambda voxels: voxels[..., :-1, :].copy()),
    "wrong_dtype": _voxels(lambda one: one.astype("uint16" if one.itemsize == 1 else "uint8")),
    "zeros": _voxels(lambda voxels: voxels * 0),
}
"""Every fault with a name; its options are the other parameters."""

_OF_CONTENTS = {"slow", "cut", "wrong_bytes", "wrong_shape", "wrong_dtype", "zeros"}


class Faults:
    """The active faults; ``server`` is the default target, ``contents`` the path of its data."""

    def __init__(self, server: str = "api", contents: str = ".") -> None:
        self._server = server
        self._contents = contents
        self._lock = threading.Lock()
        self._on: list[Fault] = []

    def set(self, kind: str | Kind, **options: Any) -> Fault:
        """Enable a fault; raise :class:`DemoError` for an unknown name or option."""
        call = KINDS.get(kind) if isinstance(kind, str) else kind
        if call is None:
            raise DemoError(f"no fault {kind!r}: there are {', '.join(KINDS)}")
        common = {"path", "server", "method", "query", "page", "skip", "times"}
        own = {name: value for name, value in options.items() if name not in common}
        inspect.signature(call).bind(None, **own)
        server, path = self._server, "."
        if kind == "listing":
            path = "^/[^/]+/?$"
        elif self._server == "api" and (kind == "cut" or call is kind):
            path = ASSETS
        elif self._server == "api" and kind == "wrong_bytes":
            server = "s3"
        elif kind in _OF_CONTENTS:
            path = self._contents
        given = {name: value for name, value in options.items() if name in common}
        given = {"server": server, "path": path} | given
        fault = Fault(kind, options=own, cleared=self._clear, **given)
        with self._lock:
            self._on.append(fault)
        return fault

    def clear(self) -> None:
        """Disable all faults."""
        for fault in list(self._on):
            fault.clear()

    def _clear(self, fault: Fault) -> None:
        with self._lock:
            if fault in self._on:
                self._on.remove(fault)

    def strike(self, server: str, request: Request) -> list[Fault]:
        """Return the faults that apply to this request, and count them."""
        struck = []
        with self._lock:
            for fault in self._on:
                if not fault.concerns(server, request):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                elif fault.times is None or fault.struck < fault.times:
                    fault.struck += 1
                    struck.append(fault)
        return struck


class FaultInjector:
    """A WSGI application behind the faults, with a log of its requests.

    ``log`` has ``"GET /path?query"`` in order of arrival; requests below ``/_demo/`` are neither
    logged nor subject to faults. ``refuse`` makes the response of a status.
    """

    def __init__(
        self, app: WSGIApplication, server: str, faults: Faults, refuse: Refuse | None = None
    ) -> None:
        self.log: list[str] = []
        self._app = app
        self._server = server
        self._faults = faults
        self._refuse = refuse or (_refuse_s3 if server == "s3" else _refuse_api)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        request = Request(environ)
        if request.path.startswith("/_demo/"):
            return self._app(environ, start_response)
        query = environ["QUERY_STRING"]
        self.log.append(f"{request.method} {request.path}{'?' if query else ''}{query}")
        struck = self._faults.strike(self._server, request)
        response = self._answer(request, struck)
        if not struck and self._server == "api":
            _compress(request, response)
        return response(environ, start_response)

    def _answer(self, request: Request, struck: list[Fault]) -> Response:
        if not struck:
            return Response.from_app(self._app, request.environ, buffered=True)
        first, *others = struck
        call = KINDS[first.kind] if isinstance(first.kind, str) else first.kind
        exchange = Exchange(
            first, request, lambda: self._answer(request, others), self._get, self._refuse
        )
        return call(exchange, **first.options)

    def _get(self, url: str) -> Response:
        parts = urlsplit(url)
        builder = EnvironBuilder(path=parts.path, query_string=parts.query)
        return Response.from_app(self._app, builder.get_environ(), buffered=True)


def spoil_voxels(request: Request, voxels: Voxels) -> Voxels:
    """Return the voxels of a cutout with the fault that applies to this request."""
    change: Callable[[Voxels], Voxels] | None = request.environ.get("neuromirror_demo.voxels")
    return voxels if change is None else change(voxels)


def _refuse_s3(status: int, _: int | None) -> Response:
    return error_response(status, _S3_CODES.get(status, "InternalError"))


def _refuse_api(status: int, _: int | None) -> Response:
    return json_response({"detail": _DETAILS.get(status, "Server error.")}, status)


def _compress(request: Request, response: Response) -> None:
    # Like Django: nothing under 200 bytes.
    if (
        request.method == "GET"
        and "gzip" in request.headers.get("Accept-Encoding", "")
        and response.mimetype == "application/json"
        and len(response.get_data()) >= 200
    ):
        response.set_data(gzip.compress(response.get_data(), 1, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
