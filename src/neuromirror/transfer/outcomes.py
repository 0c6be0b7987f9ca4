"""Outcomes: one record per file or dataset that a command processed, in DataLad's terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import asdict

from neuromirror.model import Evidence

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
