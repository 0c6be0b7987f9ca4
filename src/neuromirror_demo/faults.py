"""Faults and operations over HTTP in front of the demo's servers, and their request logs."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request, Response

from neuromirror.model import NeuromirrorError
from neuromirror_demo.archive import Archive, DemoError
from neuromirror_demo.s3 import error_response
from neuromirror_demo.web import html_response, json_response, with_query

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from neuromirror_demo.volumes import Voxels


class ControlMiddleware:
    """Adds operations below ``/_demo/`` to an application.

    The response is ``{"result": …}``, or 400 and ``{"detail": …}``.
    """

    def __init__(self, app: WSGIApplication, verbs: Mapping[str, Callable[..., object]]) -> None:
        self._app = app
        self._verbs = verbs

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if not environ["PATH_INFO"].startswith("/_demo/"):
            return self._app(environ, start_response)
        request = Request(environ)
        verb = request.path.removeprefix("/_demo/").strip("/")
        try:
            if verb not in self._verbs:
                raise DemoError(f"no verb {verb!r}: there are {', '.join(self._verbs)}")
            result = self._verbs[verb](**json.loads(request.get_data() or b"{}"))
        except (NeuromirrorError, TypeError, ValueError) as error:
            return json_response({"detail": str(error)}, 400)(environ, start_response)
        result = result if isinstance(result, str) else None
        return json_response({"result": result})(environ, start_response)


ASSETS = r"^/api/dandisets/\d+/versions/[^/]+/assets/$"
_ANY = "."
_DETAILS = {
    401: "Authentication credentials were not provided.",
    403: "You do not have permission to perform this action.",
    404: "Not found.",
    429: "Request was throttled.",
}

_S3_CODES = {403: "AccessDenied", 404: "NoSuchKey", 503: "SlowDown"}

DEFAULTS: Mapping[str, dict[str, Any]] = {
    "status": {"path": _ANY, "status": 503, "retry_after": None},
    "html": {"path": _ANY},
    "hang": {"path": _ANY, "seconds": 30.0},
    "reset": {"path": _ANY},
    "slow": {"path": _ANY, "delay": 0.05, "chunk": 4096},
    "cut": {"path": ASSETS, "keep": 0.5, "lying": False},
    "lost_page": {"path": ASSETS, "page": 2},
    "next_null": {"path": ASSETS, "page": 1},
    "empty_list": {"path": ASSETS},
    "duplicate_rows": {"path": ASSETS, "page": 2, "rows": 1},
    "mutate_while_listing": {
        "path": ASSETS,
        "page": 1,
        "times": 1,
        "action": "remove",
        "file": None,
    },
    "wrong_bytes": {"path": _ANY, "server": "s3"},
    "wrong_shape": {},
    "wrong_dtype": {},
    "zeros": {},
    "listing": {"path": "^/[^/]+/?$", "server": "s3", "without": (), "after": None, "ends": ""},
}
"""Every fault with the default values of its options; :class:`Fault` has the common ones.

The last three are faults of services of volumes.
"""


@dataclass(eq=False)
class Fault:
    """A fault that is enabled until :meth:`clear`, or the end of a ``with`` block.

    It applies to requests to ``server`` (``api`` or ``s3``) whose path (without the query) matches
    the regular expression ``path``, whose query matches the regular expression ``query``, whose
    method is ``method`` and whose ``page`` parameter is ``page`` (None: any). The first ``skip``
    requests pass, the next ``times`` fail (None: all); ``struck`` counts them. ``reset`` closes the
    connection without a reply.
    """

    name: str
    path: str
    server: str = "api"
    method: str | None = None
    query: str | None = None
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
            and (self.query is None or re.search(self.query, _query(request)) is not None)
            and (self.page is None or request.args.get("page", "1") == str(self.trigger))
        )

    @property
    def trigger(self) -> int | None:
        """Return the page to which the fault applies; the link before a dropped page skips it."""
        return self.page - 1 if self.name == "lost_page" and self.page else self.page


class Faults:
    """The active faults; ``server`` is the default target, ``contents`` the path of its data."""

    def __init__(
        self,
        server: str = "api",
        contents: str = _ANY,
    ) -> None:
        self._server = server
        self._contents = contents
        self._lock = threading.Lock()
        self._on: list[Fault] = []

    def set(self, name: str, **options: Any) -> Fault:
        """Enable a fault; raise :class:`DemoError` for an unknown name or option."""
        if name not in DEFAULTS:
            raise DemoError(f"no fault {name!r}: there are {', '.join(DEFAULTS)}")
        own = DEFAULTS[name]
        common = {"path", "server", "method", "query", "page", "skip", "times"}
        for option in options:
            if option not in common | own.keys():
                raise DemoError(f"the fault {name} has no option {option!r}")
        given = {"server": self._server, **own, **options}
        if self._server != "api":
            is_of_contents = name in {
                "slow",
                "cut",
                "wrong_bytes",
                "wrong_shape",
                "wrong_dtype",
                "zeros",
            }
            path = self._contents if is_of_contents else own["path"]
            given |= {"server": self._server, "path": options.get("path", path)}
        elif name == "wrong_bytes" and given["server"] == "api" and "path" not in options:
            given["path"] = "/download/$"
        fault = Fault(
            name,
            **{key: value for key, value in given.items() if key in common},
            options={key: value for key, value in given.items() if key not in common},
            cleared=self._clear,
        )
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
    logged nor subject to faults. The application finds the faults that apply to a request in its
    environment as ``neuromirror_demo.struck``. ``refuse`` makes the response of ``status``.
    """

    def __init__(
        self,
        app: WSGIApplication,
        server: str,
        faults: Faults,
        archive: Archive | None = None,
        refuse: Callable[[Fault], Response] | None = None,
    ) -> None:
        self.log: list[str] = []
        self.archive = archive
        self._app = app
        self._server = server
        self._faults = faults
        self._refuse = refuse or _error_response

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        request = Request(environ)
        if request.path.startswith("/_demo/"):
            return self._app(environ, start_response)
        query = _query(request)
        self.log.append(f"{request.method} {request.path}{'?' if query else ''}{query}")
        struck = self._faults.strike(self._server, request)
        response = self._answer(request, struck)
        if not struck and self._server == "api":
            _compress(request, response)
        return response(environ, start_response)

    def get(self, url: str) -> Response:
        """Return the application's own response, without log and faults."""
        parts = urlsplit(url)
        builder = EnvironBuilder(path=parts.path, query_string=parts.query)
        return Response.from_app(self._app, builder.get_environ(), buffered=True)

    def _answer(self, request: Request, struck: list[Fault]) -> Response:
        for fault in struck:
            if fault.name == "status":
                return self._refuse(fault)
            if fault.name == "html":
                return html_response("<html><body>Down for maintenance</body></html>")
            if fault.name == "hang":
                fault.finished.wait(float(fault.options["seconds"]))
            if fault.name == "reset":
                request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        request.environ["neuromirror_demo.struck"] = struck
        response = Response.from_app(self._app, request.environ, buffered=True)
        for fault in struck:
            change = _CHANGES.get(fault.name)
            if change is not None:
                response = change(fault, request, response, self)
        return response


def spoil_voxels(request: Request, voxels: Voxels) -> Voxels:
    """Return the voxels of a cutout with the faults that apply to this request."""
    for fault in request.environ.get("neuromirror_demo.struck", ()):
        if fault.name == "wrong_shape":
            voxels = voxels[..., :-1, :].copy()
        elif fault.name == "wrong_dtype":
            voxels = voxels.astype("uint16" if voxels.itemsize == 1 else "uint8")
        elif fault.name == "zeros":
            voxels = voxels * 0
    return voxels


def _query(request: Request) -> str:
    return request.query_string.decode("latin-1")


def _error_response(fault: Fault) -> Response:
    status = int(fault.options["status"])
    if fault.server == "s3":
        response = error_response(status, _S3_CODES.get(status, "InternalError"))
    else:
        response = json_response({"detail": _DETAILS.get(status, "Server error.")}, status)
    if fault.options["retry_after"] is not None:
        response.headers["Retry-After"] = str(fault.options["retry_after"])
    return response


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


def _slow(fault: Fault, request: Request, response: Response, site: FaultInjector) -> Response:
    data = response.get_data()
    chunk, delay = int(fault.options["chunk"]), float(fault.options["delay"])

    def drip() -> Iterator[bytes]:
        for start in range(0, len(data), chunk):
            if start:
                fault.finished.wait(delay)
            yield data[start : start + chunk]

    response.response = drip()
    return response


def _cut(fault: Fault, request: Request, response: Response, site: FaultInjector) -> Response:
    data = response.get_data()
    length = response.headers.get("Content-Length", str(len(data)))
    response.set_data(data[: int(len(data) * float(fault.options["keep"]))])
    if fault.options["lying"]:
        response.headers["Content-Length"] = length
    return response


def _wrong_bytes(
    fault: Fault, request: Request, response: Response, site: FaultInjector
) -> Response:
    if response.status_code in {200, 206}:
        response.set_data(bytes(byte ^ 0xFF for byte in response.get_data()))
        return response
    parts = request.path.split("/")
    asset = site.archive.assets.get(parts[-3]) if site.archive and len(parts) > 2 else None
    size = 100 if asset is None else asset.size
    return Response(b"\x00" * size, content_type="application/octet-stream")


def _mutate(fault: Fault, request: Request, response: Response, site: FaultInjector) -> Response:
    assert site.archive is not None
    dandiset = request.path.split("/")[3]
    file, action = fault.options["file"], fault.options["action"]
    if action == "add":
        name = (file or "added-while-listing.txt").format(fault.struck)
        site.archive.add_file(dandiset, name)
    else:
        chosen = file or next(iter(site.archive.dandisets[dandiset].draft.assets))
        if action == "remove":
            site.archive.remove_file(dandiset, chosen)
        else:
            site.archive.change_file(dandiset, chosen)
    return response


def _list_fault(change: Callable[[Fault, dict[str, Any], FaultInjector], None]) -> _Change:
    """Change the JSON of a list; other JSON is returned unchanged."""

    def changed(
        fault: Fault, request: Request, response: Response, site: FaultInjector
    ) -> Response:
        if response.status_code != 200 or response.mimetype != "application/json":
            return response
        body = json.loads(response.get_data())
        if isinstance(body, dict) and "results" in body:
            change(fault, body, site)
            response.set_data(json.dumps(body).encode())
        return response

    return changed


def _lost_page(fault: Fault, body: dict[str, Any], site: FaultInjector) -> None:
    if body["next"] is None:
        return
    parts = urlsplit(body["next"])
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    query["page"] = str(int(query["page"]) + 1)
    beyond = with_query(f"{parts.scheme}://{parts.netloc}{parts.path}", query)
    response = site.get(beyond)
    found = response.status_code == 200 and json.loads(response.get_data())["results"]
    body["next"] = beyond if found else None


def _next_null(fault: Fault, body: dict[str, Any], site: FaultInjector) -> None:
    body["next"] = None


def _empty(fault: Fault, body: dict[str, Any], site: FaultInjector) -> None:
    body.update(count=0, next=None, previous=None, results=[])


def _duplicate(fault: Fault, body: dict[str, Any], site: FaultInjector) -> None:
    """Repeat the last rows of the previous page; as many are dropped from the end."""
    if body["previous"] is None:
        return
    before = json.loads(site.get(body["previous"]).get_data())["results"]
    repeated = before[-int(fault.options["rows"]) :]
    body["results"] = [*repeated, *body["results"][: max(0, len(body["results"]) - len(repeated))]]


_Change = Callable[[Fault, Request, Response, FaultInjector], Response]

_CHANGES: Mapping[str, _Change] = {
    "slow": _slow,
    "cut": _cut,
    "wrong_bytes": _wrong_bytes,
    "mutate_while_listing": _mutate,
    "lost_page": _list_fault(_lost_page),
    "next_null": _list_fault(_next_null),
    "empty_list": _list_fault(_empty),
    "duplicate_rows": _list_fault(_duplicate),
}
