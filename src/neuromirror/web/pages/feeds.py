"""Atom feeds (RFC 4287) of versions and of what happened, a sitemap, and what robots should leave.

What was taken down is in none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_URL, uuid5
from xml.etree import ElementTree

from datasette.utils.asgi import Response

from neuromirror.index import DatasetRow, EventRow, Index, VersionRow
from neuromirror.web.addresses import dataset_address, version_address
from neuromirror.web.asked import Asked, NoSuchPage, view
from neuromirror.web.words import number, printable, size

_ATOM = "http://www.w3.org/2005/Atom"
_MAP = "http://www.sitemaps.org/schemas/sitemap/0.9"
_ENTRIES = 50
_TOLD = ("tombstone", "returned", "incident")
_ENDLESS = (
    *("/file/", "/diff", "/find", "/index", "/sums/", "/cite/", "/slice/", "/cutout/", "/api/"),
    *("/alias/", "/manifests/"),
)
_ADDRESSES = 50_000  # a sitemap holds no more
_NOTHING_YET = "1970-01-01T00:00:00+00:00"


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a feed; ``id`` is the same wherever and whenever it is shown."""

    id: str
    title: str
    updated: str
    address: str
    kind: str
    summary: str


@view
async def everything(asked: Asked) -> Response:
    """What is new of all datasets."""

    def look(index: Index) -> list[_Entry]:
        return _newest(index.recent_versions(_ENTRIES), _happened(index, None, None))

    title = asked.site.title
    return _feed(asked, "/feed.atom", "/", title, await asked.ask(look))


@view
async def some(asked: Asked) -> Response:
    """What is new of a mirror (``dandi``) or of a dataset (``dandi:000027``)."""
    name = asked.part("name")

    def look(index: Index) -> tuple[str, list[_Entry]]:
        if ":" in name:
            row: DatasetRow = index.dataset(name)
            versions = index.recent_versions(_ENTRIES, name)
            return f"{name}: {row.title}", _newest(versions, _happened(index, name, None))
        versions = index.recent_versions(_ENTRIES, mirror=name)
        return name, _newest(versions, _happened(index, None, name))

    title, entries = await asked.ask(look)
    page = dataset_address(name) if ":" in name else f"/?mirror={name}"
    path = f"/feed{dataset_address(name).removeprefix('/dataset')}.atom"
    return _feed(asked, path, page, f"{asked.site.title}: {title}", entries)


def _happened(index: Index, dataset: str | None, mirror: str | None) -> Iterator[EventRow]:
    for kind in _TOLD:
        yield from index.events(dataset, kind, _ENTRIES, mirror=mirror)


def _newest(versions: Sequence[VersionRow], events: Iterator[EventRow]) -> list[_Entry]:
    entries = [*map(_of_version, versions), *map(_of_event, events)]
    return sorted(entries, key=lambda one: one.updated, reverse=True)[:_ENTRIES]


def _of_version(row: VersionRow) -> _Entry:
    return _Entry(
        # the state is what it is, wherever it is shown
        f"urn:swh:1:rev:{row.commit}",
        f"{row.name}: {row.title}",
        row.minted,
        version_address(row.dataset_name, row.label),
        row.kind,
        f"{row.kind}: {number(row.files)} files, {size(row.bytes)}",
    )


def _of_event(row: EventRow) -> _Entry:
    of = row.dataset or row.mirror
    return _Entry(
        uuid5(NAMESPACE_URL, f"neuromirror:{row.mirror}:{row.id}:{row.at}").urn,
        f"{of}: {row.kind}",
        row.at,
        dataset_address(row.dataset) if row.dataset else "/events",
        row.kind,
        row.message,
    )


def _feed(asked: Asked, path: str, page: str, title: str, entries: Sequence[_Entry]) -> Response:
    feed = ElementTree.Element(f"{{{_ATOM}}}feed")
    _add(feed, "title", title)
    _add(feed, "id", asked.address + path)
    _add(feed, "updated", entries[0].updated if entries else _NOTHING_YET)
    _add(feed, "link", rel="self", type="application/atom+xml", href=asked.address + path)
    _add(feed, "link", rel="alternate", type="text/html", href=asked.address + page)
    _add(_add(feed, "author"), "name", asked.site.title)
    _add(feed, "generator", "neuromirror")
    for one in entries:
        entry = _add(feed, "entry")
        _add(entry, "title", one.title)
        _add(entry, "id", one.id)
        _add(entry, "updated", one.updated)
        _add(entry, "link", rel="alternate", type="text/html", href=asked.address + one.address)
        _add(entry, "category", term=one.kind)
        _add(entry, "summary", one.summary)
    return _xml(asked, feed, "application/atom+xml; charset=utf-8")


@view
async def sitemap(asked: Asked) -> Response:
    """The datasets' pages, for search engines; or where they are, when one sitemap is too small."""
    count = await asked.ask(lambda index: index.count_pages())
    if count <= _ADDRESSES:
        return await _some_pages(asked, 0)
    root = ElementTree.Element(f"{{{_MAP}}}sitemapindex")
    for place in range(-(-count // _ADDRESSES)):
        one = ElementTree.SubElement(root, f"{{{_MAP}}}sitemap")
        _put(one, "loc", f"{asked.address}/sitemap/{place + 1}.xml")
    return _xml(asked, root, "application/xml; charset=utf-8")


@view
async def part_of_sitemap(asked: Asked) -> Response:
    """One of several sitemaps."""
    place = int(asked.part("place"))
    count = await asked.ask(lambda index: index.count_pages())
    if not 1 <= place <= max(1, -(-count // _ADDRESSES)):
        raise NoSuchPage(f"there is no sitemap {place}")
    return await _some_pages(asked, (place - 1) * _ADDRESSES)


async def _some_pages(asked: Asked, first: int) -> Response:
    root = ElementTree.Element(f"{{{_MAP}}}urlset")
    for name, changed in await asked.ask(lambda index: index.pages(first, _ADDRESSES)):
        url = ElementTree.SubElement(root, f"{{{_MAP}}}url")
        _put(url, "loc", asked.address + dataset_address(name))
        if changed is not None:
            _put(url, "lastmod", changed)
    return _xml(asked, root, "application/xml; charset=utf-8")


@view
async def robots(asked: Asked) -> Response:
    """Pages of which there is one for every file, every pair of versions, every box of voxels."""
    lines = ["User-agent: *"]
    lines += [f"Disallow: {path}" for path in _ENDLESS]
    lines.append(f"Sitemap: {asked.address}/sitemap.xml")
    return asked.tagged("\n".join(lines) + "\n", "text/plain; charset=utf-8")


def _add(
    parent: ElementTree.Element, name: str, text: str = "", **named: str
) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, f"{{{_ATOM}}}{name}", named)
    child.text = _plain(text) or None
    return child


def _put(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, f"{{{_MAP}}}{name}").text = text


def _plain(text: str) -> str:
    # two signs that are no trick, and no XML either
    return printable(text).replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def _xml(asked: Asked, root: ElementTree.Element, kind: str) -> Response:
    ElementTree.register_namespace("", root.tag[1:].partition("}")[0])
    text = ElementTree.tostring(root, encoding="unicode")
    return asked.tagged(f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n', kind)
