"""What is remembered of a listing: where its pages were cut, and a digest of each one.

An asset list holds all that its records are made of but the version ids, so equal pages give
equal records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

import msgspec

from neuromirror import __version__
from neuromirror.model import DatasetFacts, Document, VersionRef, WebRemote

_RULES: Final = 1
"""Number of the rules by which replies become records; raise it with them."""


class PageDigest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One page: its number and size as it was asked for, and the sha256 (hex) of what it says."""

    number: int
    size: int
    digest: str

    @classmethod
    def of(cls, number: int, size: int, page: Any) -> PageDigest:
        """The digest of a page, parsed; members in another order make another one."""
        try:
            encoded = msgspec.json.encode(page)
        except (ValueError, OverflowError):
            # JSON may hold half characters and numbers of any length; this is ten times as slow
            encoded = json.dumps(page).encode("ascii")
        return cls(number, size, _digest(encoded))


class AssetListMemo(msgspec.Struct, frozen=True, gc=False):
    """A listing as it is remembered; ``bound`` is what :func:`bound` gave."""

    context_digest: str
    pages: list[PageDigest]

    def dump(self) -> bytes:
        """The memo as JSON."""
        return msgspec.json.encode(self)


def load_memo(memo: bytes | None) -> AssetListMemo | None:
    """The memo of :meth:`Memo.dump`; None for anything else: then nothing is remembered."""
    try:
        found = None if memo is None else msgspec.json.decode(memo, type=AssetListMemo)
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
    """A digest of what a listing is made of beside its pages; another one makes a memo void.

    That is: these options, this program, upstream's summary and time, facts and documents.
    """
    parts = {
        "rules": [_RULES, __version__],
        "options": options,
        "version": asdict(version),
        "facts": asdict(facts),
        "documents": [[one.path.hex(), _digest(one.content)] for one in documents],
        "web_remotes": [asdict(one) for one in web_remotes],
    }
    return _digest(json.dumps(parts, sort_keys=True, default=str).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
