"""Requests for objects at ``s3://bucket/key?versionId=…``, with the credentials of this machine.

A dataset chooses the URL, but neither the credentials nor their destination: profile, region and
endpoint come from the user's git and AWS configuration only. For a bucket they can be set with
``git config neuromirror.BUCKET.profile`` (``region``, ``endpoint``, ``requester-pays``); for the
copies in a vault, in the user's vault file.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from neuromirror.annex import ALLOWED_ADDRESSES, BucketAccess, VaultAddress, parse_key
from neuromirror.model import NeuromirrorError
from neuromirror.net import (
    AccessDeniedError,
    AwsSigner,
    CredentialsError,
    HttpError,
    NetError,
    RequestLimits,
    S3Bucket,
    Session,
    aws_endpoint,
    bucket_url,
    only_host_of,
)

SCHEME: Final = "s3"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_AWS_HOST: Final = re.compile(r"(?:.*\.)?amazonaws\.com(?:\.cn)?")
_USUAL_REGION: Final = "us-east-1"


class MalformedS3UrlError(NeuromirrorError):
    """The text is not an ``s3://bucket/key`` URL."""


class S3Object(Struct, frozen=True):
    """An object: its bucket, with the session for it, and its HTTP URL.

    ``is_own`` is whether a vault file of the user configures the requests.
    """

    bucket: S3Bucket
    url: str
    is_own: bool = False

    @property
    def session(self) -> Session:
        """The session that signs requests for the bucket."""
        return self.bucket.session

    def explain(self, error: NeuromirrorError) -> str:
        """Return the message of an error, with what to do in a clone."""
        name = self.bucket.name
        if not isinstance(error, HttpError) or not error.identity:
            return str(error)
        error = self.bucket.with_remedy(error, "read")
        signer = self.bucket.session.signer
        if isinstance(error, AccessDeniedError) and signer is not None:
            remedy = f"git config neuromirror.{name}.profile sets another profile)"
            if self.is_own:
                remedy = '"profile" in the vault file sets another profile)'
            elif not signer.requester_pays:
                remedy += (
                    f", or the bucket is requester-pays: git config neuromirror.{name}"
                    ".requester-pays true"
                )
            code = error.fields.get("Code", "")
            return (
                f"s3://{name}: access denied to {error.identity} (HTTP {error.status} {code}); they"
                f" lack the permission ({remedy}"
            )
        return str(error)


class S3Access:
    """The buckets of ``s3://`` URLs, with one session each. Thread-safe.

    Parameters
    ----------
    settings
        The values of ``neuromirror.BUCKET.NAME`` in git's configuration, by bucket and name.
    is_private_allowed
        Whether a host on this machine or a private network may be accessed, beside the endpoints
        in ``settings``.
    limits
        Limits per host.
    vaults
        The vaults of the user. The copies in them are requested as their ``access`` says.
    """

    def __init__(
        self,
        settings: Mapping[tuple[str, str], str],
        is_private_allowed: Callable[[str], bool],
        limits: RequestLimits,
        vaults: Iterable[VaultAddress] = (),
    ) -> None:
        self._settings = settings
        self._is_private_allowed = is_private_allowed
        self._limits = limits
        self._own = {one.base: one.access for one in vaults if one.access is not None}
        # by the name of the bucket, or by the address of a vault of the user
        self._buckets: dict[str, S3Bucket] = {}
        self._failures: dict[str, CredentialsError | NetError] = {}
        self._lock = threading.Lock()

    def object(self, url: str) -> S3Object:
        """Return the object at a URL.

        Raises
        ------
        MalformedS3UrlError
            If the URL is malformed.
        NeuromirrorError
            If the credentials or the region of the bucket cannot be determined.
        """
        parts = urlsplit(url)
        if parts.scheme != SCHEME or not _NAME.fullmatch(parts.netloc) or not parts.path[1:]:
            raise MalformedS3UrlError(f"{url[:200]!r} is not a URL like s3://bucket/key")
        bucket_id = self._own_vault(url) or parts.netloc
        with self._lock:
            bucket = self._buckets.get(bucket_id)
            if bucket is None:
                bucket = self._open(parts.netloc, self._own.get(bucket_id))
                self._buckets[bucket_id] = bucket
        query = f"?{parts.query}" if parts.query else ""
        url = f"{bucket.object_url(b'')}{parts.path[1:]}{query}"
        return S3Object(bucket, url, bucket_id in self._own)

    def object_with_credentials(self, url: str) -> S3Object:
        """Return the object at a URL; region and credentials are searched once per bucket.

        Raises
        ------
        CredentialsError
            If no credentials are found, also by an earlier search, which may take seconds.
        NetError
            If the region of the bucket cannot be determined.
        MalformedS3UrlError
            If the URL is malformed.
        """
        bucket_id = self._own_vault(url) or urlsplit(url).netloc
        try:
            if (failure := self._failures.get(bucket_id)) is not None:
                raise failure
            found = self.object(url)
            if found.session.signer is not None:
                found.session.signer.check()
        except (CredentialsError, NetError) as error:
            self._failures[bucket_id] = error
            raise
        return found

    def close(self) -> None:
        """Close the open connections."""
        for bucket in self._buckets.values():
            bucket.session.close()

    def _own_vault(self, url: str) -> str | None:
        """Return the address of the user's vault that has the copy at a URL, if there is one.

        An object of upstream in a bucket of the same name has no annex key as its name.
        """
        for base in self._own:
            name = unquote(url[len(base) :]) if url.startswith(base) else ""
            try:
                parse_key(name)
            except ValueError:
                continue
            return base
        return None

    def _open(self, name: str, access: BucketAccess | None) -> S3Bucket:
        own = access or BucketAccess()
        profile = own.profile or self._settings.get((name, "profile"))
        endpoint, region = aws_endpoint(profile)
        endpoint = own.endpoint or self._settings.get((name, "endpoint"), endpoint)
        given_region = own.region or self._settings.get((name, "region"))
        if endpoint is not None and _AWS_HOST.fullmatch(urlsplit(endpoint).hostname or ""):
            endpoint = None
        if endpoint is None and given_region is None:
            region = self._region_of(name) or region
        region = given_region or region or _USUAL_REGION
        base_url = bucket_url(name, region, endpoint)
        is_chosen = bool(own.endpoint) or (name, "endpoint") in self._settings
        allowed = is_chosen or self._is_private_allowed(urlsplit(base_url).netloc)
        signer = AwsSigner(
            base_url,
            region=region,
            profile=profile,
            requester_pays=self._settings.get((name, "requester-pays"), "") == "true",
        )
        session = Session(
            limits=self._limits,
            signer=signer if own.is_signed else None,
            is_private_allowed=only_host_of(base_url) if allowed else None,
            private_hint=lambda address: (
                f"to allow it, run git config {ALLOWED_ADDRESSES} '{address}'"
            ),
        )
        return S3Bucket(session, name, region=region, endpoint=endpoint)

    def _region_of(self, name: str) -> str | None:
        """Return the region of a bucket of AWS, which it states to anonymous clients too."""
        with Session(limits=self._limits) as session:
            reply = S3Bucket(session, name, region=_USUAL_REGION).head(b"")
        return reply.headers.get("x-amz-bucket-region")
