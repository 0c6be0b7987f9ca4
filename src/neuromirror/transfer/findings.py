"""Findings: the results of a verification, one per commit, file, URL or other object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from neuromirror.transfer.outcomes import Outcome

FindingKind = Literal[
    "commit", "tree", "state", "manifest", "lock", "document", "file", "url", "subdataset", "local"
]
"""What a finding is about.

``commit``, ``tree`` and ``state`` are of a dataset as a whole, ``manifest`` of the canonical one
beside a lock, ``lock`` of how much is pinned. A ``document`` is a plain file of git, a ``file`` one
of the annex, a ``place`` a URL of one, a ``part`` a sub-dataset. ``own`` is a file that the clone's
own commits brought, on top of the mirror's; it is not looked at.
"""

NOT_HERE = "not here"
"""The message of content that this machine does not have."""


class Health(StrEnum):
    """What a place answered."""

    OK = "ok"
    NOT_FOUND = "not-found"
    """404 or 410, a delete marker, a version that is no more."""
    REFUSED = "refused"
    """401 or 403; a bucket that may not be listed says so of what is gone, too."""
    UNSUPPORTED = "unsupported"
    """405 or 501 for each way to ask: nothing is known."""
    CHANGED = "changed"
    """Something else than what was mirrored: another size, checksum or object version."""
    UNREACHABLE = "unreachable"
    """No answer, or one of trouble that may pass."""
    UNKNOWN = "unknown"
    """An address that nobody here knows how to ask."""


@dataclass(frozen=True, slots=True)
class Finding(Outcome):
    """One thing that was looked at.

    ``what`` says what it was, ``health`` what a place answered. ``path`` is in the dataset, through
    sub-datasets; ``.`` for the dataset itself.
    """

    action: str = "verify"
    status: Literal["ok", "notneeded", "impossible", "error"] = "ok"
    path: str = "."
    kind: FindingKind = "file"
    health: Health | None = None

    def at_path(self, path: str) -> Finding:
        """The same, of another path."""
        return replace(self, path=path)

    def for_version(self, dataset: str, version: str) -> Finding:
        """The same, of a dataset and version; empty for one that no mirror made."""
        return replace(self, dataset=dataset or None, version=version or None)
