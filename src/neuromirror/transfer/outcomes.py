"""What every long verb of the lab yields: one record a thing done, in DataLad's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from neuromirror.model import Evidence

Status = Literal["ok", "notneeded", "impossible", "error"]
"""DataLad's: done, nothing to do, cannot be done here, went wrong."""

EvidenceStatus = Literal["checked", "claimed"]
"""Whether bytes were hashed here, or only upstream says so."""

FAILURES: frozenset[Status] = frozenset(("impossible", "error"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that a verb did, or could not do.

    ``action`` is the verb (``get``, ``verify``, ``restore``); ``path`` names what it was done to
    (surrogate escapes where a path is not UTF-8), relative to the dataset or the lock where there
    is one. The rest is None where it does not apply: ``dataset`` is ``<mirror>:<local id>``,
    ``version`` a label, ``key`` an annex key, ``size`` in bytes, ``evidence`` the word for what is
    known of the bytes and ``checked`` whether they were hashed here for it. ``url`` is where bytes
    came from or were looked for, without credentials. ``host`` is there where the message is about
    a host, whatever file it was asked for: people are told once. ``latest`` is the label of the
    version that the dataset's name means, where a clone holds another one.
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

    @property
    def failed(self) -> bool:
        """Whether it is one that makes the verb exit with 1."""
        return self.status in FAILURES

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints: all but what does not apply."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(slots=True)
class Tally:
    """Outcomes counted as they go by: what a verb says at its end.

    ``statuses`` counts by status, ``bytes`` those of outcomes that did not fail, ``proved`` by
    ``(evidence, checked)`` those of them that say so.
    """

    statuses: Counter[Status] = field(default_factory=Counter)
    evidence_counts: Counter[tuple[Evidence, EvidenceStatus]] = field(default_factory=Counter)
    bytes: int = 0

    def add(self, outcome: Outcome) -> None:
        """Counts one."""
        self.statuses[outcome.status] += 1
        if outcome.failed:
            return
        self.bytes += outcome.size or 0
        if outcome.evidence is not None:
            self.evidence_counts[outcome.evidence, outcome.checked or "claimed"] += 1

    @property
    def failed(self) -> bool:
        """Whether anything counted failed."""
        return any(self.statuses[status] for status in FAILURES)

    @property
    def exit_code(self) -> int:
        """0 where all is well, 1 where anything failed."""
        return 1 if self.failed else 0


def tally(outcomes: Iterable[Outcome]) -> Tally:
    """All of them counted."""
    counted = Tally()
    for outcome in outcomes:
        counted.add(outcome)
    return counted


__all__ = ["FAILURES", "EvidenceStatus", "Outcome", "Status", "Tally", "tally"]
