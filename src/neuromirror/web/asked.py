"""What an address asks for, and replies: pages, errors that help, ETags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from datasette.utils.asgi import Request, Response

from neuromirror.index import (
    AmbiguousName,
    DatasetWithheld,
    FilesNotIndexed,
    IndexBusy,
    IndexMissing,
    IndexUnusable,
    MalformedQuery,
    UnknownDataset,
    UnknownFile,
    UnknownMirror,
    UnknownVersion,
)
from neuromirror.model import NeuromirrorError
from neuromirror.web.site import Site, site_of

if TYPE_CHECKING:
    from datasette.app import Datasette

_UNKNOWN = (UnknownDataset, UnknownMirror, UnknownVersion, UnknownFile)
_WRONG = (MalformedQuery, AmbiguousName, FilesNotIndexed)
_LATER = (IndexBusy, IndexMissing, IndexUnusable)

View = Callable[["Asked"], Awaitable[Response]]


class Wrong(NeuromirrorError):
    """An address that asks for something in a way that cannot be."""


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
        """A part of the path, as the route names it."""
        found: str = unquote(self._request.url_vars[name], errors="surrogateescape")
        return found

    def value(self, name: str, default: str = "") -> str:
        """A value of the query."""
        found: str = self._request.args.get(name) or default
        return found

    def whole(self, name: str, default: int, most: int) -> int:
        """A whole number of the query, 1 or more; raises :class:`Wrong`."""
        text = self.value(name, str(default))
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise Wrong(f"{name} is a whole number from 1 to {most}, not {text[:40]!r}")
        return int(text)

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
        text: str = await self._datasette.render_template(
            f"neuromirror_{template}",
            {"site": self.site, "own_address": self.address, **told},
            request=self._request,
        )
        return text

    def json(self, content: Mapping[str, Any]) -> Response:
        """A reply for programs."""
        text = json.dumps(content, default=str, ensure_ascii=True, separators=(",", ":"))
        reply = self.tagged(text + "\n", "application/json", 200)
        reply.headers["access-control-allow-origin"] = "*"
        return reply

    def tagged(self, text: str, kind: str, status: int = 200) -> Response:
        """A reply with an ETag; 304 without a body for somebody who has it already."""
        body = text.encode("utf-8", "backslashreplace").decode()
        etag = f'W/"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'
        headers = {"etag": etag, "cache-control": "public, max-age=0, must-revalidate"}
        known = self._request.headers.get("if-none-match", "")
        if status == 200 and etag in {one.strip() for one in known.split(",")}:
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
            if for_programs:
                reply = Response.json({"status": "error", "message": str(error)}, status=status)
                reply.headers["access-control-allow-origin"] = "*"
            else:
                reply = await asked.page("error", status, code=status, message=str(error))
            if status == 503:
                reply.headers["retry-after"] = "10"
            return reply

    return answered


def _status(error: NeuromirrorError) -> int:
    if isinstance(error, DatasetWithheld):
        return 410
    if isinstance(error, (*_UNKNOWN, NoSuchPage)):
        return 404
    if isinstance(error, (*_WRONG, Wrong)):
        return 400
    return 503 if isinstance(error, _LATER) else 500
