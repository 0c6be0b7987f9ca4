"""Atom feeds (RFC 4287) of versions, a sitemap, and what robots should leave alone."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

from datasette.utils.asgi import Response

from neuromirror.index import Index, VersionRow
from neuromirror.web.addresses import dataset_address, version_address
from neuromirror.web.asked import Asked, view
from neuromirror.web.words import number, printable, size

_ATOM = "http://www.w3.org/2005/Atom"
_MAP = "http://www.sitemaps.org/schemas/sitemap/0.9"
_ENTRIES = 50
_ADDRESSES = 50_000  # a sitemap holds no more


@view
async def everything(asked: Asked) -> Response:
    """The newest versions of all datasets."""
    found = await asked.ask(lambda index: index.recent_versions(_ENTRIES))
    return _feed(asked, "/feed.atom", asked.site.title, found)


@view
async def some(asked: Asked) -> Response:
    """The newest versions of a mirror (``dandi``) or of a dataset (``dandi:000027``)."""
    name = asked.part("name")

    def look(index: Index) -> list[VersionRow]:
        if ":" in name:
            return index.recent_versions(_ENTRIES, name)
        return index.recent_versions(_ENTRIES, mirror=name)

    return _feed(asked, f"/feed/{name}.atom", f"{asked.site.title}: {name}", await asked.ask(look))


def _feed(asked: Asked, path: str, title: str, rows: Iterable[VersionRow]) -> Response:
    ElementTree.register_namespace("", _ATOM)
    rows = list(rows)
    feed = ElementTree.Element(f"{{{_ATOM}}}feed")
    _add(feed, "title", printable(title))
    _add(feed, "id", asked.address + path)
    _add(feed, "updated", max((row.minted for row in rows), default="1970-01-01T00:00:00+00:00"))
    _add(feed, "link", rel="self", href=asked.address + path)
    for row in rows:
        entry = ElementTree.SubElement(feed, f"{{{_ATOM}}}entry")
        _add(entry, "title", printable(f"{row.name}: {row.title}"))
        # the state is what it is, wherever it is shown
        _add(entry, "id", f"urn:swh:1:rev:{row.commit}")
        _add(entry, "updated", row.minted)
        _add(entry, "link", href=asked.address + version_address(row.dataset_name, row.label))
        author = ElementTree.SubElement(entry, f"{{{_ATOM}}}author")
        _add(author, "name", asked.site.title)
        _add(entry, "summary", f"{row.kind}: {number(row.files)} files, {size(row.bytes)}")
    return _xml(asked, feed, "application/atom+xml; charset=utf-8")


@view
async def sitemap(asked: Asked) -> Response:
    """The datasets' pages, for search engines."""
    ElementTree.register_namespace("", _MAP)
    root = ElementTree.Element(f"{{{_MAP}}}urlset")
    rows = await asked.ask(lambda index: list(index.datasets(parts=False)))
    for row in rows[:_ADDRESSES]:
        url = ElementTree.SubElement(root, f"{{{_MAP}}}url")
        place = ElementTree.SubElement(url, f"{{{_MAP}}}loc")
        place.text = asked.address + dataset_address(row.name)
    return _xml(asked, root, "application/xml; charset=utf-8")


@view
async def robots(asked: Asked) -> Response:
    """Pages of which there is one for every file, or every pair of versions."""
    lines = ["User-agent: *"]
    lines += [f"Disallow: {path}" for path in ("/file/", "/diff", "/find", "/index", "/sums/")]
    lines.append(f"Sitemap: {asked.address}/sitemap.xml")
    return asked.tagged("\n".join(lines) + "\n", "text/plain; charset=utf-8")


def _add(parent: ElementTree.Element, name: str, text: str = "", **named: str) -> None:
    child = ElementTree.SubElement(parent, f"{{{_ATOM}}}{name}", named)
    child.text = text or None


def _xml(asked: Asked, root: ElementTree.Element, kind: str) -> Response:
    text = ElementTree.tostring(root, encoding="unicode")
    return asked.tagged(f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n', kind)
