"""Downloads: files, checksum lists, citations, badges, and lists as CSV."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from msgspec import Struct
from starlette.responses import Response, StreamingResponse

from neuromirror.index import (
    ContentSpanRow,
    FileRow,
    FilesNotIndexedError,
    Index,
    LocationRow,
    UnknownFileError,
    VersionRow,
)
from neuromirror.model import Retention
from neuromirror.model.records import is_asset_download
from neuromirror.web.addresses import header_url
from neuromirror.web.async_index import UnavailableError
from neuromirror.web.gateway.content import may_open_in_browser
from neuromirror.web.gateway.pages import deliver_file, is_possible_path
from neuromirror.web.gateway.service import (
    ContentChangedError,
    Document,
    GatewayService,
    StoredFile,
)
from neuromirror.web.lookups import FORMATS, require_citation
from neuromirror.web.rendering import pluralize
from neuromirror.web.request import (
    BadRequestError,
    CatalogueRequest,
    PageNotFoundError,
    redirect,
    resolve_version,
    view,
)

_BATCH_SIZE = 5000
"""Files per query and chunk of a checksum list."""


@view
async def checksums(request: CatalogueRequest) -> Response:
    """Stream the sha256 of all files in the format of ``sha256sum -c``.

    Files without a sha256 are in comment lines.
    """
    row = await resolve_version(request, *request.version_name)
    if not row.indexed:
        raise FilesNotIndexedError(
            f"the files of {row.name} are in its manifest only, not in the index",
            hint=f"'neuromirror files {row.name} --format sha256sum' lists them",
        )

    async def lines() -> AsyncIterator[str]:
        yield f"# {row.name} {row.state}\n# In a clone of it: sha256sum -c (GNU coreutils)\n"
        after, left_out = "", 0
        while True:
            found = await request.query_index(partial(_next_files, row=row, after=after))
            left_out += sum("sha256" not in one.digest_values for one in found)
            yield "".join(map(_line, found))
            if len(found) < _BATCH_SIZE:
                break
            after = found[-1].path
        parts = await request.query_index(
            lambda index: [subdataset.path for subdataset in index.versions.subdatasets(row)]
        )
        for path in parts:
            yield f"# subdataset with its own list: {path}\n"
        if left_out:
            yield f"# not listed: {pluralize(left_out, 'file')} without a sha256\n"

    headers = {"cache-control": "no-cache"}
    return StreamingResponse(lines(), 200, headers, "text/plain; charset=utf-8")


def _next_files(index: Index, row: VersionRow, after: str) -> list[FileRow]:
    # by commit, since a rebuild may have changed the row meanwhile
    current = index.versions.resolve(row.dataset_name, row.commit)
    return list(index.files.of(current, after=after, limit=_BATCH_SIZE))


def _line(file: FileRow) -> str:
    # a path in git contains no character that sha256sum escapes (annex.git_path)
    sha256 = file.digest_values.get("sha256")
    if sha256 is not None:
        return f"{sha256}  {file.path}\n"
    known = " ".join(f"{one.algorithm}:{one.value}" for one in file.digests) or "no checksum"
    return f"# no sha256, {known}: {file.path}\n"


@view
async def citation(request: CatalogueRequest) -> Response:
    """Return a citation as a file."""
    form = request.query_parameter("format", "text")
    if form not in FORMATS:
        raise BadRequestError(
            f"the format of a citation must be {', '.join(FORMATS)}, not {form[:40]!r}"
        )
    row, store = await resolve_version(request, *request.version_name), request.site.store
    found = await request.site.reader.run_in_thread(lambda: require_citation(store, row))
    return request.etag_response(found.formats[form], "text/plain; charset=utf-8")


@view
async def badge(request: CatalogueRequest) -> Response:
    """Return a badge (SVG) with the version and its state."""
    row = await resolve_version(request, *request.version_name)
    label = f"{row.name} · state {row.state.removeprefix('sha256:')[:12]}"
    text = await request.render_template("badge.svg", left="version", right=label)
    return request.etag_response(text, "image/svg+xml; charset=utf-8")


MAX_LOCATIONS: Final = 100


class DownloadPlan(Struct, frozen=True):
    """Where a browser gets a file.

    Attributes
    ----------
    is_relayed
        Whether from the catalogue, which verifies the content.
    urls
        Else the URLs at the archive of which one is used; empty if none is known.
    is_named
        Whether the response at these URLs names the file.
    is_copy
        Whether the URL is that of a copy in a vault.
    """

    is_relayed: bool
    urls: Sequence[str]
    is_named: bool = False
    is_copy: bool = False

    def saved_name(self, path: str) -> str:
        """Return the name under which a browser saves the file at ``path``; empty if unknown."""
        if self.is_relayed or self.is_named:
            return path.rpartition("/")[2]
        return unquote(self.urls[0].partition("?")[0].rpartition("/")[2]) if self.urls else ""

    def may_open(self, path: str) -> bool:
        """Return whether a browser may open the file at ``path`` instead of saving it."""
        return not (self.is_relayed or self.is_named) and may_open_in_browser(path)


def plan_download(
    gateway: GatewayService,
    row: VersionRow,
    file: FileRow,
    locations: Sequence[LocationRow],
    spans: Sequence[ContentSpanRow],
) -> DownloadPlan:
    """Return where a browser gets a file.

    Parameters
    ----------
    gateway
        The gateway.
    row, file
        The file and its version.
    locations
        The locations of the content of the file.
    spans
        The contents of the path of the file by version.
    """
    urls = gateway.visitor_urls(row, locations)
    is_proxy = gateway.mode(row) == "proxy"
    if (urls or is_proxy) and gateway.can_relay(row, file):
        return DownloadPlan(True, urls[:1])
    # the archive deletes assets that neither a published version nor the draft lists
    is_kept = file.retention is Retention.PUBLISHED or any(
        span.current and span.key == file.key for span in spans
    )
    named = [url for url in urls if is_asset_download(url)] if is_kept else []
    return DownloadPlan(False, named or urls[:1], bool(named))


async def plan_with_copy(
    gateway: GatewayService, row: VersionRow, file: FileRow, plan: DownloadPlan
) -> DownloadPlan:
    """Return the plan, with a copy in a vault if no location at the archive is usable."""
    if plan.is_relayed or plan.urls:
        return plan
    with suppress(UnavailableError):  # the store is damaged
        if await gateway.has_copies(row):
            found = await gateway.find_file(row, file.path)
            urls = (
                await gateway.public_urls(row, found.file) if isinstance(found, StoredFile) else []
            )
            if urls:
                return DownloadPlan(gateway.can_relay(row, file), urls[:1], is_copy=True)
    return plan


@view
async def download(request: CatalogueRequest) -> Any:
    """Deliver a file for saving, or redirect to its content."""
    (name, label), path = request.version_name, request.query_parameter("path")
    gateway = request.site.gateway

    def look(index: Index) -> tuple[VersionRow, FileRow, DownloadPlan] | UnknownFileError:
        row = index.versions.resolve(name, label)
        try:
            found = index.files.get(row, path)
        except UnknownFileError as error:
            return error
        locations = index.locations.of(found.content, limit=MAX_LOCATIONS)
        spans = index.files.content_spans(row, path)
        return row, found, plan_download(gateway, row, found, locations, spans)

    looked_up = await request.query_index(look)
    if isinstance(looked_up, UnknownFileError):
        return await _document(request, name, label, path, looked_up)
    row, file, plan = looked_up
    plan = await plan_with_copy(gateway, row, file, plan)
    if plan.is_relayed:
        try:
            found = await gateway.find_file(row, path)
            if found is not None:
                named = await gateway.version(name, label)
                return await deliver_file(request, named, found, is_saved=True)
        except UnavailableError as error:
            if isinstance(error, ContentChangedError) or not plan.urls:
                raise
            # the visitor may reach an archive that this machine does not reach
            logging.getLogger(__name__).warning("%s: %s: %s", row.name, path, error)
    if not plan.urls:
        raise PageNotFoundError(
            "this file has no known location from which a browser can download; a clone may "
            "still be able to get it"
        )
    url = plan.urls[0]
    if len(plan.urls) > 1:
        # equal contents have several names; this version's is in its records
        with suppress(UnavailableError):  # the store is damaged
            found = await gateway.find_file(row, path)
            own = found.file.urls if isinstance(found, StoredFile) else ()
            url = next((one for one in own if one in plan.urls), url)
    return redirect(header_url(url))


async def _document(
    request: CatalogueRequest, name: str, label: str, path: str, error: UnknownFileError
) -> Any:
    """Deliver a document, which is in git and not in the index; raise the error without one."""
    gateway = request.site.gateway
    named = await gateway.version(name, label)
    found = await gateway.find_file(named.row, path) if is_possible_path(path) else None
    if not isinstance(found, Document):
        raise error
    return await deliver_file(request, named, found, is_saved=True)


_FORMULA_PREFIXES: Final = (
    *("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"),
    # spreadsheets ignore these and evaluate the rest
    *("\ufeff", "\0"),
)
"""Characters at which a spreadsheet recognizes a formula."""
_CELL_WITHIN: Final = re.compile(rf"([;\t][\s\"]*)(?=[{re.escape(''.join(_FORMULA_PREFIXES))}])")
"""The start of a formula after a character that a spreadsheet may take as a separator."""


def is_csv(request: CatalogueRequest) -> bool:
    """Return whether a request is for CSV (``format=csv``) instead of a page."""
    form = request.query_parameter("format")
    if form not in ("", "csv"):
        raise BadRequestError(f"format must be csv, not {form[:40]!r}")
    return form == "csv"


def csv_response(
    request: CatalogueRequest, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> Response:
    """Return a CSV file with these columns of the rows; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    reply = request.etag_response(text.getvalue(), "text/csv; charset=utf-8")
    reply.headers["content-disposition"] = f'attachment; filename="{name}.csv"'
    return reply


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        value = "; ".join(value)
    return escape_cell(value)


def escape_cell(value: Any) -> Any:
    """Return a CSV value with a quote before text that a spreadsheet would evaluate."""
    if not isinstance(value, str):
        return value
    first = value[:1] if value.startswith(_FORMULA_PREFIXES) else ""
    rest = _CELL_WITHIN.sub(r"\1'", value[len(first) :])
    return f"'{first}{rest}" if first else rest
