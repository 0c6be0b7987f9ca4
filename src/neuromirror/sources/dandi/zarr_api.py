"""The archive's API for Zarrs: their ids, checksums and the addresses of their objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from neuromirror.model import DatasetRef, VersionKind, VersionRef
from neuromirror.net import AccessDeniedError, NotFoundError, ResponseHead, Session
from neuromirror.sources.dandi.buckets import ObjectAddress, parse_object_url
from neuromirror.sources.dandi.zarr_checksum import CHECKSUM_PATTERN, parse_checksum
from neuromirror.sources.errors import (
    ComponentRefusedError,
    DatasetNotFoundError,
    MalformedIdError,
    UnexpectedReplyError,
)

CURRENT: Final = "current"
"""The upstream name of the current state of a Zarr without checksum."""
LOCAL_PREFIX: Final = "zarr/"
_LOCAL_ID: Final = re.compile(
    rf"{LOCAL_PREFIX}([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})\Z"
)
_DIGEST: Final = "dandi:dandi-zarr-checksum"
_PROBE: Final = "zarr.json"
_EXISTING_STATUSES: Final = frozenset({200, 302, 401, 403})
"""HTTP statuses of replies about a Zarr that exists."""


class ZarrState(Struct, frozen=True):
    """A Zarr's state according to the archive; ``checksum`` is None until it is finalized."""

    checksum: str | None
    name: str


class ZarrApi:
    """Requests the ids, checksums and object addresses of Zarrs from a DANDI API. Thread-safe.

    ``session`` sends the requests, ``mirror`` is the name of the mirror, and ``api`` the base URL
    of the API.
    """

    def __init__(self, session: Session, mirror: str, api: str) -> None:
        self._session = session
        self._mirror = mirror
        self._api = api

    def dataset(self, local_id: str) -> DatasetRef:
        """Return the dataset of ``zarr/<zarr id>``; raise MalformedIdError."""
        found = _LOCAL_ID.match(local_id)
        if found is None:
            raise MalformedIdError(
                f"{self._mirror}: {local_id[:80]!r} is no Zarr; write zarr/<its id>"
            )
        return DatasetRef(self._mirror, local_id, f"{self._api}/zarr/{found[1]}/")

    def version(self, dataset: DatasetRef, checksum: str | None) -> VersionRef:
        """Return the version with this checksum."""
        claimed = None if checksum is None else parse_checksum(checksum)
        return VersionRef(dataset, checksum or CURRENT, VersionKind.OBSERVED, None, claimed)

    def state(self, dataset: DatasetRef) -> ZarrState:
        """Return a Zarr's current state.

        For an embargoed Zarr the archive returns 404, except to its owners. So after a 404 one of
        the Zarr's files is requested, which returns 404 only if the Zarr does not exist.

        Raises
        ------
        ComponentRefusedError
            If the Zarr exists but is not readable.
        DatasetNotFoundError
            If it does not exist.
        """
        try:
            row = self._session.get_json(dataset.source_uri)
        except NotFoundError as error:
            if error.detail is None:
                raise
            if self._request_object(dataset).status in _EXISTING_STATUSES:
                raise _refused_error(dataset) from error
            raise DatasetNotFoundError(
                f"{dataset.name}: {error.url} reports no such Zarr, or one that it hides: "
                f"{error.detail}"
            ) from error
        except AccessDeniedError as error:
            if error.detail is None or "token" in error.detail.lower():
                raise
            raise _refused_error(dataset) from error
        zarr_id = dataset.local_id.removeprefix(LOCAL_PREFIX)
        if not isinstance(row, dict) or str(row.get("zarr_id")).lower() != zarr_id:
            raise UnexpectedReplyError(f"{dataset.name}: the reply describes no such Zarr")
        checksum, name = row.get("checksum"), row.get("name")
        if not (checksum is None or is_checksum(checksum)):
            raise UnexpectedReplyError(
                f"{dataset.name}: {checksum!r:.80} is not a checksum of a Zarr"
            )
        return ZarrState(checksum, name if isinstance(name, str) else "")

    def address(self, dataset: DatasetRef) -> ObjectAddress:
        """Return the address of a Zarr's objects, from the API's redirect to one of them."""
        reply = self._request_object(dataset)
        if reply.status in (401, 403):
            raise _refused_error(dataset)
        plain = urlsplit(reply.headers.get("Location", ""))._replace(query="", fragment="").geturl()
        zarr_id = dataset.local_id.removeprefix(LOCAL_PREFIX)
        if not plain.endswith(f"/{zarr_id}/{_PROBE}"):
            raise UnexpectedReplyError(
                f"{dataset.name}: the archive does not redirect to the Zarr's objects"
            )
        return parse_object_url(plain.removesuffix(_PROBE))

    def _request_object(self, dataset: DatasetRef) -> ResponseHead:
        """Request a file of a Zarr, which redirects whether the Zarr has this file or not."""
        return self._session.head(f"{dataset.source_uri}files/?prefix={_PROBE}")


def _refused_error(dataset: DatasetRef) -> ComponentRefusedError:
    return ComponentRefusedError(
        f"{dataset.name}: the archive does not show it (is it under embargo?)"
    )


def is_checksum(value: object) -> bool:
    """Return whether a JSON value is a Zarr checksum."""
    return isinstance(value, str) and CHECKSUM_PATTERN.match(value) is not None


def stated_checksum(metadata: Mapping[str, Any]) -> object:
    """Return the checksum that a Zarr asset's metadata state, not validated; None without one."""
    digest = metadata.get("digest")
    return digest.get(_DIGEST) if isinstance(digest, dict) else None


def prefix_url(metadata: Mapping[str, Any], zarr_id: str) -> str | None:
    """Return the URL of the folder with a Zarr's objects, with a final slash; None if unknown.

    It is the content URL in the asset's metadata that ends with the Zarr's id.
    """
    urls = metadata.get("contentUrl")
    for url in urls if isinstance(urls, list) else []:
        if not isinstance(url, str):
            continue
        plain = url.split("?", 1)[0].split("#", 1)[0]
        try:
            key = parse_object_url(plain).key
        except ValueError:
            continue
        if key.rstrip(b"/").lower().endswith(b"/" + zarr_id.encode()):
            return plain if plain.endswith("/") else f"{plain}/"
    return None
