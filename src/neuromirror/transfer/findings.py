"""Findings: the results of a verification, one per commit, file, URL or other object."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec.structs import replace

from neuromirror.transfer.outcomes import Outcome

FindingKind = Literal[
    "commit", "tree", "state", "manifest", "lock", "document", "file", "url", "subdataset", "local"
]
"""The object of a finding.

``commit``, ``tree`` and ``state`` concern a whole dataset, ``manifest`` the canonical manifest
beside a lock file, and ``lock`` the totals in a lock file. A ``document`` is a file stored in git,
a ``file`` an annexed one, a ``url`` one of its URLs. A ``subdataset`` is missing, or at another
commit. A ``local`` file was added or changed by the clone's own commits on top of the mirror's; its
content is not verified.
"""

NOT_HERE = "not here"
"""The message for content that is not on this machine."""


class Health(StrEnum):
    """The state of a URL: whether it serves the expected bytes, or why it does not."""

    OK = "ok"
    NOT_FOUND = "not-found"
    """404 or 410, a delete marker, or a deleted object version."""
    REFUSED = "refused"
    """401 or 403; a bucket without list permission also returns 403 for a missing object."""
    UNSUPPORTED = "unsupported"
    """405 or 501 for each kind of request: the state is not known."""
    CHANGED = "changed"
    """Size, checksum or object version differ from the mirrored ones."""
    UNREACHABLE = "unreachable"
    """No reply, or a temporary error."""
    UNKNOWN = "unknown"
    """A URL that cannot be requested: unsupported scheme, or an address that is not allowed."""


class Finding(Outcome, frozen=True):
    """The result of verifying one object.

    Attributes
    ----------
    action
        The command, ``verify`` or ``audit``.
    status
        The result; ``ok`` or ``notneeded`` if nothing differs.
    path
        Path in the outermost dataset; ``.`` for a dataset as a whole.
    kind
        The object of the finding.
    health
        The state of a ``url``.
    """

    action: str = "verify"
    status: Literal["ok", "notneeded", "impossible", "error"] = "ok"
    path: str = "."
    kind: FindingKind = "file"
    health: Health | None = None

    def at_path(self, path: str) -> Finding:
        """Return a copy with another path.

        Parameters
        ----------
        path
            The path in the outermost dataset.

        Returns
        -------
        Finding
            The copy.
        """
        return replace(self, path=path)

    def for_version(self, dataset: str, version: str) -> Finding:
        """Return a copy for a dataset and version, both empty for a commit that was not minted.

        Parameters
        ----------
        dataset
            ``<mirror>:<local id>``.
        version
            The label of the version.

        Returns
        -------
        Finding
            The copy.
        """
        return replace(self, dataset=dataset or None, version=version or None)
