"""Requests and responses of the catalogue: pages, errors with suggestions, ETags."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, unquote

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from neuromirror.index import (
    AmbiguousNameError,
    DatasetWithdrawnError,
    FilesNotIndexedError,
    Index,
    IndexBusyError,
    IndexMissingError,
    IndexUnusableError,
    MalformedQueryError,
    QueryStoppedError,
    UnknownDatasetError,
    UnknownFileError,
    UnknownMirrorError,
    UnknownVersionError,
    VersionRow,
)
from neuromirror.index.shapes import Answer
from neuromirror.model import NeuromirrorError, escape_surrogates
from neuromirror.web.basket import PARAMETER, Basket
from neuromirror.web.error_suggestions import find_cause, suggest
from neuromirror.web.gateway.byte_ranges import has_etag
from neuromirror.web.gateway.errors import ContentUnavailableError
from neuromirror.web.site import Site
from neuromirror.web.template_environment import template_environment
from neuromirror.web.version_comparison import split_version_name

_NAMES = ("add", "a", "b", "dataset", "other")
"""Query parameters with the name of a version or dataset."""
_ARCHIVES = ("archive", "mirror")
_NOT_FOUND_ERRORS = (UnknownDatasetError, UnknownMirrorError, UnknownVersionError, UnknownFileError)

_INDEX_BUSY_MESSAGE = "The index is being written or rebuilt. Try again in a moment."
_INTERNAL_ERROR_MESSAGE = (
    "Internal error of the catalogue; your request was valid. The operator's log has the details."
)

_CORS_HEADERS = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "ETag, Link, Retry-After",
}
"""Headers that allow scripts of other sites to read responses."""


class _Name(Convertor[str]):
    """The name of a dataset, quoted; a label follows after an ``@``."""

    regex = r"[^@?]+"
    convert = to_string = staticmethod(str)  # type: ignore[assignment]


class _Segment(_Name):
    """A part of a path, quoted."""

    regex = r"[^/?]+"


class _List(_Name):
    """The name of a list of files."""

    regex = r"files\.[a-z0-9]+"


class _Digits(_Name):
    """A number."""

    regex = r"[0-9]{1,6}"


class _Text(_Name):
    """The rest of a path, quoted."""

    regex = r".+"


class _StorePath(_Name):
    """A public path of a store: repositories, manifests, block digests; never journal or index."""

    regex = (
        r"ria-layout-version|alias/[^/]+/.+|[0-9a-f]{3}/[0-9a-f-]{33}/.+|manifests/[0-9a-f]{2}/.+"
        r"|tombstones/[^/]+\.json|block-digests/[0-9a-f]{2}/.+"
    )


for _convertor in (_Name, _Segment, _List, _Digits, _Text, _StorePath):
    register_url_convertor(_convertor.__name__.strip("_").lower(), _convertor())

View = Callable[["CatalogueRequest"], Awaitable[Response]]
_T = TypeVar("_T")


class BadRequestError(NeuromirrorError):
    """A request has a parameter with an invalid value; the response is HTTP 400."""


class OperationDisabledError(NeuromirrorError):
    """The operator has disabled the requested operation, such as the gateway of a mirror."""


class PageNotFoundError(NeuromirrorError):
    """No page exists at the requested URL."""


class CatalogueRequest(Request):
    """A request to the catalogue: its parameters, and queries of the index for it."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.scope, request.receive)
        self.site: Site = self.app.state.site

    async def query_index(self, question: Callable[[Index], _T]) -> _T:
        """Run a query of the index; see :meth:`AsyncIndexReader.query`."""
        return await self.site.reader.query(question)

    @property
    def is_head(self) -> bool:
        """Whether the body of the response is not sent."""
        return self.method == "HEAD"

    @property
    def query(self) -> str:
        """The quoted query."""
        return str(self.scope["query_string"], "latin-1")

    def path_parameter(self, name: str, *, encoded: bool = False) -> str:
        """Return a parameter of the route, decoded; raises :class:`BadRequestError`."""
        try:
            text = str(self.path_params[name])
            return text if encoded else unquote(text, errors="strict")
        except UnicodeDecodeError:
            raise BadRequestError("the address has bytes that are not UTF-8") from None

    def query_parameters(self) -> dict[str, list[str]]:
        """Return all query parameters by name; raises :class:`BadRequestError`."""
        try:
            return parse_qs(self.query, keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:
            raise BadRequestError("the address's query has bytes that are not UTF-8") from None

    def query_parameter(self, name: str, default: str = "") -> str:
        """Return the first value of a query parameter; raises :class:`BadRequestError`."""
        return self.query_parameters().get(name, [""])[0] or default

    @property
    def basket(self) -> Basket:
        """The versions that the visitor has collected; none if the query is malformed."""
        try:
            names = self.query_parameters().get(PARAMETER, ())
        except BadRequestError:
            return Basket()
        return Basket.of(names, self.scope["path"], self.query)

    @property
    def version_name(self) -> tuple[str, str]:
        """Dataset and label of the version in the path; raises :class:`BadRequestError`."""
        return self.path_parameter("name"), self.path_parameter("label")

    def integer_parameter(self, name: str, default: int, maximum: int) -> int:
        """Return a query parameter from 1 to ``maximum``; raises :class:`BadRequestError`."""
        return parse_integer(name, self.query_parameter(name, str(default)), maximum)

    def has_etag(self, tag: str) -> bool:
        """Whether the client's If-None-Match contains this ETag, quotes included."""
        return has_etag(self.headers.get("if-none-match", ""), tag)

    @property
    def site_url(self) -> str:
        """The site's public URL: the configured one, or else that of the request."""
        if self.site.address:
            return self.site.address.rstrip("/")
        return f"{self.scope['scheme']}://{self.headers.get('host') or 'localhost'}"

    async def render_page(self, template: str, status: int = 200, **context: Any) -> Response:
        """Return a page of HTML, whose links keep the visitor's basket."""
        basket = self.basket
        text = await self.render_template(f"{template}.html", basket=basket, **context)
        reply = self.etag_response(basket.carry(text), "text/html; charset=utf-8", status)
        if basket.names:
            reply.headers["x-robots-tag"] = "noindex, nofollow"  # the page exists without it
        return reply

    async def render_template(self, template: str, **context: Any) -> str:
        """Render a template in a thread."""
        found = template_environment().get_template(f"neuromirror_{template}")
        variables = {
            "site": self.site,
            "own_address": self.site_url,
            **self.site.operator_variables,
            **context,
        }
        return await self.site.reader.run_in_thread(lambda: found.render(variables))

    def json_response(self, content: Mapping[str, Any] | Answer) -> Response:
        """Return a JSON response with CORS headers."""
        plain = content.plain() if isinstance(content, Answer) else content
        text = json.dumps(plain, default=str, ensure_ascii=True, separators=(",", ":"))
        reply = self.etag_response(text + "\n", "application/json", 200)
        reply.headers.update(_CORS_HEADERS)
        return reply

    def etag_response(self, text: str, kind: str, status: int = 200) -> Response:
        """Return a response with an ETag, or a 304 without a body if the client has it.

        The ETag is weak, because proxies and the middleware may compress the body.
        """
        body = escape_surrogates(text)
        tag = f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'
        headers = {"etag": f"W/{tag}", "cache-control": "public, max-age=0, must-revalidate"}
        if status == 200 and self.has_etag(tag):
            return Response("", 304, headers, kind)
        return Response(body, status, headers, kind)


async def resolve_version(request: CatalogueRequest, name: str, label: str) -> VersionRow:
    """Return a version; raises the errors of :meth:`Index.resolve`."""
    return await request.query_index(lambda index: index.resolve(name, label))


def parse_integer(name: str, text: str, maximum: int) -> int:
    """Return the value of a parameter from 1 to ``maximum``; raises :class:`BadRequestError`."""
    is_valid = text.isascii() and text.isdecimal() and len(text) < 10
    if not is_valid or not 1 <= int(text) <= maximum:
        raise BadRequestError(
            f"{name} must be a whole number from 1 to {maximum}, not {text[:40]!r}"
        )
    return int(text)


def view(make: View) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint of Starlette that calls ``make`` with the request of a catalogue."""

    @wraps(make)
    async def endpoint(request: Request) -> Response:
        return await make(CatalogueRequest(request))

    return endpoint


async def error_response(starlette_request: Request, error: Exception) -> Response:
    """Return the response to a request that failed: a page, or for programs a problem document."""
    assert isinstance(error, NeuromirrorError)
    request = CatalogueRequest(starlette_request)
    status, message = _status(error), error.problem
    if status >= 500 and not isinstance(error, (QueryStoppedError, ContentUnavailableError)):
        # the message may contain local paths
        path = unquote(request.scope["path"])
        logging.getLogger(__name__).warning("%s: %s", path, error)
        message = _INDEX_BUSY_MESSAGE if status == 503 else _INTERNAL_ERROR_MESSAGE
    if _is_for_programs(request):
        reply = problem_response(status, message)
    else:
        suggestions = await _suggestions(request, error)
        reply = await request.render_page(
            "error", status, code=status, **{"message": message, **suggestions}
        )
    if status == 503:
        reply.headers["retry-after"] = "10"
    return reply


def _is_for_programs(request: Request) -> bool:
    """Whether an error becomes a problem document; a browser gets a page below ``/at/`` as well."""
    path = request.scope["path"]
    if path.startswith("/at/"):
        return "text/html" not in request.headers.get("accept", "")
    return bool(path.startswith("/api/"))


async def _suggestions(request: CatalogueRequest, error: NeuromirrorError) -> dict[str, Any]:
    """Return suggestions for something that was not found.

    See :func:`~neuromirror.web.error_suggestions.suggest`.
    """
    if not isinstance(error, _NOT_FOUND_ERRORS):
        return {}
    path = request.query_parameter("path")
    names = {"": ("", "")}
    if "name" in request.path_params:
        label = request.path_parameter("label") if "label" in request.path_params else ""
        names = {"": (request.path_parameter("name"), label)}
    elif query := request.query_parameters():
        names = {one: split_version_name(one) for key in _NAMES for one in query.get(key, ())}
        names |= {one: (f"{one}:", "") for key in _ARCHIVES for one in query.get(key, ())}

    def look(index: Index) -> dict[str, Any]:
        text = find_cause(index, error, names)
        if text is None:
            return {}
        found = suggest(index, error, *names[text], path)
        if request.scope["path"] == "/lock" and text in request.basket.names:
            without = (request.basket.removing(text), f"your list without {text}")
            found["suggestions"] = [*found.get("suggestions", ()), without]
        return found

    try:
        return await request.query_index(look)
    except NeuromirrorError:
        return {}  # report the first error instead


def problem_response(status: int, detail: str) -> Response:
    """Return an error of the API as a problem document (JSON, RFC 9457)."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    text = json.dumps(document, separators=(",", ":")) + "\n"
    return Response(text, status, dict(_CORS_HEADERS), "application/problem+json")


def _status(error: NeuromirrorError) -> int:
    if isinstance(error, ContentUnavailableError):
        return error.status
    return next((one for one, kinds in _STATUSES.items() if isinstance(error, kinds)), 500)


_STATUSES: Final = {
    410: (DatasetWithdrawnError,),
    404: (*_NOT_FOUND_ERRORS, PageNotFoundError),
    400: (MalformedQueryError, AmbiguousNameError, FilesNotIndexedError, BadRequestError),
    403: (OperationDisabledError,),
    503: (IndexBusyError, IndexMissingError, IndexUnusableError, QueryStoppedError),
}
"""Errors by status; others are internal errors."""


def redirect(address: str) -> Response:
    """Return a redirect to an address, which is quoted."""
    return Response(None, 302, {"location": address})
