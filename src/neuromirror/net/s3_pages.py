"""Parse the pages of S3 listings; an invalid page is refused as a whole.

Formats: S3 API reference, "ListObjectsV2" and "ListObjectVersions". With ``encoding-type=url`` S3
and MinIO encode a space as ``+`` and a plus as ``%2B``; Ceph and moto use ``%20`` and ``%2B``. A
``+`` in an encoded name is therefore always a space. Names are decoded only if the page states
``EncodingType``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter, le, lt
from typing import Final
from urllib.parse import unquote_to_bytes
from xml.parsers import expat

import msgspec

from neuromirror.net.errors import GarbledListingError, InvalidListingError, VersionsIgnoredError

_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONG: Final = 20
"""A size has fewer digits than this."""


class ObjectRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An object, version or delete marker in a listing.

    Attributes
    ----------
    key
        The key.
    size
        The size in bytes.
    etag
        The ETag without quotes; empty for a delete marker.
    modified
        The time of the last modification (UTC).
    version_id
        The version id; None if unlisted or "null".
    checksum_algorithm
        The listed algorithms, joined by commas.
    checksum_type
        FULL_OBJECT or COMPOSITE.
    deleted
        Whether the row is a delete marker.
    latest
        Whether a GET without version id returns this version.
    """

    key: bytes
    size: int
    etag: str
    modified: datetime
    version_id: str | None = None
    checksum_algorithm: str | None = None
    checksum_type: str | None = None
    deleted: bool = False
    latest: bool = True


class Page(msgspec.Struct, frozen=True):
    """A page of a bucket's listing.

    Attributes
    ----------
    rows
        The objects, versions or delete markers, in key order.
    prefixes
        The common prefixes: folders, in a listing with a delimiter.
    truncated
        Whether further pages follow.
    token, next_key, next_version
        The markers with which the next page is requested.
    """

    rows: list[ObjectRow]
    prefixes: list[bytes]
    truncated: bool
    token: str | None = None
    next_key: bytes | None = None
    next_version: str | None = None


def decode_key(name: str, *, encoded: bool) -> bytes:
    """Return the bytes of an object's key from its text in a page of a listing.

    ``encoded`` is whether the server percent-encoded it (``encoding-type=url``).
    """
    if not encoded:
        return name.encode()
    if "+" in name:
        name = name.replace("+", " ")
    return unquote_to_bytes(name) if "%" in name else name.encode()


_PLAIN: Final = r"[^<>&\x00-\x1f\x7f]"
_ROW: Final = (
    r"<Contents><Key>{}</Key><LastModified>{}</LastModified>"
    r"<ETag>(?:&quot;|\"){}(?:&quot;|\")</ETag>"
    r"(?:<ChecksumAlgorithm>{}</ChecksumAlgorithm>)?(?:<ChecksumType>{}</ChecksumType>)?"
    r"<Size>{}</Size><StorageClass>[A-Z_]+</StorageClass></Contents>"
)
_FIELDS: Final = (
    f"{_PLAIN}+",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z",
    r"[0-9A-Za-z-]+",
    r"[0-9A-Z]+",
    r"[A-Z_]+",
    r"\d{1,19}",
)
_ONE: Final = re.compile(_ROW.format(*(f"({field})" for field in _FIELDS)))
_MANY: Final = re.compile(f"(?:{_ROW.format(*_FIELDS)})++")
_HEAD: Final = re.compile(
    r"<\?xml version=\"1\.0\" encoding=\"(?:UTF|utf)-8\"\?>\n?"
    r"<ListBucketResult(?: xmlns=\"[A-Za-z0-9:/.-]*\")?>"
    rf"((?:<([A-Za-z]+)>{_PLAIN}*</\2>|<[A-Za-z]+/>)*)"
)
_SIMPLE: Final = re.compile(rf"<([A-Za-z]+)>({_PLAIN}*)</\1>")
_END: Final = re.compile(rb"</List(?:Bucket|Versions)Result>\s*\Z")
_SPACE: Final = " \t\r\n"
_NAMESPACE_END: Final = "}"
_TAIL: Final = "</ListBucketResult>"


def parse_page(body: bytes, uri: str, *, versions: bool = False) -> Page:
    """Parse one page of a bucket's listing (ListObjectsV2 or ListObjectVersions).

    Parameters
    ----------
    body
        The body of the response, in XML.
    uri
        The URI of the bucket, for messages.
    versions
        Whether the page is one of a listing of versions.

    Raises
    ------
    InvalidListingError
        If the body is not a complete, consistent page.
    VersionsIgnoredError
        If it is a list of objects instead of versions.
    """
    page = None if versions else _parse_fast(body)
    return page or _parse_strict(body, uri, versions)


def _parse_fast(body: bytes) -> Page | None:
    """Parse a page in exactly the form that S3 writes; None for any other form."""
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError:
        return None
    head = _HEAD.match(text)
    if head is None:
        return None
    many = _MANY.match(text, head.end())
    if many is None or text[many.end() :].rstrip(_SPACE) != _TAIL:
        return None
    named = _SIMPLE.findall(head.group(1))
    fields = dict(named)
    if len(fields) != len(named) or fields.get("EncodingType") != "url":
        return None
    found = _ONE.findall(text, many.start())
    if text.find("%", many.start()) >= 0 or text.find("+", many.start()) >= 0:
        keys = [decode_key(row[0], encoded=True) for row in found]
    else:
        keys = [row[0].encode() for row in found]
    try:
        # objects written together share a timestamp
        times = {stamp: _time(stamp) for stamp in {row[1] for row in found}}
    except ValueError:
        return None
    rows = [
        ObjectRow(key, int(size), etag, times[at], None, algorithm or None, kind or None)
        for key, (_, at, etag, algorithm, kind, size) in zip(keys, found, strict=True)
    ]
    if not all(map(lt, keys, keys[1:])):
        return None
    return _page_of(rows, [], fields)


class _UnexpectedRootError(ValueError):
    """The document is of another type."""


class _PageReader:
    """Parses a page with expat; raises ValueError for anything unexpected."""

    _ROWS: Final = frozenset({"Contents", "Version", "DeleteMarker"})

    def __init__(self, root: str) -> None:
        self.root = root
        self.fields: dict[str, str] = {}
        self.rows: list[tuple[str, dict[str, list[str]]]] = []
        self.prefixes: list[str] = []
        self._path: list[str] = []
        self._row: dict[str, list[str]] = {}
        self._text: list[str] = []

    def read(self, body: bytes) -> None:
        # as other readers do, with namespaces: a prefix must be bound
        parser = expat.ParserCreate("UTF-8", _NAMESPACE_END)
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = self._doctype
        parser.Parse(body, True)

    def _doctype(self, *_: object) -> None:
        raise ValueError("it declares a document type")

    def _start(self, name: str, _: object) -> None:
        name = name.rpartition(_NAMESPACE_END)[2]
        if not self._path and name != self.root:
            raise _UnexpectedRootError(f"expected {self.root}, got {name[:40]}")
        self._path.append(name)
        self._text.clear()
        if len(self._path) == 2:
            self._row = {}

    def _end(self, _: str) -> None:
        name = self._path.pop()
        text = "".join(self._text)
        self._text.clear()
        if len(self._path) == 2:
            self._row.setdefault(name, []).append(text)
        elif len(self._path) == 1:
            if name in self._ROWS:
                self.rows.append((name, self._row))
            elif name == "CommonPrefixes":
                self.prefixes.append(_required(self._row, "Prefix"))
            elif not self._row and name in self.fields:
                raise ValueError(f"repeated element {name}")
            elif not self._row:
                self.fields[name] = text


def _required(row: Mapping[str, Sequence[str]], name: str) -> str:
    values = row.get(name, ())
    if len(values) != 1 or not values[0]:
        raise ValueError(f"a row has {len(values) if values != [''] else 'an empty'} {name}")
    return values[0]


def _optional(row: Mapping[str, Sequence[str]], name: str) -> str | None:
    return _required(row, name) if any(row.get(name, ())) else None


def _time(stamp: str) -> datetime:
    """Parse a timestamp; times before 1970, which git cannot store, become 1970-01-01."""
    try:
        return max(datetime.fromisoformat(stamp).astimezone(UTC), _FIRST)
    except OverflowError as error:
        raise ValueError(f"invalid timestamp {stamp[:40]!r}") from error


_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def _parse_row(kind: str, row: Mapping[str, Sequence[str]], encoded: bool) -> ObjectRow:
    stamp = _required(row, "LastModified")
    if not _STAMP.fullmatch(stamp):
        raise ValueError(f"invalid timestamp {stamp[:40]!r}")
    deleted = kind == "DeleteMarker"
    size, etag = ("0", "") if deleted else (_required(row, "Size"), _required(row, "ETag"))
    if not (size.isascii() and size.isdecimal() and len(size) < _LONG):
        raise ValueError(f"invalid size {size[:40]!r}")
    if etag[:1] == '"' and etag[-1:] == '"':
        etag = etag[1:-1]
    if not deleted and (not etag or '"' in etag):
        raise ValueError(f"invalid ETag {etag[:40]!r}")
    version = latest = None
    if kind != "Contents":
        version, latest = _required(row, "VersionId"), _required(row, "IsLatest")
        if latest not in ("true", "false"):
            raise ValueError(f"invalid IsLatest {latest[:40]!r}")
    return ObjectRow(
        decode_key(_required(row, "Key"), encoded=encoded),
        int(size),
        etag,
        _time(stamp),
        None if version == "null" else version,
        ",".join(filter(None, row.get("ChecksumAlgorithm", ()))) or None,
        _optional(row, "ChecksumType"),
        deleted,
        latest != "false",
    )


class _UnorderedKeysError(ValueError):
    """The keys of a page are not in the order of their bytes."""


def _parse_strict(body: bytes, uri: str, versions: bool) -> Page:
    reader = _PageReader("ListVersionsResult" if versions else "ListBucketResult")
    try:
        reader.read(body)
        encoded = reader.fields.get("EncodingType") == "url"
        if not encoded and b"\r" in body:
            # XML normalizes it to a line feed, so that two keys could become equal.
            raise ValueError("carriage returns in keys that are not URL-encoded")
        rows = [_parse_row(kind, row, encoded) for kind, row in reader.rows]
        if versions:
            rows = _merge_versions(rows)
        keys = list(map(attrgetter("key"), rows))
        if not all(map(le if versions else lt, keys, keys[1:])):
            raise _UnorderedKeysError("keys are not in byte order")
        prefixes = [decode_key(name, encoded=encoded) for name in reader.prefixes]
        page = _page_of(rows, prefixes, reader.fields)
        if page is None:
            raise ValueError("missing or wrong IsTruncated or KeyCount")
    except (expat.ExpatError, ValueError) as error:
        is_whole = _END.search(body, max(0, len(body) - 100))
        if versions and is_whole and isinstance(error, _UnexpectedRootError):
            raise VersionsIgnoredError(
                f"{uri} returned a list of objects instead of object versions; the server, or a"
                " proxy before it, ignores ?versions; try again, and if the error persists, report"
                " it to the operator of the store",
                url=uri,
                status=200,
            ) from error
        is_unordered = isinstance(error, _UnorderedKeysError)
        advice = (
            "the server does not list as S3 does, and its buckets cannot be mirrored"
            if is_unordered
            else "try again, and if the error persists, report it to the operator of the store"
        )
        broken = (GarbledListingError if is_whole else InvalidListingError)(
            f"{uri} returned an invalid page of a listing: {error}; {advice}",
            url=uri,
            status=200,
        )
        broken.transient = not is_unordered
        raise broken from error
    return page


def _merge_versions(rows: list[ObjectRow]) -> list[ObjectRow]:
    """Sort versions and delete markers by key, newest first; some servers list them separately."""
    order = [(row.key, not row.latest) for row in rows]
    if all(map(le, order, order[1:])):
        return rows
    for deleted in (False, True):
        keys = [row.key for row in rows if row.deleted is deleted]
        if not all(map(le, keys, keys[1:])):
            raise _UnorderedKeysError("keys are not in byte order")
    return sorted(rows, key=lambda row: (row.key, not row.latest, -row.modified.timestamp()))


def _page_of(
    rows: list[ObjectRow], prefixes: list[bytes], fields: Mapping[str, str]
) -> Page | None:
    truncated = fields.get("IsTruncated")
    count = fields.get("KeyCount")
    if truncated not in ("true", "false"):
        return None
    # S3 counts folders too, s3rver counts only objects
    if count not in (None, str(len(rows) + len(prefixes)), str(len(rows))):
        return None
    encoded = fields.get("EncodingType") == "url"
    marker = fields.get("NextKeyMarker")
    return Page(
        rows,
        prefixes,
        truncated == "true",
        fields.get("NextContinuationToken") or None,
        decode_key(marker, encoded=encoded) if marker else None,
        fields.get("NextVersionIdMarker") or None,
    )
