"""The common part of all sources' options."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from neuromirror.net import RequestLimits, Session, TokenSource, is_local_name, origin

_LITERAL: Final = re.compile(r"[^*?\[]*")


class SourceOptions(BaseModel):
    """The ``[options]`` of a mirror file; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def session(self) -> Session:
        """Return a session for these options, with its tokens and address rules.

        Returns
        -------
        Session
            The session; close it after use.
        """
        return Session()

    def requirements(self) -> tuple[str, ...]:
        """Return what a mirror with these options needs beside a base installation.

        Returns
        -------
        tuple[str, ...]
            One text per requirement, for messages.
        """
        return ()

    def clone_settings(self) -> dict[str, str]:
        """Return how clones request private content, if these options state it.

        Returns
        -------
        dict of str
            Settings of git for a clone of a dataset of the mirror.
        """
        return {}


def api_session(
    api: str,
    allow_private: bool | None,
    token: TokenSource | None,
    limits: RequestLimits | None = None,
) -> Session:
    """Return a session for an API, which sends a token only to the API's host.

    Parameters
    ----------
    api
        Base URL of the API.
    allow_private
        Whether it is on this machine or network; None to derive this from ``api``.
    token
        The source of the token; None for anonymous requests.
    limits
        Limits of requests; None for the default.

    Returns
    -------
    Session
        The session; close it after use.
    """
    private = is_local_name(origin(api)[1]) if allow_private is None else allow_private
    tokens = {} if token is None else {api: token}
    return Session(allow_private=private, tokens=tokens, limits=limits)


def may_match_below(patterns: Iterable[str], prefix: str) -> bool:
    """Return whether a shell pattern may match a text that starts with a prefix.

    Only the part of each pattern before its first wildcard is compared, so True may be wrong.
    With it a search skips folders in which nothing can match.
    """
    starts = [found.group() for found in map(_LITERAL.match, patterns) if found is not None]
    return any(start.startswith(prefix) or prefix.startswith(start) for start in starts)


def base_address(address: str, alternative: str) -> str:
    """Return an HTTP(S) base URL in its normal form, without a final slash.

    Parameters
    ----------
    address
        The URL as configured.
    alternative
        Where to put a user or password instead, for the error message.

    Raises
    ------
    ValueError
        If it is no HTTP(S) URL, or has a query, fragment, user or password.
    """
    scheme, host, port = origin(address)
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise ValueError(f"an address must not hold a user or password; {alternative}")
    if parts.query or parts.fragment:
        raise ValueError("the address must have no query or fragment")
    host = f"[{host}]" if ":" in host else host
    usual = port == (443 if scheme == "https" else 80)
    return f"{scheme}://{host}{'' if usual else f':{port}'}{parts.path.rstrip('/')}"
