"""Print the outcomes of a command: each message about a host once, and counts at the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct, field

from neuromirror.annex.remotes import host_without_port

if TYPE_CHECKING:
    from neuromirror.cli.common import Settings
    from neuromirror.cli.progress_line import ProgressLine
    from neuromirror.transfer.outcomes import Outcome


def outcome_text(outcome: Outcome) -> str:
    """Return the message of an outcome, after its host or path unless it starts with the host."""
    if outcome.host is not None and outcome.message.startswith(host_without_port(outcome.host)):
        return outcome.message
    return f"{outcome.host or outcome.path}  {outcome.message}"


class HostMessages(Struct):
    """Prints each message about a host once, and the number of occurrences at the end."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def is_first(self, outcome: Outcome) -> bool:
        """Count an outcome and return whether its message has not been printed yet."""
        if outcome.host is None:
            return True
        self.counts[outcome.host, outcome.status] += 1
        return self.counts[outcome.host, outcome.status] == 1

    def print_counts(self, action: str, settings: Settings) -> None:
        """Print the number of files or URLs that each message applies to."""
        for (host, status), count in self.counts.items():
            record = {"kind": "host", "host": host, "status": status, "count": count}
            line = f"{status:<10} {host} failed {count} times in total" if count > 1 else None
            settings.emit(action, record, line)


class OutcomeReport(Struct):
    """Prints the outcomes of an action on contents, and counts them by status."""

    action: str
    settings: Settings
    line: ProgressLine
    total: int = 0
    bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    hosts: HostMessages = field(default_factory=HostMessages)

    @property
    def failures(self) -> int:
        """The number of contents that failed."""
        return self.counts["error"] + self.counts["impossible"]

    def add(self, outcome: Outcome) -> None:
        """Print and count an outcome; contents that need nothing are printed as JSON only."""
        self.counts[outcome.status] += 1
        if outcome.status == "ok":
            self.bytes += outcome.size or 0
        elif outcome.status == "notneeded" and not self.settings.json:
            return
        text = f"{outcome.status:<10} {outcome_text(outcome)}"
        is_shown = outcome.status == "ok" or (outcome.failed and self.hosts.is_first(outcome))
        with self.line.paused():
            self.settings.emit(self.action, outcome.to_json(), text.rstrip() if is_shown else None)
