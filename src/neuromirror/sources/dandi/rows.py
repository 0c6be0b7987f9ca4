"""Validation of asset list rows, and their conversion to records.

A row that does not follow the API becomes an :class:`ExcludedEntry` and does not block the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from neuromirror.model import Digest, ExcludedEntry, FileRecord, Retention, dandi_part_size
from neuromirror.net import clean_url, is_local_name, origin
from neuromirror.sources.protocol import EMBARGOED, ComponentEntry

CLAIMED_BY: Final = "dandi"
_EMBARGOED_ACCESS: Final = "dandi:EmbargoedAccess"
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)
_SPACE: Final = re.compile(r"\s")
_PLAIN: Final = re.compile(
    r"https?://([a-z0-9.-]+)(?::(?:[1-9][0-9]{1,3}|[1-5][0-9]{4}))?(?:/[A-Za-z0-9._~-]+)+/?"
)
"""A URL that needs no cleaning, with its host: a fast path for nearly all of them."""
_SHOWN: Final = 80


class _MalformedRowError(Exception):
    """A row is malformed; the message describes the fault."""


class BlobRow(Struct, frozen=True):
    """A valid row of an asset list for an asset that is a single object, a blob in DANDI's words.

    Attributes
    ----------
    record
        The file's record, without locations.
    asset_id
        The id of the asset.
    object_url
        The URL of the object in the bucket; None if the row has none.
    """

    record: FileRecord
    asset_id: str
    object_url: str | None


Row = BlobRow | ComponentEntry | ExcludedEntry
ToComponent = Callable[[bytes, int, str, Mapping[str, Any]], ComponentEntry | ExcludedEntry]
"""Returns the entry of a Zarr asset, given its path, size in bytes, Zarr id and metadata."""


def parse_row(
    row: Any,
    number: int,
    *,
    published: bool,
    allow_private: bool,
    to_component: ToComponent | None = None,
    private: bool = False,
) -> Row:
    """Return the entry for a row of an asset list with metadata.

    Parameters
    ----------
    row
        The row as parsed JSON.
    number
        The row's number in the list, which identifies a row without a path.
    published
        Whether the version is published.
    allow_private
        Whether object URLs may be on this machine or network.
    to_component
        Returns the entry for a Zarr asset; None to exclude Zarrs.
    private
        Whether blobs under embargo are included.
    """
    path = _exception_path(row, number)
    size = _size(row) if isinstance(row, dict) else None
    try:
        if not isinstance(row, dict):
            raise _MalformedRowError("the row is no object")
        if not private and row.get("blob") is not None and is_embargoed(row.get("metadata")):
            return ExcludedEntry(path, EMBARGOED, "The asset is under embargo", size or 0)
        return _parse(
            row, published=published, allow_private=allow_private, to_component=to_component
        )
    except _MalformedRowError as error:
        return ExcludedEntry(path, "malformed", f"The archive's row: {error}", size or 0)


def is_unfinalized_zarr(row: Any) -> bool:
    """Return whether a row is a Zarr without checksum: it states no size, its version may."""
    metadata = row.get("metadata") if isinstance(row, dict) and row.get("zarr") else None
    return isinstance(metadata, dict) and stated_zarr_checksum(metadata) is None


def stated_zarr_checksum(metadata: Mapping[str, Any]) -> object:
    """Return the checksum that a Zarr asset's metadata state, not validated; None without one."""
    digest = metadata.get("digest")
    return digest.get("dandi:dandi-zarr-checksum") if isinstance(digest, dict) else None


def is_embargoed(metadata: object) -> bool:
    """Return whether an asset's metadata state that it is under embargo."""
    access = metadata.get("access") if isinstance(metadata, Mapping) else None
    return isinstance(access, list) and any(
        isinstance(one, Mapping) and one.get("status") == _EMBARGOED_ACCESS for one in access
    )


def _parse(
    row: Mapping[str, Any],
    *,
    published: bool,
    allow_private: bool,
    to_component: ToComponent | None,
) -> Row:
    path = _path(row)
    asset_id = _uuid(row, "asset_id")
    size = _size(row)
    if size is None:
        raise _MalformedRowError(f"size is {_shown(row.get('size'))}")
    blob, zarr = row.get("blob"), row.get("zarr")
    if (blob is None) == (zarr is None):
        raise _MalformedRowError("it must have either a blob or a Zarr")
    metadata = row.get("metadata")
    if zarr is not None:
        zarr_id = _uuid(row, "zarr")
        if to_component is None:
            detail = f"Zarr asset {zarr_id}: left out by the mirror's options"
            return ExcludedEntry(path, "zarr", detail, size)
    if not isinstance(metadata, dict):
        raise _MalformedRowError("metadata is missing")
    if zarr is not None and to_component is not None:
        return to_component(path, size, zarr_id, metadata)
    digests, part_size = _digests(metadata, size)
    created = moment_or_none(row.get("created"))
    if created is None:
        raise _MalformedRowError(f"created is {_shown(row.get('created'))}")
    record = FileRecord(
        path=path,
        size=size,
        digests=digests,
        part_size=part_size,
        # publishing changes ``modified``; ``created`` changes only with the content
        modified=created,
        upstream_id=_uuid(row, "blob"),
        retention=Retention.PUBLISHED if published else Retention.DRAFT,
    )
    return BlobRow(record, asset_id, _object_url(metadata, allow_private=allow_private))


def _path(row: Mapping[str, Any]) -> bytes:
    path = row.get("path")
    if not isinstance(path, str) or not path:
        raise _MalformedRowError(f"path is {_shown(path)}")
    try:
        return path.encode("utf-8")
    except UnicodeEncodeError:
        raise _MalformedRowError("path holds half a character") from None


def _exception_path(row: Any, number: int) -> bytes:
    path = row.get("path") if isinstance(row, dict) else None
    if isinstance(path, str) and path:
        return path.encode("utf-8", "backslashreplace")
    asset_id = row.get("asset_id") if isinstance(row, dict) else None
    if isinstance(asset_id, str) and _UUID.match(asset_id):
        return b"(asset %s without a path)" % asset_id.encode()
    return b"(row %d without a path)" % number


def _size(row: Mapping[str, Any]) -> int | None:
    size = row.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        return None
    return size


def _uuid(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not _UUID.match(value):
        raise _MalformedRowError(f"{name} is {_shown(value)}")
    return value.lower()


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN]


def _digests(metadata: Mapping[str, Any], size: int) -> tuple[tuple[Digest, ...], int | None]:
    """Return the digests, and the part size if the number of parts in the etag fits the size."""
    claims = metadata.get("digest")
    if claims is None:
        claims = {}
    if not isinstance(claims, dict):
        raise _MalformedRowError("metadata.digest is no object")
    digests: list[Digest] = []
    part_size: int | None = None
    for name, algorithm, pattern in (
        ("dandi:sha2-256", "sha256", SHA256),
        ("dandi:dandi-etag", "etag", ETAG),
    ):
        value = claims.get(name)
        if value is None:
            continue
        if not isinstance(value, str) or not pattern.match(value.lower()):
            raise _MalformedRowError(f"{name} is {_shown(value)}")
        digests.append(Digest(algorithm, value.lower(), CLAIMED_BY))
        if algorithm == "etag":
            parts = int(value.partition("-")[2])
            try:
                if parts == part_count(size):
                    part_size = dandi_part_size(size)
            except ValueError as error:
                raise _MalformedRowError(str(error)) from error
    return tuple(digests), part_size


def _object_url(metadata: Mapping[str, Any], *, allow_private: bool) -> str | None:
    """Return the cleaned URL of the object: the content URL that is no API download URL."""
    urls = metadata.get("contentUrl")
    for url in urls if isinstance(urls, list) else []:
        if not isinstance(url, str):
            continue
        plain = _PLAIN.fullmatch(url)
        try:
            host = plain[1] if plain else origin(url)[1]
            url.encode("ascii")
            cleaned = url if plain else clean_url(url)
        except ValueError:
            continue
        if _SPACE.search(url):
            continue
        cleaned = _NO_VERSION.sub("", cleaned)
        path = url if plain else urlsplit(url).path
        if path.endswith(("/download/", "/download")) and "/assets/" in url:
            continue
        if allow_private or not _is_local(host):
            return cleaned
    return None


_NO_VERSION: Final = re.compile(r"[?&]versionId=(?:null)?(?=\Z)")
"""A query without a usable version id; it is removed, so that the version id is requested."""

_is_local: Final = lru_cache(64)(is_local_name)


def moment_or_none(value: object) -> datetime | None:
    """Parse a time with a zone, and return it in UTC; None for anything else."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if time is None or time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
ETAG: Final = re.compile(r"[0-9a-f]{32}-(0|[1-9][0-9]{0,4})\Z")


def part_count(size: int) -> int:
    """Return the number of parts of a multipart upload by DANDI; 0 for an empty file."""
    return -(-size // dandi_part_size(size))
