"""A vault in a bucket of S3, in the layout of git-annex's S3 special remote.

The name of an object is the prefix and the annex key. ``<prefix>annex-uuid`` has the UUID, as
git-annex writes it. S3 verifies what it receives by the sha256 that is sent with it; servers that
do not are compared by their ETag.
"""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Struct

from neuromirror.annex import key_digest, parse_key, s3_vault_config
from neuromirror.annex.keys import EtagDigest
from neuromirror.config.vault_files import S3VaultFile, VaultConfig
from neuromirror.index.ledger import Stored
from neuromirror.model import NeuromirrorError
from neuromirror.net import new_aws_session, parse_aws_host
from neuromirror.vault.protocol import (
    CHANGED,
    ContentTest,
    CopyMissingError,
    CopyRefusedError,
    Presence,
    Vault,
    VaultCredentialsError,
    VaultError,
    VaultFullError,
    VaultReadOnlyError,
    VaultUnavailableError,
    parse_uuid,
)

if TYPE_CHECKING:
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]

_ATTEMPTS: Final = 6
_MAX_FAILURES: Final = 8
"""Consecutive requests that fail with all their retries before the vault counts as unavailable."""
_CONNECTIONS: Final = 64
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


class S3Requests:
    """Makes the client of a vault, and translates the errors of its requests. Thread-safe."""

    def __init__(self, config: VaultConfig) -> None:
        assert isinstance(config.settings, S3VaultFile)
        self._config = config
        self._settings = config.settings
        self._lock = threading.Lock()
        self._client: Any = None
        self._failures = 0

    @property
    def client(self) -> Any:
        """The client, made on first use."""
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
            return self._client

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
            "s3", endpoint_url=settings.endpoint or None, region_name=self._region, config=config
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
    def translated(self, key: str = "") -> Iterator[Any]:
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
        and (aws_host := parse_aws_host(host)) is not None
    ):
        address = path if aws_host.bucket is None else f"{aws_host.bucket}/{path}"
        bucket, _, name = address.partition("/")
    if not bucket or not name:
        return None
    version = parse_qs(parts.query).get("versionId", [None])[0]
    return S3Source(bucket, name, version)


_UUID_NAME: Final = "annex-uuid"
_PART: Final = 32 << 20
"""Size of a part of a multipart upload, in bytes; larger for huge contents."""
_SINGLE: Final = 64 << 20
"""Maximum size in bytes of an upload in one request."""
_MAX_PARTS: Final = 9000
_MAX_COPY: Final = 5 << 30
"""Maximum size in bytes of an object that one request can copy."""
_LIST_ABOVE: Final = 300
"""Number of keys above which the bucket is listed, instead of one request per key."""
_THREADS: Final = 16
_BLOCK: Final = 1 << 20


class S3Vault(Vault):
    """A vault in a bucket. Thread-safe.

    Attributes
    ----------
    config
        The configured vault.
    uuid
        The git-annex UUID of the vault.

    Raises
    ------
    VaultError
        The bucket cannot be read.
    """

    def __init__(self, config: VaultConfig, *, create: bool = False) -> None:
        assert isinstance(config.settings, S3VaultFile)
        self.config = config
        self._settings = config.settings
        self._bucket, self._prefix = config.settings.bucket, config.settings.prefix
        self._requests = S3Requests(config)
        self._refused_buckets: set[str] = set()
        self._lock = threading.Lock()
        self.uuid = self._read_uuid(create=create and not config.settings.read_only)

    def remote_config(self) -> dict[str, str] | None:
        """Return the parameters of the git-annex remote with which clones read the vault."""
        if not self._settings.public_url:
            return None
        return s3_vault_config(
            *(self.config.name, self._settings.public_url, self._bucket, self._prefix),
            prefer=self._settings.prefer,
        )

    def presence(self, keys: Sequence[str]) -> Iterator[Presence]:
        """Yield sizes and checksums of objects; of many, from a listing without checksums."""
        if len(keys) > _LIST_ABOVE:
            left = dict.fromkeys(keys)
            for key, size in self.keys():
                if key in left:
                    del left[key]
                    yield Presence(key, size, "listing")
            yield from (Presence(key, None, "listing") for key in left)
            return
        with ThreadPoolExecutor(_THREADS) as pool:
            yield from pool.map(self._head, keys)

    def _head(self, key: str) -> Presence:
        try:
            with self._requests.translated(key) as client:
                found = client.head_object(
                    Bucket=self._bucket, Key=self._name(key), ChecksumMode="ENABLED"
                )
        except CopyMissingError:
            return Presence(key, None, "head")
        return Presence(key, found["ContentLength"], "head", _whole_sha256(found))

    def store(self, key: str, path: Path, test: ContentTest | None = None) -> Stored:
        """Upload the content of a file; the bytes that S3 states must be those of the test.

        Raises
        ------
        VaultError
            The whole vault cannot be used.
        CopyRefusedError
            S3 did not store the content, or has other bytes.
        """
        self._refuse_read_only()
        size = path.stat().st_size
        if size <= _SINGLE:
            content = path.read_bytes()
            if test is not None and not test(io.BytesIO(content)):
                raise CopyRefusedError(f"{path}: {CHANGED}")
            return self.store_bytes(key, memoryview(content))
        from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]

        part = max(_PART, -(-size // _MAX_PARTS // _BLOCK) * _BLOCK)
        transfer = TransferConfig(multipart_threshold=part, multipart_chunksize=part)
        extra = self._attributes()
        if not self._settings.endpoint:
            # over TLS it is sent in a trailer, which other servers may refuse: they get MD5s
            extra["ChecksumAlgorithm"] = "SHA256"
        name = self._name(key)
        with self._requests.translated(key) as client:
            client.upload_file(str(path), self._bucket, name, ExtraArgs=extra, Config=transfer)
            found = client.head_object(Bucket=self._bucket, Key=name, ChecksumMode="ENABLED")
        with path.open("rb", buffering=0) as file:
            read = _HashedParts(file, part)
            if test is not None and not test(cast(BinaryIO, read)):
                raise self._refuse(key, CHANGED)
            while read.read(_BLOCK):
                pass
        if found["ContentLength"] == size == read.size:
            stated = found.get("ChecksumSHA256")
            if stated is not None and stated == read.sha256_of_parts():
                return Stored(key, size, "s3-sha256")
            if found["ETag"].strip('"') == read.etag():
                return Stored(key, size, "s3-etag")
            if stated is None and self._reads_as(key, read.sha256.hexdigest()):
                return Stored(key, size, "full-read")
        raise self._refuse(key, "S3 has other bytes than were sent")

    def store_bytes(self, key: str, content: memoryview) -> Stored:
        """Upload a content that is in memory, and which the caller has verified with the key.

        Raises
        ------
        VaultError
            The whole vault cannot be used.
        CopyRefusedError
            S3 did not store the content, or has other bytes.
        """
        self._refuse_read_only()
        digest = key_digest(key)
        sha256 = (
            bytes.fromhex(digest[1])
            if digest is not None and digest[0] == "sha256"
            else hashlib.sha256(content).digest()
        )
        found = self._put(self._name(key), bytes(content), sha256, key, **self._attributes())
        if found.get("ChecksumSHA256") == base64.b64encode(sha256).decode():
            return Stored(key, len(content), "s3-sha256")
        if digest is not None and digest[0] == "md5":
            md5 = digest[1]
        else:
            md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found["ETag"].strip('"') == md5:
            return Stored(key, len(content), "s3-etag")
        if found.get("ChecksumSHA256") is None and self._reads_as(key, sha256.hex()):
            return Stored(key, len(content), "full-read")
        raise self._refuse(key, "S3 has other bytes than were sent")

    def _put(
        self, name: str, content: bytes, sha256: bytes, key: str = "", **attributes: Any
    ) -> Any:
        """Upload an object in one request, with its sha256; return boto3's answer."""
        with self._requests.translated(key) as client:
            return client.put_object(
                Bucket=self._bucket,
                Key=name,
                Body=content,
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=base64.b64encode(sha256).decode(),
                **attributes,
            )

    def can_copy(self, url: str) -> bool:
        """Return whether a URL is that of an object of the same service."""
        source = find_source(url, self._settings.endpoint)
        return source is not None and source.bucket not in self._refused_buckets

    def copy_from(self, key: str, url: str) -> Stored | None:
        """Copy an object within S3, and compare the checksum that S3 computes.

        Raises
        ------
        VaultError
            The whole vault cannot be used.
        """
        self._refuse_read_only()
        source, digest = find_source(url, self._settings.endpoint), key_digest(key)
        size = parse_key(key).size
        if source is None or digest is None or size is None:
            return None
        algorithm, value = digest
        try:
            if algorithm == "etag":
                return self._copy_parts(key, size, value, source)
            if size > _MAX_COPY:
                return None
            return self._copy_whole(key, size, algorithm, value, source)
        except (CopyMissingError, CopyRefusedError):
            return None
        except VaultError:
            # the credentials may be refused by the source only
            self._refused_buckets.add(source.bucket)
            self.check_access()
            return None

    def _copy_whole(
        self, key: str, size: int, algorithm: str, value: str, source: S3Source
    ) -> Stored | None:
        condition = {"CopySourceIfMatch": f'"{value}"'} if algorithm == "md5" else {}
        with self._requests.translated(key) as client:
            found = client.copy_object(
                Bucket=self._bucket,
                Key=self._name(key),
                CopySource=source.parameters,
                MetadataDirective="REPLACE",
                ChecksumAlgorithm="SHA256",
                **condition,
                **self._attributes(),
            )["CopyObjectResult"]
        if algorithm == "md5":
            if found["ETag"].strip('"') == value:
                return Stored(key, size, "s3-etag")
        elif (computed := _whole_sha256(found)) is not None:
            if computed == value:
                return Stored(key, size, "s3-sha256")
        elif self._reads_as(key, value):
            return Stored(key, size, "full-read")
        self.remove(key)
        return None

    def _copy_parts(self, key: str, size: int, etag: str, source: S3Source) -> Stored | None:
        """Copy the parts of a multipart ETag, so that S3 computes it once more."""
        part = int(parse_key(key).name.rpartition("-")[2])
        count = int(etag.rpartition("-")[2])
        if not (5 << 20) <= part <= _MAX_COPY or count != max(1, -(-size // part)):
            return None
        name = self._name(key)
        with self._requests.translated(key) as client:
            upload = client.create_multipart_upload(
                Bucket=self._bucket, Key=name, **self._attributes()
            )["UploadId"]
            target = {"Bucket": self._bucket, "Key": name, "UploadId": upload}
            try:
                parts = [
                    {
                        "PartNumber": number,
                        "ETag": client.upload_part_copy(
                            PartNumber=number,
                            CopySource=source.parameters,
                            CopySourceRange=f"bytes={start}-{min(start + part, size) - 1}",
                            **target,
                        )["CopyPartResult"]["ETag"],
                    }
                    for number, start in enumerate(range(0, size, part), 1)
                ]
                digests = b"".join(bytes.fromhex(one["ETag"].strip('"')) for one in parts)
                whole = hashlib.md5(digests, usedforsecurity=False).hexdigest()
                if f"{whole}-{len(parts)}" != etag:
                    raise CopyRefusedError(f"{key}: the source has other bytes")
                client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **target)
            except BaseException:
                client.abort_multipart_upload(**target)
                raise
        return Stored(key, size, "s3-etag")

    def open(self, key: str) -> BinaryIO:
        """Open a content for reading; close it after use.

        Raises
        ------
        CopyMissingError
            The vault does not have it.
        """
        with self._requests.translated(key) as client:
            body = client.get_object(Bucket=self._bucket, Key=self._name(key))["Body"]
        return cast(BinaryIO, _Body(body, self._requests, key))

    def remove(self, key: str) -> None:
        """Remove a content; it is no error if the vault does not have it.

        Raises
        ------
        VaultError
            The object cannot be removed, for example because of object lock.
        """
        self._refuse_read_only()
        with self._requests.translated(key) as client:
            client.delete_object(Bucket=self._bucket, Key=self._name(key))

    def keys(self) -> Iterator[tuple[str, int]]:
        """Yield the annex key and the size in bytes of all objects that are named by one.

        Raises
        ------
        VaultError
            The bucket cannot be listed, or the list is malformed or repeats itself.
        """
        last, token = b"", ""
        while True:
            page, following = self._list_page(token)
            for text, size in page:
                name = text.encode("utf-8", "surrogatepass")
                if name <= last:
                    raise self._malformed_list()
                last = name
                if _is_key(text[len(self._prefix) :]):
                    yield text[len(self._prefix) :], size
            if not following:
                return
            if following == token:
                raise self._malformed_list()
            token = following

    def _list_page(self, token: str) -> tuple[list[tuple[str, int]], str]:
        """Return names and sizes of some objects, and the token of the next page if any."""
        start = {"ContinuationToken": token} if token else {}
        try:
            with self._requests.translated() as client:
                page = client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, **start)
            found = [(one["Key"], one["Size"]) for one in page.get("Contents", ())]
            return found, page["NextContinuationToken"] if page.get("IsTruncated") else ""
        except (KeyError, ValueError) as error:
            raise self._malformed_list() from error

    def _malformed_list(self) -> VaultUnavailableError:
        return VaultUnavailableError(
            f"vault {self.config.name}: the service returned a malformed list of bucket "
            f"{self._bucket}; correct {self.config.path}, or try again later"
        )

    def check_access(self, *, write: bool = False) -> None:
        """Raise an error that states why the vault cannot be used.

        Raises
        ------
        VaultError
            The bucket cannot be used.
        VaultReadOnlyError
            It is to be written, and the configuration forbids it.
        """
        if write:
            self._refuse_read_only()
        try:
            with self._requests.translated() as client:
                client.head_bucket(Bucket=self._bucket)
        except CopyMissingError as error:
            raise self._no_bucket() from error

    def close(self) -> None:
        """Close the connections."""
        self._requests.close()

    def _name(self, key: str) -> str:
        return self._prefix + key

    def _attributes(self) -> dict[str, Any]:
        """Return the storage class and the object lock of new objects."""
        settings, found = self._settings, {}
        if settings.storage_class != "STANDARD":
            found["StorageClass"] = settings.storage_class
        if settings.object_lock:
            until = datetime.now(UTC) + timedelta(days=settings.retention_days)
            found |= {
                "ObjectLockMode": settings.object_lock,
                "ObjectLockRetainUntilDate": until,  # type: ignore[dict-item]
            }
        return found

    def _read_uuid(self, *, create: bool) -> str:
        where = f"{self._settings.endpoint or 'https://s3.amazonaws.com'}/{self._bucket}/"
        default = str(uuid.uuid5(uuid.NAMESPACE_URL, where + self._prefix))
        name = self._prefix + _UUID_NAME
        try:
            with self._requests.translated() as client:
                body = client.get_object(Bucket=self._bucket, Key=name, Range="bytes=0-99")["Body"]
                with body:
                    found = body.read(100).decode("ascii", "replace").strip()
        except CopyMissingError:
            if create:
                content = default.encode()
                self._put(name, content, hashlib.sha256(content).digest())
            return default
        read = parse_uuid(found)
        if read is None:
            raise VaultUnavailableError(
                f"vault {self.config.name}: s3://{self._bucket}/{name} is not a UUID; choose "
                "another prefix"
            )
        return read

    def _reads_as(self, key: str, sha256: str) -> bool:
        """Return whether the stored bytes, read completely, have a sha256."""
        hashing = hashlib.sha256()
        left = parse_key(key).size
        with self.open(key) as body:
            while block := body.read(_BLOCK):
                hashing.update(block)
                if left is not None and (left := left - len(block)) < 0:
                    return False
        return hashing.hexdigest() == sha256

    def _refuse(self, key: str, why: str) -> CopyRefusedError:
        """Remove an object with wrong bytes, and return the error."""
        self.remove(key)
        return CopyRefusedError(f"vault {self.config.name}: {key}: {why}")

    def _refuse_read_only(self) -> None:
        if self._settings.read_only or self._settings.credentials == "none":
            raise VaultReadOnlyError(f"{self.config.path}: the vault is read-only")

    def _no_bucket(self) -> VaultUnavailableError:
        return VaultUnavailableError(
            f"vault {self.config.name}: there is no bucket {self._bucket}; create it, or correct "
            f"{self.config.path}"
        )


class _Body(io.RawIOBase):
    """The body of a response, with the errors of a vault."""

    def __init__(self, body: Any, requests: S3Requests, key: str) -> None:
        self._body = body
        self._requests = requests
        self._key = key

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._requests.translated(self._key):
            data = self._body.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._body.close()
        super().close()


def _whole_sha256(found: Mapping[str, Any]) -> str | None:
    """Return the sha256 of a whole object in a response, in hex; None for that of its parts."""
    text = found.get("ChecksumSHA256")
    if text is None or "-" in text:
        return None
    return base64.b64decode(text).hex()


class _HashedParts:
    """Hashes what is read from a file: the whole, and the parts of its upload."""

    def __init__(self, file: io.RawIOBase, part: int) -> None:
        self._file, self._part = file, part
        self.size = 0
        self.sha256 = hashlib.sha256()
        self._etag = EtagDigest(part)
        self._parts: list[hashlib._Hash] = []

    def read(self, size: int) -> bytes:
        inside = self.size % self._part
        block = self._file.read(min(size, self._part - inside)) or b""
        if block and not inside:
            self._parts.append(hashlib.sha256())
        self.sha256.update(block)
        self._etag.update(block)
        if block:
            self._parts[-1].update(block)
        self.size += len(block)
        return block

    def etag(self) -> str:
        return self._etag.hexdigest()

    def sha256_of_parts(self) -> str:
        """Return S3's checksum of a multipart upload: the sha256 of the sha256s of its parts."""
        joined = hashlib.sha256(b"".join(part.digest() for part in self._parts)).digest()
        return f"{base64.b64encode(joined).decode()}-{len(self._parts)}"


def _is_key(name: str) -> bool:
    try:
        parse_key(name)
    except ValueError:
        return False
    return True
