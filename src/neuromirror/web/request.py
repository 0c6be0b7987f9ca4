"""Requests and responses of the catalogue: pages, errors with suggestions, ETags."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import wraps
from http import HTTPStatus
from itertools import islice
from typing import IO, Any, Final, TypeVar
from urllib.parse import parse_qs, unquote

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

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
from neuromirror.web.addresses import (
    PARAMETER,
    Basket,
    dataset_address,
    file_address,
    search_address,
    version_address,
)
from neuromirror.web.async_index import UnavailableError
from neuromirror.web.gateway.content import has_etag
from neuromirror.web.lookups import split_version_name
from neuromirror.web.rendering import template_environment
from neuromirror.web.site import Site

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


class _Quoted(Convertor[str]):
    """A part of a path, which remains quoted."""

    convert = to_string = staticmethod(str)  # type: ignore[assignment]


for _name, _regex in (
    # of a dataset; a label follows after an @
    ("name", r"[^@?]+"),
    ("segment", r"[^/?]+"),
    ("text", r".+"),
    ("digits", r"[0-9]{1,6}"),
    # of a list of files
    ("list", r"files\.[a-z0-9]+"),
    # public files of a store: repositories, manifests, block digests; never journal or index
    (
        "storepath",
        r"ria-layout-version|alias/[^/]+/.+|[0-9a-f]{3}/[0-9a-f-]{33}/.+|manifests/[0-9a-f]{2}/.+"
        r"|tombstones/[^/]+\.json|block-digests/[0-9a-f]{2}/.+",
    ),
):
    register_url_convertor(_name, type(_name, (_Quoted,), {"regex": _regex})())

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
        found = template_environment().get_template(template)
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
    """Return a version; raises the errors of ``index.versions.resolve``."""
    return await request.query_index(lambda index: index.versions.resolve(name, label))


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
    if status >= 500 and not isinstance(error, (QueryStoppedError, UnavailableError)):
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

    See :func:`suggest`.
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
    if isinstance(error, UnavailableError):
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


_MAX_SUGGESTIONS = 5
_MIN_SIMILARITY = 0.4
_MAX_WRONG = 20


def suggest(
    index: Index, error: NeuromirrorError, name: str, label: str, path: str
) -> dict[str, Any]:
    """Return the variables for the template of an error page: ``suggestions`` or a ``tombstone``.

    ``suggestions`` are pairs of URL and text, for similar names; a ``message`` replaces one that
    is written for operators. The ``tombstone`` is that of a withdrawn dataset. ``name``, ``label``
    and ``path`` are those of the request, empty if it had none.
    """
    if isinstance(error, DatasetWithdrawnError):
        return {"tombstone": index.datasets.tombstone(name)}
    found: dict[str, Any] = {"suggestions": _similar_names(index, error, name, label, path)}
    if isinstance(error, UnknownMirrorError):
        found["message"] = f"This catalogue has no archive {name.partition(':')[0]!r}."
    elif isinstance(error, UnknownDatasetError) and ":" in name:
        found["message"] = f"This catalogue has no dataset {name!r}."
    elif isinstance(error, UnknownDatasetError):
        found["message"] = (
            f"{name!r} is not the name of a dataset, which consists of the name of an archive and "
            "an identifier"
        )
    return found


def find_cause(
    index: Index, error: NeuromirrorError, names: Mapping[str, tuple[str, str]]
) -> str | None:
    """Return the key of the name and label that cause an error; None if none of them does.

    A single one is always the cause. The search ends with the 20th name that is wrong in another
    way, because each is compared with many names.

    Raises
    ------
    QueryStoppedError
    """
    if len(names) == 1:
        return next(iter(names))
    wrong = 0
    for text, (name, label) in names.items():
        index.reader.raise_if_stopped()  # the queries are too short to notice it
        try:
            index.versions.resolve(name, label or "latest")
        except type(error):
            return text
        except NeuromirrorError:
            wrong += 1
            if wrong == _MAX_WRONG:
                break
    return None


def _similar_names(
    index: Index, error: NeuromirrorError, name: str, label: str, path: str
) -> list[tuple[str, str]]:
    if isinstance(error, UnknownVersionError):
        labels = [one.label for one in index.versions.of(name)][::-1]
        alike = difflib.get_close_matches(label, labels, _MAX_SUGGESTIONS, _MIN_SIMILARITY)
        chosen = list(dict.fromkeys((*alike, *labels[:_MAX_SUGGESTIONS])))[:_MAX_SUGGESTIONS]
        return [
            *((version_address(name, one), f"{name}@{one}") for one in chosen),
            (dataset_address(name), f"the versions of {name}"),
        ]
    if isinstance(error, UnknownFileError):
        row = index.versions.resolve(name, label)
        return [
            *(
                (file_address(name, one.last, path), f"{path} as it was in {one.last}")
                for one in index.files.content_spans(row, path)[-_MAX_SUGGESTIONS:]
            ),
            (version_address(name, row.label), f"the files of {row.name}"),
        ]
    if isinstance(error, UnknownMirrorError):
        local_id = name.partition(":")[2]
        alike = [
            one for one in index.reader.similar_names(name) if one.partition(":")[2] == local_id
        ]
        mirrors = [mirror.mirror for mirror in index.crawl.mirrors()]
        return [
            *((dataset_address(one), one) for one in alike),
            *((search_address("", [("archive", one)]), f"datasets of {one}") for one in mirrors),
        ]
    if isinstance(error, UnknownDatasetError):
        terms = name.rpartition(":")[2].replace("/", " ")
        texts: dict[str, str] = {}
        with suppress(MalformedQueryError):
            for result in islice(index.search.all_datasets(terms), _MAX_SUGGESTIONS):
                texts[result.name] = f"{result.name}: {result.title}"
        for similar in index.reader.similar_names(name):
            texts.setdefault(similar, similar)
        links = [(dataset_address(dataset), text) for dataset, text in texts.items()]
        return links or [(search_address(""), "all datasets of this catalogue")]
    return []


SPOOLED_BYTES: Final = 1 << 20
"""Size up to which a body is kept in memory."""
_CHUNK_SIZE: Final = 1 << 18


class SpooledResponse(StreamingResponse):
    """Sends and closes a file.

    Parameters
    ----------
    request
        The request.
    file
        The file.
    headers
        The headers, without the type.
    media_type
        The type.
    seconds
        The time in which the client must read the file; unlimited by default.
    on_sent
        Called when the file is closed.
    """

    def __init__(
        self,
        request: CatalogueRequest,
        file: IO[bytes],
        headers: Mapping[str, str],
        media_type: str,
        *,
        seconds: float | None = None,
        on_sent: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(self._pieces(), 200, headers, media_type)
        self._reader, self._file = request.site.reader, file
        self._seconds, self._on_sent = seconds, on_sent

    async def _pieces(self) -> AsyncIterator[bytes]:
        while piece := await self._reader.run_file_read(lambda: self._file.read(_CHUNK_SIZE)):
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file; raises NeuromirrorError if the client is too slow."""
        try:
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError as error:
            raise NeuromirrorError(
                "a client read a file too slowly and was disconnected"
            ) from error
        finally:
            self._file.close()
            self._on_sent()


def spooled_response(
    request: CatalogueRequest, body: IO[bytes], name: str, media_type: str
) -> Response:
    """Return a response that sends and closes a file, which browsers save under a name."""
    headers = {
        "content-disposition": f'attachment; filename="{name}"',
        "cache-control": "no-cache",
        "access-control-allow-origin": "*",
    }
    return SpooledResponse(request, body, headers, media_type)
