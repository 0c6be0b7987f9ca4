"""The memo of an asset list: the number, size and digest of each page.

An asset list determines its records, except for version ids, so equal pages give equal records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import to_builtins

from neuromirror import __version__
from neuromirror.model import DatasetFacts, Document, VersionRef, WebRemote
from neuromirror.model.validation import analysed_type

_RULES: Final = 1
"""Version of the rules that turn replies into records; increment it when they change."""


class PageDigest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One page: its number and size as requested, and the sha256 (hex) of its content."""

    number: int
    size: int
    digest: str

    @classmethod
    def of(cls, number: int, size: int, page: Any) -> PageDigest:
        """Return the digest of a parsed page, which depends on the order of members."""
        try:
            encoded = msgspec.json.encode(page)
        except (ValueError, OverflowError):
            # for lone surrogates and very long numbers; ten times as slow
            encoded = json.dumps(page).encode("ascii")
        return cls(number, size, _digest(encoded))


class AssetListMemo(msgspec.Struct, frozen=True, gc=False):
    """The memo by which an unchanged asset list is recognized: its page digests and context digest.

    See :func:`context_digest`.
    """

    context_digest: str
    pages: list[PageDigest]

    def dump(self) -> bytes:
        """Return the memo as JSON."""
        return msgspec.json.encode(self)


def load_memo(memo: bytes | None) -> AssetListMemo | None:
    """Return the memo from :meth:`AssetListMemo.dump`; None if it is invalid or has no pages."""
    try:
        found = (
            None if memo is None else msgspec.json.decode(memo, type=analysed_type(AssetListMemo))
        )
    except ValueError:
        return None
    return found if found is not None and found.pages else None


def context_digest(
    options: Mapping[str, Any],
    version: VersionRef,
    facts: DatasetFacts,
    documents: Iterable[Document],
    web_remotes: Iterable[WebRemote],
) -> str:
    """Return a digest of everything on which a listing depends, except the pages of the asset list.

    These are the options, this program's version, and upstream's totals, time, facts and documents.
    A memo with another digest is void.
    """
    parts = {
        "rules": [_RULES, __version__],
        "options": options,
        "version": to_builtins(version),
        "facts": to_builtins(facts),
        "documents": [[one.path.hex(), _digest(one.content)] for one in documents],
        "web_remotes": [to_builtins(one) for one in web_remotes],
    }
    return _digest(json.dumps(parts, sort_keys=True, default=str).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
