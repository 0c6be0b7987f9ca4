"""Atom feeds (RFC 4287) of versions and events, sitemaps, and robots.txt.

Withdrawn datasets are not included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nlargest
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid5

from msgspec import Struct
from msgspec.structs import replace
from starlette.responses import Response

from neuromirror.index import DatasetRow, EventRow, Index, MalformedQueryError, VersionRow
from neuromirror.web.addresses import dataset_address, search_address, version_address
from neuromirror.web.pages.search import SearchQuery
from neuromirror.web.rendering import event_kind, format_number, format_size, printable
from neuromirror.web.request import BadRequestError, CatalogueRequest, PageNotFoundError, view

_ENTRIES = 50
_EVENT_KINDS = ("tombstone", "returned", "incident")
_XML = "application/xml; charset=utf-8"
_SITEMAP_LIMIT = 50_000  # the limit of the protocol
_EPOCH = "1970-01-01T00:00:00+00:00"


class _Entry(Struct, frozen=True):
    """An entry of a feed; ``id`` is the same in all feeds and catalogues."""

    id: str
    title: str
    updated: str
    address: str
    kind: str
    summary: str


@view
async def global_feed(request: CatalogueRequest) -> Response:
    """Return the feed of all datasets, or of those that match a search."""
    query = SearchQuery.of(request)
    if query.terms or query.filters:
        return await _search_feed(request, query)

    def look(index: Index) -> list[_Entry]:
        return _newest(index.versions.recent(_ENTRIES), _recent_events(index, None, None))

    title = request.site.title
    return await _feed(request, "/feed.atom", "/", title, await request.query_index(look))


async def _search_feed(request: CatalogueRequest, query: SearchQuery) -> Response:
    """Return the feed of the newest datasets that match a search; each has one entry."""
    terms, filters = query.terms, query.filters

    def look(index: Index) -> list[_Entry]:
        found: Iterator[DatasetRow]
        if filters:
            page = index.search.datasets(terms, filters=filters, sort="newest", limit=_ENTRIES)
            found = (one.dataset for one in page.rows if not one.dataset.is_subdataset)
        else:
            found = index.datasets.select(text=terms, subdatasets=False)
        with_versions = (row for row in found if row.version is not None)
        newest = nlargest(_ENTRIES, with_versions, key=lambda row: row.id)
        entries = [
            replace(
                _version_entry(index.versions.resolve(row.name)),
                # the id of the dataset: a new version is no new entry
                id=f"urn:uuid:{row.dataset_id}",
                address=dataset_address(row.name),
            )
            for row in newest
        ]
        return sorted(entries, key=lambda one: one.updated, reverse=True)

    path = f"/feed.atom?{urlencode([('q', terms)] * bool(terms) + query.pairs)}"
    chosen = [f"{name}={value}" for name, value in query.pairs]
    shown = " ".join(filter(None, (terms, *chosen)))
    title = f"{request.site.title}: {printable(shown)}"
    page = query.address() if filters else f"/?{urlencode({'q': terms})}"
    try:
        entries = await request.query_index(look)
    except MalformedQueryError as error:
        raise BadRequestError(str(error)) from error
    return await _feed(request, path, page, title, entries)


@view
async def scoped_feed(request: CatalogueRequest) -> Response:
    """Return the feed of a mirror (``dandi``) or of a dataset (``dandi:000027``)."""
    name = request.path_parameter("name")

    def look(index: Index) -> tuple[str, list[_Entry]]:
        if ":" in name:
            row: DatasetRow = index.datasets.get(name)
            versions = index.versions.recent(_ENTRIES, name)
            return f"{name}: {row.title}", _newest(versions, _recent_events(index, name, None))
        versions = index.versions.recent(_ENTRIES, mirror=name)
        return name, _newest(versions, _recent_events(index, None, name))

    title, entries = await request.query_index(look)
    page = dataset_address(name) if ":" in name else search_address("", [("archive", name)])
    path = f"/feed{dataset_address(name).removeprefix('/dataset')}.atom"
    return await _feed(request, path, page, f"{request.site.title}: {title}", entries)


def _recent_events(index: Index, dataset: str | None, mirror: str | None) -> Iterator[EventRow]:
    for kind in _EVENT_KINDS:
        yield from index.crawl.events(dataset, kind, _ENTRIES, mirror=mirror)


def _newest(versions: Sequence[VersionRow], events: Iterator[EventRow]) -> list[_Entry]:
    entries = [*map(_version_entry, versions), *map(_event_entry, events)]
    return sorted(entries, key=lambda one: one.updated, reverse=True)[:_ENTRIES]


def _version_entry(row: VersionRow) -> _Entry:
    return _Entry(
        # the same id in every catalogue that has this state
        f"urn:swh:1:rev:{row.commit}",
        f"{row.name}: {row.title}",
        row.recorded_at,
        version_address(row.dataset_name, row.label),
        row.kind,
        f"{row.kind}: {format_number(row.files)} files, {format_size(row.bytes)}",
    )


def _event_entry(row: EventRow) -> _Entry:
    of = row.dataset or row.mirror
    return _Entry(
        # not the number of the row, which differs in a rebuilt index
        uuid5(NAMESPACE_URL, f"neuromirror:{of}:{row.kind}:{row.at}:{row.message}").urn,
        f"{of}: {event_kind(row.kind)}",
        row.at,
        dataset_address(row.dataset) if row.dataset else "/events",
        row.kind,
        row.message,
    )


async def _feed(
    request: CatalogueRequest, path: str, page: str, title: str, entries: Sequence[_Entry]
) -> Response:
    updated = entries[0].updated if entries else _EPOCH
    context = {"path": path, "page": page, "title": title, "entries": entries, "updated": updated}
    text = await request.render_template("feed.atom", **context)
    return request.etag_response(text, "application/atom+xml; charset=utf-8")


@view
async def sitemap(request: CatalogueRequest) -> Response:
    """Return the sitemap of dataset pages; for many datasets, an index of several sitemaps."""
    count = await request.query_index(lambda index: index.datasets.count_top_level())
    if count <= _SITEMAP_LIMIT:
        return await _sitemap_urls(request, 0)
    text = await request.render_template("sitemaps.xml", count=-(-count // _SITEMAP_LIMIT))
    return request.etag_response(text, _XML)


@view
async def sitemap_page(request: CatalogueRequest) -> Response:
    """Return one of several sitemaps."""
    number = int(request.path_parameter("number"))
    count = await request.query_index(lambda index: index.datasets.count_top_level())
    if not 1 <= number <= max(1, -(-count // _SITEMAP_LIMIT)):
        raise PageNotFoundError(f"sitemap {number} does not exist")
    return await _sitemap_urls(request, (number - 1) * _SITEMAP_LIMIT)


async def _sitemap_urls(request: CatalogueRequest, first: int) -> Response:
    datasets = await request.query_index(
        lambda index: list(index.datasets.top_level(first, _SITEMAP_LIMIT))
    )
    text = await request.render_template("sitemap.xml", datasets=datasets)
    return request.etag_response(text, _XML)


@view
async def robots(request: CatalogueRequest) -> Response:
    """Return robots.txt, which excludes pages per file, box, basket or pair of versions."""
    text = await request.render_template("robots.txt")
    return request.etag_response(text, "text/plain; charset=utf-8")
