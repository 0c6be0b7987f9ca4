"""Decide whether a new state may follow the last one, or is held for an operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import chain, islice

from neuromirror.config.mirror_settings import GuardSettings
from neuromirror.crawl.guards.difference import StateChanges, StateDifference
from neuromirror.crawl.guards.events import record_event
from neuromirror.crawl.guards.holds import DatasetHolds
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.visit.outcome import VisitOutcome
from neuromirror.crawl.visit.publisher import Publisher
from neuromirror.crawl.visit.snapshot import SpooledSnapshot
from neuromirror.index import VersionRow
from neuromirror.model import FOLDER_MARKER, path_to_text
from neuromirror.sources import Listing, UnreliableListingError

_MAX_SAMPLED_PATHS = 100
"""Missing files that are checked upstream if the state is held in any case."""


class StateGuard:
    """Decides whether a new state may be published, is held for an operator, or must wait.

    It is used for one visit, and writes the reasons of its decisions into ``outcome``.

    Parameters
    ----------
    settings
        The ``[guards]`` table of the mirror file.
    publisher
        The publisher of the dataset.
    recorder
        The store's recorder.
    outcome
        The outcome of the visit.
    """

    def __init__(
        self,
        settings: GuardSettings,
        publisher: Publisher,
        recorder: Recorder,
        outcome: VisitOutcome,
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._recorder = recorder
        self._dataset = publisher.dataset
        self._holds = DatasetHolds(recorder, publisher.dataset)
        self._outcome = outcome

    def is_released(self, upstream: str, state: str) -> bool:
        """Return whether an operator released this listing, identified by its state digest."""
        return self._holds.is_released(upstream, state)

    def lapse(self, upstream: str) -> None:
        """End the hold on a version: the listing passes the guards again."""
        self._holds.lapse(upstream)

    def accepts(
        self,
        listing: Listing,
        snapshot: SpooledSnapshot,
        last: VersionRow,
        difference: StateDifference,
        changes: StateChanges,
    ) -> bool:
        """Return whether a state may follow the last one; hold it if not.

        Raises UnreliableListingError if upstream still has files that the listing lacks.
        """
        upstream = snapshot.header.version.upstream
        conflict, loss = _conflict_reason(changes), self._loss_reason(changes)
        if loss and listing.loss_hint:
            loss = f"{loss}; {listing.loss_hint}"
        state = snapshot.state_digest() if conflict or loss else ""
        held = bool(state) and not self._holds.is_released(upstream, state)
        self._check_missing_files(listing, snapshot, last, difference, thorough=not held)
        if held and conflict:
            message = f"{conflict}; the old state is kept"
            record_event(self._recorder, self._dataset, "incident", message, {"version": upstream})
            hold = self._holds.create(upstream, state, conflict, changes.removed, changes.before)
            # the mirror is behind upstream, so every run reports it
            self._outcome.incidents.append(
                f"{message}; check the dataset upstream, then run 'neuromirror release {hold}' to "
                "accept the new state"
            )
        elif held and loss:
            self.hold(upstream, state, loss, changes.removed, changes.before)
        return not held

    def _loss_reason(self, changes: StateChanges) -> str:
        """Return why a state that lost files is held; empty if it is not."""
        if not changes.before:
            return ""
        if not changes.after:
            return "the listing is empty"
        share = 100 * changes.removed / changes.before
        guards = self._settings
        if share > guards.max_removed_percent and changes.removed > guards.max_removed_files:
            return f"{changes.removed} of {changes.before} files are missing ({share:.0f} %)"
        return ""

    def _check_missing_files(
        self,
        listing: Listing,
        snapshot: SpooledSnapshot,
        last: VersionRow,
        difference: StateDifference,
        *,
        thorough: bool,
    ) -> None:
        """Check upstream for the files that the listing lacks: all (``thorough``), or a sample."""
        if not listing.can_find_present:
            return
        header = snapshot.header
        elsewhere = {one.path for one in header.documents} | {one.path for one in header.exceptions}
        documents = self._publisher.lost_documents(last, snapshot, difference)
        missing = chain(
            documents, (path for path in difference.missing_paths() if path not in elsewhere)
        )
        requested = list(missing if thorough else islice(missing, _MAX_SAMPLED_PATHS))
        present = listing.find_present(requested) if requested else []
        if present:
            raise UnreliableListingError(
                f"{self._dataset.name} {header.version.upstream}: {len(present)} of "
                f"{len(requested)} "
                f"files that the listing lacks still exist upstream, "
                f"for example {path_to_text(present[0])!r}; try again"
            )

    def is_postponed(self, snapshot: SpooledSnapshot) -> bool:
        """Return whether a new dataset is not mirrored yet."""
        return self._has_only_marker(snapshot) or self.is_settling(snapshot.header.newest)

    def _has_only_marker(self, snapshot: SpooledSnapshot) -> bool:
        """Return whether a new dataset consists of a folder marker, and is not mirrored yet."""
        header = snapshot.header
        reasons = {one.reason for one in header.exceptions}
        if snapshot.files or header.documents or reasons != {FOLDER_MARKER}:
            return False
        self._outcome.waiting_reason = (
            "new and empty except for a folder marker; it is mirrored once it has an object"
        )
        return True

    def is_settling(self, newest: datetime | None) -> bool:
        """Return whether a dataset that was never mirrored may still be growing."""
        minutes = self._settings.settle_minutes
        if not minutes or newest is None or self._publisher.versions():
            return False
        age = datetime.now(UTC) - newest
        if age >= timedelta(minutes=minutes):
            return False
        at = newest.astimezone(UTC).isoformat(timespec="seconds")
        self._outcome.waiting_reason = (
            f"new and possibly still growing: its newest file is from {at}; it is mirrored once "
            f"nothing has changed for {minutes:g} minutes"
        )
        return True

    def hold(
        self, upstream: str, state: str, reason: str, removed: int = 0, before: int = 0
    ) -> None:
        """Hold a listing, and report that in the outcome."""
        hold = self._holds.create(upstream, state, reason, removed, before)
        self._outcome.hold_messages.append(
            f"{upstream} is held: {reason}; check the dataset upstream, then run 'neuromirror "
            f"release {hold}' to accept the listing"
        )


def _conflict_reason(changes: StateChanges) -> str:
    """Describe the files with the same upstream id and different bytes; may be empty."""
    if not changes.conflicts:
        return ""
    paths = ", ".join(repr(path_to_text(path)) for path in changes.conflicts[:3])
    count = len(changes.conflicts)
    files = "1 file has" if count == 1 else f"{count} files have"
    return f"{files} different content under the same upstream id or API URL ({paths})"
