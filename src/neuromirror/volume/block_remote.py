"""A read-only special remote of git-annex for blocks of volumes.

A key's URLs (``boss://…``, ``ndstore://…``) contain everything needed to fetch its bytes, without
configuration.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from annexremote import RemoteError  # type: ignore[import-untyped]

from neuromirror.annex import (
    allow_command,
    is_all_zeros,
    is_private_host_allowed,
    parse_key,
)
from neuromirror.model import NeuromirrorError
from neuromirror.net import (
    HostCircuitBreaker,
    IncompleteResponseError,
    NetError,
    RequestLimits,
    Session,
    UnsafeAddressError,
    only_host_of,
)
from neuromirror.sources.volumes.errors import WrongVoxelsError
from neuromirror.sources.volumes.schemes import SCHEMES
from neuromirror.sources.volumes.tokens import token_from_environment, token_variable
from neuromirror.sources.volumes.urls import ITEM_SIZES, BlockUrl, parse_url
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.cached_contents import copy_cached
from neuromirror.transfer.key_checksums import key_checksum
from neuromirror.transfer.restricted_channels import RestrictedChannels
from neuromirror.volume.errors import BlockMismatchError, failure_group, summarize_failures

_LIMITS = RequestLimits(per_host=4, read=300.0)
"""Limits of block requests: a service may take minutes before it sends the first byte."""

_PROGRESS_SECONDS = 0.2
"""Seconds between progress reports."""

_ATTEMPTS = 3
_GONE_STATUSES = (404, 410)
_CREDENTIALS = "token"


class RetrieveError(RemoteError):  # type: ignore[misc]
    """A key could not be retrieved; ``final`` is whether retrying is pointless.

    The protocol is line-based, so the message has one line.
    """

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(" ".join(message.split()))
        self.final = final


class BlockRemote:
    """Retrieves the blocks of volumes for git-annex; the part of the special remote that transfers.

    ``annex`` is the connection to git-annex.
    """

    def __init__(self, annex: Any) -> None:
        self.annex = annex
        self._sessions: dict[str | None, Session] = {}
        self._git_settings: AnnexSettings | None = None
        self._credentials: dict[str, str] | None = None
        # kept for all requests of this process
        self._breaker = HostCircuitBreaker(failures=2, seconds=0.0, retry_after=None)
        self._mismatch_counts: dict[str, int] = {}
        self._channels = RestrictedChannels()

    def initremote(self) -> None:
        """Copy the token for ``host`` from the environment to git-annex's credentials."""
        host = self.annex.getconfig("host")
        if not host:
            return
        token = token_from_environment(host)
        if token is None:
            raise RemoteError(
                f"no token for {host}: set the environment variable {token_variable(host)}"
            )
        self.annex.setcreds(_CREDENTIALS, host, token)

    def checkurl(self, url: str) -> bool | list[dict[str, str | int]]:
        """Return the size of a block, if its URL contains the voxel type."""
        try:
            block = parse_url(url)
        except NeuromirrorError as error:
            raise RetrieveError(str(error), final=True) from error
        if block.dtype is None:
            return True  # the size of a voxel is known from the response only
        return [{"size": math.prod(block.chunk) * ITEM_SIZES[block.dtype]}]

    def transfer_retrieve(self, key: str, filename: str) -> None:
        """Write a key's bytes, from the first of its URLs that works.

        Blocks of zeros, and those in the cache of this machine, need no request.
        """
        try:
            with open(filename, "w+b") as file:
                if is_all_zeros(key):
                    file.truncate(parse_key(key).size)
                    return
                if not copy_cached(key, file):
                    self._try_urls(lambda url: self._copy(url, key, file), key)
        except OSError as error:
            raise RemoteError(f"{filename} cannot be written: {error.strerror}") from error

    def checkpresent(self, key: str) -> bool:
        """Return whether the service still has these bytes.

        The service has no checksums, so the whole block is read and hashed, because git-annex drops
        its own copy on this result. For a key without a digest, nothing shows whether the voxels
        are still the same, so that the result is unknown. Blocks of zeros are always present.
        """
        if is_all_zeros(key):
            return True
        if not key_checksum(key).algorithm:
            raise RetrieveError(
                "the block has no checksum, so the voxels of the service may differ from your copy"
                " (drop --force drops it all the same)",
                final=False,
            )
        try:
            self._try_urls(lambda url: self._read(url, key, _ignore, _ignore), key)
        except RetrieveError as error:
            if error.final:
                return False
            raise
        return True

    def _try_urls(self, attempt: Callable[[BlockUrl], None], key: str) -> None:
        """Try a key's URLs one after another; raise RetrieveError if none works.

        A host that failed is not contacted again, and the message has each reason once.
        """
        failures: list[tuple[str, str]] = []
        final = True
        for text in [one for scheme in SCHEMES for one in self.annex.geturls(key, f"{scheme}:")]:
            host = text.partition("://")[2].partition("/")[0]
            try:
                _with_retries(attempt, parse_url(text))
                return
            except UnsafeAddressError as error:
                final = False
                why = str(error).partition(";")[0]
                message = f"{text}: {why}; to allow that: {allow_command([host])}"
                failures.append((failure_group(host, error), message))
            except NeuromirrorError as error:
                gone = isinstance(error, NetError) and error.status in _GONE_STATUSES
                final &= gone or isinstance(error, BlockMismatchError)
                failures.append((failure_group(host, error), self._message(error)))
        raise RetrieveError(
            summarize_failures(failures) or f"{key} has no URL of a volume", final=final
        )

    def _message(self, error: NeuromirrorError) -> str:
        """Return the message of an error; for changed voxels, in full once per channel."""
        if not isinstance(error, BlockMismatchError):
            return str(error)
        count = self._mismatch_counts[error.channel] = (
            self._mismatch_counts.get(error.channel, 0) + 1
        )
        if count == 1:
            return str(error)
        return f"{error.channel} has different voxels at {count} URLs so far"

    def _copy(self, url: BlockUrl, key: str, file: BinaryIO) -> None:
        """Overwrite the file with the block."""
        file.seek(0)
        file.truncate()
        self._read(url, key, file.write, self._progress_reporter())
        file.flush()

    def _progress_reporter(self) -> Callable[[int], None]:
        """Return a function that reports a number of received bytes to git-annex, not too often."""
        last_report = time.monotonic()

        def report(done: int) -> None:
            nonlocal last_report
            if time.monotonic() - last_report > _PROGRESS_SECONDS:
                last_report = time.monotonic()
                self.annex.progress(done)

        return report

    def _read(
        self,
        url: BlockUrl,
        key: str,
        take: Callable[[bytes | memoryview], object],
        progress: Callable[[int], None],
    ) -> None:
        """Read a block; raise BlockMismatchError if it differs from its key."""
        checksum, done = key_checksum(key), 0
        hashing = checksum.hasher()
        for piece in self._fetch(url, checksum.size, progress):
            take(piece)
            done += len(piece)
            if hashing is not None:
                hashing.update(piece)
        if hashing is not None and not checksum.matches(hashing.hexdigest(), done):
            channel = f"{url.scheme}://{url.host}/{url.path}"
            found = f"{checksum.algorithm} {hashing.hexdigest()}"
            raise BlockMismatchError(str(url), channel, found, checksum.value)

    def _fetch(
        self, url: BlockUrl, size: int | None, progress: Callable[[int], None]
    ) -> Iterator[bytes | memoryview]:
        token, name = token_from_environment(url.host), token_variable(url.host)
        if token is None and (token := self._stored_token(url.host)) is not None:
            name = f"git-annex's credentials of the remote for {url.host}"
        yield from self._channels.fetch(
            *(self._session(url), url, token),
            size=size,
            token_name=name,
            progress=progress,
            breaker=self._breaker,
        )

    def _stored_token(self, host: str) -> str | None:
        """Return the token in git-annex's credentials, if it is for this host."""
        if self._credentials is None:
            self._credentials = self.annex.getcreds(_CREDENTIALS)
        found: dict[str, str] = self._credentials
        return (found.get("password") or None) if found.get("user") == host else None

    def _session(self, url: BlockUrl) -> Session:
        private = url.origin if self._may_be_private(url.host) else None
        if private not in self._sessions:
            self._sessions[private] = Session(
                limits=_LIMITS,
                is_private_allowed=None if private is None else only_host_of(private),
            )
        return self._sessions[private]

    def _may_be_private(self, host: str) -> bool:
        """Return whether git-annex's settings allow this private or local address."""
        return is_private_host_allowed(host, self._settings().allowed_addresses)

    def _settings(self) -> AnnexSettings:
        """Return git's configuration of the repository that git-annex runs in."""
        if self._git_settings is None:
            self._git_settings = AnnexSettings.load(Path(self.annex.getgitdir()))
        return self._git_settings


def _ignore(piece: object) -> None:
    """Discard a piece of a block, or a report of progress."""


def _with_retries(step: Callable[[BlockUrl], None], url: BlockUrl) -> None:
    """Retry a step if the response was incomplete; the session retries other failures."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            step(url)
        except (IncompleteResponseError, WrongVoxelsError) as error:
            if not (left and error.transient):
                raise
        else:
            return
