"""The archive's versioned, public S3 bucket, on loopback.

Embargoed objects are tagged: S3 refuses a tagged version unless the URL is signed by the archive.
An upload can set the tag, which belongs to a single version.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote_to_bytes

from werkzeug.wrappers import Request, Response

from neuromirror_demo.object_bucket import ObjectBucket, ObjectVersion
from neuromirror_demo.records import ArchiveClock
from neuromirror_demo.s3_listing_responses import listing_faults, listing_response
from neuromirror_demo.s3_object_responses import error_response, object_response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

BUCKET = "demo-dandiarchive"
"""The name of the bucket in public URLs."""

_SECRET = b"the demo archive's own key: there is nothing behind it that would be worth a better one"
_SIGNATURE = "X-Amz-Signature"
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
        for one in self.versions(key):
            if one.version_id == version_id:
                one.data, one.size = data, len(data)

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
        return {**signed, _SIGNATURE: _sign(method, key.encode(), signed)}

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
        signed = _SIGNATURE in query
        if signed:
            if "Authorization" in request.headers:
                return error_response(400, "InvalidArgument", message=_TWO_AUTH_MECHANISMS)
            refusal = self._refusal(request.method, key, query)
            if refusal is not None:
                return refusal

        def refuses(found: ObjectVersion) -> bool:
            return not signed and found.version_id in self._tagged

        return object_response(self, key, query, request, refuses)

    def _refusal(self, method: str, key: bytes, query: Mapping[str, str]) -> Response | None:
        """Return S3's response to an invalid or expired signed URL, if it is one."""
        rest = {name: value for name, value in query.items() if name != _SIGNATURE}
        if not hmac.compare_digest(query[_SIGNATURE].encode(), _sign(method, key, rest).encode()):
            return error_response(403, "SignatureDoesNotMatch")
        made = datetime.strptime(query["X-Amz-Date"], _DATE).replace(tzinfo=UTC)
        if self.clock.now > made + _EXPIRES:
            return error_response(403, "AccessDenied", message="Request has expired")
        return None


_TWO_AUTH_MECHANISMS = (
    "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query "
    "string parameter or the Authorization header should be specified"
)


def _sign(method: str, key: bytes, query: Mapping[str, str]) -> str:
    text = "\n".join([method, key.hex(), *(f"{name}={query[name]}" for name in sorted(query))])
    return hmac.new(_SECRET, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
