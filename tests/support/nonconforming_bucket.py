"""An S3 server with configurable deviations from the documented behaviour."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from support.loopback_http import QuietHandler, send_reply, serving

OBJECTS = {
    "a.txt": b"first object, 24 bytes..",
    "b.txt": b"second object, 25 bytes..",
    "c.bin": b"multipart" * 10,
    "d.txt": b"fourth",
}
MULTIPART = "c.bin"
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@contextmanager
def nonconforming_bucket(**departures: Any) -> Iterator[str]:
    """Serve the bucket ``odd``; yields its endpoint.

    ``unordered`` lists keys backwards, ``swift`` lists a large object as 173 bytes with the MD5 of
    nothing, ``no_parts``, ``no_ranges`` and ``no_conditions`` ignore the parameter or header,
    ``missing`` is the status of keys that do not exist, ``opaque`` makes ETags that are no MD5,
    ``same_page`` ignores start-after and tokens, ``no_versions`` ignores ``?versions``, ``headers``
    are sent with every reply.
    """
    handler = type("Handler", (_Handler,), {"departures": departures})
    with serving(handler) as url:
        yield url


class _Handler(QuietHandler):
    departures: dict[str, Any]

    def _etag(self, key: str) -> str:
        digest = hashlib.md5(OBJECTS[key], usedforsecurity=False).hexdigest()
        if key == MULTIPART:
            return f"{digest}-2"
        return digest[::-1] if self.departures.get("opaque") else digest

    def _reply(self, status: int, body: bytes, **headers: str) -> None:
        send_reply(self, status, body, **{**self.departures.get("headers", {}), **headers})

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: found[0] for name, found in parse_qs(parts.query, True).items()}
        key = parts.path.removeprefix("/odd/")
        if "list-type" in query or ("versions" in query and self.departures.get("no_versions")):
            self._list(query)
        elif "versions" in query:
            self._reply(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif key not in OBJECTS:
            self._reply(self.departures.get("missing", 404), b"")
        else:
            self._object(key, query)

    def _object(self, key: str, query: dict[str, str]) -> None:
        content, etag = OBJECTS[key], f'"{self._etag(key)}"'
        expected = self.headers.get("If-Match")
        if expected not in (None, etag) and not self.departures.get("no_conditions"):
            self._reply(412, b"")
        elif "partNumber" in query and not self.departures.get("no_parts"):
            self._reply(206, content[:45], ETag=etag, x_amz_mp_parts_count="2")
        elif "Range" in self.headers and not self.departures.get("no_ranges"):
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            stated = f"bytes {first}-{last}/{len(content)}"
            self._reply(206, content[first : last + 1], ETag=etag, Content_Range=stated)
        else:
            self._reply(200, content, ETag=etag)

    def _list(self, query: dict[str, str]) -> None:
        keys = sorted(OBJECTS, reverse=bool(self.departures.get("unordered")))
        after = query.get("continuation-token") or query.get("start-after", "")
        if not self.departures.get("same_page"):
            keys = [key for key in keys if key > after]
        most = int(query.get("max-keys", 1000))
        rows = "".join(self._row(key) for key in keys[:most])
        more = len(keys) > most
        token = f"<NextContinuationToken>{keys[most - 1]}</NextContinuationToken>" if more else ""
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{NAMESPACE}">'
            f"<Name>odd</Name><Prefix></Prefix><MaxKeys>{most}</MaxKeys>"
            f"<EncodingType>url</EncodingType><KeyCount>{len(keys[:most])}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
        )
        self._reply(200, body.encode(), kind="application/xml")

    def _row(self, key: str) -> str:
        size, etag = len(OBJECTS[key]), self._etag(key)
        if self.departures.get("swift") and key == "b.txt":
            size, etag = 173, hashlib.md5(b"", usedforsecurity=False).hexdigest()
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>2025-01-01T00:00:00.000Z"
            f'</LastModified><ETag>"{etag}"</ETag><Size>{size}</Size>'
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
