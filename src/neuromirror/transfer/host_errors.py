"""Hosts in messages, and errors that concern a whole host rather than one file."""

from __future__ import annotations

from neuromirror.model import NeuromirrorError
from neuromirror.net import (
    CredentialsError,
    HttpError,
    IncompleteResponseError,
    UnreachableError,
    UnsafeAddressError,
    clean_url,
)


def displayed_url(url: str) -> str:
    """Return a URL without credentials, for messages and results."""
    try:
        return clean_url(url)
    except ValueError:
        return "<invalid URL>"


def host_of(url: str) -> str:
    """Return the host of a URL, with its port."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2]


def host_at_fault(error: NeuromirrorError, url: str) -> str | None:
    """Return the host of a URL if its error would be the same for every URL of the host.

    Such errors are refused credentials, refused addresses and unreachable hosts. For other errors
    it returns None.
    """
    if isinstance(error, CredentialsError) or (
        isinstance(error, HttpError) and error.status == 401
    ):
        return host_of(url)
    if isinstance(error, UnsafeAddressError | UnreachableError):
        return None if isinstance(error, IncompleteResponseError) else host_of(url)
    return None
