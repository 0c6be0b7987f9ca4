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
    AmbiguousName,
    DatasetWithheld,
    FilesNotIndexed,
    IndexBusy,
    IndexMissing,
    IndexUnusable,
    MalformedQuery,
    QueryStopped,
    UnknownDataset,
    UnknownFile,
    UnknownMirror,
    UnknownVersion,
)
from neuromirror.model import NeuromirrorError
from neuromirror.web.helping import helped
from neuromirror.web.server.tables import TablesBusy, TablesFailed, TablesTooSlow
from neuromirror.web.site import Site, site_of

if TYPE_CHECKING:
    from datasette.app import Datasette

_UNKNOWN = (UnknownDataset, UnknownMirror, UnknownVersion, UnknownFile)
_WRONG = (MalformedQuery, AmbiguousName, FilesNotIndexed, TablesTooSlow)
_LATER = (IndexBusy, IndexMissing, IndexUnusable, QueryStopped, TablesBusy, TablesFailed)

_NOW = "The index is being written or made anew. Try again in a moment."
_MANY = "As many requests for tables are being answered as may be at once. Try again in a moment."
_BROKEN = "Something is wrong here, and not with what you asked for. It is in the operator's log."

_TAG = re.compile(r'(?:W/)?("[^"]*")')
_FROM_ANYWHERE = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "ETag, Link, Retry-After",
}
"""So that scripts of other sites may read it."""

View = Callable[["Asked"], Awaitable[Response]]


class Wrong(NeuromirrorError):
    """An address that asks for something in a way that cannot be."""


class Refused(NeuromirrorError):
    """Something that this catalogue is set not to do."""


class NoSuchPage(NeuromirrorError):
    """An address that no page has."""


class Asked:
    """A request to the catalogue."""

    def __init__(self, datasette: Datasette, request: Request, site: Site) -> None:
        self._datasette = datasette
        self._request = request
        self.site = site
        self.ask = site.reader.ask

    def part(self, name: str) -> str:
        """A part of the path, as the route names it; raises :class:`Wrong`."""
        try:
            return unquote(self._request.url_vars[name], errors="strict")
        except UnicodeDecodeError:
            raise Wrong("the address has bytes that are not UTF-8") from None

    def values(self) -> dict[str, list[str]]:
        """All that the query says, by name; raises :class:`Wrong`."""
        try:
            return parse_qs(self._request.query_string, keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:
            raise Wrong("the address's query has bytes that are not UTF-8") from None

    def value(self, name: str, default: str = "") -> str:
        """A value of the query, the first where it has more; raises :class:`Wrong`."""
        return self.values().get(name, [""])[0] or default

    def whole(self, name: str, default: int, most: int) -> int:
        """A whole number of the query, 1 or more; raises :class:`Wrong`."""
        text = self.value(name, str(default))
        sound = text.isascii() and text.isdecimal() and len(text) < 10
        if not sound or not 1 <= int(text) <= most:
            raise Wrong(f"{name} is a whole number from 1 to {most}, not {text[:40]!r}")
        return int(text)

    async def from_tables(self) -> Response:
        """Datasette's reply to this request; raises as :meth:`Tables.reply`."""
        assert self.site.tables is not None  # the route is only where they are
        reply = await self.site.tables.reply(self._request.scope)
        kind = reply.headers.pop("content-type", "text/plain; charset=utf-8")
        return Response(reply.body, reply.status, reply.headers, kind)

    @property
    def is_head(self) -> bool:
        """Whether only the headers of the reply are wanted."""
        return bool(self._request.method == "HEAD")

    def has(self, tag: str) -> bool:
        """Whether somebody has this already, who tells the quoted tags of what they have."""
        known = self._request.headers.get("if-none-match", "")
        return known.strip() == "*" or tag in _TAG.findall(known)

    @property
    def address(self) -> str:
        """The site's own address, as the one who asks knows it if nobody set it."""
        if self.site.address:
            return self.site.address.rstrip("/")
        return f"{self._request.scheme}://{self._request.host}"

    async def page(self, template: str, status: int = 200, **told: Any) -> Response:
        """A page of HTML."""
        text = await self.rendered(f"{template}.html", **told)
        return self.tagged(text, "text/html; charset=utf-8", status)

    async def rendered(self, template: str, **told: Any) -> str:
        """What a template makes of what it is told."""
        found = self.site.templates.get_template(f"neuromirror_{template}")
        given = {"site": self.site, "own_address": self.address, **told}
        return await self.site.reader.do(lambda: found.render(given))

    def json(self, content: Mapping[str, Any]) -> Response:
        """A reply for programs."""
        text = json.dumps(content, default=str, ensure_ascii=True, separators=(",", ":"))
        reply = self.tagged(text + "\n", "application/json", 200)
        reply.headers.update(_FROM_ANYWHERE)
        return reply

    def tagged(self, text: str, kind: str, status: int = 200) -> Response:
        """A reply with an ETag; 304 without a body for somebody who has it already.

        The ETag is a weak one: what stands between may compress the body.
        """
        body = text.encode("utf-8", "backslashreplace").decode()
        tag = f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'
        headers = {"etag": f"W/{tag}", "cache-control": "public, max-age=0, must-revalidate"}
        if status == 200 and self.has(tag):
            return Response("", 304, headers, kind)
        return Response(body, status, headers, kind)


def view(make: View) -> Any:
    """A page as Datasette calls it; what goes wrong is a page that says what to do."""

    async def answered(datasette: Datasette, request: Request) -> Response:
        site = site_of(datasette)
        assert site is not None  # routes are only given to a Datasette that shows a store
        asked = Asked(datasette, request, site)
        for_programs = request.path.startswith("/api/")
        try:
            return await make(asked)
        except NeuromirrorError as error:
            status = _status(error)
            said = str(error)
            if status >= 500 and not isinstance(error, QueryStopped):
                # it names files of this machine
                logging.getLogger(__name__).warning("%s: %s", request.path, error)
                said = _said(error, status)
            if for_programs:
                reply = problem(status, said)
            else:
                near = await _helped(asked, request, error)
                reply = await asked.page("error", status, code=status, message=said, **near)
            if status == 503:
                reply.headers["retry-after"] = "10"
            return reply

    return answered


async def _helped(asked: Asked, request: Request, error: NeuromirrorError) -> dict[str, Any]:
    """What is near to what was asked for in vain; see :func:`~neuromirror.web.helping.helped`."""
    if not isinstance(error, _UNKNOWN) or "name" not in request.url_vars:
        return {}
    name = asked.part("name")
    label = asked.part("label") if "label" in request.url_vars else ""
    path = asked.value("path")
    try:
        return await asked.ask(lambda index: helped(index, error, name, label, path))
    except NeuromirrorError:
        return {}  # the first error is the one to tell


def problem(status: int, detail: str) -> Response:
    """What went wrong, as RFC 9457 has it."""
    told = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    text = json.dumps(told, separators=(",", ":")) + "\n"
    return Response(text, status, dict(_FROM_ANYWHERE), "application/problem+json")


def _said(error: NeuromirrorError, status: int) -> str:
    """Return what to tell of an error that is not the visitor's."""
    if status != 503:
        return _BROKEN
    return _MANY if isinstance(error, (TablesBusy, TablesFailed)) else _NOW


def _status(error: NeuromirrorError) -> int:
    if isinstance(error, DatasetWithheld):
        return 410
    if isinstance(error, (*_UNKNOWN, NoSuchPage)):
        return 404
    if isinstance(error, (*_WRONG, Wrong)):
        return 400
    if isinstance(error, Refused):
        return 403
    return 503 if isinstance(error, _LATER) else 500
