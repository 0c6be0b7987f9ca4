"""What an address asks for, and replies: pages, errors that help, ETags."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from datasette.utils.asgi import Request, Response

from neuromirror.index import (
    AmbiguousNameError,
    DatasetWithdrawnError,
    FilesNotIndexedError,
    IndexBusyError,
    IndexMissingError,
    IndexUnusableError,
    MalformedQueryError,
    QueryStoppedError,
    UnknownDatasetError,
    UnknownFileError,
    UnknownMirrorError,
    UnknownVersionError,
)
from neuromirror.model import NeuromirrorError
from neuromirror.web.error_suggestions import suggest
from neuromirror.web.server.datasette_pool import (
    DatasetteBusyError,
    DatasetteProcessError,
    DatasetteTimeoutError,
)
from neuromirror.web.site import Site, find_site

if TYPE_CHECKING:
    from datasette.app import Datasette

_NOT_FOUND_ERRORS = (UnknownDatasetError, UnknownMirrorError, UnknownVersionError, UnknownFileError)
_BAD_REQUEST_ERRORS = (
    MalformedQueryError,
    AmbiguousNameError,
    FilesNotIndexedError,
    DatasetteTimeoutError,
)
_UNAVAILABLE_ERRORS = (
    IndexBusyError,
    IndexMissingError,
    IndexUnusableError,
    QueryStoppedError,
    DatasetteBusyError,
    DatasetteProcessError,
)

_INDEX_BUSY_MESSAGE = "The index is being written or made anew. Try again in a moment."
_TABLES_BUSY_MESSAGE = (
    "As many requests for tables are being answered as may be at once. Try again in a moment."
)
_INTERNAL_ERROR_MESSAGE = (
    "Something is wrong here, and not with what you asked for. It is in the operator's log."
)

_TAG = re.compile(r'(?:W/)?("[^"]*")')
_CORS_HEADERS = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "ETag, Link, Retry-After",
}
"""So that scripts of other sites may read it."""

View = Callable[["CatalogueRequest"], Awaitable[Response]]


class BadRequestError(NeuromirrorError):
    """An address that asks for something in a way that cannot be."""


class OperationDisabledError(NeuromirrorError):
    """Something that this catalogue is set not to do."""


class PageNotFoundError(NeuromirrorError):
    """An address that no page has."""


class CatalogueRequest:
    """A request to the catalogue."""

    def __init__(self, datasette: Datasette, request: Request, site: Site) -> None:
        self._datasette = datasette
        self._request = request
        self.site = site
        self.query_index = site.reader.query

    def path_parameter(self, name: str) -> str:
        """A part of the path, as the route names it; raises :class:`BadRequestError`."""
        try:
            return unquote(self._request.url_vars[name], errors="strict")
        except UnicodeDecodeError:
            raise BadRequestError("the address has bytes that are not UTF-8") from None

    def query_parameters(self) -> dict[str, list[str]]:
        """All that the query says, by name; raises :class:`BadRequestError`."""
        try:
            return parse_qs(self._request.query_string, keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:
            raise BadRequestError("the address's query has bytes that are not UTF-8") from None

    def query_parameter(self, name: str, default: str = "") -> str:
        """A value of the query, the first where it has more; raises :class:`BadRequestError`."""
        return self.query_parameters().get(name, [""])[0] or default

    def integer_parameter(self, name: str, default: int, maximum: int) -> int:
        """A whole number of the query, 1 or more; raises :class:`BadRequestError`."""
        text = self.query_parameter(name, str(default))
        is_valid = text.isascii() and text.isdecimal() and len(text) < 10
        if not is_valid or not 1 <= int(text) <= maximum:
            raise BadRequestError(
                f"{name} is a whole number from 1 to {maximum}, not {text[:40]!r}"
            )
        return int(text)

    async def datasette_response(self) -> Response:
        """Datasette's reply to this request; raises as :meth:`DatasettePool.reply`."""
        assert self.site.tables is not None  # the route is only where they are
        reply = await self.site.tables.respond(self._request.scope)
        kind = reply.headers.pop("content-type", "text/plain; charset=utf-8")
        return Response(reply.body, reply.status, reply.headers, kind)

    @property
    def is_head(self) -> bool:
        """Whether only the headers of the reply are wanted."""
        return bool(self._request.method == "HEAD")

    def has_etag(self, tag: str) -> bool:
        """Whether somebody has this already, who tells the quoted tags of what they have."""
        known = self._request.headers.get("if-none-match", "")
        return known.strip() == "*" or tag in _TAG.findall(known)

    @property
    def base_url(self) -> str:
        """The site's own address, as the one who asks knows it if nobody set it."""
        if self.site.address:
            return self.site.address.rstrip("/")
        return f"{self._request.scheme}://{self._request.host}"

    async def render_page(self, template: str, status: int = 200, **context: Any) -> Response:
        """A page of HTML."""
        text = await self.render_template(f"{template}.html", **context)
        return self.etag_response(text, "text/html; charset=utf-8", status)

    async def render_template(self, template: str, **context: Any) -> str:
        """What a template makes of what it is told."""
        found = self.site.templates.get_template(f"neuromirror_{template}")
        given = {"site": self.site, "own_address": self.base_url, **context}
        return await self.site.reader.run_in_thread(lambda: found.render(given))

    def json_response(self, content: Mapping[str, Any]) -> Response:
        """A reply for programs."""
        text = json.dumps(content, default=str, ensure_ascii=True, separators=(",", ":"))
        reply = self.etag_response(text + "\n", "application/json", 200)
        reply.headers.update(_CORS_HEADERS)
        return reply

    def etag_response(self, text: str, kind: str, status: int = 200) -> Response:
        """A reply with an ETag; 304 without a body for somebody who has it already.

        The ETag is a weak one: what stands between may compress the body.
        """
        body = text.encode("utf-8", "backslashreplace").decode()
        tag = f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'
        headers = {"etag": f"W/{tag}", "cache-control": "public, max-age=0, must-revalidate"}
        if status == 200 and self.has_etag(tag):
            return Response("", 304, headers, kind)
        return Response(body, status, headers, kind)


def view(make: View) -> Any:
    """A page as Datasette calls it; what goes wrong is a page that says what to do."""

    async def handle(datasette: Datasette, request: Request) -> Response:
        site = find_site(datasette)
        assert site is not None  # routes are only given to a Datasette that shows a store
        catalogue_request = CatalogueRequest(datasette, request, site)
        for_programs = request.path.startswith("/api/")
        try:
            return await make(catalogue_request)
        except NeuromirrorError as error:
            status = _status(error)
            message = str(error)
            if status >= 500 and not isinstance(error, QueryStoppedError):
                # it names files of this machine
                logging.getLogger(__name__).warning("%s: %s", request.path, error)
                message = _public_message(error, status)
            if for_programs:
                reply = problem_response(status, message)
            else:
                near = await _suggestions(catalogue_request, request, error)
                reply = await catalogue_request.render_page(
                    "error", status, code=status, message=message, **near
                )
            if status == 503:
                reply.headers["retry-after"] = "10"
            return reply

    return handle


async def _suggestions(
    catalogue_request: CatalogueRequest, request: Request, error: NeuromirrorError
) -> dict[str, Any]:
    """What is near to what was asked for in vain; see
    :func:`~neuromirror.web.error_suggestions.helped`."""
    if not isinstance(error, _NOT_FOUND_ERRORS) or "name" not in request.url_vars:
        return {}
    name = catalogue_request.path_parameter("name")
    label = catalogue_request.path_parameter("label") if "label" in request.url_vars else ""
    path = catalogue_request.query_parameter("path")
    try:
        return await catalogue_request.query_index(
            lambda index: suggest(index, error, name, label, path)
        )
    except NeuromirrorError:
        return {}  # the first error is the one to tell


def problem_response(status: int, detail: str) -> Response:
    """What went wrong, as RFC 9457 has it."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    text = json.dumps(document, separators=(",", ":")) + "\n"
    return Response(text, status, dict(_CORS_HEADERS), "application/problem+json")


def _public_message(error: NeuromirrorError, status: int) -> str:
    """Return what to tell of an error that is not the visitor's."""
    if status != 503:
        return _INTERNAL_ERROR_MESSAGE
    return (
        _TABLES_BUSY_MESSAGE
        if isinstance(error, (DatasetteBusyError, DatasetteProcessError))
        else _INDEX_BUSY_MESSAGE
    )


def _status(error: NeuromirrorError) -> int:
    if isinstance(error, DatasetWithdrawnError):
        return 410
    if isinstance(error, (*_NOT_FOUND_ERRORS, PageNotFoundError)):
        return 404
    if isinstance(error, (*_BAD_REQUEST_ERRORS, BadRequestError)):
        return 400
    if isinstance(error, OperationDisabledError):
        return 403
    return 503 if isinstance(error, _UNAVAILABLE_ERRORS) else 500
