"""The page of a version, and the page that compares two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import unified_diff
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from starlette.responses import Response

from neuromirror.git import ObjectMissingError, ObjectReader
from neuromirror.index import Index, MalformedQueryError, UnknownFileError, VersionRow, shapes
from neuromirror.model import Retention, alias_of
from neuromirror.model.records import has_downloads, is_volume
from neuromirror.store import Store
from neuromirror.store.records import manifest_file
from neuromirror.web.addresses import breadcrumbs
from neuromirror.web.lookups import (
    allow_command_for,
    compare_versions,
    read_citation,
    resolve_name,
    split_version_name,
)
from neuromirror.web.pages.folders import GatewayLinks, folder_entries, matching_files, zarr_viewers
from neuromirror.web.pages.machine_readable import typed_links
from neuromirror.web.rendering import kind_label
from neuromirror.web.request import BadRequestError, CatalogueRequest, view

if TYPE_CHECKING:
    from neuromirror.lab.diff import FileChange

_MAX_RETENTION_FILES = 50_000
"""Number of files above which retention is not counted."""
_MAX_PROBED_FILES = 20_000
"""Number of files above which probe results are not counted."""
_MAX_EXCEPTIONS = 200


@view
async def version(request: CatalogueRequest) -> Response:
    """Show a version and the files of one folder."""
    name, label = request.version_name
    under, start = request.query_parameter("under").strip("/"), request.query_parameter("start")
    terms = request.query_parameter("match").strip()

    gateway = GatewayLinks(request.site_url, request.site.gateway.mode)
    context = await request.query_index(
        lambda index: _read(
            index, index.versions.resolve(name, label), under, start, terms, gateway
        )
    )
    row, store = context.pop("row"), request.site.store
    citation, documents = None, None
    if not under and not terms:
        citation, documents = await request.site.reader.run_in_thread(
            lambda: (
                read_citation(store, row),
                store.repositories.documents(row.dataset_ref, row.commit),
            )
        )
    has_manifest = manifest_file(store.root, row.state).is_file()
    reply = await request.render_page(
        "version",
        under=under,
        zarr_preview=request.site.previews.is_allowed and under.lower().endswith(".zarr"),
        terms=terms,
        folders=breadcrumbs(under),
        start=start,
        citation=citation,
        documents=documents,
        has_manifest=has_manifest,
        alias=alias_of(name),
        **context,
    )
    if citation is not None:
        reply.headers.update(
            typed_links(
                citation.work,
                request.site_url,
                has_checksums=row.indexed,
                has_manifest=has_manifest,
            )
        )
    return reply


def _read(
    index: Index, row: VersionRow, under: str, start: str, terms: str, gateway: GatewayLinks
) -> dict[str, Any]:
    """Return the page's data from the index."""
    name = row.dataset_name
    files = (
        matching_files(index, row, terms, start)
        if terms
        else folder_entries(index, row, under, start, gateway=gateway)
    )
    if under and not terms and not start and files["indexed"] and not files["rows"]:
        raise UnknownFileError(f"{row.name} has no folder '{under}'")
    context: dict[str, Any] = {
        "version": shapes.Version.of(row).plain(),
        "row": row,
        "manifest_only": row.manifest_only_files,
        "files": files,
        "dataset": shapes.Dataset.of(index.datasets.get(name)).plain(),
        "downloads": has_downloads(row.source_uri),
        "allow_command": allow_command_for(index, [row]),
        "viewers": zarr_viewers(index, row, under, gateway=gateway)
        or (gateway.volume_viewers(index, row) if not under else []),
        "is_gateway_on": gateway.mode(row) != "off",
        "shows_pinned": bool(gateway.url(row)),
    }
    if under or terms:
        return context
    earlier = [one for one in index.versions.of(name) if one.seq < row.seq]
    return {
        **context,
        **_counts(index, row),
        "latest": index.versions.resolve(name).seq == row.seq,
        "is_volume": is_volume(row.source_uri, index.datasets.links(name)),
        "exceptions": index.versions.exceptions(row)[:_MAX_EXCEPTIONS],
        "before": earlier[-1].name if earlier else None,
    }


def _counts(index: Index, row: VersionRow) -> dict[str, Any]:
    """Return what is counted over all files of a version, unless there are too many."""
    counts = index.files.evidence_counts(row) if row.files <= _MAX_RETENTION_FILES else None
    # copies elsewhere are of interest if the archive may delete its own
    is_permanent = counts is None or set(counts.retention) <= {Retention.PUBLISHED.value}
    return {
        "evidence_counts": counts,
        "copies": [] if is_permanent else index.files.copies(row),
        "probe_summary": index.locations.probe_summary(row)
        if row.indexed and row.files <= _MAX_PROBED_FILES
        else None,
    }


_PAGE_SIZE: Final = 2000
_MAX_CHOICES: Final = 300
"""Versions, or datasets, that the form offers."""
_MIN_SUMMARIZED: Final = 50
"""Number of changes from which they are summarised by folder."""
_MAX_FOLDERS: Final = 100
_MAX_FOUND: Final = 20
"""Datasets found by words that the form offers."""
_MAX_TEXTS: Final = 5
"""Documents whose changed lines are shown."""
_MAX_TEXT_BYTES: Final = 1 << 17
_MAX_LINES: Final = 200
_MAX_LINE: Final = 400


@view
async def diff(request: CatalogueRequest) -> Response:
    """Show the differences between two versions, or a form to choose them."""
    old, new = request.query_parameter("a").strip(), request.query_parameter("b").strip()
    under = request.query_parameter("under").strip("/")
    page = request.integer_parameter("page", 1, 1_000_000)
    if old and new:
        context = await request.site.reader.long_query(
            lambda index: _difference(request.site.store, index, (old, new), page, under)
        )
        return await request.render_page("diff", page=page, a=old, b=new, under=under, **context)
    first = request.query_parameter("dataset").strip() or split_version_name(old or new)[0]
    second = request.query_parameter("other").strip() or first
    context = await request.query_index(lambda index: _form(index, first, second, old, new))
    status = 404 if context.get("found") == [] else 200
    return await request.render_page("compare", status, **context)


def _form(index: Index, first: str, second: str, old: str, new: str) -> dict[str, Any]:
    """Return the datasets, or the versions of two datasets, to choose from."""
    if not first:
        rows = islice(index.datasets.select(subdatasets=False), _MAX_CHOICES)
        return {"datasets": [(row.name, row.title) for row in rows], "sides": None}
    named = {text: _named_datasets(index, text) for text in (first, second)}
    for text, found in named.items():
        if len(found) != 1:
            return {"text": text, "found": _choice_links(first, second, text, found), "sides": None}
    first, second = (named[text][0][0] for text in (first, second))
    sides = _choices(index, first), _choices(index, second)
    before, after = (_resolved(index, name) for name in (old, new))
    if not after:
        after = index.versions.resolve(second).name
    if not before:
        before = _earlier([name for name, _ in sides[0]], after)
    return {"sides": sides, "chosen": (before, after), "dataset": first, "other": second}


def _named_datasets(index: Index, text: str) -> list[tuple[str, str]]:
    """Return name and title of the dataset that a text identifies, or of those that it finds."""
    named = index.names.match(text)
    if named is not None and named.dataset:
        return [(named.dataset, index.datasets.get(named.dataset).title)]
    try:
        rows = index.search.datasets(text, limit=_MAX_FOUND).rows
    except MalformedQueryError:
        return []
    return [(row.dataset.name, row.dataset.title) for row in rows]


def _choice_links(
    first: str, second: str, text: str, found: Sequence[tuple[str, str]]
) -> list[tuple[str, str, str]]:
    """Return name, title and address of the datasets that ``text``, one of the two, may mean."""
    links = []
    for name, title in found:
        query = {"dataset": name if text == first else first}
        if second != first:
            query["other"] = name if text == second else second
        links.append((name, title, f"/diff?{urlencode(query, safe=':')}"))
    return links


def _earlier(names: Sequence[str], name: str) -> str:
    """Return the version before another one, of names that start with the newest."""
    earlier = names[names.index(name) + 1 :] if name in names else names
    others = earlier or [one for one in names if one != name]
    return others[0] if others else name


def _resolved(index: Index, name: str) -> str:
    """Return the version that a name means; empty for the name of a dataset."""
    return resolve_name(index, name).name if split_version_name(name)[1] else ""


def _choices(index: Index, dataset: str) -> list[tuple[str, str]]:
    """Return the versions of a dataset, newest first: name, and kind with date."""
    rows: list[VersionRow] = list(index.versions.of(dataset))
    return [(row.name, _kind_and_date(row)) for row in reversed(rows[-_MAX_CHOICES:])]


def _kind_and_date(row: VersionRow) -> str:
    kind = kind_label(row.kind, row.upstream)
    return f"{kind}, {row.time[:10]}" if row.time else kind


def _difference(
    store: Store, index: Index, names: tuple[str, str], page: int, under: str
) -> dict[str, Any]:
    old, new = (resolve_name(index, name) for name in names)
    first = (page - 1) * _PAGE_SIZE
    found = compare_versions(store, index, old, new, first, _PAGE_SIZE, under)
    if page > 1 and not found.changes:
        raise BadRequestError(f"page {page} does not exist: there are {found.total} differences")
    sides = [_choices(index, row.dataset_name) for row in (old, new)]
    return {
        "old": shapes.Version.of(old).plain(),
        "new": shapes.Version.of(new).plain(),
        "changes": sorted(found.changes, key=lambda one: one.kind == "metadata"),
        "texts": _document_texts(store, (old, new), found.changes),
        "counts": found.counts,
        "folders": _summary(found.folders, found.total),
        "first": first,
        "total": found.total,
        "sides": sides,
        "chosen": (old.name, new.name),
    }


def _document_texts(
    store: Store, versions: tuple[VersionRow, VersionRow], changes: Sequence[FileChange]
) -> dict[str, list[str]]:
    """Return the changed lines of the first changed documents by path; + or - precedes each."""
    paths = [one.path for one in changes if one.kind == "document" and one.message == "changed"]
    if not paths or versions[0].dataset != versions[1].dataset:
        return {}
    row = versions[0]
    repository = store.repositories.of(row.dataset_ref)
    texts: dict[str, list[str]] = {}
    with ObjectReader(repository.path) as reader:
        for path in paths[:_MAX_TEXTS]:
            was, now = (_lines(reader, f"{one.commit}:{path}") for one in versions)
            if was is not None and now is not None:
                lines = unified_diff(was, now, lineterm="", n=0)
                texts[path] = [
                    line[:_MAX_LINE] for line in islice(lines, 2, _MAX_LINES) if line[0] != "@"
                ]
    return texts


def _lines(reader: ObjectReader, name: str) -> list[str] | None:
    """Return the lines of a document by its name in git; None if it is large, or no text."""
    with suppress(UnicodeDecodeError, ObjectMissingError):
        content = reader.read(name)
        return content.decode().splitlines() if len(content) <= _MAX_TEXT_BYTES else None
    return None


def _summary(folders: Mapping[str, Counter[str]], total: int) -> list[tuple[str, Counter[str]]]:
    """Return the folders with most changes; none if there are few changes or one folder."""
    if total < _MIN_SUMMARIZED or not any(folders):
        return []
    return sorted(folders.items(), key=lambda one: (-one[1].total(), one[0]))[:_MAX_FOLDERS]
