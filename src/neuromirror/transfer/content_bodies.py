"""Bodies of content: their checks against annex keys, and where they come from.

The checksum in an annex key, and the hash functions to compute it.

Backends: git-annex, page "backends". ``XS3ETAG`` is neuromirror's own backend (annex.backend): the
ETag of an S3 multipart upload, with its part size. Keys of any other backend (WORM, URL, VURL,
those of external programs) have a size at most.

Checks of downloaded content against its key, while the bytes arrive.

A VURL key stands for the keys recorded for it in the ``.log.ek`` log. Without recorded keys, a VURL
or URL key can be checked for its size only.

Blocks of volumes, downloaded without git-annex and the special remote.

git-annex would start a program per transfer and hash each block once more.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from io import FileIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field

from neuromirror import net
from neuromirror.annex import VaultAddress, is_all_zeros, is_private_host_allowed, parse_key
from neuromirror.annex.keys import (
    DANDI_EMPTY_ETAG,
    S3_EMPTY_ETAG,
    Crc,
    Crc64Nvme,
    ExpectedEtag,
    Hasher,
    url_key,
)
from neuromirror.cache import ContentName
from neuromirror.model import Evidence, NeuromirrorError, default_piece_size, usual_part_sizes
from neuromirror.model.records import url_version_id
from neuromirror.net.allowed_addresses import configured_proxy
from neuromirror.net.responses import has_encrypted_etag, stated_checksums
from neuromirror.sources.volumes.fetching import PARALLEL, PART_BYTES, fetch_block
from neuromirror.sources.volumes.schemes import SCHEMES
from neuromirror.sources.volumes.urls import (
    MalformedUrlError,
    WrongVoxelsError,
    parse_url,
    token_from_environment,
    token_variable,
)
from neuromirror.transfer.annex_branch import AnnexSettings
from neuromirror.transfer.url_sessions import (
    SCHEME,
    RestrictedChannels,
    S3Access,
    UrlSessions,
    no_token,
)

if TYPE_CHECKING:
    from neuromirror.transfer.annex_objects import BlockDigestsRecorder, ContentDigester

Chunk = bytes | bytearray | memoryview


_HASHES: Final[Mapping[str, Callable[[], Hasher]]] = {
    "md5": partial(hashlib.md5, usedforsecurity=False),
    "sha1": partial(hashlib.sha1, usedforsecurity=False),
    **{f"sha{bits}": getattr(hashlib, f"sha{bits}") for bits in (224, 256, 384, 512)},
    **{f"sha3_{bits}": getattr(hashlib, f"sha3_{bits}") for bits in (224, 256, 384, 512)},
    **{
        f"blake2b{bits}": partial(hashlib.blake2b, digest_size=bits // 8)
        for bits in (160, 224, 256, 384, 512)
    },
    **{
        f"blake2s{bits}": partial(hashlib.blake2s, digest_size=bits // 8)
        for bits in (160, 224, 256)
    },
}
"""Hash constructors by algorithm: the name of a git-annex backend in lower case, without ``E``."""

_INSECURE: Final = frozenset({"", "md5", "sha1", "etag"})
_ETAG: Final = re.compile(r"([0-9a-f]{32}-[0-9]{1,5})-([1-9][0-9]{0,14})")
_EVIDENCE: Final = {"sha256": Evidence.SHA256, "md5": Evidence.MD5, "etag": Evidence.ETAG}


class KeyChecksum(Struct, frozen=True):
    """The checksum and size in a key.

    Attributes
    ----------
    algorithm
        ``sha256``, ``sha3_512``, ``blake2b256``, …, or ``etag``; empty if the key has no checksum.
    value
        The checksum, in hexadecimal.
    size
        Size in bytes, None if the key does not have it.
    part_size
        Part size of an ``etag``, in bytes.
    """

    algorithm: str
    value: str
    size: int | None
    part_size: int = 0

    @property
    def evidence(self) -> Evidence | None:
        """The evidence that matching bytes give; None for an algorithm without a category."""
        if self.algorithm:
            return _EVIDENCE.get(self.algorithm)
        return Evidence.NONE if self.size is None else Evidence.SIZE

    @property
    def is_secure(self) -> bool:
        """Whether ``annex.securehashesonly`` accepts the algorithm."""
        return self.algorithm not in _INSECURE

    def hasher(self) -> Hasher | None:
        """Return a new hash for the bytes, None if the key has no checksum."""
        if self.algorithm == "etag":
            return ExpectedEtag(self.value, self.part_size, self.size)
        return _HASHES[self.algorithm]() if self.algorithm else None

    def matches(self, checksum: str, size: int) -> bool:
        """Return whether ``checksum``, computed over ``size`` bytes, is the one in the key."""
        if self.algorithm == "etag" and size == 0:
            return self.value in (DANDI_EMPTY_ETAG, S3_EMPTY_ETAG)
        return checksum == self.value


def key_checksum(key: str) -> KeyChecksum:
    """Return the checksum in a key.

    Raises
    ------
    ValueError
        The text is not an annex key.
    """
    backend, size, name = parse_key(key)
    if backend == "XS3ETAG":
        if (etag := _ETAG.fullmatch(name)) is None:
            return KeyChecksum("", "", size)
        return KeyChecksum("etag", etag[1], size, int(etag[2]))
    algorithm = backend.removesuffix("E").lower()
    if backend != backend.upper() or algorithm not in _HASHES:
        return KeyChecksum("", "", size)
    value = name.partition(".")[0] if backend.endswith("E") else name
    return KeyChecksum(algorithm, value, size)


def cache_name(checksum: KeyChecksum) -> ContentName | None:
    """Return the name in the cache of the content with a checksum.

    Parameters
    ----------
    checksum
        The checksum and the size of the content.

    Returns
    -------
    ContentName or None
        The name; None if the checksum or the size is unknown.
    """
    if not checksum.algorithm or checksum.size is None:
        return None
    value = checksum.value
    if checksum.algorithm == "etag":
        value = f"{value}-{checksum.part_size}"
    name = ContentName(checksum.algorithm, value, checksum.size)
    return name if name.is_valid else None


class ContentCheck:
    """Compares the bytes of one key, fed in order, with its size and checksums.

    Parameters
    ----------
    checksums
        Accepted checksums: the content is right if one of them matches. Empty if only the size is
        known.
    size
        Expected size in bytes, None if unknown.
    algorithm
        Name of the algorithm for messages.
    evidence
        Evidence that a match gives; None for an algorithm without a category.

    Attributes
    ----------
    digester
        Receives the same bytes to compute their block digests; None not to.
    note
        What else a match shows, for the user.
    """

    def __init__(
        self,
        checksums: Sequence[KeyChecksum],
        size: int | None,
        algorithm: str,
        evidence: Evidence | None,
    ) -> None:
        self._hashers = [(one, hasher) for one in checksums if (hasher := one.hasher()) is not None]
        self.size = size
        self.algorithm = algorithm
        self.evidence = evidence
        self.bytes_seen = 0
        self.digester: ContentDigester | None = None
        self.note = ""

    @property
    def has_digest(self) -> bool:
        """Whether wrong content of the right size would be detected."""
        return bool(self._hashers)

    @property
    def is_too_long(self) -> bool:
        """Whether there are more bytes than the content has; there may be any number of others."""
        return self.size is not None and self.bytes_seen > self.size

    def update(self, chunk: Chunk) -> None:
        """Add the next bytes.

        Parameters
        ----------
        chunk
            The bytes that follow those of the last call.
        """
        self.bytes_seen += len(chunk)
        for _, hasher in self._hashers:
            hasher.update(chunk)
        if self.digester is not None:
            self.digester.update(chunk)

    def expect(self, url: str, headers: Mapping[str, str]) -> None:
        """Take note of the headers of a reply, before its first bytes; a checksum needs none."""

    def record_digests(self) -> None:
        """Record the block digests of the bytes, which match the key.

        A failure, such as a full disk, is ignored: the content itself is right.
        """
        if self.digester is not None:
            self.digester.finish(self._hashers[0][1].hexdigest() if self._hashers else "")

    def mismatch(self) -> str | None:
        """Return why the bytes so far are not the key's content, None if they are.

        Returns
        -------
        str | None
            The reason, for an error message.
        """
        if self.size is not None and self.bytes_seen != self.size:
            return f"received {self.bytes_seen} bytes, expected {self.size}"
        if not self._hashers:
            return None
        found = [(checksum, hasher.hexdigest()) for checksum, hasher in self._hashers]
        if any(checksum.matches(value, self.bytes_seen) for checksum, value in found):
            return None
        return f"received different bytes: {self.algorithm} {found[0][1]}"


class EquivalentKeyCheck(ContentCheck):
    """Checks the size of a VURL key's content, and computes the key to record for the content.

    A VURL key names a URL and no checksum. After its first download git-annex records the key with
    the checksum, to verify later downloads. Content from S3 is compared with what the bucket states
    of it in the reply.
    """

    def __init__(self, key: str, size: int | None) -> None:
        super().__init__((), size, "size", Evidence.NONE if size is None else Evidence.SIZE)
        self._key = key
        self._sha256 = hashlib.sha256()
        self._stated: dict[str, tuple[str, Hasher]] = {}

    def expect(self, url: str, headers: Mapping[str, str]) -> None:
        """Compare the content with the headers of the reply, before the first bytes.

        The ETag is evidence if the key contains it, or the id of the object version, which is
        immutable. Any other is that of the object as it is now.
        """
        for algorithm, value in stated_checksums(headers).items():
            try:
                self._stated[algorithm] = value, self._hasher(algorithm)
            except ImportError:  # numpy or google-crc32c, which the base installation lacks
                self.note = f"{algorithm} is not verified here: it needs neuromirror[volumes]"
        etag = headers.get("etag", "").strip('"')
        exact = f"{url}#{etag}" if url_version_id(url) in (None, "null") else url
        if self._key != url_key(exact, self.size) or has_encrypted_etag(headers):
            return
        parts = etag.partition("-")[2]
        if not parts:
            self._stated["md5"] = etag, hashlib.md5(usedforsecurity=False)
        elif parts.isdecimal() and (sizes := usual_part_sizes(self.size or 0, int(parts))):
            self._stated["etag"] = etag, ExpectedEtag(etag, sizes[0], self.size)

    def _hasher(self, algorithm: str) -> Hasher:
        if algorithm == "sha256":
            return self._sha256
        return Crc64Nvme() if algorithm == "crc64nvme" else Crc(algorithm)

    def update(self, chunk: Chunk) -> None:
        """Add the next bytes."""
        super().update(chunk)
        for hasher in {self._sha256, *(hasher for _, hasher in self._stated.values())}:
            hasher.update(chunk)

    def mismatch(self) -> str | None:
        """Return why the bytes so far are not the content; set the evidence if they are."""
        fault = super().mismatch()
        for algorithm, (value, hasher) in self._stated.items() if fault is None else ():
            found = hasher.hexdigest()
            if algorithm in ("md5", "etag"):
                self.evidence = Evidence(algorithm) if found == value else self.evidence
            elif found != value:
                return f"received different bytes: {algorithm} {found}, the bucket states {value}"
            else:
                self.note = self.note or f"{algorithm} as the bucket states: it detects damage"
        return fault

    def equivalent_key(self) -> str:
        """Return the key of the bytes, in the form git-annex records for a VURL key."""
        return f"SHA256E-s{self.bytes_seen}--{self._sha256.hexdigest()}"


def check_for(key: str, recorded: Sequence[str] = ()) -> ContentCheck | None:
    """Return the check for a key's content, None if its backend is not supported.

    Parameters
    ----------
    key
        Annex key.
    recorded
        For a VURL key, which has no checksum, the keys with checksums that git-annex recorded for
        it. Content that matches one of them is right.

    Returns
    -------
    ContentCheck | None
        The check, to be fed with the content.

    Raises
    ------
    ValueError
        The text is not an annex key.
    """
    checksum = key_checksum(key)
    backend = parse_key(key).backend
    if backend == "VURL":
        return _recorded_check(key, checksum.size, [key_checksum(one) for one in recorded])
    if backend == "URL":
        return ContentCheck((), checksum.size, "size", checksum.evidence)
    if not checksum.algorithm:
        return None
    return ContentCheck([checksum], checksum.size, checksum.algorithm, checksum.evidence)


def _recorded_check(
    key: str, size: int | None, recorded: Sequence[KeyChecksum]
) -> ContentCheck | None:
    if not recorded:
        return EquivalentKeyCheck(key, size)
    algorithms = {one.algorithm for one in recorded}
    if "" in algorithms:
        return None
    if len(algorithms) > 1:
        return ContentCheck(recorded, size, "hash", None)
    return ContentCheck(recorded, size, recorded[0].algorithm, recorded[0].evidence)


class FetchTask(Struct, frozen=True):
    """A content to download.

    Attributes
    ----------
    key
        Annex key.
    size
        Size in bytes, None if unknown.
    urls
        URLs, in the order in which to try them.
    local_urls
        Those of the URLs that are files of this machine (``file:``). No other file is read.
    equivalent_keys
        Keys with checksums that git-annex recorded for a VURL key.
    digests
        Records the block digests of a content of several pieces; None not to.
    """

    key: str
    size: int | None
    urls: Sequence[str]
    local_urls: frozenset[str] = frozenset()
    equivalent_keys: Sequence[str] = ()
    digests: BlockDigestsRecorder | None = None

    def check(self) -> ContentCheck:
        """Return a new check for the content; the key's backend must be supported."""
        found = check_for(self.key, self.equivalent_keys)
        assert found is not None
        size = self.size
        if self.digests is not None and size is not None and size > default_piece_size(size):
            found.digester = self.digests.start(self.key, size)
        return found


class FetchResult(Struct):
    """The result of a download task.

    Attributes
    ----------
    task
        The task.
    check
        The check that the content passed; None if the download failed.
    url
        The URL it was downloaded from.
    errors
        Why each URL failed.
    refused_hosts
        Hosts that were refused because of their addresses.
    needs_credentials
        Whether a service refused a block, which the special remote may have credentials for.
    store_error
        Why the content could not be stored; None if it could not be downloaded.
    hosts
        Host of each error that concerns a whole host; None for errors that concern one file.
    """

    task: FetchTask
    check: ContentCheck | None = None
    url: str | None = None
    errors: list[str] = field(default_factory=list)
    refused_hosts: list[str] = field(default_factory=list)
    needs_credentials: bool = False
    store_error: Exception | None = None
    hosts: set[str | None] = field(default_factory=set)

    @property
    def host(self) -> str | None:
        """The hosts at fault if all errors concern a whole host, else None."""
        named = sorted(one for one in self.hosts if one is not None)
        return ", ".join(named) if named and None not in self.hosts else None

    @property
    def equivalent_key(self) -> str | None:
        """The key to record for a VURL key."""
        return self.check.equivalent_key() if isinstance(self.check, EquivalentKeyCheck) else None


class FetchTarget(Struct, frozen=True):
    """The request for a URL of a file.

    Attributes
    ----------
    connection
        The connection to use.
    url
        The URL to request.
    headers
        Additional headers.
    explain
        Returns the message for a failed request, without secrets.
    session
        The session of a plain URL at present.
    """

    connection: net.PersistentConnection
    url: str
    headers: Mapping[str, str]
    explain: Callable[[NeuromirrorError], str]
    session: net.Session | None = None


class FetchConnections:
    """The connections of one thread.

    Parameters
    ----------
    sessions
        The sessions for plain URLs.
    s3
        The buckets of ``s3://`` URLs. Each has a connection of its own, so that no other URL, such
        as the target of a redirect, is requested with its credentials.
    headers
        Headers for requests of plain URLs.
    """

    def __init__(self, sessions: UrlSessions, s3: S3Access, headers: Mapping[str, str]) -> None:
        self._sessions = sessions
        self._s3 = s3
        self._headers = headers
        self._plain = net.ConnectionFactory(sessions.session_for).new_connection()
        self._buckets: dict[net.S3Bucket, net.PersistentConnection] = {}
        self._aborted = False

    def target(self, url: str) -> FetchTarget:
        """Return the connection and the request for a URL.

        Raises
        ------
        CredentialsError
            There are no credentials for the bucket of the URL.
        NetError
            The region of the bucket cannot be determined.
        MalformedS3UrlError
            It is no URL of an object.
        """
        if not url.startswith(f"{SCHEME}:"):
            session = self._sessions.session_for(url)
            return FetchTarget(self._plain, url, self._headers, str, session)
        found = self._s3.object_with_credentials(url)
        connection = self._buckets.get(found.bucket)
        if connection is None:
            session = found.session
            connection = net.ConnectionFactory(lambda url: session).new_connection()
            self._buckets[found.bucket] = connection
            if self._aborted:
                connection.abort()
        return FetchTarget(connection, found.url, {}, found.explain)

    def authorize(self, url: str, target: FetchTarget, error: net.AccessDeniedError) -> bool:
        """Return whether a refused request of a URL can be repeated, with the token for its host.

        A request that already had the token is not repeated.

        Raises
        ------
        CredentialsError
            The token cannot be read, or is required and not set.
        """
        if target.session is None:
            return False
        return self._sessions.authorize(url, target.session, is_required=error.status == 401)

    def explain(self, url: str, error: NeuromirrorError) -> str:
        """Return the message of an error of a URL."""
        try:
            return self.target(url).explain(error)
        except NeuromirrorError:
            return str(error)

    def abort(self) -> None:
        """Make the current and all further requests fail. Callable from any thread."""
        self._aborted = True
        for connection in (self._plain, *self._buckets.copy().values()):
            connection.abort()

    def close(self) -> None:
        """Close the idle connections."""
        for connection in (self._plain, *self._buckets.values()):
            connection.close()


_MAX_REQUESTS: Final = 12
"""Requests for blocks at a time, because the voxels of each are held in memory."""

BLOCK_LIMITS: Final = net.RequestLimits(per_host=_MAX_REQUESTS, read=300.0)
"""Limits of block requests: a service may take minutes before it sends the first byte."""

_ZEROS: Final = bytes(1 << 20)
_PREFIXES: Final = tuple(f"{scheme}://" for scheme in SCHEMES)


def is_block_url(url: str) -> bool:
    """Return whether a URL is that of a block of a volume."""
    return url.startswith(_PREFIXES)


class BlockBodies:
    """Opens the chunk files of blocks. Thread-safe.

    Parameters
    ----------
    settings
        Configuration of the clone.
    token
        Returns the token for a host, or None; by default from the environment.
    channels
        Fetches blocks of restricted channels, too; None if they are refused.
    allowed_hosts
        Hosts that may be accessed whatever their addresses are.
    limits
        Timeouts, retries and concurrency limits of the requests.
    retry_after
        Seconds after which a host that failed is requested again; None for never.
    deadline
        Time of the monotonic clock after which requests fail; None for no limit.
    token_name
        Returns the origin of the token for a host, for messages.
    """

    def __init__(
        self,
        settings: AnnexSettings,
        token: Callable[[str], str | None] = token_from_environment,
        allowed_hosts: frozenset[str] = frozenset(),
        channels: RestrictedChannels | None = None,
        limits: net.RequestLimits = BLOCK_LIMITS,
        *,
        retry_after: float | None = None,
        deadline: float | None = None,
        token_name: Callable[[str], str] = token_variable,
    ) -> None:
        # a host that fails once is not requested for each block
        breaker = net.HostCircuitBreaker(failures=2, seconds=0.0, retry_after=retry_after)
        allowed = tuple(settings.allowed_addresses)
        self._sessions = UrlSessions(
            allowed, token, limits, {}, breaker=breaker, allowed_hosts=allowed_hosts
        )
        self._channels = channels
        self._deadline, self._token_name = deadline, token_name
        self._slots = threading.BoundedSemaphore(_MAX_REQUESTS)
        self._entry = threading.Lock()

    def close(self) -> None:
        """Cancel the requests in progress, and close the open connections."""
        self._sessions.abort()
        self._sessions.close()

    @contextmanager
    def open(self, url: str, key: str, size: int | None) -> Iterator[net.OpenBody]:
        """Open the content of a key at the URL of a block.

        Blocks of zeros need no request.

        Parameters
        ----------
        url, key, size
            The block, and the key and size of its file.

        Raises
        ------
        NetError
            If the service cannot be reached or refuses the request.
        NeuromirrorError
            If the URL is malformed, or the reply has other voxels.
        """
        if size is not None and is_all_zeros(key):
            yield net.OpenBody(0, size, _zeros(size))
            return
        block = parse_url(url)
        session, breaker = self._sessions.session_for(url), self._sessions.breaker
        token, name = self._sessions.token(block.host), self._token_name(block.host)
        options: dict[str, Any] = {"size": size, "token_name": name, "breaker": breaker}
        if self._deadline is not None:
            options["seconds"] = max(0.001, self._deadline - time.monotonic())
        if self._channels is None:
            pieces = fetch_block(session, block, token=token, parallel=PARALLEL, **options)
        else:
            pieces = self._channels.fetch(session, block, token, **options)
        requests = PARALLEL if size is None or size > PART_BYTES else 1
        with self._entry:  # so that no two blocks wait for each other's slots
            for _ in range(requests):
                self._slots.acquire()
        try:
            with closing(pieces):
                yield net.OpenBody(0, size, map(memoryview, pieces))
        finally:
            self._slots.release(requests)


def _zeros(size: int) -> Iterator[memoryview]:
    for start in range(0, size, len(_ZEROS)):
        yield memoryview(_ZEROS)[: size - start]


class ContentMismatchError(NeuromirrorError):
    """A URL returns bytes that are not the key's content."""


class ContentBodies:
    """Opens response bodies: of URLs, with a circuit breaker per host, and of blocks. Thread-safe.

    Parameters
    ----------
    settings
        Configuration of the clone or the user.
    limits, block_limits
        Timeouts, retries and concurrency limits of the requests.
    headers
        Headers for requests of plain URLs.
    allowed_hosts
        Hosts that may be accessed whatever their addresses are.
    vaults
        The vaults of the user.
    host_token
        Returns the token that is sent to a host which refuses a request without it, or None. A
        clone needs none: the special remote of git-annex sends it.
    has_credentials
        Whether blocks are requested with the user's tokens.
    retry_after, deadline
        As for :class:`BlockBodies`.
    """

    def __init__(
        self,
        settings: AnnexSettings,
        limits: net.RequestLimits,
        block_limits: net.RequestLimits = BLOCK_LIMITS,
        *,
        headers: Mapping[str, str],
        allowed_hosts: frozenset[str] = frozenset(),
        vaults: Sequence[VaultAddress] = (),
        host_token: Callable[[str], net.TokenSource | None] = no_token,
        has_credentials: bool = True,
        retry_after: float | None = None,
        deadline: float | None = None,
    ) -> None:
        allowed = tuple(settings.allowed_addresses)
        self._breaker = net.HostCircuitBreaker()
        self._headers = headers
        self._sessions = UrlSessions(
            *(allowed, no_token, limits, {}),
            host_token=host_token,
            breaker=self._breaker,
            allowed_hosts=allowed_hosts,
        )
        self._buckets = S3Access(
            settings.subsections("neuromirror"),
            lambda host: host in allowed_hosts or is_private_host_allowed(host, allowed),
            limits,
            vaults,
        )
        token: Callable[[str], str | None] = token_from_environment if has_credentials else no_token
        channels = RestrictedChannels() if has_credentials else None
        self._blocks = BlockBodies(
            *(settings, token, allowed_hosts, channels, block_limits),
            retry_after=retry_after,
            deadline=deadline,
        )

    def new_connections(self) -> FetchConnections:
        """Return connections for one thread."""
        return FetchConnections(self._sessions, self._buckets, self._headers)

    def close(self) -> None:
        """Cancel the requests of blocks in progress, and close the open connections."""
        for opened in (self._blocks, self._buckets, self._sessions):
            opened.close()

    @contextmanager
    def open(
        self,
        connections: FetchConnections,
        url: str,
        key: str,
        size: int | None,
        *,
        start: int = 0,
        stop: int | None = None,
        total: float | None = None,
    ) -> Iterator[net.OpenBody]:
        """Open the response body of a URL; that of a block of a volume always starts at 0.

        Parameters
        ----------
        connections
            The connections of the calling thread.
        url, key, size
            The URL, and the key and size of its content.
        start, stop
            Offsets of the first byte, and after the last byte; None for the end.
        total
            Time limit for the whole body, in seconds.

        Yields
        ------
        OpenBody
            The body, which may start before ``start`` and end after ``stop``.

        Raises
        ------
        NetError
            If the request fails.
        ContentMismatchError
            If the URL is malformed, or has other voxels.
        """
        if is_block_url(url):
            try:
                with self._blocks.open(url, key, size) as body:
                    yield body
            except WrongVoxelsError as error:
                if error.transient:
                    raise net.IncompleteResponseError(str(error), url=url) from error
                raise ContentMismatchError(str(error)) from error
            except MalformedUrlError as error:
                raise ContentMismatchError(str(error)) from error
            return
        target = connections.target(url)
        self._breaker.check(target.url)
        request = partial(
            target.connection.stream,
            target.url,
            start=start,
            stop=stop,
            headers={**target.headers, **_checksum_mode(url, key)},
            total=total,
        )
        with ExitStack() as stack:
            try:
                try:
                    body = stack.enter_context(request())
                except net.AccessDeniedError as error:
                    if not connections.authorize(url, target, error):
                        raise
                    body = stack.enter_context(request())
            except net.UnreachableError:
                self._breaker.record_failure(target.url)
                raise
            self._breaker.record_success(target.url)
            yield body


def _checksum_mode(url: str, key: str) -> Mapping[str, str]:
    """Return the header that requests the checksums of an object of S3, if its key has none."""
    parts = urlsplit(url)
    is_s3 = url_version_id(url) or parts.scheme == SCHEME or net.parse_aws_host(parts.netloc)
    # a signed URL allows no other header, and a request by a proxy that has one no redirect
    allows_header = "X-Amz-Signature" not in parts.query and not configured_proxy(url)
    is_useful = is_s3 and key.startswith("VURL") and allows_header
    return {"x-amz-checksum-mode": "ENABLED"} if is_useful else {}


_SCHEME: Final = "file://"
_BLOCK: Final = 1 << 20


@contextmanager
def open_local_copy(url: str, *, start: int = 0) -> Iterator[net.OpenBody]:
    """Open a copy in a vault; the bytes are not verified.

    Parameters
    ----------
    url
        The ``file:`` URL of the copy. The caller has made it from the path of a vault: a URL from
        a dataset must not be passed.
    start
        Offset of the first byte.

    Yields
    ------
    OpenBody
        The bytes from ``start``.

    Raises
    ------
    ContentMismatchError
        The vault does not have the copy, or it cannot be read.
    """
    path = unquote(url.removeprefix(_SCHEME))
    try:
        # a FIFO must not block the reader
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ContentMismatchError(f"the copy cannot be read: {error.strerror}") from error
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ContentMismatchError("the copy is not a regular file")
        file.seek(start)
        yield net.OpenBody(start, max(0, status.st_size - start), _blocks(file))


def _blocks(file: FileIO) -> Generator[memoryview, None, None]:
    buffer = memoryview(bytearray(_BLOCK))
    try:
        while count := file.readinto(buffer):
            yield buffer[:count]
    except OSError as error:
        raise ContentMismatchError(f"the copy cannot be read: {error.strerror}") from error
