"""Pages of S3 listings: XML from outside, turned into rows or refused as a whole.

Formats: S3 API reference, "ListObjectsV2" and "ListObjectVersions". With ``encoding-type=url`` S3
and MinIO write a space as ``+`` and a plus as ``%2B``; Ceph and moto write ``%20`` and ``%2B``. So
a ``+`` in an encoded name is always a space, and names are decoded so, once, and only where
the page itself says that they are encoded (``EncodingType``).
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

from neuromirror.net.errors import InvalidListingError

_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONG: Final = 20
"""Digits of a size; more is no size."""


class ObjectRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One object, version or delete marker of a listing.

    ``size`` in bytes; ``etag`` without quotes, empty for a delete marker; ``version_id`` None
    where it is not listed, or "null"; ``checksum_algorithm`` as listed (several: joined by a
    comma), ``checksum_type`` FULL_OBJECT or COMPOSITE; ``latest`` says that a GET without version
    id gives this one.
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
    """One reply to a listing request: rows in the order of their keys, and how to go on."""

    rows: list[ObjectRow]
    prefixes: list[bytes]
    truncated: bool
    token: str | None = None
    next_key: bytes | None = None
    next_version: str | None = None


def decode_key(name: str, *, encoded: bool) -> bytes:
    """A key's bytes from its name in a page."""
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
_SPACE: Final = " \t\r\n"
_TAIL: Final = "</ListBucketResult>"


def parse_page(body: bytes, uri: str, *, versions: bool = False) -> Page:
    """The page that an XML body holds.

    Raises :class:`InvalidListingError` for everything that is not a whole and sound page.
    ``shown`` is
    the address for messages.
    """
    page = None if versions else _parse_fast(body)
    return page or _parse_strict(body, uri, versions)


def _parse_fast(body: bytes) -> Page | None:
    """The page, if every byte of it is as S3 itself writes it; else None."""
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
        # objects that were written together have one time
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


class _PageReader:
    """Takes a page apart with expat; every odd thing is a ValueError."""

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
        parser = expat.ParserCreate("UTF-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = self._doctype
        parser.Parse(body, True)

    def _doctype(self, *_: object) -> None:
        raise ValueError("it declares a document type")

    def _start(self, name: str, _: object) -> None:
        name = name.rpartition(":")[2]
        if not self._path and name != self.root:
            raise ValueError(f"it is a {name[:40]} instead of a {self.root}")
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
                raise ValueError(f"it says {name} twice")
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
    """A time of day that git can carry: what cannot be true of an object becomes the first.

    Raises ValueError.
    """
    try:
        return max(datetime.fromisoformat(stamp).astimezone(UTC), _FIRST)
    except OverflowError as error:
        raise ValueError(f"{stamp[:40]!r} is no time") from error


_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def _parse_row(kind: str, row: Mapping[str, Sequence[str]], encoded: bool) -> ObjectRow:
    stamp = _required(row, "LastModified")
    if not _STAMP.fullmatch(stamp):
        raise ValueError(f"{stamp[:40]!r} is no time")
    deleted = kind == "DeleteMarker"
    size, etag = ("0", "") if deleted else (_required(row, "Size"), _required(row, "ETag"))
    if not (size.isascii() and size.isdecimal() and len(size) < _LONG):
        raise ValueError(f"{size[:40]!r} is no size")
    if etag[:1] == '"' and etag[-1:] == '"':
        etag = etag[1:-1]
    if not deleted and (not etag or '"' in etag):
        raise ValueError("a row has an odd ETag")
    version = latest = None
    if kind != "Contents":
        version, latest = _required(row, "VersionId"), _required(row, "IsLatest")
        if latest not in ("true", "false"):
            raise ValueError(f"{latest[:40]!r} stands for IsLatest")
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


def _parse_strict(body: bytes, uri: str, versions: bool) -> Page:
    reader = _PageReader("ListVersionsResult" if versions else "ListBucketResult")
    try:
        reader.read(body)
        encoded = reader.fields.get("EncodingType") == "url"
        if not encoded and b"\r" in body:
            # XML makes a line feed of it, and nobody could tell the keys apart.
            raise ValueError("it has carriage returns and does not encode its keys")
        rows = [_parse_row(kind, row, encoded) for kind, row in reader.rows]
        if versions:
            rows = _merge_versions(rows)
        keys = list(map(attrgetter("key"), rows))
        if not all(map(le if versions else lt, keys, keys[1:])):
            raise ValueError("its keys are not in the order of their bytes")
        prefixes = [decode_key(name, encoded=encoded) for name in reader.prefixes]
        page = _page_of(rows, prefixes, reader.fields)
        if page is None:
            raise ValueError("its IsTruncated or KeyCount is missing or wrong")
    except (expat.ExpatError, ValueError) as error:
        broken = InvalidListingError(
            f"{uri} gave a page of a listing that cannot be used: {error}; try again, and if"
            " it stays so, tell those who run the store",
            url=uri,
            status=200,
        )
        broken.transient = True
        raise broken from error
    return page


def _merge_versions(rows: list[ObjectRow]) -> list[ObjectRow]:
    """Versions and delete markers in one order: key, newest first; some servers give two lists."""
    order = [(row.key, not row.latest) for row in rows]
    if all(map(le, order, order[1:])):
        return rows
    for deleted in (False, True):
        keys = [row.key for row in rows if row.deleted is deleted]
        if not all(map(le, keys, keys[1:])):
            raise ValueError("its keys are not in the order of their bytes")
    return sorted(rows, key=lambda row: (row.key, not row.latest, -row.modified.timestamp()))


def _page_of(
    rows: list[ObjectRow], prefixes: list[bytes], fields: Mapping[str, str]
) -> Page | None:
    truncated = fields.get("IsTruncated")
    count = fields.get("KeyCount")
    if truncated not in ("true", "false"):
        return None
    # S3 counts the folders too, s3rver only the objects
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
