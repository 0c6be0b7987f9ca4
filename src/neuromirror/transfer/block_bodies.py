"""Blocks of volumes, downloaded without git-annex and the special remote.

git-annex would start a program per transfer and hash each block once more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from neuromirror.annex import is_all_zeros
from neuromirror.net import HostCircuitBreaker, OpenBody, RequestLimits
from neuromirror.sources.volumes.fetching import PARALLEL, fetch_block
from neuromirror.sources.volumes.schemes import SCHEMES
from neuromirror.sources.volumes.tokens import token_from_environment, token_variable
from neuromirror.sources.volumes.urls import parse_url
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.restricted_channels import RestrictedChannels
from neuromirror.transfer.url_sessions import UrlSessions

_MAX_BLOCKS: Final = 4
"""Blocks that are downloaded at a time, because parts of each are held in memory."""

_LIMITS: Final = RequestLimits(per_host=8, read=300.0)
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
    """

    def __init__(
        self,
        settings: AnnexSettings,
        token: Callable[[str], str | None] = token_from_environment,
        allowed_hosts: frozenset[str] = frozenset(),
        channels: RestrictedChannels | None = None,
    ) -> None:
        # a host that fails once is not requested for each block
        breaker = HostCircuitBreaker(failures=2, seconds=0.0, retry_after=None)
        allowed = tuple(settings.allowed_addresses)
        self._sessions = UrlSessions(
            allowed, token, _LIMITS, {}, breaker=breaker, allowed_hosts=allowed_hosts
        )
        self._channels = channels
        self._slots = threading.BoundedSemaphore(_MAX_BLOCKS)

    def close(self) -> None:
        """Close the open connections."""
        self._sessions.close()

    @contextmanager
    def open(self, url: str, key: str, size: int | None) -> Iterator[OpenBody]:
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
            yield OpenBody(0, size, _zeros(size))
            return
        block = parse_url(url)
        session, breaker = self._sessions.session_for(url), self._sessions.breaker
        token, name = self._sessions.token(block.host), token_variable(block.host)
        options: dict[str, Any] = {"size": size, "token_name": name, "breaker": breaker}
        if self._channels is None:
            pieces = fetch_block(session, block, token=token, parallel=PARALLEL, **options)
        else:
            pieces = self._channels.fetch(session, block, token, **options)
        with self._slots, closing(pieces):
            yield OpenBody(0, size, map(memoryview, pieces))


def _zeros(size: int) -> Iterator[memoryview]:
    for start in range(0, size, len(_ZEROS)):
        yield memoryview(_ZEROS)[: size - start]
