"""S3 and the document database of AIND on loopback.

Responses are as in the S3 API reference (GetObject, HeadObject, ListObjectsV2,
ListObjectVersions): names are in the order of their bytes, at most 1,000 per page. With
``encoding-type=url`` a space becomes ``+``; letters, digits and ``-._*/`` stay; every other byte
becomes ``%XX``.

Embargoed objects of the archive are tagged: S3 refuses a tagged version unless the URL is signed by
the archive. An upload can set the tag, which belongs to a single version.

``GET /{v1|v2}/metadata_index/data_assets/find?filter=&projection=&limit=&skip=`` of the document
database returns a JSON list of records. Like the real one, it silently returns fewer than ``limit``
records if they would exceed a size in bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote_plus, unquote_to_bytes
from xml.sax.saxutils import escape

from werkzeug.datastructures import Headers
from werkzeug.http import http_date
from werkzeug.wrappers import Request, Response

from neuromirror_demo.bucket_state import ObjectBucket, ObjectVersion
from neuromirror_demo.records import ArchiveClock
from neuromirror_demo.web import json_response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_MESSAGES = {
    "AccessDenied": "Access Denied",
    "InvalidArgument": "Invalid version id specified",
    "InvalidPartNumber": "The requested partnumber is not satisfiable",
    "InvalidRange": "The requested range is not satisfiable",
    "MethodNotAllowed": "The specified method is not allowed against this resource.",
    "NoSuchBucket": "The specified bucket does not exist",
    "NoSuchKey": "The specified key does not exist.",
    "NoSuchVersion": "The specified version does not exist.",
    "SignatureDoesNotMatch": "The request signature we calculated does not match the signature "
    "you provided. Check your key and signing method.",
    "PreconditionFailed": "At least one of the pre-conditions you specified did not hold",
    "SlowDown": "Please reduce your request rate.",
}


def error_response(status: int, code: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an S3 error document."""
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
        f"<Message>{_MESSAGES.get(code, code)}</Message></Error>"
    )
    return Response(text, status=status, mimetype="application/xml", headers=headers)


def object_response(
    bucket: ObjectBucket,
    key: bytes,
    query: Mapping[str, str],
    request: Request,
    refuses: Callable[[ObjectVersion], bool] = lambda found: False,
) -> Response:
    """Return the response to GET or HEAD of ``key``; ``query`` is the decoded query.

    ``refuses`` returns whether the client may not read a version.
    """
    allowed = {"versionId", "partNumber", "x-id"} | _SIGNATURE
    if "X-Amz-Signature" in query:
        # Only signed requests may choose response headers.
        allowed |= {_DISPOSITION}
    if query.keys() - allowed:
        return error_response(403, "AccessDenied")
    found = _found(bucket, key, query.get("versionId"))
    if isinstance(found, Response):
        return found
    if refuses(found):
        return error_response(403, "AccessDenied")
    headers = _headers(found, request)
    if _DISPOSITION in query:
        headers["Content-Disposition"] = query[_DISPOSITION]
    is_archived = found.archive_status or found.storage_class in ("GLACIER", "DEEP_ARCHIVE")
    if request.method == "GET" and is_archived and "false" not in found.restore:
        return error_response(403, "InvalidObjectState")
    etag = f'"{found.etag}"'
    if request.headers.get("If-Match") not in {None, etag, "*"}:
        return error_response(412, "PreconditionFailed")
    if request.headers.get("If-None-Match") in {etag, "*"}:
        return Response(status=304, headers=headers)
    span = _span(found, query.get("partNumber"), request, headers)
    if isinstance(span, Response):
        return span
    start, end = span
    status = 200
    if "Content-Range" in headers:
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
    data = found.data[start:end] if request.method == "GET" else b""
    response = Response(data, status=status, headers=headers)
    response.headers["Content-Length"] = str(end - start)
    return response


_SIGNATURE = frozenset(
    {
        *("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires"),
        *("X-Amz-SignedHeaders", "X-Amz-Signature"),
    }
)


_DISPOSITION = "response-content-disposition"


def _found(bucket: ObjectBucket, key: bytes, version: str | None) -> ObjectVersion | Response:
    if version is None:
        newest = next(iter(bucket.versions(key)), None)
        if newest is None or newest.deleted:
            marker = {}
            if newest is not None:
                marker = {
                    "x-amz-delete-marker": "true",
                    "x-amz-version-id": newest.version_id or "null",
                }
            return error_response(404, "NoSuchKey", marker)
        return newest
    if not bucket.read_versions:
        return error_response(403, "AccessDenied")
    for one in bucket.versions(key):
        if (one.version_id or "null") == version:
            if one.deleted:
                allow = {"Allow": "DELETE", "x-amz-delete-marker": "true"}
                return error_response(405, "MethodNotAllowed", allow)
            return one
    if version != "null" and len(version) != 32:
        return error_response(400, "InvalidArgument")
    return error_response(404, "NoSuchVersion")


def _headers(found: ObjectVersion, request: Request) -> Headers:
    headers = Headers(
        {
            "Accept-Ranges": "bytes",
            "Content-Type": found.content_type,
            "ETag": f'"{found.etag}"',
            "Last-Modified": http_date(found.modified),
            "x-amz-server-side-encryption": found.encryption,
        }
    )
    stated = {
        "Content-Encoding": found.encoding,
        "x-amz-version-id": found.version_id,
        "x-amz-storage-class": {"STANDARD": ""}.get(found.storage_class, found.storage_class),
        "x-amz-archive-status": found.archive_status,
        "x-amz-restore": found.restore,
    }
    headers.update({name: value for name, value in stated.items() if value})
    if found.checksum is not None and request.headers.get("x-amz-checksum-mode") == "ENABLED":
        algorithm, kind, value = found.checksum
        suffix = f"-{len(found.parts)}" if kind == "COMPOSITE" else ""
        headers[f"x-amz-checksum-{algorithm.lower()}"] = value + suffix
        headers["x-amz-checksum-type"] = kind
    return headers


def _span(
    found: ObjectVersion, part: str | None, request: Request, headers: Headers
) -> tuple[int, int] | Response:
    """Return the first byte and the end of a range or part, and add its headers."""
    range_header = request.headers.get("Range")
    if part is not None:
        if range_header is not None or not part.isdecimal() or int(part) < 1:
            return error_response(400, "InvalidArgument")
        sizes = found.parts or (found.size,)
        if int(part) > len(sizes):
            return error_response(416, "InvalidPartNumber")
        if found.parts:
            headers["x-amz-mp-parts-count"] = str(len(sizes))
        start = sum(sizes[: int(part) - 1])
        if found.size:
            headers["Content-Range"] = ""
        return start, start + sizes[int(part) - 1]
    requested_range = request.range
    if (
        range_header is None
        or requested_range is None
        or requested_range.units != "bytes"
        or len(requested_range.ranges) != 1
    ):
        return 0, found.size
    start_end = requested_range.range_for_length(found.size)
    if start_end is None:
        return error_response(416, "InvalidRange", {"Content-Range": f"bytes */{found.size}"})
    headers["Content-Range"] = ""
    return start_end


_MAX_KEYS = 1000
_LISTING = frozenset(
    {
        *("continuation-token", "delimiter", "encoding-type", "fetch-owner", "key-marker"),
        *("list-type", "max-keys", "prefix", "start-after", "version-id-marker"),
        *("versions", "x-id"),
    }
)
_CONTROL_CHARACTERS: Final = {number: f"&#x{number:x};" for number in range(ord(" "))}
_OWNER = "<Owner><ID>0123456789abcdef</ID></Owner>"


@dataclass(frozen=True, slots=True)
class ListingFaults:
    """Faults of a response: omitted keys, and how it ends.

    ``ends`` is ``""`` (complete), ``"cut"`` (half the document), ``"objects"`` (a page of objects
    instead of versions) or ``"raw"`` (versions whose names are not encoded at all).
    """

    without: frozenset[bytes] = frozenset()
    after: bytes | None = None
    ends: str = ""


LISTING_FAULTS = "neuromirror_demo.listing"
"""The name of the faults in the environment of a request."""


def listing_faults(environ: Mapping[str, Any]) -> ListingFaults:
    """Return the effect of the active ``listing`` fault on a response."""
    return environ.get(LISTING_FAULTS) or ListingFaults()


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
    if query.keys() - _LISTING or (not versions and query.get("list-type") != "2"):
        return error_response(403, "AccessDenied")
    number = query.get("max-keys", str(_MAX_KEYS))
    if not number.isdecimal() or query.get("encoding-type", "url") != "url":
        return error_response(400, "InvalidArgument")
    name = encode_name if query.get("encoding-type") == "url" else _plain
    if versions and tampering.ends == "raw":
        name = _raw
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


def _raw(name: bytes) -> str:
    """Return a name without encoding, with its control characters."""
    return escape(name.decode("utf-8", "replace"))


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
    token = query.get("continuation-token")
    given = _bytes(query.get("start-after", ""))
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
        shown.append(_common_prefix(name(one)) if is_prefix else _contents(bucket, one, name))
    about = f"<StartAfter>{name(given)}</StartAfter>" if given else ""
    about += f"<ContinuationToken>{token}</ContinuationToken>" if token else ""
    about += f"<KeyCount>{len(shown)}</KeyCount>"
    if following:
        text = base64.urlsafe_b64encode(following).decode()
        about += f"<NextContinuationToken>{text}</NextContinuationToken>"
    # S3 lists all objects of a page before all prefixes.
    shown.sort(key=lambda row: row.startswith("<CommonPrefixes>"))
    return _page("ListBucketResult", bucket, query, most, name, about, shown, bool(following))


def _page(
    kind: str,
    bucket: ObjectBucket,
    query: Mapping[str, str],
    most: int,
    name: Writes,
    about: str,
    rows: list[str],
    truncated: bool,
) -> str:
    delimiter = _bytes(query.get("delimiter", ""))
    return "".join(
        [
            f'<{kind} xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket.name}</Name>',
            f"<Prefix>{name(_bytes(query.get('prefix', '')))}</Prefix>{about}",
            f"<MaxKeys>{most}</MaxKeys>",
            f"<Delimiter>{name(delimiter)}</Delimiter>" if delimiter else "",
            "<EncodingType>url</EncodingType>" if name is encode_name else "",
            f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>",
            *rows,
            f"</{kind}>",
        ]
    )


def _common_prefix(name: str) -> str:
    return f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"


def _contents(bucket: ObjectBucket, key: bytes, name: Writes) -> str:
    one = bucket.current(key)
    assert one is not None
    return (
        f"<Contents><Key>{name(one.key)}</Key>{_common(one)}"
        f"<StorageClass>{one.storage_class}</StorageClass></Contents>"
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
    about = f"<KeyMarker>{name(marker)}</KeyMarker>"
    about += f"<VersionIdMarker>{query.get('version-id-marker', '')}</VersionIdMarker>{ends}"
    return _page("ListVersionsResult", bucket, query, most, name, about, shown, bool(ends))


def _version_rows(
    bucket: ObjectBucket, prefix: bytes, delimiter: bytes, start: int, name: Writes
) -> Iterator[tuple[bytes, str, str]]:
    for key, is_prefix in _names(bucket, prefix, delimiter, start):
        if is_prefix:
            yield key, _common_prefix(name(key)), ""
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
                stored = f"<StorageClass>{one.storage_class}</StorageClass>"
                row = f"<Version>{what}{_common(one)}{stored}{_OWNER}</Version>"
            yield key, row, version


BUCKET = "demo-dandiarchive"
"""The name of the bucket in public URLs."""

_SECRET = b"the demo archive's own key: there is nothing behind it that would be worth a better one"
_SIGNATURE_FIELD = "X-Amz-Signature"
_DATE = "%Y%m%dT%H%M%SZ"
_EXPIRES = timedelta(hours=6)


class DandiBucket(ObjectBucket):
    """The bucket, and the WSGI application that serves it with path-style URLs.

    Signed URLs expire by ``clock``, which the archive sets to its own.
    """

    def __init__(self, page_size: int = 1000) -> None:
        super().__init__(
            BUCKET, ArchiveClock(), versioned=True, list_versions=True, read_versions=True
        )
        self.page_size = page_size
        self.clock = ArchiveClock()
        self._tagged: set[str] = set()

    def store(self, key: str, data: bytes, *, embargoed: bool = False, **about: Any) -> str:
        """Put an object; return its version id."""
        version_id = self.put(key, data, **about).version_id
        assert version_id is not None
        if embargoed:
            self._tagged.add(version_id)
        return version_id

    def untag(self, key: str) -> None:
        """Make the current version of the object public, but not its earlier versions."""
        current = self.current(key)
        if current is not None and current.version_id is not None:
            self._tagged.discard(current.version_id)

    def overwrite(self, key: str, version_id: str, data: bytes) -> None:
        """Replace the bytes of a version; its ETag, id and time stay the same."""
        for version in self.versions(key):
            if version.version_id == version_id:
                version.data, version.size = data, len(data)

    def presigned(self, key: str, query: Mapping[str, str], method: str = "GET") -> dict[str, str]:
        """Return the query of a signed URL that is valid for six hours, for this method only."""
        now = self.clock.now
        signed = {
            **query,
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"demoAccessKey/{now:%Y%m%d}/us-east-1/s3/aws4_request",
            "X-Amz-Date": f"{now.astimezone(UTC):{_DATE}}",
            "X-Amz-Expires": str(int(_EXPIRES.total_seconds())),
            "X-Amz-SignedHeaders": "host",
        }
        return {**signed, _SIGNATURE_FIELD: _sign(method, key.encode(), signed)}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        return self._answer(Request(environ), environ)(environ, start_response)

    def _answer(self, request: Request, environ: WSGIEnvironment) -> Response:
        raw, _, text = environ["REQUEST_URI"].partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))
        name, _, key = unquote_to_bytes(raw).removeprefix(b"/").partition(b"/")
        if name != BUCKET.encode():
            return error_response(404, "NoSuchBucket")
        if request.method not in {"GET", "HEAD"}:
            return error_response(403, "AccessDenied")
        if not key:
            return listing_response(self, query, self.page_size, listing_faults(environ))
        signed = _SIGNATURE_FIELD in query
        if signed:
            if "Authorization" in request.headers:  # S3 allows one mechanism only
                return error_response(400, "InvalidArgument")
            rest = {name: value for name, value in query.items() if name != _SIGNATURE_FIELD}
            if query[_SIGNATURE_FIELD] != _sign(request.method, key, rest):
                return error_response(403, "SignatureDoesNotMatch")
            made = datetime.strptime(query["X-Amz-Date"], _DATE).replace(tzinfo=UTC)
            if self.clock.now > made + _EXPIRES:
                return error_response(403, "AccessDenied")

        def refuses(found: ObjectVersion) -> bool:
            return not signed and found.version_id in self._tagged

        return object_response(self, key, query, request, refuses)


def _sign(method: str, key: bytes, query: Mapping[str, str]) -> str:
    text = "\n".join([method, key.hex(), *(f"{name}={query[name]}" for name in sorted(query))])
    return hmac.new(_SECRET, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


DOCDB_PATH = re.compile(r"/(?P<version>v[12])/metadata_index/data_assets/find/?")

Record = dict[str, Any]

_RENAMED = {"created": "_created", "last_modified": "_last_modified"}


def docdb_collection(records: Iterable[Record], version: str) -> list[Record]:
    """Return the records of a database version: v1 older schemas, v2 all, with its field names."""
    if version == "v1":
        return [record for record in records if "_created" not in record]
    return [{_RENAMED.get(name, name): value for name, value in one.items()} for one in records]


def find_records(records: Iterable[Record], query: Mapping[str, str], most: int) -> Response:
    """Return the matching records, at most ``most``; 400 for an invalid query."""
    try:
        filters = json.loads(query.get("filter") or "{}")
        shown = json.loads(query.get("projection") or "{}")
        limit, skip = int(query.get("limit") or 0), int(query.get("skip") or 0)
        found = [
            record
            for record in records
            if all(_matches(record.get(name), condition) for name, condition in filters.items())
        ][skip:]
    except (ValueError, TypeError, AttributeError, re.error) as error:
        return json_response({"message": f"Bad Request: {error}"}, 400)
    names = {"_id", *shown}
    return json_response(
        [
            {name: value for name, value in one.items() if not shown or name in names}
            for one in found[: min(limit or most, most)]
        ]
    )


def _matches(value: Any, condition: Any) -> bool:
    if not isinstance(condition, dict):
        return bool(value == condition)
    for how, other in condition.items():
        if how not in _OPERATORS:
            raise ValueError(f"unknown operator {how}")
        if not _OPERATORS[how](value, other):
            return False
    return True


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$in": lambda value, other: value in other,
    "$regex": lambda value, other: isinstance(value, str) and bool(re.search(other, value)),
}
"""The operators that clients of the project use."""
