"""The front page, and the page of recent changes in each archive."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from starlette.responses import Response

from neuromirror.index import Index, MirrorStatus, VersionRow, shapes
from neuromirror.web.addresses import version_address
from neuromirror.web.pages.csv_tables import csv_response, is_csv
from neuromirror.web.request import CatalogueRequest, view

_CHANGES_PER_ARCHIVE: Final = 4
_CHANGES_ON_OWN_PAGE: Final = 25
_CANDIDATES: Final = 40
"""Versions of an archive among which those of different datasets are chosen."""
_EVENTS: Final = 10
_CSV_COLUMNS: Final = (
    *("archive", "name", "dataset", "title", "kind", "time", "recorded", "files", "bytes"),
    *("previous", "commit", "state", "doi", "url"),
)
_CSV_VERSIONS: Final = 2000
"""Versions of an archive among which the CSV has the newest of each dataset."""


async def front_page(request: CatalogueRequest) -> Response:
    """Show the archives, example searches and recent versions."""
    examples = request.site.examples

    def look(index: Index) -> dict[str, Any]:
        archives = list(index.mirror_status())
        return {
            "archives": archives,
            "changes": _changes(index, archives, _CHANGES_PER_ARCHIVE),
            "topics": index.archive_topics(),
            "examples": examples.read(index),
            "datasets": sum(one.datasets - one.subdatasets for one in archives),
            "versions": sum(one.versions for one in archives),
        }

    return await request.render_page("index", **await request.query_index(look))


@view
async def changes(request: CatalogueRequest) -> Response:
    """Show the newest versions by archive, and the newest events."""
    if is_csv(request):
        return await _changes_csv(request)

    def look(index: Index) -> dict[str, Any]:
        archives = list(index.mirror_status())
        return {
            "archives": archives,
            "changes": _changes(index, archives, _CHANGES_ON_OWN_PAGE),
            "events": list(index.events(limit=_EVENTS)),
        }

    return await request.render_page("changes", **await request.query_index(look))


async def _changes_csv(request: CatalogueRequest) -> Response:
    """Return the newest version of each dataset as CSV, in the order of the page."""

    def look(index: Index) -> list[dict[str, Any]]:
        archives = list(index.mirror_status())
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

    return csv_response(request, "changes", _CSV_COLUMNS, await request.query_index(look))


def _changes(
    index: Index,
    archives: Sequence[MirrorStatus],
    limit: int,
    candidates: int = _CANDIDATES,
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the newest versions of each archive, the archive that changed last first."""
    found = [
        (one.mirror, _newest_of_each(index.recent_versions(candidates, mirror=one.mirror), limit))
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
