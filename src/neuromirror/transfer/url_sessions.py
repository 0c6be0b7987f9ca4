"""Sessions for the URLs of content: credentials, signatures, channels and rate limits.

Requests for objects at ``s3://bucket/key?versionId=…``, with the credentials of this machine.

A dataset chooses the URL, but neither the credentials nor their destination: profile, region and
endpoint come from the user's git and AWS configuration only. For a bucket they can be set with
``git config --global neuromirror.BUCKET.profile`` (``region``, ``endpoint``,
``requester-pays``); for the copies in a vault, in the user's vault file.

HTTP sessions for the URLs of annexed files: one for public hosts, one for allowed private ones.

As in git-annex, hosts on this machine and on private networks are refused unless
``annex.security.allowed-ip-addresses`` lists their addresses, or is ``all``.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from neuromirror import net
from neuromirror.annex import (
    ALLOWED_ADDRESSES,
    BucketAccess,
    VaultAddress,
    is_private_host_allowed,
    parse_key,
)
from neuromirror.model import NeuromirrorError
from neuromirror.sources.api_tokens import InternToken, host_token, token_scheme
from neuromirror.sources.dandi_client import INSTANCES, api_key_variable
from neuromirror.sources.volumes.fetching import PARALLEL, fetch_block
from neuromirror.sources.volumes.urls import BlockUrl, token_variable
from neuromirror.transfer.annex_branch import AnnexSettings


class RateLimit:
    """Delays threads so that together they stay below a rate. Thread-safe.

    Parameters
    ----------
    bytes_per_second
        The rate.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free = time.monotonic()
        self._lock = threading.Lock()

    def wait(self, count: int, stop: threading.Event) -> None:
        """Wait until bytes that were received are within the rate.

        Parameters
        ----------
        count
            The number of bytes; negative if received bytes are discarded, which has no effect.
        stop
            Ends the wait when it is set.
        """
        if count <= 0:
            return
        with self._lock:
            self._free = max(self._free, time.monotonic()) + count / self._rate
            pause = self._free - time.monotonic()
        if pause > 0:
            stop.wait(pause)


_REFUSED_STATUSES: Final = (401, 403)

Pieces = Generator[bytes | memoryview, None, None]
"""The bytes of a block, in parts."""


class RestrictedChannels:
    """Fetches blocks, those of channels that refuse anonymous requests with the user's token.

    Public blocks are requested without it, so that they do not depend on the file of ``intern``.
    Thread-safe.
    """

    def __init__(self) -> None:
        self._restricted_channels: set[str] = set()

    def fetch(
        self,
        session: net.Session,
        url: BlockUrl,
        token: str | None,
        *,
        breaker: net.HostCircuitBreaker,
        **options: Any,
    ) -> Pieces:
        """Yield the bytes of a block.

        Parameters
        ----------
        session
            Sends the requests.
        url
            The block.
        token
            The token to use whatever the channel is; None for that of ``intern`` where required.
        breaker
            Records failures that affect the whole host.
        **options
            Further arguments of :func:`~neuromirror.sources.volumes.fetching.fetch_block`.

        Yields
        ------
        bytes or memoryview
            A part of the block.

        Raises
        ------
        NetError
            The request failed.
        """

        def fetch(token: str | None, is_counted: bool) -> Pieces:
            # a refused anonymous request is no failure of the host if there is a token
            counted = breaker if is_counted else None
            return fetch_block(
                session, url, token=token, breaker=counted, parallel=PARALLEL, **options
            )

        channel = f"{url.host}/{url.path}"
        own = problem = ""
        if token is None and url.scheme == "boss":
            try:
                own = InternToken(url.host, token_variable(url.host)).read()
            except net.CredentialsError as error:
                problem = str(error)
        if own and channel in self._restricted_channels:
            token = own
        received = False
        try:
            with closing(fetch(token, token is not None or not own)) as pieces:
                for piece in pieces:
                    received = True
                    yield piece
        except net.NetError as error:
            if received or token is not None or error.status not in _REFUSED_STATUSES:
                raise
            if problem:
                raise net.NetError(
                    f"{error}; {problem}", url=error.url, status=error.status
                ) from error
            if not own:
                raise
            self._restricted_channels.add(channel)
            yield from fetch(own, True)


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

    bucket: net.S3Bucket
    url: str
    is_own: bool = False

    @property
    def session(self) -> net.Session:
        """The session that signs requests for the bucket."""
        return self.bucket.session

    def explain(self, error: NeuromirrorError) -> str:
        """Return the message of an error, with what to do in a clone."""
        name = self.bucket.name
        if not isinstance(error, net.HttpError) or not error.identity:
            return str(error)
        error = self.bucket.with_remedy(error, "read")
        signer = self.bucket.session.signer
        if isinstance(error, net.AccessDeniedError) and signer is not None:
            remedy = f"git config --global neuromirror.{name}.profile sets another profile)"
            if self.is_own:
                remedy = '"profile" in the vault file sets another profile)'
            elif not signer.requester_pays:
                remedy += (
                    f", or the bucket is requester-pays: git config --global neuromirror.{name}"
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
        limits: net.RequestLimits,
        vaults: Iterable[VaultAddress] = (),
    ) -> None:
        self._settings = settings
        self._is_private_allowed = is_private_allowed
        self._limits = limits
        self._own = {vault.base: vault.access for vault in vaults if vault.access is not None}
        # by the name of the bucket, or by the address of a vault of the user
        self._buckets: dict[str, net.S3Bucket] = {}
        self._failures: dict[str, net.CredentialsError | net.NetError] = {}
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
        except (net.CredentialsError, net.NetError) as error:
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

    def _open(self, name: str, access: BucketAccess | None) -> net.S3Bucket:
        own = access or BucketAccess()
        profile = own.profile or self._settings.get((name, "profile"))
        endpoint, region = net.aws_endpoint(profile)
        endpoint = own.endpoint or self._settings.get((name, "endpoint"), endpoint)
        given_region = own.region or self._settings.get((name, "region"))
        if endpoint is not None and _AWS_HOST.fullmatch(urlsplit(endpoint).hostname or ""):
            endpoint = None
        if endpoint is None and given_region is None:
            # AWS states the region of a bucket to anonymous clients, too
            with net.Session(limits=self._limits) as session:
                reply = net.S3Bucket(session, name, region=_USUAL_REGION).head(b"")
            region = reply.headers.get("x-amz-bucket-region") or region
        region = given_region or region or _USUAL_REGION
        base_url = net.bucket_url(name, region, endpoint)
        is_chosen = bool(own.endpoint) or (name, "endpoint") in self._settings
        allowed = is_chosen or self._is_private_allowed(urlsplit(base_url).netloc)
        signer = net.AwsSigner(
            base_url,
            region=region,
            profile=profile,
            requester_pays=self._settings.get((name, "requester-pays"), "") == "true",
        )
        session = net.Session(
            limits=self._limits,
            signer=signer if own.is_signed else None,
            is_private_allowed=net.only_host_of(base_url) if allowed else None,
            private_hint=lambda address: (
                f"to allow it, run git config --global {ALLOWED_ADDRESSES} '{address}'"
            ),
        )
        return net.S3Bucket(session, name, region=region, endpoint=endpoint)


VERIFY_LIMITS: Final = net.RequestLimits(attempts=4, wait_max=20.0, read=300.0)
"""Limits for verification. A volume host may take minutes before it sends the first byte."""

API_KEY_VARIABLES: Final[Mapping[str, str]] = {
    f"https://{host}": api_key_variable(instance) for host, instance in INSTANCES.items()
}
"""Archive APIs that receive a token, with the environment variable that contains it.

The list is fixed: a dataset can name any URL, and must not be able to obtain a token by it.
"""

_MAX_FAILURES: Final = 8
"""Consecutive failures that open the circuit of a host; each is a request with all its retries."""


def no_token(host: str) -> None:
    """Return None for any host, so that no host receives a token; the default of ``token``.

    Parameters
    ----------
    host
        The name of a host.
    """
    return None


class UrlSessions:
    """The sessions and the circuit breaker for a set of URLs. Thread-safe; a context manager.

    Parameters
    ----------
    allowed
        Values of ``annex.security.allowed-ip-addresses``.
    token
        Returns the token for a volume host (with its port), or None.
    limits
        Limits per host.
    keys
        Environment variables that hold tokens, by API, as :data:`API_KEY_VARIABLES`. A token is not
        sent to the target of a redirect.
    host_token
        Returns the token that is sent to a host which refuses a request without it, or None.
    breaker
        Circuit breaker; by default one that opens after 8 consecutive failures.
    allowed_hosts
        Hosts, with their ports, that may be accessed whatever their addresses are.
    """

    def __init__(
        self,
        allowed: tuple[str, ...],
        token: Callable[[str], str | None] = no_token,
        limits: net.RequestLimits = VERIFY_LIMITS,
        keys: Mapping[str, str] = API_KEY_VARIABLES,
        *,
        host_token: Callable[[str], net.TokenSource | None] = no_token,
        breaker: net.HostCircuitBreaker | None = None,
        allowed_hosts: frozenset[str] = frozenset(),
    ) -> None:
        self._allowed = allowed
        self._allowed_hosts = allowed_hosts
        self._public = net.Session(limits=limits, tokens=keys, private_hint=self._hint)
        self._private = self._new_session(limits, keys)
        self._chosen: dict[str, net.Session] = {}
        self._host_token = host_token
        self._authorized: dict[str, net.Session | None] = {}
        self._lock = threading.Lock()
        self.limits = limits
        self.breaker = breaker or net.HostCircuitBreaker(failures=_MAX_FAILURES, seconds=0.0)
        self.token = token

    def __enter__(self) -> UrlSessions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the open connections."""
        for session in self._sessions():
            session.close()

    def abort(self) -> None:
        """Make requests with a time limit fail at the next read, in every thread."""
        for session in self._sessions():
            session.abort()

    def _sessions(self) -> list[net.Session]:
        authorized = [one for one in self._authorized.copy().values() if one is not None]
        return [self._public, self._private, *authorized]

    def session_for(self, url: str) -> net.Session:
        """Return the session for a URL of any scheme. Host names are not resolved here."""
        try:
            host = urlsplit(url).netloc.rpartition("@")[2]
        except ValueError:
            return self._public
        found = self._chosen.get(host)
        if found is None:
            is_allowed = self._is_private_host_allowed(host)
            found = self._chosen[host] = self._private if is_allowed else self._public
        return found

    def authorized_session(self, url: str) -> net.Session | None:
        """Return a session with the token for the host of a URL; None if there is no token.

        Later requests to the host use this session, too.

        Raises
        ------
        CredentialsError
            The token cannot be read.
        """
        parts = urlsplit(url)
        host = parts.netloc
        if "@" in host or parts.scheme != token_scheme(host):
            return None
        with self._lock:
            if host not in self._authorized:
                token = self._host_token(host)
                tokens = {f"{token_scheme(host)}://{host}": token} if token else {}
                is_known = token is not None and bool(token.read())
                self._authorized[host] = (
                    self._new_session(self.limits, tokens) if is_known else None
                )
            found = self._authorized[host]
        if found is not None:
            self._chosen[host] = found
        return found

    def authorize(self, url: str, refused: net.Session, *, is_required: bool) -> bool:
        """Send the token for the host of a URL with all later requests to it.

        Parameters
        ----------
        url
            A URL that was refused.
        refused
            The session of the refused request.
        is_required
            Whether the host asks for a token.

        Returns
        -------
        bool
            Whether there is a token that the refused request did not have.

        Raises
        ------
        CredentialsError
            The token cannot be read, or is required and not set.
        """
        authorized = self.authorized_session(url)
        if authorized is not None:
            return authorized is not refused
        parts = urlsplit(url)
        host = parts.netloc
        if is_required and "@" not in host and parts.scheme == token_scheme(host):
            token = self._host_token(host)
            if token is not None:
                message = f"no token for {host}: set {token.label}"
                raise net.CredentialsError(message, identity=token.label)
        return False

    def _new_session(
        self, limits: net.RequestLimits, tokens: Mapping[str, str | net.TokenSource]
    ) -> net.Session:
        """Return a session that may request the allowed private hosts."""
        return net.Session(
            limits=limits, tokens=tokens, is_private_allowed=self._allows, private_hint=self._hint
        )

    def record(self, url: str, failure: NeuromirrorError | None) -> None:
        """Report to the circuit breaker that a host answered (None), or how it failed.

        A refusal by the circuit breaker itself is neither: no request was made.
        """
        if failure is None:
            self.breaker.record_success(url)
        else:
            self.breaker.record_failure(url, failure if isinstance(failure, net.NetError) else None)

    def _hint(self, address: str) -> str:
        addresses = " ".join([*self._allowed, address])
        return f"to allow it, run git config --global {ALLOWED_ADDRESSES} '{addresses}'"

    def _allows(self, name: str, port: int | None) -> bool:
        host = f"[{name}]" if ":" in name else name
        return self._is_private_host_allowed(host if port is None else f"{host}:{port}")

    def _is_private_host_allowed(self, host: str) -> bool:
        return host in self._allowed_hosts or is_private_host_allowed(host, self._allowed)


def host_tokens(settings: AnnexSettings) -> Callable[[str], net.TokenSource]:
    """Return a function that returns the token for a host: see :func:`host_token`."""
    named = settings.subsections("neuromirror")
    return lambda host: host_token(host, named.get((host, "instance")))
