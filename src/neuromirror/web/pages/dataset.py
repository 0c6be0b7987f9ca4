"""The page of a dataset: metadata, versions, growth, download and citation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from msgspec import Struct
from starlette.responses import Response

from neuromirror.index import FileRow, Index, VersionRow, shapes
from neuromirror.model import alias_of
from neuromirror.model.records import has_downloads, is_volume
from neuromirror.web.lookups import CitationData, allow_command_for, read_citation
from neuromirror.web.pages.folders import GatewayLinks, Viewer, file_tree, is_web, zarr_viewers
from neuromirror.web.pages.machine_readable import (
    input_addresses,
    linked_data,
    script_text,
    typed_links,
)
from neuromirror.web.previews import PreviewService
from neuromirror.web.readmes import find_readme
from neuromirror.web.request import CatalogueRequest, view

_WIDTH, _HEIGHT = 640.0, 110.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 10.0, 10.0, 8.0, 8.0


class GrowthChart(Struct, frozen=True):
    """A step chart of a dataset's size over time, in the units of the SVG view box.

    Attributes
    ----------
    width, height
        The size of the view box.
    floor
        The y of zero bytes.
    line
        The points of the line, as an SVG attribute.
    points
        x, y and whether the version is published, per version.
    first, last
        The days of the first and of the last version, with their times if it is one day.
    minimum, maximum
        The smallest and the largest size in bytes.
    """

    width: float
    height: float
    floor: float
    line: str
    points: tuple[tuple[float, float, bool], ...]
    first: str
    last: str
    minimum: int
    maximum: int


def growth_chart(sizes: Sequence[tuple[str, int, bool]]) -> GrowthChart | None:
    """Return the chart of (time, bytes, published) samples; None for fewer than two versions."""
    samples = sorted(
        (datetime.fromisoformat(time), size, published) for time, size, published in sizes
    )
    if len(samples) < 2:
        return None
    first, last = samples[0][0], samples[-1][0]
    span = (last - first).total_seconds() or 1.0
    most = max(size for _, size, _ in samples)
    floor = _HEIGHT - _BOTTOM
    points = tuple(
        (
            round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (time - first).total_seconds() / span, 1),
            round(floor - (floor - _TOP) * size / (most or 1), 1),
            published,
        )
        for time, size, published in samples
    )
    # a size holds until the next version
    line = f"M{points[0][0]} {points[0][1]}" + "".join(f"H{x}V{y}" for x, y, _ in points[1:])
    least = min(size for _, size, _ in samples)
    form = "%Y-%m-%d" if first.date() != last.date() else "%Y-%m-%d %H:%M UTC"
    days = f"{first:{form}}", f"{last:{form}}"
    return GrowthChart(_WIDTH, _HEIGHT, floor, line, points, *days, least, most)


_DETAILED_VERSIONS = 20
"""Versions of the timeline that are shown in detail."""
_MAX_VERSIONS = 100
"""Versions per page."""
_MAX_COUNTED_FILES = 200_000
"""Number of files above which changes between versions are not counted."""
_BOSS_NAMES = ("Collection", "Experiment", "Channel")
_MAX_LISTED_FILES = 50
"""Number of files in the metadata for search engines."""
_MAX_RETENTION_FILES = 20_000
"""Number of files, over all shown versions, for which retention is counted."""


@view
async def dataset(request: CatalogueRequest) -> Response:
    """Show a dataset with its metadata, versions, download and citation."""
    name = request.path_parameter("name")
    older = request.query_parameter("older")
    first = request.integer_parameter("older", 1, 999_999_999) if older else None

    previews = request.site.previews
    gateway = GatewayLinks(request.site_url, request.site.gateway.mode)
    context = await request.query_index(lambda index: _read(index, name, first, previews, gateway))
    row, file = context.pop("row"), context.pop("readme_file")
    store = request.site.store
    found = readme = None
    if row is not None:
        found = await request.site.reader.run_in_thread(lambda: read_citation(store, row))
        readme = None if file is None else await request.site.readmes.read(row, file)
    alias = alias_of(name)
    data, headers = "", {}
    listed = context.pop("listed_files")
    if found is not None and row is not None:
        document = linked_data(
            found.work,
            alias,
            context["attributes"],
            site=request.site_url,
            title=request.site.title,
            has_checksums=row.indexed,
            inputs=input_addresses(context["ancestors"], request.site_url),
            files=listed,
        )
        data = script_text(document)
        headers = typed_links(found.work, request.site_url, has_checksums=row.indexed)
    links = context.pop("links")
    reply = await request.render_page(
        "dataset",
        citation=found,
        readme=readme,
        data=data,
        alias=alias,
        has_preview=context["is_volume"] and request.site.cutouts.is_possible,
        upstream=_upstream(found, links, context["dataset"]["source"]),
        viewer_links=[
            (kind, address, is_web(address)) for kind, address in (*links, *context.pop("viewers"))
        ],
        **context,
    )
    reply.headers.update(headers)
    return reply


def _read(
    index: Index, name: str, first: int | None, previews: PreviewService, gateway: GatewayLinks
) -> dict[str, Any]:
    """Return the page's data from the index; the timeline starts at the ordinal ``first``."""
    row = index.datasets.get(name)
    versions = list(index.versions.of(name))
    newest = index.versions.resolve(name) if versions else None
    events = list(index.crawl.events(name, limit=20))
    context: dict[str, Any] = {
        "dataset": shapes.Dataset.of(row).plain(),
        "timeline": _timeline(index, name, versions, newest, first),
        "newest": None,
        "row": newest,
        "readme_file": None,
        "pictured": None,
        "tree": None,
        "listed_files": [],
        "attributes": {},
        "links": index.datasets.links(name),
        "is_volume": False,
        "downloads": has_downloads(row.source_uri),
        "viewers": [],
        "levels_of_name": _levels_of_name(row.source_uri),
        "superdatasets": index.datasets.superdatasets(name),
        "holds": list(index.crawl.open_holds(name)),
        "events": events[:5],
        "gone_since": next((event.at for event in events if event.kind == "tombstone"), None),
        "ancestors": (),
        "descendants": (),
        "draft": _newer_draft(versions, newest),
        "growth": growth_chart([(one.time, one.bytes, _is_published(one)) for one in versions]),
    }
    if newest is not None:
        context |= {
            "newest": shapes.Version.of(newest).plain(),
            "readme_file": find_readme(index, newest),
            "pictured": previews.find_pictured(index, newest),
            "tree": file_tree(index, newest, gateway),
            "allow_command": allow_command_for(index, [newest]),
            "listed_files": _listed_files(index, newest),
            "attributes": index.versions.attributes(newest),
            "is_volume": is_volume(row.source_uri, index.datasets.links(name)),
            "viewers": zarr_viewers(index, newest, gateway=gateway)
            or gateway.volume_viewers(index, newest),
            "ancestors": index.ancestry.ancestors(newest, 1),
            "descendants": index.ancestry.descendants(newest, 1),
        }
    return context


def _listed_files(index: Index, newest: VersionRow) -> list[FileRow]:
    """Return the first files, for the metadata that search engines read."""
    if not newest.indexed or not has_downloads(newest.source_uri):
        return []
    return list(index.files.of(newest, limit=_MAX_LISTED_FILES))


def _newer_draft(versions: Sequence[VersionRow], newest: VersionRow | None) -> str | None:
    """Return the label of the last observed version, if it has other files than the published one.

    A draft that was first observed after the publication follows it in the store, even if it is
    unchanged.
    """
    if newest is None or not _is_published(newest):
        return None
    last = max(versions, key=lambda one: one.seq)
    is_same = last.seq <= newest.seq or _is_published(last) or last.state == newest.state
    return None if is_same else last.label


def _levels_of_name(source: str) -> list[tuple[str, str]]:
    """Return what the parts of a BOSS channel's URI are called there, with their values."""
    scheme, _, rest = source.partition("://")
    parts = rest.split("/")[1:]
    names = _BOSS_NAMES if scheme == "boss" else ()
    return list(zip(names, parts, strict=True)) if len(parts) == len(names) else []


def _is_published(row: VersionRow) -> bool:
    return row.kind == "published"


def _timeline(
    index: Index,
    name: str,
    versions: Sequence[VersionRow],
    newest: VersionRow | None,
    first: int | None,
) -> dict[str, Any]:
    """Return the versions, newest first, optionally starting at the ordinal ``first``."""
    counted = max((version.files for version in versions), default=0) <= _MAX_COUNTED_FILES
    changes = index.versions.change_counts(name) if counted else {}
    rows = [version for version in reversed(versions) if first is None or version.seq <= first]
    before = {after.seq: one for one, after in pairwise(versions)}
    looked = _within_file_limit(rows[:_DETAILED_VERSIONS])
    kept = dict(
        zip((one.seq for one in looked), index.files.evidence_counts_each(looked), strict=True)
    )
    entries = []
    for number, one in enumerate(rows[:_MAX_VERSIONS]):
        counts = kept.get(one.seq)
        earlier = before.get(one.seq)
        known = counted and one.indexed and (earlier is None or earlier.indexed)
        entries.append(
            {
                **shapes.Version.of(one).plain(),
                "latest": newest is not None and one.seq == newest.seq,
                "before": None if earlier is None else earlier.name,
                "changes": changes.get(one.seq, (0, 0, 0)) if known else None,
                "changed_subdatasets": _changed_subdatasets(index, earlier, one)
                if earlier and number < _DETAILED_VERSIONS
                else 0,
                "retention": None if counts is None else counts.retention,
                "checked": None if counts is None else sum(counts.checked.values()),
            }
        )
    older = rows[_MAX_VERSIONS].seq if len(rows) > _MAX_VERSIONS else None
    return {
        "total": len(versions),
        "published": sum(map(_is_published, versions)),
        "shown": entries[:_DETAILED_VERSIONS],
        "rest": entries[_DETAILED_VERSIONS:],
        "older": older,
        "later": first is not None,
    }


def _changed_subdatasets(index: Index, earlier: VersionRow, one: VersionRow) -> int:
    """Return the number of subdatasets that were added, removed or changed."""
    if one.metadata_only:
        return 0
    before, now = (
        {(p.path, p.state) for p in index.versions.subdatasets(row)} for row in (earlier, one)
    )
    return len({path for path, _ in before ^ now})


def _within_file_limit(rows: Sequence[VersionRow]) -> list[VersionRow]:
    """Return the versions within the limit of files per page."""
    few, looked = [], 0
    for row in rows:
        if row.indexed and looked + row.files <= _MAX_RETENTION_FILES:
            looked += row.files
            few.append(row)
    return few


def _upstream(found: CitationData | None, links: Sequence[Viewer], source: str) -> str:
    """Return the archive's page of a dataset, empty if unknown.

    The address of its data is no page: a bucket answers it with an error, an API with JSON.
    """
    known = [found.work.address] if found is not None else []
    known += [address for kind, address in links if kind == "upstream"]
    pages = (one for one in known if is_web(one) and one.rstrip("/") != source.rstrip("/"))
    return next(pages, "")
