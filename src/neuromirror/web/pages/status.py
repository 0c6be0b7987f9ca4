"""The front page, changes, events, mirrors, help, API, and the page for unknown URLs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

from msgspec.structs import asdict
from starlette.responses import Response

from neuromirror.index import FailureRow, Index, MirrorStatus, VersionRow, shapes
from neuromirror.web.addresses import version_address
from neuromirror.web.pages.downloads import csv_response, is_csv
from neuromirror.web.request import CatalogueRequest, PageNotFoundError, redirect, view

_CHANGES_PER_ARCHIVE: Final = 4
_CHANGES_ON_OWN_PAGE: Final = 25
_CANDIDATES: Final = 40
"""Versions of an archive among which those of different datasets are chosen."""
_EVENTS: Final = 10
_CHANGES_COLUMNS: Final = (
    *("archive", "name", "dataset", "title", "kind", "time", "recorded", "files", "bytes"),
    *("previous", "commit", "state", "doi", "url"),
)
_CSV_VERSIONS: Final = 2000
"""Versions of an archive among which the CSV has the newest of each dataset."""


async def front_page(request: CatalogueRequest) -> Response:
    """Show the archives, example searches and recent versions."""
    examples = request.site.examples

    def look(index: Index) -> dict[str, Any]:
        archives = list(index.crawl.mirrors())
        return {
            "archives": archives,
            "changes": _changes(index, archives, _CHANGES_PER_ARCHIVE),
            "topics": index.search.archive_topics(),
            "examples": examples.read(index),
            "datasets": sum(archive.datasets - archive.subdatasets for archive in archives),
            "versions": sum(archive.versions for archive in archives),
        }

    return await request.render_page("index", **await request.query_index(look))


@view
async def changes(request: CatalogueRequest) -> Response:
    """Show the newest versions by archive, and the newest events."""
    if is_csv(request):
        return await _changes_csv(request)

    def look(index: Index) -> dict[str, Any]:
        archives = list(index.crawl.mirrors())
        return {
            "archives": archives,
            "changes": _changes(index, archives, _CHANGES_ON_OWN_PAGE),
            "events": list(index.crawl.events(limit=_EVENTS)),
        }

    return await request.render_page("changes", **await request.query_index(look))


async def _changes_csv(request: CatalogueRequest) -> Response:
    """Return the newest version of each dataset as CSV, in the order of the page."""

    def look(index: Index) -> list[dict[str, Any]]:
        archives = list(index.crawl.mirrors())
        return [
            {
                **row,
                "archive": mirror,
                "previous": row["before"],
                "url": request.site_url + version_address(row["dataset"], row["version"]),
            }
            for mirror, rows in _changes(index, archives, _CSV_VERSIONS, _CSV_VERSIONS)
            for row in rows
        ]

    return csv_response(request, "changes", _CHANGES_COLUMNS, await request.query_index(look))


def _changes(
    index: Index, archives: Sequence[MirrorStatus], limit: int, candidates: int = _CANDIDATES
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the newest versions of each archive, the archive that changed last first."""
    found = [
        (one.mirror, _newest_of_each(index.versions.recent(candidates, mirror=one.mirror), limit))
        for one in archives
        if one.versions
    ]
    return sorted(
        ((mirror, rows) for mirror, rows in found if rows),
        key=lambda one: str(one[1][0]["recorded"]),
        reverse=True,
    )


def _newest_of_each(rows: Sequence[VersionRow], limit: int) -> list[dict[str, Any]]:
    """Return the newest version of each dataset, compared with the one that is recorded before it.

    ``more`` is the number of other versions among ``rows``.
    """
    versions: dict[str, list[VersionRow]] = {}
    for row in rows:
        versions.setdefault(row.dataset_name, []).append(row)
    return [
        {
            **shapes.Version.of(newest).plain(),
            "recorded": newest.recorded_at,
            "more": len(others),
            "before": others[0].name if others else None,
            "is_first": newest.seq == 1,
            "added": newest.files - others[0].files if others else 0,
        }
        for newest, *others in islice(versions.values(), limit)
    ]


_PAGE_SIZE = 100
_MAX_HOSTS = 100
_MAX_INCIDENTS = 5
_CSV_COLUMNS: Final = (
    *("mirror", "title", "source", "uri", "datasets", "subdatasets", "versions", "files", "bytes"),
    *("listed", "last_visit", "last_full_visit", "failures", "open_holds", "incidents"),
    *("settling", "unreadable_sidecars", "removed_upstream"),
)

_PAGES: Final = frozenset(
    {"api", "help", "search", "mirrors", "changes", "diff", "lock", "events", "find"}
)
_USUAL_NAMES: Final = {"datasets": "/search", "archives": "/mirrors", "compare": "/diff"}
"""Pages by other names that a visitor may type."""


@view
async def events(request: CatalogueRequest) -> Response:
    """Show events, optionally of one kind or mirror."""
    kind, mirror = request.query_parameter("kind"), request.query_parameter("mirror")
    before = (
        request.integer_parameter("before", 1, 999_999_999)
        if request.query_parameter("before")
        else None
    )

    def look(index: Index) -> dict[str, Any]:
        found = list(
            index.crawl.events(
                kind=kind or None, mirror=mirror or None, before=before, limit=_PAGE_SIZE + 1
            )
        )
        return {
            "events": found[:_PAGE_SIZE],
            "more": found[_PAGE_SIZE - 1].id if len(found) > _PAGE_SIZE else None,
            "kinds": index.crawl.event_kinds(),
            "mirrors": [one.mirror for one in index.crawl.mirrors()],
        }

    context = await request.query_index(look)
    return await request.render_page("events", kind=kind, mirror=mirror, before=before, **context)


@view
async def mirrors(request: CatalogueRequest) -> Response:
    """Show the status of each mirror, open holds and unavailable locations."""

    def look(index: Index) -> dict[str, Any]:
        all_probed, oldest_probe = index.locations.probe_coverage()
        found, failures = list(index.crawl.mirrors()), index.crawl.failures()
        failing = {failure.mirror for failure in failures}
        return {
            "mirrors": found,
            "failures": failures,
            "attention": {one.mirror for one in found if one.open_holds or one.mirror in failing},
            "holds": list(index.crawl.open_holds()),
            "failing_hosts": index.locations.failing_hosts(_MAX_HOSTS),
            "all_probed": all_probed,
            "oldest_probe": oldest_probe,
            "incidents": list(index.crawl.events(kind="incident", limit=_MAX_INCIDENTS)),
        }

    context = await request.query_index(look)
    store = request.site.store
    checked = {one.mirror: store.last_listed(one.mirror) for one in context["mirrors"]}
    if is_csv(request):
        return _mirrors_csv(request, checked, **context)
    return await request.render_page("mirrors", checked=checked, **context)


def _mirrors_csv(
    request: CatalogueRequest,
    checked: Mapping[str, datetime | None],
    *,
    mirrors: Sequence[MirrorStatus],
    failures: Sequence[FailureRow],
    **_: Any,
) -> Response:
    """Return the status of each archive as CSV."""
    rows = [
        {
            **asdict(mirror),
            "title": request.site.archive_title(mirror.mirror),
            "listed": listed and listed.isoformat(),
            "failures": sum(failure.mirror == mirror.mirror for failure in failures),
        }
        for mirror in mirrors
        for listed in [checked[mirror.mirror]]
    ]
    return csv_response(request, "archives", _CSV_COLUMNS, rows)


@view
async def help_page(request: CatalogueRequest) -> Response:
    """Explain the terms of the catalogue."""
    return await request.render_page("help")


@view
async def api_page(request: CatalogueRequest) -> Response:
    """Show what programs can request."""
    examples = request.site.examples
    index = await request.query_index(examples.read)
    return await request.render_page("api", example=index[0] if index else "hippocampus")


_TABLES_REMOVED: Final = (
    "This catalogue no longer shows the tables of its index: open a backup of the index with "
    "'datasette serve --immutable' or sqlite-utils, or use /api/v1.\n"
)


@view
async def removed_tables(request: CatalogueRequest) -> Response:
    """Name the replacement of the tables and queries that were below ``/index``."""
    return Response(_TABLES_REMOVED, 410, {}, "text/plain; charset=utf-8")


@view
async def not_found(request: CatalogueRequest) -> Response:
    """Redirect from a usual name of a page, or one with a slash at its end; raise for others.

    Raises
    ------
    PageNotFoundError
        There is no such page.
    """
    path = request.path_parameter("rest").rstrip("/")
    if path in _USUAL_NAMES or (path in _PAGES and path != request.path_parameter("rest")):
        return redirect(_USUAL_NAMES.get(path, f"/{path}"))
    raise PageNotFoundError(f"page not found: /{request.path_parameter('rest')[:200]}")
