"""The client of an S3 vault: boto3, and a fast path for servers other than AWS.

boto3 needs more CPU time for a request than such a server. Here, requests with the usual parameters
are signed by botocore and sent over persistent connections. If there is no reply, or an unexpected
one, boto3 sends the request again, with its retries, redirects and errors.
"""

from __future__ import annotations

import base64
import hashlib
import html
import http.client
import os
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from io import BytesIO
from typing import Any, Final
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

from neuromirror.net import AwsSigner, CredentialsError

_CONNECT_SECONDS: Final = 15.0
_READ_SECONDS: Final = 120.0
_MAX_FAILURES: Final = 8
"""Consecutive requests that boto3 had to send again, before it gets all."""
_MAX_REPLY: Final = 1 << 16
_SAFE: Final = "/-_.~"
_FIELD: Final = re.compile(rb"<(ETag|ChecksumSHA256|ChecksumType)>([^<]*)</\1>")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_CODE: Final = re.compile(rb"<Code>([A-Za-z]+)</Code>")

_HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    "head_bucket": {},
    "head_object": {"ChecksumMode": "x-amz-checksum-mode"},
    "get_object": {"Range": "range"},
    "put_object": {
        "ChecksumAlgorithm": "x-amz-sdk-checksum-algorithm",
        "ChecksumSHA256": "x-amz-checksum-sha256",
        "StorageClass": "x-amz-storage-class",
    },
    "copy_object": {
        "ChecksumAlgorithm": "x-amz-checksum-algorithm",
        "CopySource": "x-amz-copy-source",
        "CopySourceIfMatch": "x-amz-copy-source-if-match",
        "MetadataDirective": "x-amz-metadata-directive",
        "StorageClass": "x-amz-storage-class",
    },
}
"""The headers of the parameters of requests; those with other parameters are left to boto3."""


class ObjectNotFoundError(Exception):
    """There is no such object."""


class _UnexpectedReplyError(Exception):
    """A reply that is left to boto3."""


class S3Client:
    """Requests to one server of S3, with the names and parameters of boto3. Thread-safe."""

    def __init__(
        self,
        new_client: Callable[[], Any],
        endpoint: str,
        new_signer: Callable[[], AwsSigner] | None,
    ) -> None:
        self._new_client = new_client
        self._boto3: Any = None
        self._lock = threading.Lock()
        self._endpoint = endpoint
        self._new_signer = new_signer
        self._idle: list[http.client.HTTPConnection] = []
        self._failures = 0
        self._is_direct = bool(endpoint and new_signer) and not _has_proxy(endpoint)

    def __getattr__(self, name: str) -> Any:
        """Return an operation or attribute of boto3's client."""
        with self._lock:
            if self._boto3 is None:
                self._boto3 = self._new_client()
        return getattr(self._boto3, name)

    def head_bucket(self, **parameters: Any) -> Mapping[str, Any]:
        """Check that the bucket exists."""
        return self._send("HEAD", "head_bucket", parameters)

    def head_object(self, **parameters: Any) -> Mapping[str, Any]:
        """Return the size and the checksums of an object."""
        return self._send("HEAD", "head_object", parameters)

    def get_object(self, **parameters: Any) -> Mapping[str, Any]:
        """Open an object; a range of it is read at once."""
        return self._send("GET", "get_object", parameters)

    def put_object(self, **parameters: Any) -> Mapping[str, Any]:
        """Store an object."""
        return self._send("PUT", "put_object", parameters)

    def copy_object(self, **parameters: Any) -> Mapping[str, Any]:
        """Copy an object within the server."""
        return self._send("PUT", "copy_object", parameters)

    def close(self) -> None:
        """Close all connections."""
        self._close_idle()
        if self._boto3 is not None:
            self._boto3.close()

    def _send(self, method: str, operation: str, parameters: dict[str, Any]) -> Mapping[str, Any]:
        known = _HEADERS[operation].keys() | {"Bucket", "Key", "Body"}
        is_read = operation == "get_object" and "Range" not in parameters
        if self._is_direct and not is_read and parameters.keys() <= known:
            try:
                found = _parse_reply(operation, *self._request(method, operation, parameters))
                self._failures = 0
                return found
            except CredentialsError:
                self._is_direct = False
            except (OSError, http.client.HTTPException, _UnexpectedReplyError):
                self._failures += 1
                self._is_direct = self._failures < _MAX_FAILURES
        reply: Mapping[str, Any] = self.__getattr__(operation)(**parameters)
        return reply

    def _request(
        self, method: str, operation: str, parameters: Mapping[str, Any]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        path = "/".join(filter(None, (parameters["Bucket"], parameters.get("Key"))))
        path = f"{urlsplit(self._endpoint).path.rstrip('/')}/{quote(path, safe=_SAFE)}"
        body = parameters.get("Body", b"")
        headers = {
            header: _source(value) if name == "CopySource" else value
            for name, header in _HEADERS[operation].items()
            if (value := parameters.get(name)) is not None
        }
        checksum = parameters.get("ChecksumSHA256")
        sha256 = None
        if checksum is not None:
            sha256 = base64.b64decode(checksum).hex()
        elif body:
            sha256 = hashlib.sha256(body).hexdigest()
        url = urlsplit(self._endpoint)._replace(path=path).geturl()
        headers |= self._signer.sign(method, url, headers, sha256)
        if method == "PUT":
            headers["content-length"] = str(len(body))
        if (connection := self._take_idle()) is not None:
            try:
                return self._exchange(connection, method, path, body, headers)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                # the server may have closed the connection while it was idle, and the others
                self._close_idle()
        return self._exchange(self._connect(), method, path, body, headers)

    def _take_idle(self) -> http.client.HTTPConnection | None:
        try:
            return self._idle.pop()
        except IndexError:  # other threads take connections meanwhile
            return None

    def _close_idle(self) -> None:
        while (connection := self._take_idle()) is not None:
            connection.close()

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a request and read the reply; keep the connection if it can be reused."""
        try:
            connection.request(method, path, body or None, headers)
            reply = connection.getresponse()
            content = reply.read(_MAX_REPLY)
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        if reply.isclosed() and not reply.will_close:
            self._idle.append(connection)
        else:
            connection.close()
        return reply.status, reply.headers, content

    def _connect(self) -> http.client.HTTPConnection:
        url = urlsplit(self._endpoint)
        host, port = url.hostname or "", url.port
        connection = http.client.HTTPConnection(host, port, timeout=_CONNECT_SECONDS)
        if url.scheme == "https":
            connection = http.client.HTTPSConnection(
                host, port, timeout=_CONNECT_SECONDS, context=self._tls
            )
        connection.connect()
        connection.sock.settimeout(_READ_SECONDS)
        return connection

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
        if not bundle:
            import certifi

            bundle = certifi.where()
        return ssl.create_default_context(cafile=bundle)

    @cached_property
    def _signer(self) -> AwsSigner:
        assert self._new_signer is not None
        return self._new_signer()


def _parse_reply(
    operation: str, status: int, headers: http.client.HTTPMessage, content: bytes
) -> dict[str, Any]:
    """Return what boto3 would return."""
    if status == 404 and operation != "head_bucket":
        code = _CODE.search(content)
        if operation == "head_object" or (code is not None and code[1] == b"NoSuchKey"):
            raise ObjectNotFoundError
    if status not in (200, 206):
        raise _UnexpectedReplyError
    if operation == "copy_object":
        if b"<CopyObjectResult" not in content:  # S3 reports late errors with status 200
            raise _UnexpectedReplyError
        fields = {
            name.decode(): html.unescape(text.decode("utf-8", "replace"))
            for name, text in _FIELD.findall(content)
        }
        return {"CopyObjectResult": fields}
    found: dict[str, Any] = {"ETag": headers.get("etag", "")}
    if (checksum := headers.get("x-amz-checksum-sha256")) is not None:
        found["ChecksumSHA256"] = checksum
    if operation == "head_object":
        length = headers.get("content-length", "")
        if not _LENGTH.fullmatch(length):
            raise _UnexpectedReplyError
        found["ContentLength"] = int(length)
    if operation == "get_object":
        found["Body"] = BytesIO(content)
    return found


def _source(source: Mapping[str, str]) -> str:
    """Return the value of the header for the source of a copy."""
    name = quote(f"{source['Bucket']}/{source['Key']}", safe=_SAFE)
    version = source.get("VersionId")
    return name if version is None else f"{name}?versionId={version}"


def _has_proxy(endpoint: str) -> bool:
    """Return whether the environment has a proxy for requests to a server."""
    url = urlsplit(endpoint)
    with suppress(OSError):
        proxies = getproxies()
        return (url.scheme in proxies or "all" in proxies) and not proxy_bypass(url.netloc)
    return True
