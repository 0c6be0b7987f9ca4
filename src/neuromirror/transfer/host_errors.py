"""Faults that are those of a host, whatever was asked of it."""

from __future__ import annotations

from neuromirror.model import NeuromirrorError
from neuromirror.net import HttpError, IncompleteResponseError, UnreachableError, UnsafeAddressError


def host_of(url: str) -> str:
    """Return the host of a URL, with its port, as it stands there."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2]


def host_at_fault(error: NeuromirrorError, url: str) -> str | None:
    """Return the host of a URL where an error would be the same for all that it has."""
    whole = isinstance(error, UnsafeAddressError | UnreachableError) and not isinstance(
        error, IncompleteResponseError
    )
    refused = isinstance(error, HttpError) and error.status == 401
    return host_of(url) if whole or refused else None
