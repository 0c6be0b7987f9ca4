"""Lock files of the versions in a URL: their page, and the files to download.

The versions are the parameters ``add`` of the URL, so that a list can be shared and bookmarked;
nothing is stored here, or in the visitor's browser.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryDirectory
from typing import IO, Any, Final

from starlette.responses import Response

from neuromirror.index import Index, MalformedQueryError, VersionRow, shapes
from neuromirror.lab import PinRequest, load_lock, pin
from neuromirror.lab.export_lock import LockExport, export_lines
from neuromirror.lab.globs import Globs
from neuromirror.model import ConfigurationError, alias_of
from neuromirror.model.records import has_downloads
from neuromirror.web.addresses import MAX_VERSIONS, lock_address
from neuromirror.web.lookups import allow_command_for, resolve_name
from neuromirror.web.pages.folders import is_web
from neuromirror.web.request import (
    SPOOLED_BYTES,
    BadRequestError,
    CatalogueRequest,
    spooled_response,
    view,
)

_MAX_FILES: Final = 500_000
"""Number of files above which no lock file is created here, because it would take minutes."""
_MAX_RESULTS: Final = 10
_LOCK: Final = "datasets.lock"

LISTS: Final = {
    "files.aria2": "aria2",
    "files.curl": "curl",
    "files.sh": "wget",
    "files.sha256": "sha256sum",
    "files.md5": "md5sum",
    "files.csv": "addurls",
}
"""The name of each list of files, with its format."""


@view
async def lock(request: CatalogueRequest) -> Response:
    """Show the collected versions, with their lock file and lists, and a search to add others."""
    names, terms = _names(request), request.query_parameter("q").strip()

    def look(index: Index) -> tuple[list[VersionRow], list[Any], str]:
        versions = [resolve_name(index, name) for name in names]
        return versions, _search(index, terms), allow_command_for(index, versions)

    rows, found, allow_command = await request.query_index(look)
    chosen = [row.name for row in rows]
    total = sum(row.files for row in rows)
    downloads = [row for row in rows if has_downloads(row.source_uri)]
    return await request.render_page(
        "lock",
        versions=[shapes.Version.of(row).plain() for row in rows],
        chosen=chosen,
        allow_command=allow_command,
        without={
            row.name: request.basket.removing(name) for row, name in zip(rows, names, strict=True)
        },
        terms=terms,
        found=[
            {
                **shapes.Dataset.of(row).plain(),
                "add": lock_address(*chosen, f"{row.name}@{row.version}"),
            }
            for row in found
        ],
        files=total,
        folder=f"data/{alias_of(rows[0].dataset_name)}" if rows else "",
        evidence=sum((Counter(row.evidence) for row in downloads), Counter()),
        bytes=sum(row.bytes for row in rows),
        is_too_large=total > _MAX_FILES,
        maximum=_MAX_FILES,
        downloads=[row.name for row in downloads],
        volumes=[row.dataset_name for row in rows if row not in downloads],
    )


@view
async def lock_file(request: CatalogueRequest) -> Any:
    """Return the lock file of the collected versions."""

    def write(path: Path, target: IO[bytes]) -> None:
        target.write(path.read_bytes())

    return await _send(request, _LOCK, "text/plain; charset=utf-8", write)


@view
async def lock_archive(request: CatalogueRequest) -> Any:
    """Return the lock file with its manifests as a zip file."""
    return await _send(request, f"{_LOCK}.zip", "application/zip", _write_archive)


@view
async def file_list(request: CatalogueRequest) -> Any:
    """Return the files of the collected versions as a list for another program."""
    name = request.path_parameter("list")
    form = LISTS.get(name)
    if form is None:
        raise BadRequestError(f"there is no list {name[:40]!r}; available are {', '.join(LISTS)}")

    def write(path: Path, target: IO[bytes]) -> None:
        for piece in export_lines(load_lock(path), form, LockExport()):
            target.write(piece.encode())

    return await _send(request, name, "text/plain; charset=utf-8", write)


def _names(request: CatalogueRequest) -> tuple[str, ...]:
    """Return the collected names; raises BadRequestError if there are too many."""
    found = request.basket.names
    if len(found) > MAX_VERSIONS:
        raise BadRequestError(
            f"a list here has at most {MAX_VERSIONS} versions, not {len(found)}; make several "
            "lists, or one with 'neuromirror pin'"
        )
    return found


def _search(index: Index, terms: str) -> list[Any]:
    if not terms:
        return []
    try:
        found = index.search.datasets(terms, limit=_MAX_RESULTS)
    except MalformedQueryError as error:
        raise BadRequestError(str(error)) from error
    return [row.dataset for row in found.rows if row.dataset.version is not None]


async def _send(
    request: CatalogueRequest, name: str, kind: str, write: Callable[[Path, IO[bytes]], None]
) -> Any:
    """Create the lock file in a scratch folder, and send the output of ``write``."""
    names = _names(request)
    globs = tuple(one for one in request.query_parameters().get("path", ()) if one)
    if not names:
        raise BadRequestError("specify at least one version: add=<dataset>@<version>")
    try:
        Globs(globs)
    except ConfigurationError as error:
        raise BadRequestError(str(error)) from error
    base, store = request.site_url, request.site.store
    clones = (f"ria+{base}",) if is_web(base) else ()

    def make(index: Index) -> IO[bytes]:
        rows = [resolve_name(index, name) for name in names]
        if sum(row.files for row in rows) > _MAX_FILES:
            raise BadRequestError(
                f"the versions have more than {_MAX_FILES:,} files together, the limit of this "
                "page; clone a version instead, whose git commit has the same list of files"
            )
        with TemporaryDirectory(prefix="neuromirror-") as folder:
            path = Path(folder) / _LOCK
            requests = [PinRequest(row.dataset_name, row.label, globs, clones) for row in rows]
            try:
                list(pin(path, requests, store, index))
            except ConfigurationError as error:
                # the rest is a hint for the command line
                raise BadRequestError(str(error).partition(";")[0]) from error
            # closed by the stream
            made = SpooledTemporaryFile(SPOOLED_BYTES)  # noqa: SIM115
            write(path, made)
        made.seek(0)
        return made

    made = await request.site.reader.long_query(make)

    return spooled_response(request, made, name, kind)


def _write_archive(path: Path, target: IO[bytes]) -> None:
    with zipfile.ZipFile(target, "w") as archive:  # manifests are compressed already
        archive.write(path, path.name)
        for one in sorted(path.with_name(f"{path.name}.d").rglob("*")):
            if one.is_file():
                archive.write(one, one.relative_to(path.parent).as_posix())
