"""Checksums of contents from other sources than their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from neuromirror.model import Digest

ClaimLookup = Callable[[str], Iterable[Digest]]
"""Returns checksums of a key's content from other sources than the key."""


def no_claims(key: str) -> Iterable[Digest]:
    """Return no checksums, for any key."""
    return ()
