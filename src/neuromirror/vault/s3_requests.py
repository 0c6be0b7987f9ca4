"""Requests to the service of an S3 vault: the client, the meaning of its errors, and copy sources.

boto3 needs more CPU time for a request than a server on the same network. Requests to a server
other than AWS with the usual parameters are therefore signed by botocore and sent by urllib3:
copies of small objects within a server on loopback take four fifths of the time, and less than half
of the CPU time. If there is no reply, or an unexpected one, boto3 sends the request again, with its
retries, redirects and errors.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from msgspec import Struct

from neuromirror.config.vault_files import S3VaultFile, VaultConfig
from neuromirror.model import NeuromirrorError
from neuromirror.net import AwsSigner, CredentialsError, new_aws_session, parse_aws_host
from neuromirror.vault.errors import (
    CopyMissingError,
    CopyRefusedError,
    VaultCredentialsError,
    VaultFullError,
    VaultUnavailableError,
)

if TYPE_CHECKING:
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]

_ATTEMPTS: Final = 6
_MAX_FAILURES: Final = 8
"""Consecutive requests that fail with all their retries before the vault counts as unavailable."""
_CONNECTIONS: Final = 64
_BLOCK: Final = 1 << 20
_CREDENTIAL_CODES: Final = frozenset(
    {
        *("AccessDenied", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId"),
        *("InvalidToken", "SignatureDoesNotMatch", "AccountProblem", "TokenRefreshRequired"),
        *("RequestTimeTooSkewed", "403", "Forbidden"),
    }
)
_FULL_CODES: Final = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
_MISSING_CODES: Final = frozenset({"NoSuchKey", "404", "NotFound", "NoSuchVersion"})
_BUSY_CODES: Final = frozenset({"SlowDown", "RequestTimeout", "Throttling"})
_BUCKET_CODES: Final = frozenset({"NoSuchBucket", "PermanentRedirect", "AllAccessDisabled"})


_CONNECT_SECONDS: Final = 15.0
_READ_SECONDS: Final = 120.0
_MAX_RESENT: Final = 8
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


class S3Requests:
    """Makes the client of a vault, and translates the errors of its requests. Thread-safe."""

    def __init__(self, config: VaultConfig) -> None:
        assert isinstance(config.settings, S3VaultFile)
        self._config = config
        self._settings = config.settings
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._failures = 0

    @property
    def client(self) -> S3Client:
        """The client, made on first use."""
        with self._lock:
            if self._client is None:
                is_signed = self._settings.credentials != "none"
                self._client = S3Client(
                    self._new_client,
                    self._settings.endpoint or "",
                    self._new_signer if is_signed else None,
                )
            return self._client

    def _new_signer(self) -> AwsSigner:
        return AwsSigner(
            self._settings.endpoint or "",
            region=self._region,
            profile=self._settings.profile or None,
        )

    def _new_client(self) -> Any:
        import boto3  # type: ignore[import-untyped]
        from botocore import UNSIGNED  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        settings = self._settings
        config = Config(
            max_pool_connections=_CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=15,
            read_timeout=120,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if settings.endpoint else None,
            signature_version=UNSIGNED if settings.credentials == "none" else None,
        )
        session = boto3.Session(botocore_session=self._session)
        client = session.client(
            "s3",
            endpoint_url=settings.endpoint or None,
            region_name=self._region,
            config=config,
        )
        if settings.endpoint:
            client.meta.events.register("before-call.s3.UploadPart", _add_md5)
        return client

    @cached_property
    def _session(self) -> Any:
        return new_aws_session(self._settings.profile or None)

    @property
    def _region(self) -> str:
        configured: str | None = self._session.get_config_variable("region")
        return self._settings.region or configured or "us-east-1"

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    @contextmanager
    def translated(self, key: str = "") -> Iterator[S3Client]:
        """Yield the client; translate the errors of a request in the block.

        Raises
        ------
        VaultError
            The whole vault cannot be used.
        CopyMissingError
            There is no such object.
        CopyRefusedError
            The object cannot be stored or read.
        """
        try:
            yield self.client
        except NeuromirrorError:
            raise
        except ObjectNotFoundError:
            self._reset_failures()
            raise self._missing(key) from None
        except _request_errors() as error:
            raise self._translate(error, key) from None
        self._reset_failures()

    def _missing(self, key: str) -> CopyMissingError:
        return CopyMissingError(f"vault {self._config.name}: no content of {key}")

    def _translate(self, error: Exception, key: str) -> NeuromirrorError:
        """Return the error of a vault for an error of boto3 or of a connection."""
        from botocore.exceptions import ClientError, ProfileNotFound

        if isinstance(error, ClientError):
            return self._explain(error, key)
        if isinstance(error, ProfileNotFound):
            return VaultCredentialsError(f"{self._config.path}: {error}")
        if isinstance(cause := error.__cause__ or error.__context__, ClientError):
            return self._explain(cause, key)
        return self._explain_connection(error, key)

    def _explain(self, error: ClientError, key: str) -> NeuromirrorError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        name, bucket = self._config.name, self._settings.bucket
        if status < 500 and code not in _BUSY_CODES:
            self._reset_failures()
        if code in _MISSING_CODES:
            return self._missing(key)
        if code in _BUCKET_CODES:
            return VaultUnavailableError(
                f"vault {name}: bucket {bucket}: {code}; correct {self._config.path}"
            )
        if code in _CREDENTIAL_CODES:
            return VaultCredentialsError(
                f"vault {name}: bucket {bucket}: the credentials are refused (HTTP {status} "
                f"{code}); renew them, or set 'profile' in {self._config.path}"
            )
        if code in _FULL_CODES or status == 507:
            return VaultFullError(f"vault {name}: no space left in bucket {bucket} ({code})")
        if status >= 500 or code in _BUSY_CODES:
            return self._count_failure(f"HTTP {status} {code}", key)
        if not key:
            return VaultUnavailableError(
                f"vault {name}: bucket {bucket}: HTTP {status} {code}; correct {self._config.path}"
            )
        return CopyRefusedError(f"vault {name}: {key}: HTTP {status} {code}")

    def _explain_connection(self, error: Exception, key: str) -> NeuromirrorError:
        kind = type(error).__name__
        if "Credential" in kind or "Token" in kind or "SSO" in kind:
            return VaultCredentialsError(
                f"vault {self._config.name}: {error}; set AWS_PROFILE, or 'profile' in "
                f"{self._config.path}"
            )
        if kind in ("EndpointConnectionError", "ConnectTimeoutError"):
            where = self._settings.endpoint or "AWS"
            return VaultUnavailableError(f"vault {self._config.name}: {where} cannot be reached")
        return self._count_failure(kind, key)

    def _reset_failures(self) -> None:
        """Record that the service responds."""
        with self._lock:
            self._failures = 0

    def _count_failure(self, what: str, key: str) -> NeuromirrorError:
        """Return the error of one content; after several in a row, that of the whole vault."""
        with self._lock:
            self._failures += 1
            count = self._failures
        name = self._config.name
        if count >= _MAX_FAILURES or not key:
            return VaultUnavailableError(
                f"vault {name}: the service fails ({what}, {count} requests in a row); "
                "try again later"
            )
        return CopyRefusedError(f"vault {name}: {key}: {what}; try again later")


def _request_errors() -> tuple[type[Exception], ...]:
    """Return the errors of requests; called for an error only, because boto3 is slow to load."""
    from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, Boto3Error, ClientError, OSError


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """Add the MD5 of a part to its upload: buckets with object lock refuse parts without one."""
    body = params["body"]
    start = body.tell()
    hashing = hashlib.md5(usedforsecurity=False)
    while block := body.read(_BLOCK):
        hashing.update(block)
    body.seek(start)
    params["headers"]["Content-MD5"] = base64.b64encode(hashing.digest()).decode()


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
        self._pool.close()
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
            except (OSError, urllib3.exceptions.HTTPError, _UnexpectedReplyError):
                self._failures += 1
                self._is_direct = self._failures < _MAX_RESENT
        reply: Mapping[str, Any] = self.__getattr__(operation)(**parameters)
        return reply

    def _request(
        self, method: str, operation: str, parameters: Mapping[str, Any]
    ) -> tuple[int, Mapping[str, str], bytes]:
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
        reply = self._pool.urlopen(
            *(method, path, body or None, headers),
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )
        content = reply.read(_MAX_REPLY)
        if reply.length_remaining:
            reply.close()
        reply.release_conn()
        return reply.status, reply.headers, content

    @cached_property
    def _pool(self) -> urllib3.HTTPConnectionPool:
        bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
        if not bundle:
            import certifi

            bundle = certifi.where()
        manager = urllib3.PoolManager(
            maxsize=_CONNECTIONS,
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            ca_certs=bundle,
        )
        return manager.connection_from_url(self._endpoint)

    @cached_property
    def _signer(self) -> AwsSigner:
        assert self._new_signer is not None
        return self._new_signer()


def _parse_reply(
    operation: str, status: int, headers: Mapping[str, str], content: bytes
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


class S3Source(Struct, frozen=True):
    """An object.

    Attributes
    ----------
    bucket
        Its bucket.
    name
        Its name.
    version
        Its version; None for the current one.
    """

    bucket: str
    name: str
    version: str | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """The parameter ``CopySource`` of boto3."""
        found = {"Bucket": self.bucket, "Key": self.name}
        return found if self.version is None else {**found, "VersionId": self.version}


def find_source(url: str, endpoint: str) -> S3Source | None:
    """Return the object at a URL, if it is in the same service as a vault."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    path, host = unquote(parts.path.lstrip("/")), parts.hostname or ""
    bucket, name = "", ""
    if parts.scheme == "s3":
        bucket, name = parts.netloc, path
    elif parts.scheme in ("http", "https") and endpoint:
        own = urlsplit(endpoint)
        if (parts.scheme, host, port) == (own.scheme, own.hostname, own.port):
            bucket, _, name = path.partition("/")
        elif host.endswith(f".{own.hostname}") and port == own.port:
            bucket, name = host.removesuffix(f".{own.hostname}"), path
    elif (
        parts.scheme == "https"
        and port in (None, 443)
        and (found := parse_aws_host(host)) is not None
    ):
        address = path if found.bucket is None else f"{found.bucket}/{path}"
        bucket, _, name = address.partition("/")
    if not bucket or not name:
        return None
    version = parse_qs(parts.query).get("versionId", [None])[0]
    return S3Source(bucket, name, version)
