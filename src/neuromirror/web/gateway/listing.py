"""Folders of versions: a page for people and for programs that follow links, and JSON."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any, Final

from markupsafe import Markup

from neuromirror.annex import key_digest
from neuromirror.web.addresses import breadcrumbs, gateway_address
from neuromirror.web.gateway.content_headers import MOVING, PINNED
from neuromirror.web.gateway.errors import UnknownEntryError
from neuromirror.web.gateway.service import Document, Folder, NamedVersion, StoredFile
from neuromirror.web.request import BadRequestError, CatalogueRequest, PageNotFoundError

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
            "delivered": gateway.modes.of(named.row.mirror),
        }
    reply = request.json_response(document)
    # locations and the way of delivery change
    reply.headers["cache-control"] = _MOVING if request.site.address else _OF_REQUEST
    return reply


def _entries(named: NamedVersion, folder: Folder) -> list[dict[str, Any]]:
    name, label = named.row.dataset_name, named.label
    within = f"{folder.path}/" if folder.path else ""
    found = []
    for one in folder.entries:
        path = f"{within}{one.name}" + ("/" if one.is_folder else "")
        found.append(
            {
                "name": one.name,
                "type": "folder" if one.is_folder else "file",
                "size": one.size,
                "key": one.key or None,
                "digest": _digest(one.key) if one.key else None,
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
    for one in entries:
        one["url"] = base + one["url"]
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
        Markup('<li><a href="{}">{}</a></li>\n').format(one["url"], one["name"])
        for one in _entries(named, folder)
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
        mode=request.site.gateway.modes.of(named.row.mirror),
        folder=folder.path,
        parents=[
            (part, gateway_address(name, label, f"{path}/"))
            for part, path in breadcrumbs(folder.path)
        ],
        entries=_entries(named, folder),
        next=_next_address(named, folder, ""),
    )
