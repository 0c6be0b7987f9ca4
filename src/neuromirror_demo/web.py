"""A server on loopback, and answers as web frameworks give them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote, urlencode

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from neuromirror.model import NeuromirrorError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class _QuietHandler(WSGIRequestHandler):
    # A client that connects and sends nothing must not delay the shutdown indefinitely.
    timeout = 5

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing: the archives have their own request logs."""


class LoopbackServer:
    """Serves as soon as it is constructed; ``port`` 0 selects a free port."""

    def __init__(self, app: WSGIApplication, port: int = 0) -> None:
        self._server = cast(
            Any, make_server("127.0.0.1", port, app, threaded=True, request_handler=_QuietHandler)
        )
        # Shutdown waits for requests in progress.
        self._server.daemon_threads = False
        self._server.block_on_close = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``, without a final slash."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Stop accepting requests, finish those in progress, and free the port."""
        stop_serving(self._server)
        self._thread.join()
        self._server.server_close()


def stop_serving(server: TCPServer) -> None:
    """End ``serve_forever`` of a server in another thread, without waiting until it polls."""
    stopping = threading.Thread(target=server.shutdown)
    stopping.start()
    while stopping.is_alive():
        # a connection wakes the server; tests replace socket.create_connection
        with suppress(OSError), socket.socket(server.address_family) as waking:
            waking.settimeout(1)
            waking.connect(server.socket.getsockname()[:2])
        stopping.join(0.02)


T = TypeVar("T")

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

NOT_FOUND_HTML = (
    '\n<!doctype html>\n<html lang="en">\n<head>\n  <title>Not Found</title>\n</head>\n<body>\n'
    "  <h1>Not Found</h1><p>The requested resource was not found on this server.</p>\n"
    "</body>\n</html>\n"
)


class ApiError(Exception):
    """An error response; ``body`` is its JSON."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


def not_found() -> ApiError:
    """Return a 404 with JSON, for a valid id that does not exist."""
    return ApiError(404, {"detail": "Not found."})


def json_response(body: object, status: int = 200) -> Response:
    """Return compact JSON, as the archive writes it."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    response = Response(text, status=status, content_type="application/json")
    response.headers["Vary"] = "Accept, Cookie, Accept-Encoding, origin"
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="api"'
    return response


def html_response(text: str, status: int = 200) -> Response:
    """Return an HTML page."""
    return Response(text, status=status, content_type="text/html; charset=utf-8")


def page(
    rows: Sequence[T],
    row: Callable[[T], object],
    args: Mapping[str, str],
    url: str,
    *,
    lazy: bool = False,
) -> dict[str, Any]:
    """Return one page of ``rows`` in the envelope ``{count, next, previous, results}``.

    ``url`` is that of the list, without a query. With ``lazy``, as for assets, the count is null
    after page 1, a page after the end is empty, and ``last`` is not a valid page.
    """
    size = _page_size(args)
    pages = max(1, -(-len(rows) // size))
    requested_page = args.get("page", "1")
    if requested_page == "last" and not lazy:
        number = pages
    elif requested_page.isdecimal() and int(requested_page) > 0:
        number = int(requested_page)
    else:
        raise ApiError(404, {"detail": "Invalid page."})
    if number > pages and not lazy:
        raise ApiError(404, {"detail": "Invalid page."})
    start = (number - 1) * size
    return {
        "count": len(rows) if number == 1 or not lazy else None,
        "next": _link(url, args, number + 1) if start + size < len(rows) else None,
        "previous": _link(url, args, number - 1) if number > 1 else None,
        "results": [row(one) for one in rows[start : start + size]],
    }


def _page_size(args: Mapping[str, str]) -> int:
    text = args.get("page_size", "")
    size = int(text) if text.isdecimal() else 0
    return min(size, MAX_PAGE_SIZE) if size > 0 else DEFAULT_PAGE_SIZE


def _link(url: str, args: Mapping[str, str], number: int) -> str:
    query = {name: value for name, value in args.items() if name != "page"}
    if number > 1:
        query["page"] = str(number)
    return with_query(url, query)


def with_query(url: str, query: Mapping[str, str]) -> str:
    """Return the URL with the query's names in alphabetical order, as in the archive's links."""
    text = urlencode(sorted(query.items()), quote_via=quote, safe="")
    return f"{url}?{text}" if text else url


def flag(args: Mapping[str, str], name: str, default: bool) -> bool:
    """Parse a boolean parameter."""
    text = args.get(name, "")
    if not text:
        return default
    if text.lower() in {"true", "1", "yes", "t", "y", "on"}:
        return True
    if text.lower() in {"false", "0", "no", "f", "n", "off"}:
        return False
    raise ApiError(400, {name: ["Must be a valid boolean."]})


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
                raise ValueError(f"no verb {verb!r}: there are {', '.join(self._verbs)}")
            result = self._verbs[verb](**json.loads(request.get_data() or b"{}"))
        except (NeuromirrorError, TypeError, ValueError) as error:
            return json_response({"detail": str(error)}, 400)(environ, start_response)
        return json_response({"result": result})(environ, start_response)
