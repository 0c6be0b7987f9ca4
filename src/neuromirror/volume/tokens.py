"""Tokens for cut-out services."""

from __future__ import annotations

from neuromirror.sources.volumes.tokens import token_from_environment, token_variable

__all__ = ["no_token", "token_from_environment", "token_variable"]


def no_token(host: str) -> None:
    """Return None for any host: without tokens only public data can be read.

    Parameters
    ----------
    host
        The name of a host.
    """
