"""The client of an S3 vault, and what its errors mean for a vault."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from neuromirror.config.vault_files import S3VaultFile, VaultConfig
from neuromirror.model import NeuromirrorError
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
_CREDENTIAL_CODES: Final = frozenset(
    {
        *("AccessDenied", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId"),
        *("InvalidToken", "SignatureDoesNotMatch", "AccountProblem", "TokenRefreshRequired"),
        *("RequestTimeTooSkewed", "403", "Forbidden"),
    }
)
_FULL_CODES: Final = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
_MISSING_CODES: Final = frozenset({"NoSuchKey", "404", "NotFound", "NoSuchVersion"})
_BUCKET_CODES: Final = frozenset({"NoSuchBucket", "PermanentRedirect", "AllAccessDisabled"})


class S3Requests:
    """Makes the client of a vault, and translates the errors of its requests. Thread-safe.

    Parameters
    ----------
    config
        The configured vault.
    """

    def __init__(self, config: VaultConfig) -> None:
        assert isinstance(config.settings, S3VaultFile)
        self._config = config
        self._settings = config.settings
        self._lock = threading.Lock()
        self._client: Any = None
        self._failures = 0

    @property
    def client(self) -> Any:
        """The client of boto3, made on first use.

        Raises
        ------
        VaultCredentialsError
            The profile cannot be used.
        """
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    def _new_client(self) -> Any:
        import boto3  # type: ignore[import-untyped]
        from botocore import UNSIGNED  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError

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
        try:
            session = boto3.Session(profile_name=settings.profile or None)
            return session.client(
                "s3",
                endpoint_url=settings.endpoint or None,
                region_name=settings.region or session.region_name or "us-east-1",
                config=config,
            )
        except BotoCoreError as error:
            raise VaultCredentialsError(f"{self._config.path}: {error}") from None

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    @contextmanager
    def translated(self, key: str = "") -> Iterator[Any]:
        """Yield the client; translate the errors of a request in the block.

        Parameters
        ----------
        key
            The annex key that the request is for; empty for the bucket.

        Raises
        ------
        VaultError
            The whole vault cannot be used.
        CopyMissingError
            There is no such object.
        CopyRefusedError
            The object cannot be stored or read.
        """
        from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield self.client
        except ClientError as error:
            raise self._explain(error, key) from None
        except (BotoCoreError, Boto3Error, OSError) as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, ClientError):
                raise self._explain(cause, key) from None
            raise self._explain_connection(error, key) from None
        self._failures = 0

    def _explain(self, error: ClientError, key: str) -> NeuromirrorError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        name, bucket = self._config.name, self._settings.bucket
        if code in _MISSING_CODES:
            return CopyMissingError(f"vault {name}: no content of {key}")
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
        if status >= 500 or code in ("SlowDown", "RequestTimeout", "Throttling"):
            return self._count_failure(f"HTTP {status} {code}", key)
        return CopyRefusedError(f"vault {name}: {key or bucket}: HTTP {status} {code}")

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

    def _count_failure(self, what: str, key: str) -> NeuromirrorError:
        """Return the error of one content; after several in a row, that of the whole vault."""
        self._failures += 1
        name = self._config.name
        if self._failures >= _MAX_FAILURES or not key:
            return VaultUnavailableError(
                f"vault {name}: the service fails ({what}, {self._failures} requests in a row); "
                "try again later"
            )
        return CopyRefusedError(f"vault {name}: {key}: {what}; try again later")
