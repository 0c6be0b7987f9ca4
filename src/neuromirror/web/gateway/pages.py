"""The addresses below ``/at/``: files with ranges, and folders as HTML and JSON."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final
from urllib.parse import quote, unquote

from neuromirror.annex import key_digest
from neuromirror.index import UnknownDatasetError, UnknownMirrorError, UnknownVersionError
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import NeuromirrorError
from neuromirror.web.addresses import gateway_address, header_url
from neuromirror.web.gateway.content_headers import (
    MOVING,
    PINNED,
    REDIRECTED,
    content_headers,
)
from neuromirror.web.gateway.content_response import (
    ContentResponse,
    conditional_response,
    content_response,
)
from neuromirror.web.gateway.errors import ContentUnavailableError
from neuromirror.web.gateway.listing import describe_file, list_folder
from neuromirror.web.gateway.service import Document, GatewayService, NamedVersion, StoredFile
from neuromirror.web.request import (
    CatalogueRequest,
    OperationDisabledError,
    PageNotFoundError,
    view,
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
    if gateway.modes.of(row.mirror) == "off":
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
    if not is_saved and gateway.modes.of(named.row.mirror) != "proxy":
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
        raise ContentUnavailableError(
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
