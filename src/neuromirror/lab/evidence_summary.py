"""Counts of restored files by their evidence, as text."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, field

from neuromirror.model import Evidence, count_of
from neuromirror.transfer.outcomes import EvidenceStatus, Outcome


class EvidenceSummary(Struct):
    """Counts how many files a restore fetched, by evidence, and formats the counts for the user.

    Attributes
    ----------
    fetched
        Number of fetched files by evidence, and by whether they were checked.
    present
        Number of files that were there before.
    failed
        Number of files that could not be fetched.
    """

    fetched: Counter[tuple[Evidence, EvidenceStatus]] = field(default_factory=Counter)
    present: int = 0
    failed: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count the outcome of a file."""
        if outcome.failed:
            self.failed += 1
        elif outcome.status == "notneeded":
            self.present += 1
        else:
            evidence = outcome.evidence or Evidence.NONE
            checked = outcome.checked == "checked" and evidence is not Evidence.NONE
            self.fetched[evidence, "checked" if checked else "claimed"] += 1

    def messages(self) -> list[str]:
        """Return the counts as text."""
        unverified = sum(count for (_, how), count in self.fetched.items() if how == "claimed")
        counts = [
            *((self.fetched[one, "checked"], f"verified by {one.value}") for one in Evidence),
            (unverified, "not verified (no checksum)"),
            (self.present, "already present, not verified again"),
            (self.failed, "not available"),
        ]
        return [f"{count_of(count, 'file')} {what}" for count, what in counts if count]
