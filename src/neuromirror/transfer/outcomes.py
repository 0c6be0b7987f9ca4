"""What a verb did to one file or URL, and progress messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from neuromirror.model import Evidence, NeuromirrorError
from neuromirror.net import (
    CredentialsError,
    HttpError,
    IncompleteResponseError,
    UnreachableError,
    UnsafeAddressError,
    clean_url,
)

Status = Literal["ok", "notneeded", "impossible", "error"]
"""As in DataLad: done, nothing to do, not possible here, failed."""

EvidenceStatus = Literal["checked", "claimed"]
"""Whether the bytes were hashed here (``checked``), or upstream states the value (``claimed``)."""

FAILURES: frozenset[Status] = frozenset(("impossible", "error"))


class Outcome(Struct, frozen=True):
    """The outcome of a command for one file or dataset. Fields that do not apply are None.

    Attributes
    ----------
    action
        The command (``get``, ``verify``, ``restore``).
    status
        The outcome.
    path
        The processed path, relative to the dataset or the lock file where there is one; bytes that
        are not UTF-8 are surrogate escapes.
    message
        Details, or the reason of a failure.
    dataset
        ``<mirror>:<local id>``.
    version
        Label of the version.
    key
        Annex key.
    size
        Size in bytes.
    evidence, checked
        Evidence for the file's identity, and whether the bytes were hashed here.
    url
        URL of the bytes, without credentials.
    host
        The host at fault if ``message`` concerns a whole host; such messages are printed once.
    latest
        Label of the dataset's latest version, if a clone has another version checked out.
    newer
        Whether the store has a newer version than the pinned one.
    """

    action: str
    status: Status
    path: str
    message: str = ""
    dataset: str | None = None
    version: str | None = None
    key: str | None = None
    size: int | None = None
    evidence: Evidence | None = None
    checked: EvidenceStatus | None = None
    url: str | None = None
    host: str | None = None
    latest: str | None = None
    newer: bool | None = None

    @property
    def failed(self) -> bool:
        """Whether the outcome makes the command exit with 1."""
        return self.status in FAILURES

    def to_json(self) -> dict[str, Any]:
        """Return the fields that apply, for ``--json``.

        Returns
        -------
        dict[str, Any]
            Field → value, without fields that are None.
        """
        found = asdict(self)
        return {name: value for name, value in found.items() if value is not None}


class Tally(Struct):
    """Totals over outcomes.

    Attributes
    ----------
    statuses
        Number of outcomes by status.
    evidence_counts
        Number of successful outcomes by ``(evidence, checked)``.
    bytes
        Size of all successful outcomes.
    """

    statuses: Counter[Status] = field(default_factory=Counter)
    evidence_counts: Counter[tuple[Evidence, EvidenceStatus]] = field(default_factory=Counter)
    bytes: int = 0

    def add(self, outcome: Outcome) -> None:
        """Add an outcome.

        Parameters
        ----------
        outcome
            The outcome.
        """
        self.statuses[outcome.status] += 1
        if outcome.failed:
            return
        self.bytes += outcome.size or 0
        if outcome.evidence is not None:
            self.evidence_counts[outcome.evidence, outcome.checked or "claimed"] += 1

    @property
    def failed(self) -> bool:
        """Whether any outcome failed."""
        return any(self.statuses[status] for status in FAILURES)

    @property
    def exit_code(self) -> int:
        """1 if any outcome failed, else 0."""
        return 1 if self.failed else 0


def tally(outcomes: Iterable[Outcome]) -> Tally:
    """Return the totals over outcomes.

    Parameters
    ----------
    outcomes
        The outcomes; the iterable is exhausted.

    Returns
    -------
    Tally
        The totals.
    """
    counted = Tally()
    for outcome in outcomes:
        counted.add(outcome)
    return counted


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
    ARCHIVED = "archived"
    """In an archive storage class: it must be restored before it can be read."""
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


MessageCallback = Callable[[str], None]
"""Called with a message for each step."""

ByteProgress = Callable[[int, int], None]
"""Called with the bytes received and the bytes expected so far."""


class ProgressMeter:
    """Sums the received and expected bytes of a download, and reports them after each change.

    One meter serves a dataset and all its subdatasets.

    Parameters
    ----------
    progress
        Called after each change with both sums; None for no progress reports.
    """

    def __init__(self, progress: ByteProgress | None) -> None:
        self._progress = progress
        self._received_bytes = 0
        self._expected_bytes = 0
        self._arrived: dict[str, int] = {}

    def expect(self, size: int | None) -> None:
        """Add the size of a requested key, None if unknown."""
        self._expected_bytes += size or 0

    def add(self, key: str, more: int) -> None:
        """Add received bytes of a key."""
        self._arrived[key] = self._arrived.get(key, 0) + more
        self._received_bytes += more
        self._report()

    def reset(self, key: str) -> None:
        """Discount the received bytes of a key, which have to be downloaded again."""
        self._received_bytes -= self._arrived.pop(key, 0)

    def give_up(self, key: str, size: int | None) -> None:
        """Discount a key that could not be downloaded."""
        self.reset(key)
        self._expected_bytes -= size or 0
        self._report()

    def finish(self, key: str, size: int | None, seen: int) -> None:
        """Count a downloaded key: its expected size, None if unknown, and its actual size."""
        self._received_bytes += seen - self._arrived.pop(key, 0)
        if size is None:
            self._expected_bytes += seen
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._received_bytes, max(self._expected_bytes, self._received_bytes))


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
