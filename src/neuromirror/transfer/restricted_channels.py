"""Blocks of restricted channels of a BOSS, read with the token of ``intern``."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any, Final

from neuromirror.net import CredentialsError, HostCircuitBreaker, NetError, Session
from neuromirror.sources.api_tokens import InternToken
from neuromirror.sources.volumes.fetching import PARALLEL, fetch_block
from neuromirror.sources.volumes.tokens import token_variable
from neuromirror.sources.volumes.urls import BlockUrl

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
        session: Session,
        url: BlockUrl,
        token: str | None,
        *,
        breaker: HostCircuitBreaker,
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
        own, problem = ("", "") if token is not None else _intern_token(url)
        if own and channel in self._restricted_channels:
            token = own
        received = False
        try:
            with closing(fetch(token, token is not None or not own)) as pieces:
                for piece in pieces:
                    received = True
                    yield piece
        except NetError as error:
            if received or token is not None or error.status not in _REFUSED_STATUSES:
                raise
            if problem:
                raise NetError(f"{error}; {problem}", url=error.url, status=error.status) from error
            if not own:
                raise
            self._restricted_channels.add(channel)
            yield from fetch(own, True)


def _intern_token(url: BlockUrl) -> tuple[str, str]:
    """Return the token in intern's file or variables, and why it cannot be read."""
    if url.scheme != "boss":
        return "", ""
    try:
        return InternToken(url.host, token_variable(url.host)).read(), ""
    except CredentialsError as error:
        return "", str(error)
