"""S3's responses to GET and HEAD of an object: ranges, parts, conditions, versions, checksums.

As in the S3 API reference (GetObject, HeadObject).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from werkzeug.datastructures import Headers
from werkzeug.http import http_date
from werkzeug.wrappers import Request, Response

from neuromirror_demo.object_bucket import ObjectBucket, ObjectVersion

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


def error_response(
    status: int, code: str, headers: Mapping[str, str] | None = None, message: str = ""
) -> Response:
    """Return an S3 error document."""
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
        f"<Message>{message or _MESSAGES.get(code, code)}</Message></Error>"
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
        allowed |= _OVERRIDES.keys()
    if query.keys() - allowed:
        return error_response(403, "AccessDenied")
    found = _found(bucket, key, query.get("versionId"))
    if isinstance(found, Response):
        return found
    if refuses(found):
        return error_response(403, "AccessDenied")
    headers = _headers(found, request)
    for name in query.keys() & _OVERRIDES.keys():
        headers[_OVERRIDES[name]] = query[name]
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


_OVERRIDES = {
    "response-content-disposition": "Content-Disposition",
    "response-content-type": "Content-Type",
}


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
    if found.encoding:
        headers["Content-Encoding"] = found.encoding
    if found.version_id is not None:
        headers["x-amz-version-id"] = found.version_id
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
