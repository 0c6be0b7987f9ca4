"""Targets: S3 listings and errors, JSON bodies, HTTP heads and bodies, addresses."""

import gzip
import http.client
import io
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from fuzz_core import check_agreement, fixed_seeds, target
from msgspec.structs import replace
from urllib3 import HTTPResponse

from neuromirror.lab.clone_urls import clone_urls, refuse_clone_url, subdataset_url, to_git_url
from neuromirror.model import ConfigurationError, DatasetRef
from neuromirror.net import NetError, Session, clean_url, is_local_name, origin, redact
from neuromirror.net.errors import InvalidListingError
from neuromirror.net.persistent_connections import (
    BufferedSocket,
    ConnectionFactory,
    PersistentConnection,
)
from neuromirror.net.request_limits import RequestLimits, format_wait, requested_wait
from neuromirror.net.responses import Reply, error_fields, parse_json, read_bounded
from neuromirror.net.s3_pages import Page, parse_page
from neuromirror.sources.volumes.urls import MalformedUrlError, parse_url
from neuromirror.volume.errors import BlockUnavailableError  # noqa: F401 - loads the special remote's errors

_URL = "https://bucket.example.org/"
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_ROW = (
    "<Contents><Key>{}</Key><LastModified>2024-01-02T03:04:05.000Z</LastModified>"
    '<ETag>"d41d8cd98f00b204e9800998ecf8427e"</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>'
    "<ChecksumType>FULL_OBJECT</ChecksumType><Size>5</Size><StorageClass>STANDARD</StorageClass>"
    "</Contents>"
)
_LISTING = (
    _XML
    + '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix/>'
    "<NextContinuationToken>1x</NextContinuationToken><KeyCount>{}</KeyCount><MaxKeys>1000</MaxKeys>"
    "<EncodingType>url</EncodingType><IsTruncated>{}</IsTruncated>{}</ListBucketResult>"
)
_VERSION = (
    "<{0}><Key>{1}</Key><VersionId>{2}</VersionId><IsLatest>{3}</IsLatest>"
    "<LastModified>2024-01-02T03:04:05Z</LastModified>"
)
_VERSIONS = (
    _XML + "<ListVersionsResult><IsTruncated>true</IsTruncated><EncodingType>url</EncodingType>"
    "<NextKeyMarker>b%20c</NextKeyMarker><NextVersionIdMarker>v</NextVersionIdMarker>"
    + _VERSION.format("Version", "a", "v1", "true")
    + '<ETag>"00000000000000000000000000000000-2"</ETag><Size>7</Size></Version>'
    + _VERSION.format("DeleteMarker", "b+c", "null", "true")
    + "</DeleteMarker>"
    + _VERSION.format("Version", "b+c", "v0", "false")
    + '<ETag>"0"</ETag><Size>0</Size></Version><CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>'
    "</ListVersionsResult>"
)
_ERROR = _XML + (
    "<Error><Code>PermanentRedirect</Code><Message>a &amp; b</Message><Region>eu-west-1</Region>"
    "<Endpoint>b.s3.amazonaws.com</Endpoint></Error>"
)


@cache
def _botocore() -> Any:
    import botocore.session
    from botocore.parsers import RestXMLParser

    model = botocore.session.get_session().get_service_model("s3")
    parser = RestXMLParser()

    def parse(body: bytes, operation: str) -> Any:
        shape = model.operation_model(operation).output_shape
        return parser.parse({"body": body, "headers": {}, "status_code": 200}, shape)

    return parse


def _compare(page: Page, body: bytes, operation: str, lists: tuple[str, ...]) -> None:
    """Compare a page with botocore's reading of it."""
    try:
        found = _botocore()(body, operation)
    except ValueError:  # a number that means nothing here, as MaxKeys
        return
    rows = [row for name in lists for row in found.get(name, ())]
    check_agreement(len(rows) == len(page.rows), "rows", len(rows), len(page.rows))
    check_agreement(bool(found.get("IsTruncated")) is page.truncated, "truncated")
    sizes = sorted(row["Size"] for row in rows if "Size" in row)
    check_agreement(
        sizes == sorted(row.size for row in page.rows if not row.deleted), "sizes", sizes
    )
    if found.get("EncodingType") != "url":
        keys = sorted(row["Key"].encode("utf-8", "surrogatepass") for row in rows)
        check_agreement(keys == sorted(row.key for row in page.rows), "keys", keys)


@target(
    "s3-listing",
    InvalidListingError,
    seeds=fixed_seeds(
        _LISTING.format(2, "true", _ROW.format("a%20b") + _ROW.format("b")),
        _LISTING.format(
            2, "false", _ROW.format("a") + "<CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes>"
        ),
        _LISTING.format(1, "false", _ROW.format("é")).replace(
            "<EncodingType>url</EncodingType>", ""
        ),
    ),
    kind="text",
)
def s3_listing(data: bytes) -> None:
    """Pages of ListObjectsV2."""
    page = parse_page(data, _URL)
    keys = [row.key for row in page.rows]
    check_agreement(keys == sorted(set(keys)), "order of keys")
    _compare(page, data, "ListObjectsV2", ("Contents",))


@target("s3-versions", InvalidListingError, seeds=fixed_seeds(_VERSIONS), kind="text")
def s3_versions(data: bytes) -> None:
    """Pages of ListObjectVersions."""
    page = parse_page(data, _URL, versions=True)
    _compare(page, data, "ListObjectVersions", ("Versions", "DeleteMarkers"))


@target("s3-error", seeds=fixed_seeds(_ERROR, "available in 30 seconds"), kind="text")
def s3_error(data: bytes) -> None:
    """Error documents of S3, and what replies say of waiting."""
    fields = error_fields(data, {"x-amz-bucket-region": "us-east-1"})
    check_agreement(set(fields) <= {"Code", "Message", "Region", "Endpoint"}, fields)
    text = data.decode("latin-1")
    for headers, detail in (({"Retry-After": text}, None), ({}, text)):
        seconds = requested_wait(headers, detail)
        if seconds is not None:
            check_agreement(seconds >= 0, seconds)
            format_wait(seconds, detail)
    redact(text)


class _Offline(Session):
    """A session that refuses every request; a persistent connection falls back to it."""

    @contextmanager
    def stream(self, url: str, **_: Any) -> Iterator[Any]:
        """Refuse."""
        raise NetError(f"{url[:40]!r} is not requested here")
        yield


class _FixedConnection(PersistentConnection):
    """A persistent connection that delivers the given bytes and closes."""

    def __init__(self, factory: ConnectionFactory, data: bytes) -> None:
        super().__init__(factory)
        self._data = data

    def _connect(self, session: Session, origin: Any, url: str) -> BufferedSocket:
        here, there = socket.socketpair()
        threading.Thread(target=_feed, args=(there, self._data), daemon=True).start()
        return BufferedSocket(here, self._buffer, 5.0)


def _feed(to: socket.socket, data: bytes) -> None:
    with to, suppress(OSError):
        to.sendall(data)
        to.shutdown(socket.SHUT_WR)
        while to.recv(1 << 16):
            pass


_HTTP = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\nContent-Range: bytes 2-4/5\r\n\r\nllo",
    b"HTTP/1.1 302 Found\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 429 Slow\r\nRetry-After: Wed, 21 Oct 2099 07:28:00 GMT\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nETag: "x"\r\nContent-Length: 2\r\n\r\n{}',
]


@target("http-connection", NetError, seeds=fixed_seeds(*_HTTP), kind="text", slow=True)
def http_connection(data: bytes) -> None:
    """Heads and bodies as persistent connections read them."""
    session = _offline_session()
    connection = _FixedConnection(ConnectionFactory(lambda _: session), data)
    try:
        with connection.stream(
            "http://archive.example.org/file", start=2 if data[-1:] == b"r" else 0
        ) as body:
            found = b"".join(bytes(piece) for piece in body.chunks)
    finally:
        connection.close()
    check_agreement(
        body.length is None or len(found) == body.length, "length", body.length, len(found)
    )
    reference = _reference(data)
    if reference is not None and b"\nTransfer-Encoding" not in data:
        check_agreement(found == reference, "body", found, reference)


@cache
def _offline_session() -> Session:
    return _Offline(limits=RequestLimits(redirects=2))


def _reference(data: bytes) -> bytes | None:
    """The body of a reply as Python's own client reads it; None where it refuses."""

    class _Socket:
        def makefile(self, _: str) -> io.BytesIO:
            return io.BytesIO(data)

    try:
        reply = http.client.HTTPResponse(_Socket())  # type: ignore[arg-type]
        reply.begin()
        return reply.read() if reply.status in (200, 206) else None
    except (http.client.HTTPException, ValueError, OSError):
        return None


class _Server:
    """A server on loopback that replies to each connection with the bytes that it was given."""

    def __init__(self) -> None:
        self.data = b""
        self._listens = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listens.getsockname()[1]}/"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listens.accept()
            with connection, suppress(OSError):
                connection.settimeout(5)
                connection.recv(1 << 16)
                connection.sendall(self.data)


_server = cache(_Server)


@cache
def _session() -> Session:
    os.environ.setdefault("NO_PROXY", "*")
    limits = replace(
        RequestLimits(), attempts=1, read=2.0, total=4.0, redirects=1, json_bytes=1 << 20
    )
    return Session(allow_private=True, limits=limits)


@target("http-session", NetError, seeds=fixed_seeds(*_HTTP), kind="text", slow=True)
def http_session(data: bytes) -> None:
    """Whole replies, as the session gets them over a socket: JSON, heads, streams."""
    server, session = _server(), _session()
    session._limiters.clear()  # it remembers for how long a host must not be asked
    server.data = data
    choice = len(data) % 3
    if choice == 0:
        session.get_json(server.address)
    elif choice == 1:
        session.head(server.address)
    else:
        with session.stream(server.address) as stream:
            for _ in stream.chunks:
                pass


_URLS = [
    "https://api.dandiarchive.org/api/assets/0/download/?versionId=1&X-Amz-Signature=0#x",
    "boss://api.bossdb.io/c/e/ch/0/0:512/0:512/0:16?chunk=512,512,16&dtype=uint8",
    "ndstore://[::1]:8080/nd/token/channel/1/0:1/0:1/0:1/3?scheme=https",
    "ria+https://mirror.example.org/#52c46016-01f6-5ad2-8d65-ac9dcb7f1eed",
    "ssh://host/~user/{alias}/{id}",
]


@target(
    "url", ValueError, ConfigurationError, MalformedUrlError, seeds=fixed_seeds(*_URLS), kind="text"
)
def url(data: bytes) -> None:
    """Addresses in listings, locks, keys and messages."""
    text = data.decode("utf-8", "surrogateescape")
    redact(text)
    is_local_name(text)
    with suppress(ValueError):
        made = parse_url(text)
        check_agreement(str(made) == text, "block address", str(made))
    with suppress(ConfigurationError):
        refuse_clone_url(text)
        check_agreement("\n" not in text and not text.startswith("-"), "clone address", text)
        subdataset_url(text, "0" * 36)
        to_git_url(text)
    with suppress(ConfigurationError):
        clone_urls([text], DatasetRef("a", "b", "https://a.example.org/"))
    with suppress(ValueError):
        cleaned = clean_url(text)
        if urlsplit(text).scheme:
            check_agreement("@" not in urlsplit(cleaned).netloc, cleaned)
    origin(text)


_PAGE = b'{"count": 1, "next": null, "results": [{"path": "a", "size": 1000.0}]}'
_PAGES = (b"\0" + _PAGE, b"\1" + gzip.compress(_PAGE, mtime=0), b"\x021234567890", b"\4<html>")


@target("json-body", NetError, seeds=fixed_seeds(*_PAGES), kind="1+json")
def json_body(data: bytes) -> None:
    """Bodies of JSON replies: length, gzip, content; the first byte chooses the headers."""
    choice, headers = data[0] if data else 0, {}
    if choice & 1:
        headers["Content-Encoding"] = "gzip"
    if choice & 2:
        headers["Content-Length"] = data[1:9].decode("latin-1")
    raw = HTTPResponse(io.BytesIO(data[1:]), headers, 200, preload_content=False)
    reply = Reply(raw, _URL, is_authenticated=False)
    body = read_bounded(reply, _URL, 1 << 16)
    check_agreement(len(body) <= 1 << 16, "more than allowed")
    parse_json(body, "text/html" if choice & 4 else "application/json", _URL)
