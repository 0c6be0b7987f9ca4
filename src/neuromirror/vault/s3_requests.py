"""Requests of an S3 vault: boto3's client, the meaning of its errors, and sources of copies."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Struct

from neuromirror.config.vault_files import S3VaultFile, VaultConfig
from neuromirror.model import NeuromirrorError
from neuromirror.net import new_aws_session, parse_aws_host
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
        and (found := parse_aws_host(host)) is not None
    ):
        address = path if found.bucket is None else f"{found.bucket}/{path}"
        bucket, _, name = address.partition("/")
    if not bucket or not name:
        return None
    version = parse_qs(parts.query).get("versionId", [None])[0]
    return S3Source(bucket, name, version)
