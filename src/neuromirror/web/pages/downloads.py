"""Downloads: checksum lists, citations, badges."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from starlette.responses import Response, StreamingResponse

from neuromirror.index import FileRow, FilesNotIndexedError, Index, VersionRow
from neuromirror.web.citations import FORMATS, require_citation
from neuromirror.web.filters import pluralize
from neuromirror.web.request import (
    BadRequestError,
    CatalogueRequest,
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
    name, label = request.version_name
    row = await request.query_index(lambda index: _indexed_version(index, name, label))

    async def lines() -> AsyncIterator[str]:
        yield f"# {row.name} {row.state}\n# In a clone of it: sha256sum -c (GNU coreutils)\n"
        after, left_out = "", 0
        while True:
            found = await request.query_index(partial(_next_files, name=name, row=row, after=after))
            left_out += sum("sha256" not in one.digest_values for one in found)
            yield "".join(map(_line, found))
            if len(found) < _BATCH_SIZE:
                break
            after = found[-1].path
        parts = await request.query_index(
            lambda index: [one.path for one in index.subdatasets(row)]
        )
        for path in parts:
            yield f"# subdataset with its own list: {path}\n"
        if left_out:
            yield f"# not listed: {pluralize(left_out, 'file')} without a sha256\n"

    headers = {"cache-control": "no-cache"}
    return StreamingResponse(lines(), 200, headers, "text/plain; charset=utf-8")


def _indexed_version(index: Index, name: str, label: str) -> VersionRow:
    """Return the version; raises FilesNotIndexedError before the response starts."""
    row = index.resolve(name, label)
    if not row.indexed:
        raise FilesNotIndexedError(
            f"the files of {row.name} are in its manifest only, not in the index",
            hint=f"'neuromirror files {row.name} --format sha256sum' lists them",
        )
    return row


def _next_files(index: Index, name: str, row: VersionRow, after: str) -> list[FileRow]:
    # by commit, since a rebuild may have changed the row meanwhile
    return list(index.files(index.resolve(name, row.commit), after=after, limit=_BATCH_SIZE))


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
