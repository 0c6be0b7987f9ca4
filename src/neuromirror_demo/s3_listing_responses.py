"""S3's responses to listings of a bucket: its objects, or all their versions.

As in the S3 API reference (ListObjects, ListObjectsV2, ListObjectVersions), names are in the order
of their bytes, at most 1,000 per page. With ``encoding-type=url`` a space becomes ``+``; letters,
digits and ``-._*/`` stay; every other byte becomes ``%XX``.
"""

from __future__ import annotations

import base64
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

from werkzeug.wrappers import Response

from neuromirror_demo.object_bucket import ObjectBucket, ObjectVersion
from neuromirror_demo.s3_object_responses import error_response

_MAX_KEYS = 1000
_LISTING = frozenset(
    {
        *("continuation-token", "delimiter", "encoding-type", "fetch-owner", "key-marker"),
        *("list-type", "marker", "max-keys", "prefix", "start-after", "version-id-marker"),
        *("versions", "x-id"),
    }
)
_CONTROL_CHARACTERS: Final = {number: f"&#x{number:x};" for number in range(ord(" "))}
_OWNER = "<Owner><ID>0123456789abcdef</ID></Owner>"


@dataclass(frozen=True, slots=True)
class ListingFaults:
    """Faults of a response: omitted keys, and how it ends.

    ``ends`` is ``""`` (complete), ``"early"`` (claims to be the last page), ``"no-token"`` (claims
    that more follows, without a token), ``"cut"`` (half the document) or ``"objects"`` (objects
    instead of versions).
    """

    without: frozenset[bytes] = frozenset()
    after: bytes | None = None
    ends: str = ""


def listing_faults(environ: Mapping[str, Any]) -> ListingFaults:
    """Return the effect of the active ``listing`` faults on a response."""
    without: set[bytes] = set()
    after: bytes | None = None
    ends = ""
    for fault in environ.get("neuromirror_demo.struck", ()):
        if fault.name == "listing":
            without |= {_bytes(key) for key in fault.options["without"]}
            after = fault.options["after"] or after
            ends = fault.options["ends"] or ends
    return ListingFaults(frozenset(without), after, ends)


def encode_name(name: bytes) -> str:
    """Return a name as S3 writes it with ``encoding-type=url``."""
    return quote_plus(name, safe="/*").replace("~", "%7E")


def listing_response(
    bucket: ObjectBucket, query: Mapping[str, str], page_size: int, tampering: ListingFaults
) -> Response:
    """Return one page; ``query`` is the decoded query of the request."""
    versions = "versions" in query
    if versions and not bucket.list_versions:
        return error_response(403, "AccessDenied")
    if query.keys() - _LISTING:
        return error_response(403, "AccessDenied")
    number = query.get("max-keys", str(_MAX_KEYS))
    if not number.isdecimal() or query.get("encoding-type", "url") != "url":
        return error_response(400, "InvalidArgument")
    name = encode_name if query.get("encoding-type") == "url" else _plain
    most = min(int(number), page_size, _MAX_KEYS)
    page = _versions_page if versions and tampering.ends != "objects" else _objects_page
    try:
        text = page(bucket, query, most, name, tampering)
    except ValueError:
        return error_response(400, "InvalidArgument")
    if tampering.ends == "cut":
        text = text[: len(text) // 2]
    headers = {"x-amz-bucket-region": "us-east-1"}
    body = '<?xml version="1.0" encoding="UTF-8"?>\n' + text
    return Response(body, mimetype="application/xml", headers=headers)


Writes = Callable[[bytes], str]


def _plain(name: bytes) -> str:
    """Return a name without encoding; bytes that are not UTF-8 are lost."""
    return escape(name.decode("utf-8", "replace")).translate(_CONTROL_CHARACTERS)


def _bytes(text: bytes | str) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def _names(
    bucket: ObjectBucket, prefix: bytes, delimiter: bytes, start: int
) -> Iterator[tuple[bytes, bool]]:
    """Yield names with ``prefix`` from a start on, grouped by ``delimiter``."""
    keys = bucket.names()
    position = max(start, bisect_left(keys, prefix))
    while position < len(keys) and keys[position].startswith(prefix):
        at = keys[position].find(delimiter, len(prefix)) if delimiter else -1
        if at < 0:
            yield keys[position], False
            position += 1
        else:
            common = keys[position][: at + len(delimiter)]
            yield common, True
            position = _prefix_end(keys, common)


def _prefix_end(keys: list[bytes], prefix: bytes) -> int:
    """Return the end of the names with a prefix."""
    return bisect_left(keys, prefix[:-1] + bytes([prefix[-1] + 1]))


def _start(keys: list[bytes], marker: bytes, prefix: bytes, delimiter: bytes) -> int:
    """Return the start after a marker; a common prefix includes everything below it."""
    if delimiter and marker.endswith(delimiter) and len(marker) > len(prefix):
        return _prefix_end(keys, marker)
    return bisect_right(keys, marker)


def _has_objects(bucket: ObjectBucket, name: bytes, is_prefix: bool) -> bool:
    if not is_prefix:
        return bucket.current(name) is not None
    keys = bucket.names()
    inside = range(bisect_left(keys, name), _prefix_end(keys, name))
    return any(bucket.current(keys[position]) is not None for position in inside)


def _objects_page(
    bucket: ObjectBucket,
    query: Mapping[str, str],
    most: int,
    name: Writes,
    tampering: ListingFaults,
) -> str:
    prefix, delimiter = _bytes(query.get("prefix", "")), _bytes(query.get("delimiter", ""))
    second = query.get("list-type") == "2"
    token = query.get("continuation-token") if second else None
    given = _bytes(query.get("start-after" if second else "marker", ""))
    marker = given if token is None else base64.urlsafe_b64decode(token)
    shown: list[str] = []
    reached = following = b""
    start = _start(bucket.names(), marker, prefix, delimiter)
    for one, is_prefix in _names(bucket, prefix, delimiter, start):
        if tampering.after is not None and one > tampering.after:
            break
        if one in tampering.without or not _has_objects(bucket, one, is_prefix):
            continue
        if len(shown) == most:
            following = reached
            break
        reached = one
        if is_prefix:
            shown.append(f"<CommonPrefixes><Prefix>{name(one)}</Prefix></CommonPrefixes>")
        else:
            shown.append(_contents(bucket, one, name))
    truncated = bool(following) and tampering.ends != "early"
    ends = ""
    if truncated and tampering.ends != "no-token":
        if second:
            text = base64.urlsafe_b64encode(following).decode()
            ends = f"<NextContinuationToken>{text}</NextContinuationToken>"
        elif delimiter:
            ends = f"<NextMarker>{name(following)}</NextMarker>"
    if second:
        about = f"<StartAfter>{name(given)}</StartAfter>" if given else ""
        about += f"<ContinuationToken>{token}</ContinuationToken>" if token else ""
        about += f"<KeyCount>{len(shown)}</KeyCount>"
    else:
        about = f"<Marker>{name(given)}</Marker>"
    return "".join(
        [
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
            f"<Name>{bucket.name}</Name><Prefix>{name(prefix)}</Prefix>{about}{ends}",
            f"<MaxKeys>{most}</MaxKeys>",
            f"<Delimiter>{name(delimiter)}</Delimiter>" if delimiter else "",
            "<EncodingType>url</EncodingType>" if name is encode_name else "",
            f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>",
            # S3 lists all objects of a page before all prefixes.
            *sorted(shown, key=lambda row: row.startswith("<CommonPrefixes>")),
            "</ListBucketResult>",
        ]
    )


def _contents(bucket: ObjectBucket, key: bytes, name: Writes) -> str:
    one = bucket.current(key)
    assert one is not None
    return (
        f"<Contents><Key>{name(one.key)}</Key>{_common(one)}"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def _common(one: ObjectVersion) -> str:
    size, etag = one.listed or (one.size, one.etag)
    checksum = ""
    if one.checksum is not None:
        checksum = (
            f"<ChecksumAlgorithm>{one.checksum[0]}</ChecksumAlgorithm>"
            f"<ChecksumType>{one.checksum[1]}</ChecksumType>"
        )
    return (
        f"<LastModified>{one.modified:%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
        f"<ETag>&quot;{etag}&quot;</ETag>{checksum}<Size>{size}</Size>"
    )


def _versions_page(
    bucket: ObjectBucket,
    query: Mapping[str, str],
    most: int,
    name: Writes,
    tampering: ListingFaults,
) -> str:
    prefix, delimiter = _bytes(query.get("prefix", "")), _bytes(query.get("delimiter", ""))
    marker, id_marker = _bytes(query.get("key-marker", "")), query.get("version-id-marker", "")
    if id_marker and not marker:
        raise ValueError("a version-id-marker needs a key-marker")
    keys = bucket.names()
    start = bisect_left(keys, marker) if id_marker else _start(keys, marker, prefix, delimiter)
    shown: list[str] = []
    ends = ""
    reached: tuple[bytes, str] = (b"", "")
    for key, row, version in _version_rows(bucket, prefix, delimiter, start, name):
        if tampering.after is not None and key > tampering.after:
            break
        if key == marker and id_marker:
            if version == id_marker:
                id_marker = ""
            continue
        if key in tampering.without:
            continue
        if len(shown) == most:
            ends = f"<NextKeyMarker>{name(reached[0])}</NextKeyMarker>"
            if reached[1]:
                ends += f"<NextVersionIdMarker>{reached[1]}</NextVersionIdMarker>"
            break
        shown.append(row)
        reached = (key, version)
    truncated = bool(ends) and tampering.ends != "early"
    return "".join(
        [
            '<ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
            f"<Name>{bucket.name}</Name><Prefix>{name(prefix)}</Prefix>",
            f"<KeyMarker>{name(marker)}</KeyMarker>",
            f"<VersionIdMarker>{query.get('version-id-marker', '')}</VersionIdMarker>",
            ends if truncated and tampering.ends != "no-token" else "",
            f"<MaxKeys>{most}</MaxKeys>",
            f"<Delimiter>{name(delimiter)}</Delimiter>" if delimiter else "",
            "<EncodingType>url</EncodingType>" if name is encode_name else "",
            f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>",
            *shown,
            "</ListVersionsResult>",
        ]
    )


def _version_rows(
    bucket: ObjectBucket, prefix: bytes, delimiter: bytes, start: int, name: Writes
) -> Iterator[tuple[bytes, str, str]]:
    for key, is_prefix in _names(bucket, prefix, delimiter, start):
        if is_prefix:
            yield key, f"<CommonPrefixes><Prefix>{name(key)}</Prefix></CommonPrefixes>", ""
            continue
        for one in bucket.versions(key):
            version = one.version_id or "null"
            latest = "true" if one.latest else "false"
            what = (
                f"<Key>{name(key)}</Key><VersionId>{version}</VersionId>"
                f"<IsLatest>{latest}</IsLatest>"
            )
            if one.deleted:
                when = f"<LastModified>{one.modified:%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
                row = f"<DeleteMarker>{what}{when}{_OWNER}</DeleteMarker>"
            else:
                stored = "<StorageClass>STANDARD</StorageClass>"
                row = f"<Version>{what}{_common(one)}{stored}{_OWNER}</Version>"
            yield key, row, version
