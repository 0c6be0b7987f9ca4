"""The addresses below ``/at/``: files with ranges, and folders as HTML and JSON."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final
from urllib.parse import quote, unquote

from markupsafe import Markup

from neuromirror.annex import key_digest
from neuromirror.index import UnknownDatasetError, UnknownMirrorError, UnknownVersionError
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import NeuromirrorError
from neuromirror.web.addresses import breadcrumbs, gateway_address, header_url
from neuromirror.web.async_index import UnavailableError
from neuromirror.web.gateway.content import (
    MOVING,
    PINNED,
    REDIRECTED,
    ContentResponse,
    conditional_response,
    content_headers,
    content_response,
)
from neuromirror.web.gateway.service import (
    Document,
    Folder,
    GatewayService,
    NamedVersion,
    StoredFile,
    UnknownEntryError,
)
from neuromirror.web.request import (
    BadRequestError,
    CatalogueRequest,
    OperationDisabledError,
    PageNotFoundError,
    view,
)

_PINNED: Final = PINNED.replace(", no-transform", "")
_OF_REQUEST: Final = "public, max-age=0, must-revalidate"
"""For URLs with the host of a request, which a cache might return to clients of another host."""
_MOVING: Final = MOVING.replace(", no-transform", "")
"""Cache-Control of lists, which a proxy may compress."""
_PAGE_ENTRIES: Final = 2_000
_JSON_ENTRIES: Final = 10_000
_LINKED_ENTRIES: Final = 100_000
"""Maximum number of entries of a page, of a JSON document, and of a list of links."""


async def list_folder(request: CatalogueRequest, named: NamedVersion, path: str) -> Any:
    """Return the entries of a folder: as JSON if requested, else as a page."""
    form = request.query_parameter("format")
    if form not in ("", "html", "json"):
        raise BadRequestError(f"format must be html or json, not {form[:40]!r}")
    accepted = request.headers.get("accept", "")
    if not form and accepted.startswith("application/json"):
        form = "json"
    elif not form and "text/html" in accepted:
        form = "html"
    maximum = {"json": _JSON_ENTRIES, "html": _PAGE_ENTRIES}.get(form, _LINKED_ENTRIES)
    limit = request.integer_parameter("limit", maximum, maximum)
    after = request.query_parameter("after")
    folder = None
    if not {"", ".", ".."} & set(path.split("/")) or not path:
        try:
            folder = await request.site.gateway.list_folder(named.row, path, after, limit)
        except UnknownEntryError as error:
            raise BadRequestError(error.problem) from error
    if folder is None:
        await request.site.gateway.refuse_undelivered(named.row, path)
        raise PageNotFoundError(f"{named.row.name} has no folder {path[:200]!r}")
    request.site.gateway.counts["folder"] += 1
    if form == "html":
        reply = await _as_page(request, named, folder)
    else:
        make = _as_json if form == "json" else _as_links
        # thousands of entries take long
        reply = await request.site.reader.run_in_thread(partial(make, request, named, folder))
    # the design of a page changes with the version of the catalogue
    is_fixed = named.is_pinned and form != "html"
    caching = _PINNED if is_fixed else _MOVING
    is_of_request = form == "json" and not request.site.address
    reply.headers["cache-control"] = _OF_REQUEST if is_of_request else caching
    reply.headers["vary"] = "Accept"
    return reply


async def describe_file(
    request: CatalogueRequest, named: NamedVersion, found: StoredFile | Document
) -> Any:
    """Return a file as JSON: its key and digest, and the public URLs of its content."""
    name, label = named.row.dataset_name, named.label
    gateway = request.site.gateway
    document: dict[str, Any] = {
        "version": named.row.name,
        "commit": named.row.commit,
        "path": found.path,
        "url": request.site_url + gateway_address(name, label, found.path),
    }
    if isinstance(found, Document):
        digest = hashlib.sha256(found.content).hexdigest()
        document |= {"size": len(found.content), "key": None, "digest": f"sha256:{digest}"}
        document |= {"locations": [], "delivered": "document"}
    else:
        document |= {
            "size": found.file.size,
            "key": found.file.key,
            "digest": _digest(found.file.key),
            "locations": await gateway.public_urls(named.row, found.file),
            "delivered": gateway.mode(named.row),
        }
    reply = request.json_response(document)
    # locations and the way of delivery change
    reply.headers["cache-control"] = _MOVING if request.site.address else _OF_REQUEST
    return reply


def _entries(named: NamedVersion, folder: Folder) -> list[dict[str, Any]]:
    name, label = named.row.dataset_name, named.label
    within = f"{folder.path}/" if folder.path else ""
    found = []
    for entry in folder.entries:
        path = f"{within}{entry.name}" + ("/" if entry.is_folder else "")
        found.append(
            {
                "name": entry.name,
                "type": "folder" if entry.is_folder else "file",
                "size": entry.size,
                "key": entry.key or None,
                "digest": _digest(entry.key) if entry.key else None,
                "url": gateway_address(name, label, path),
            }
        )
    return found


def _digest(key: str) -> str | None:
    checksum = key_digest(key)
    return None if checksum is None else ":".join(checksum)


def _next_address(named: NamedVersion, folder: Folder, form: str) -> str | None:
    if folder.next is None:
        return None
    name, label = named.row.dataset_name, named.label
    path = f"{folder.path}/" if folder.path else ""
    return gateway_address(name, label, path, after=folder.next, form=form)


def _as_json(request: CatalogueRequest, named: NamedVersion, folder: Folder) -> Any:
    base = request.site_url
    entries = _entries(named, folder)
    for entry in entries:
        entry["url"] = base + entry["url"]
    more = _next_address(named, folder, "json")
    return request.json_response(
        {
            "version": named.row.name,
            "commit": named.row.commit,
            "state": named.row.state,
            "pinned": named.is_pinned,
            "folder": folder.path,
            "entries": entries,
            "next": None if more is None else base + more,
        }
    )


def _as_links(request: CatalogueRequest, named: NamedVersion, folder: Folder) -> Any:
    """Return links to the entries and to nothing else, for programs that follow all of them."""
    if folder.next is not None:
        raise BadRequestError(
            f"the folder has more than {_LINKED_ENTRIES:,} entries; ?format=json lists them in "
            "pages"
        )
    links = Markup("").join(
        Markup('<li><a href="{}">{}</a></li>\n').format(entry["url"], entry["name"])
        for entry in _entries(named, folder)
    )
    title = Markup("<title>{}</title>").format(f"{named.row.name}/{folder.path}")
    text = Markup("<!doctype html>\n<html lang=en>{}\n<ul>\n{}</ul></html>\n").format(title, links)
    return request.etag_response(text, "text/html; charset=utf-8")


async def _as_page(request: CatalogueRequest, named: NamedVersion, folder: Folder) -> Any:
    name, label = named.row.dataset_name, named.label
    return await request.render_page(
        "gateway",
        name=name,
        label=label,
        version=named.row,
        is_pinned=named.is_pinned,
        mode=request.site.gateway.mode(named.row),
        folder=folder.path,
        parents=[
            (part, gateway_address(name, label, f"{path}/"))
            for part, path in breadcrumbs(folder.path)
        ],
        entries=_entries(named, folder),
        next=_next_address(named, folder, ""),
    )


_MAX_SIGNS: Final = 4
"""Maximum number of ``@`` in an address after which a version is looked for."""


@view
async def deliver(request: CatalogueRequest) -> Any:
    """Return a file of a version, or the entries of a folder."""
    gateway = request.site.gateway
    named, path = await _named_version(request)
    if path is None:
        return _to_folder(gateway_address(named.row.dataset_name, named.label))
    row = named.row
    if gateway.mode(row) == "off":
        raise OperationDisabledError(
            f"this catalogue does not deliver the files of {row.mirror}; download them from the "
            "archive, or get them in a clone"
        )
    if not path or path.endswith("/"):
        return await list_folder(request, named, path[:-1])
    found = await gateway.find_file(row, path) if is_possible_path(path) else None
    if found is None:
        if "range" not in request.headers and is_possible_path(path):
            # programs list a Zarr without the slash; a range can only be meant for a file
            folder = await gateway.list_folder(row, path, "", 1)
            if folder is not None:
                form = request.query_parameter("format")
                address = gateway_address(row.dataset_name, named.label, f"{path}/", form=form)
                return _to_folder(address)
        if "\0" not in path:
            await gateway.refuse_undelivered(row, path)
        raise PageNotFoundError(f"{row.name} has no file {path[:200]!r}")
    if request.query_parameter("format") == "json":
        return await describe_file(request, named, found)
    return await deliver_file(request, named, found)


async def deliver_file(
    request: CatalogueRequest,
    named: NamedVersion,
    found: StoredFile | Document,
    *,
    is_saved: bool = False,
) -> ContentResponse:
    """Return the content of a file; with ``is_saved`` verified, for browsers to save it."""
    if isinstance(found, Document):
        return await _deliver_document(request, named, found, is_saved=is_saved)
    return await _deliver_object(request, named, found, is_saved=is_saved)


async def _named_version(request: CatalogueRequest) -> tuple[NamedVersion, str | None]:
    """Return the version in an address, and the path; None for an address without a path.

    Neuroglancer and other programs encode the ``@``, which also names of datasets and paths may
    contain: the first one that follows the name of a dataset is meant.
    """
    decoded = request.path_parameter("address")
    address = request.path_parameter("address", encoded=True)
    failure: NeuromirrorError | None = None
    for found in islice(re.finditer("@|%40", address), _MAX_SIGNS):
        # a label may contain an encoded slash
        label, slash, path = address[found.end() :].partition("/")
        name = unquote(address[: found.start()])
        try:
            named = await request.site.gateway.version(name, unquote(label))
        except (UnknownDatasetError, UnknownMirrorError, UnknownVersionError) as error:
            failure = failure or error
            continue
        return named, unquote(path) if slash else None
    raise failure or PageNotFoundError(
        f"{decoded[:200]!r} names no version; the form is /at/<dataset>@<version>/<path>"
    )


def is_possible_path(path: str) -> bool:
    """Whether git can have a file at a path."""
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _to_folder(address: str) -> ContentResponse:
    return ContentResponse(
        307, {"location": address, "content-length": "0", "cache-control": MOVING}
    )


async def _deliver_document(
    request: CatalogueRequest, named: NamedVersion, document: Document, *, is_saved: bool
) -> ContentResponse:
    content = document.content
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"

    async def read(start: int, stop: int) -> AsyncIterator[bytes]:
        yield content[start:stop]

    headers = {
        **content_headers(document.path, len(content), digest, is_saved=is_saved),
        **_version_headers(named),
        "neuromirror-verified": "yes",
    }
    reply = content_response(
        request.headers,
        headers,
        len(content),
        read,
        is_head=request.is_head,
        name=f"{named.row.name}/{document.path}",
    )
    await reply.start()
    request.site.gateway.counts["document"] += 1
    return reply


async def _deliver_object(
    request: CatalogueRequest, named: NamedVersion, stored: StoredFile, *, is_saved: bool
) -> ContentResponse:
    gateway, file = request.site.gateway, stored.file
    digest = ":".join(key_digest(file.key) or ())
    headers = {
        **content_headers(stored.path, file.size, digest, is_saved=is_saved),
        **_version_headers(named),
        "neuromirror-key": quote(file.key, safe="-=:.,+&()%"),
    }
    if stored.encoding:
        headers["content-encoding"] = stored.encoding
    if early := conditional_response(request.headers, headers):
        return early
    if not is_saved and gateway.mode(named.row) != "proxy":
        return await _redirect(gateway, named, file, headers)
    size = await gateway.content_size(named.row, file)
    reply = content_response(
        request.headers,
        # a size that the key does not state is in the block digests
        {**headers, "content-length": str(size), "neuromirror-verified": "yes"},
        size,
        partial(gateway.read, named.row, file),
        is_head=request.is_head,
        name=f"{named.row.name}/{file.path}",
    )
    await reply.start()
    gateway.counts["download" if is_saved else "proxy"] += 1
    return reply


async def _redirect(
    gateway: GatewayService, named: NamedVersion, file: ListedFile, headers: Mapping[str, str]
) -> ContentResponse:
    urls = await gateway.public_urls(named.row, file)
    if not urls:
        raise UnavailableError(
            f"{named.row.name}: {file.path}: no public location of this file is known, or none "
            "answered the last check; get it in a clone, which may use other locations",
            502,
        )
    gateway.counts["redirect"] += 1
    names = ("neuromirror-version", "neuromirror-digest", "neuromirror-key")
    return ContentResponse(
        307,
        {
            **{name: headers[name] for name in names if name in headers},
            "location": header_url(urls[0]),
            "neuromirror-verified": "no",
            "cache-control": REDIRECTED if named.is_pinned else MOVING,
            "content-length": "0",
        },
    )


def _version_headers(named: NamedVersion) -> dict[str, str]:
    return {
        "neuromirror-version": quote(named.row.name, safe=":/@"),
        "cache-control": PINNED if named.is_pinned else MOVING,
    }
