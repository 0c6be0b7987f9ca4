"""Parse the pages of S3 listings; an invalid page is refused as a whole.

Formats: S3 API reference, "ListObjectsV2" and "ListObjectVersions". With ``encoding-type=url`` S3
and MinIO encode a space as ``+`` and a plus as ``%2B``; Ceph and moto use ``%20`` and ``%2B``. A
``+`` in an encoded name is therefore always a space. Names are decoded only if the page states
``EncodingType``.

expat checks that a page is XML; patterns then read its rows, one for each sequence of elements that
rows have. This takes a quarter of the time that a handler of expat per element takes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from operator import le, lt
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
    storage_class
        The storage class; None if unlisted.
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
    storage_class: str | None = None


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


_NAME: Final = "[A-Za-z][A-Za-z0-9]*"
_GAP: Final = r"[ \t\n]*"
_TEXT: Final = r"[^\x3c]*"
"""Written without the character, so that a pattern has one per tag."""
_ROOT: Final = re.compile(
    rf"(?:<\?[^<>]*\?>)?{_GAP}<({_NAME})(?: xmlns(?::{_NAME})?=[^<> ]*)*{_GAP}>"
)
_ELEMENT: Final = re.compile(
    rf"{_GAP}<(?:(?P<name>{_NAME})>(?:(?P<text>{_TEXT})|(?P<inner>.*?))</(?P=name)>"
    rf"|(?P<empty>{_NAME})/>)",
    re.DOTALL,
)
_ENTITY: Final = re.compile("&(?:(amp|lt|gt|quot|apos)|#([0-9]+)|#x([0-9A-Fa-f]+));")
_ENTITIES: Final = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_CONTROL: Final = re.compile(
    rb"[\x01-\x08\x0b-\x1f]|&#(?:x0*1?[0-9A-Fa-f]|0*(?:[12]?[0-9]|3[01]));"
)
"""A control character, raw or as a reference; XML forbids or normalizes most of them."""
_NAME_ELEMENT: Final = re.compile(rb"<(?:Key|KeyMarker|NextKeyMarker|Prefix)>[^<]*")
_OUTSIDE_NAMES: Final = re.compile(
    r"(<(?:Key|KeyMarker|NextKeyMarker|Prefix)>[^<]*)|\r\n?", re.DOTALL
)
_END: Final = re.compile(rb"</List(?:Bucket|Versions)Result>\s*\Z")
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")

_SUMS: Final = "ChecksumAlgorithm"
_REQUIRED: Final = {
    "Contents": ("Key", "LastModified", "Size", "ETag"),
    "Version": ("Key", "LastModified", "Size", "ETag", "VersionId", "IsLatest"),
    "DeleteMarker": ("Key", "LastModified", "VersionId", "IsLatest"),
}
"""The elements that each kind of row must have once, not empty."""
_CLASS: Final = "StorageClass"
_USED: Final = frozenset({*_REQUIRED["Version"], "ChecksumType", _SUMS, _CLASS})
_OPTIONAL: Final = ("VersionId", _SUMS, "ChecksumType", "IsLatest")
_MAX_FORMS: Final = 64

_Values = list[tuple[str, ...]]


class _Times(dict[str, datetime]):
    """Times by timestamp: objects that are written together share one."""

    def __missing__(self, stamp: str) -> datetime:
        """Parse a timestamp; times before 1970, which git cannot store, become 1970-01-01."""
        if not _STAMP.fullmatch(stamp):
            raise ValueError(f"invalid timestamp {stamp[:40]!r}")
        try:
            time = max(datetime.fromisoformat(stamp).astimezone(UTC), _FIRST)
        except OverflowError as error:
            raise ValueError(f"invalid timestamp {stamp[:40]!r}") from error
        self[stamp] = time
        return time


class _UnexpectedRootError(ValueError):
    """The document is of another type."""


class _UnorderedKeysError(ValueError):
    """The keys of a page are not in the order of their bytes."""


class _RowForm:
    """A sequence of elements of rows, as a pattern; most pages have rows of one form."""

    def __init__(self, kind: str, inner: str) -> None:
        elements = list(_elements(inner))
        self.names = [one["name"] or one["empty"] for one in elements if one["inner"] is None]
        self.names = [name for name in self.names if name in _USED]
        pieces = "".join(_pattern(element, _USED) for element in elements)
        for name in _USED:
            count = self.names.count(name)
            if (count > 1 and name != _SUMS) or (not count and name in _REQUIRED[kind]):
                raise ValueError(f"a row has {count} {name}")
        self.kind = kind
        self.pattern = f"{_GAP}<{kind}>{pieces}{_GAP}</{kind}>"

    def find(self, text: str, start: int, is_first: bool) -> tuple[_Values, int]:
        """Return the values of the rows of this form from a position on, and where they end."""
        row = re.compile(self.pattern.replace("%s", f"({_TEXT})"))
        if is_first:  # most pages have nothing else up to the last row
            end = text.rindex(f"</{self.kind}>") + len(f"</{self.kind}>")
            values = row.findall(text, start, end)
            if len(values) * self.pattern.count("<") == text.count("<", start, end):
                return values, end
        rows = re.compile(f"(?:{self.pattern.replace('%s', _TEXT)})++").match(text, start)
        assert rows is not None
        return row.findall(text, start, rows.end()), rows.end()

    def parse(self, found: _Values, encoded: bool, times: _Times) -> list[ObjectRow]:
        """Return the rows with these values; column by column, which is faster than by row."""
        columns: dict[str, Sequence[str]] = {}
        for name, values in zip(self.names, zip(*found, strict=True), strict=True):
            column = _unescape(values)
            if name in columns:
                pairs = zip(columns[name], column, strict=True)
                column = [",".join(filter(None, pair)) for pair in pairs]
            if name in _REQUIRED[self.kind] and "" in column:
                raise ValueError(f"a row has an empty {name}")
            columns[name] = column
        nothing: list[None] = [None] * len(found)
        is_marker = self.kind == "DeleteMarker"
        latest: Sequence[str] = columns.get("IsLatest", ["true"] * len(found))
        if not {"true", "false"}.issuperset(latest):
            raise ValueError("invalid IsLatest")
        return list(
            map(
                ObjectRow,
                _decode_keys(columns["Key"], encoded),
                repeat(0) if is_marker else _sizes(columns["Size"]),
                repeat("") if is_marker else _etags(columns["ETag"]),
                map(times.__getitem__, columns["LastModified"]),
                (None if one == "null" else one for one in columns.get("VersionId", nothing)),
                (one or None for one in columns.get(_SUMS, nothing)),
                (one or None for one in columns.get("ChecksumType", nothing)),
                repeat(is_marker),
                map("true".__eq__, latest),
                (one or None for one in columns.get(_CLASS, nothing)),
            )
        )


def _elements(text: str, at: int = 0) -> Iterator[re.Match[str]]:
    """Yield the elements in a text, with nothing but space between them."""
    while (element := _ELEMENT.match(text, at)) is not None:
        yield element
        at = element.end()
    if text[at:].strip():
        raise ValueError("unexpected markup")


def _pattern(element: re.Match[str], used: Collection[str] = ()) -> str:
    """Return the pattern of an element; ``%s`` stands for the text of one that is used."""
    name = element["name"]
    if name is None:
        return f"{_GAP}<{element['empty']}/>"
    if element["text"] is not None:
        return f"{_GAP}<{name}>{'%s' if name in used else _TEXT}</{name}>"
    return f"{_GAP}<{name}>{''.join(map(_pattern, _elements(element['inner'])))}{_GAP}</{name}>"


def _unescape(texts: Sequence[str]) -> Sequence[str]:
    if "&" not in "".join(texts):
        return texts
    plain = [text.replace("&quot;", '"') for text in texts]  # around each ETag
    if "&" not in "".join(plain):
        return plain
    return [_ENTITY.sub(_character, text) for text in texts]


def _character(entity: re.Match[str]) -> str:
    name, decimal, hexadecimal = entity.groups()
    if name:
        return _ENTITIES[name]
    return chr(int(decimal) if decimal else int(hexadecimal, 16))


def _decode_keys(names: Sequence[str], encoded: bool) -> Iterable[bytes]:
    joined = "".join(names)
    if encoded and ("%" in joined or "+" in joined):
        return [decode_key(name, encoded=True) for name in names]
    return map(str.encode, names)


def _sizes(texts: Sequence[str]) -> Iterator[int]:
    digits = "".join(texts)
    if not (digits.isascii() and digits.isdecimal() and max(map(len, texts)) < _LONG):
        raise ValueError("invalid size")
    return map(int, texts)


def _etags(texts: Sequence[str]) -> list[str]:
    etags = [text[1:-1] if text[0] == '"' == text[-1] else text for text in texts]
    if "" in etags or '"' in "".join(etags):
        raise ValueError("invalid ETag")
    return etags


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
    try:
        return _parse(body, versions)
    except (expat.ExpatError, ValueError) as error:
        raise _listing_error(error, body, uri, versions) from error


def _read_document(body: bytes) -> str:
    # Some servers encode no name in a list of versions, so that keys have control characters.
    is_encoded = b"<EncodingType>url</EncodingType>" in body
    # as other readers do, with namespaces: a prefix must be bound
    parser = expat.ParserCreate("UTF-8", "}")
    parser.StartDoctypeDeclHandler = _refuse_doctype
    checked = body
    if not is_encoded and _CONTROL.search(body):
        checked = _NAME_ELEMENT.sub(lambda found: _CONTROL.sub(b"_", found[0]), body)
    parser.Parse(checked, True)
    text = body.decode("utf-8-sig")
    if b"\r" not in body:
        return text
    if is_encoded:
        return text.replace("\r\n", "\n").replace("\r", "\n")
    return _OUTSIDE_NAMES.sub(lambda found: found[1] or "\n", text)


def _refuse_doctype(*_: object) -> None:
    raise ValueError("it declares a document type")


def _parse(body: bytes, versions: bool) -> Page:
    text = _read_document(body)
    root = _ROOT.match(text)
    expected = "ListVersionsResult" if versions else "ListBucketResult"
    if root is None or root[1] != expected:
        raise _UnexpectedRootError(f"expected {expected}, got {root[1][:40] if root else 'else'}")
    fields: dict[str, str] = {}
    folders: list[str] = []
    found: list[tuple[_RowForm, _Values]] = []
    forms: dict[str, _RowForm] = {}
    at = root.end()
    while (element := _ELEMENT.match(text, at)) is not None:
        name, inner = element["name"] or element["empty"], element["inner"]
        if name in _REQUIRED:
            form = _RowForm(name, inner or "")
            form = forms.setdefault(form.pattern, form)
            if len(forms) > _MAX_FORMS:
                raise ValueError(f"rows of more than {_MAX_FORMS} forms")
            values, at = form.find(text, at, not found)
            found.append((form, values))
            continue
        at = element.end()
        if name == "CommonPrefixes":
            names = [one["text"] for one in _elements(inner or "") if one["name"] == "Prefix"]
            if len(names) != 1 or not names[0]:
                raise ValueError("a folder without a Prefix")
            folders += _unescape(names)
        elif inner is None:
            if name in fields:
                raise ValueError(f"repeated element {name}")
            (fields[name],) = _unescape([element["text"] or ""])
    if text[at:].strip() != f"</{expected}>":
        raise ValueError("unexpected markup")
    encoded = fields.get("EncodingType") == "url"
    times = _Times()
    rows = [row for form, values in found for row in form.parse(values, encoded, times)]
    if versions:
        rows = _merge_versions(rows)
    keys = [row.key for row in rows]
    if not all(map(le if versions else lt, keys, keys[1:])):
        raise _UnorderedKeysError("keys are not in byte order")
    return _page_of(rows, [decode_key(name, encoded=encoded) for name in folders], fields)


def _listing_error(
    error: Exception, body: bytes, uri: str, versions: bool
) -> InvalidListingError | VersionsIgnoredError:
    is_whole = _END.search(body, max(0, len(body) - 100))
    if versions and is_whole and isinstance(error, _UnexpectedRootError):
        return VersionsIgnoredError(
            f"{uri} returned a list of objects instead of object versions; the server, or a"
            " proxy before it, ignores ?versions; try again, and if the error persists, report"
            " it to the operator of the store",
            url=uri,
            status=200,
        )
    is_unordered = isinstance(error, _UnorderedKeysError)
    advice = (
        "the server does not list as S3 does, and its buckets cannot be mirrored"
        if is_unordered
        else "try again, and if the error persists, report it to the operator of the store"
    )
    broken = (GarbledListingError if is_whole else InvalidListingError)(
        f"{uri} returned an invalid page of a listing: {error}; {advice}", url=uri, status=200
    )
    broken.transient = not is_unordered
    return broken


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


def _page_of(rows: list[ObjectRow], prefixes: list[bytes], fields: Mapping[str, str]) -> Page:
    truncated, count = fields.get("IsTruncated"), fields.get("KeyCount")
    # S3 counts folders too, s3rver counts only objects
    counts = (None, str(len(rows) + len(prefixes)), str(len(rows)))
    if truncated not in ("true", "false") or count not in counts:
        raise ValueError("missing or wrong IsTruncated or KeyCount")
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
