"""One visit of one dataset: what is new upstream becomes commits, refs, journal and index."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path

from neuromirror.crawl.compare import Changes, Difference
from neuromirror.crawl.events import raise_event
from neuromirror.crawl.holds import Holds
from neuromirror.crawl.linking import link_parts
from neuromirror.crawl.links import Earlier, is_split_off, keep_inline
from neuromirror.crawl.mirrors import MirrorFile
from neuromirror.crawl.names import check_dataset, check_version
from neuromirror.crawl.outcome import Outcome
from neuromirror.crawl.part_entries import ListedParts
from neuromirror.crawl.part_visits import PartVisits
from neuromirror.crawl.parts import Parts
from neuromirror.crawl.past import earlier_states, not_seen
from neuromirror.crawl.prove import Proven
from neuromirror.crawl.publish import Publisher
from neuromirror.crawl.reading import Commits, Reading
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.viewers import keep_links
from neuromirror.index import VersionRow
from neuromirror.model import (
    FOLDER_MARKER,
    UNREADABLE,
    DatasetHint,
    Summary,
    VersionKind,
    VersionRef,
    text,
)
from neuromirror.sources import Listing, ListingNotProven, Source
from neuromirror.store import ANNEX, MAIN, PUBLISHED, Store

_SAMPLE = 100  # missing files that upstream is asked about where the state is held anyway


class Visit:
    """Visits one dataset; the caller holds the dataset's lock."""

    def __init__(
        self,
        source: Source,
        store: Store,
        recorder: Recorder,
        settings: MirrorFile,
        hint: DatasetHint,
    ) -> None:
        self._source = source
        self._store = store
        self._recorder = recorder
        self._settings = settings
        self._dataset = hint.dataset
        self._publisher = Publisher(store, recorder, hint.dataset)
        self._parts = Parts(store, recorder, self._publisher, settings.zarr)
        self._reading = Reading(source, store, recorder, hint.dataset, parts=self._listed_parts)
        self._holds = Holds(recorder, hint.dataset)
        self._after_past = False
        self._deep = self._history = False
        self._visits: PartVisits  # as deep as the visit, so made when it begins
        self.outcome = Outcome()

    def run(
        self, *, deep: bool = False, history: bool = False, pending_only: bool = False
    ) -> Outcome:
        """Brings the dataset up to date, published versions first, then what can be observed.

        With ``history``, earlier states that upstream can still list go before the present one.
        With ``deep``, what upstream's own words for its versions and parts say is not believed.
        With ``pending_only`` upstream is asked about what was pending, and about the rest only if
        some of that is complete now.
        Raises what stopped it; what was minted before that stays, and is in ``outcome``.
        """
        self._deep, self._history = deep, history
        self._visits = PartVisits(
            self._source,
            self._store,
            self._recorder,
            self._settings.zarr,
            deep=deep,
            history=history,
        )
        self._reading.deep = deep
        check_dataset(self._dataset)
        if pending_only and self._is_still_pending():
            return self.outcome
        versions = self._source.versions(self._dataset)
        for version in versions:
            check_version(version)
        self._publisher.catch_up()
        published = [one for one in versions if one.kind is VersionKind.PUBLISHED]
        observed = [one for one in versions if one.kind is VersionKind.OBSERVED]
        self._check_vanished(published)
        for version in published:
            row = self._minted_as(version.upstream)
            if row is None:
                if not self._mint_published(version):
                    break
            else:
                self._check_published(version, row)
        if not history or self._take_history({one.upstream for one in observed}):
            for version in observed:
                self._observe(version)
        if self._publisher.repository.exists():
            self._publisher.repository.refresh()
        return self.outcome

    def _take_problems(self) -> None:
        """Add the problems of the last listing; versions that share an object share its problem."""
        self.outcome.unproven = [*dict.fromkeys([*self.outcome.unproven, *self._reading.problems])]

    def _is_still_pending(self) -> bool:
        """Whether upstream has completed nothing of what was pending in the last state."""
        self._publisher.catch_up()
        last = self._publisher.last_observed()
        if last is None:
            return False
        refs = self._publisher.repository.refs()
        count = self._reading.still_pending(last.upstream, refs.get(MAIN), refs.get(ANNEX))
        if count is None:
            return False
        self.outcome.pending = count
        self.outcome.left_out = last.exceptions
        return True

    # --- published versions

    def _minted_as(self, upstream: str) -> VersionRow | None:
        name = self._dataset.name
        return self._recorder.ask(lambda index: index.records_known(name, upstream))

    def _check_vanished(self, published: list[VersionRef]) -> None:
        listed = {version.upstream for version in published}
        for row in self._publisher.rows():
            if row.kind == VersionKind.PUBLISHED.value and row.upstream not in listed:
                self._incident(
                    row.upstream, f"published version {row.upstream} is no longer listed upstream"
                )

    def _mint_published(self, version: VersionRef) -> bool:
        """Mints a published version; False when it is held, so that none may follow it."""
        done = False

        def take(listing: Listing, proven: Proven, scratch: Path) -> Commits | None:
            nonlocal done
            if proven.empty:
                state = proven.state()
                if not self._holds.released(version.upstream, state):
                    self._hold(version.upstream, state, "an empty published version")
                    return None
            commits = self._publish(proven, PUBLISHED, scratch, version.upstream)
            done = self._minted_as(version.upstream) is not None
            return commits

        self._reading.read(version, take, None)
        self._take_problems()
        return done

    def _check_published(self, version: VersionRef, row: VersionRow) -> None:
        claimed, held = version.claimed, self._summary(row)
        # what is remembered of folders that upstream counts as one file may have been thrown away
        folders = claimed and claimed.bytes == held.bytes and claimed.files < held.files
        if claimed is not None and claimed != held and not folders:
            self._incident(
                version.upstream,
                f"published version {version.upstream} now has {claimed.files} files with "
                f"{claimed.bytes} bytes, it had {held.files} with {held.bytes}",
            )
        elif self._deep or folders or self._reading.had_problems(version.upstream):

            def take(listing: Listing, proven: Proven, scratch: Path) -> Commits | None:
                if self._deep:
                    checked = self._check_parts(proven, row, scratch)
                    if checked is None:
                        return None
                    proven = checked
                if proven.parts.unproven:
                    self.outcome.unproven += proven.parts.unproven
                    return None
                if not self._compare_published(proven, row, scratch):
                    return None
                commits = row.commit, row.annex_commit
                keep_inline(self._store, self._dataset, row.upstream, commits, proven.parts.inline)
                return commits

            again = self._deep and self._has_parts(row)
            self._reading.read(version, take, None if again else row.commit)
            self._take_problems()

    def _check_parts(self, proven: Proven, row: VersionRow, scratch: Path) -> Proven | None:
        """A published version with its parts listed again; None where one is not what it was."""
        earlier, refused = self._earlier(row), self._reading.is_lasting_refusal
        linked = link_parts(proven, self._visits, earlier, scratch, refused, every=True)
        self.outcome.parts += linked.minted
        self.outcome.past += linked.past
        wrong = [*linked.incidents, *linked.moved, *linked.proven.parts.incidents]
        for message in wrong:
            self._incident(row.upstream, f"published version {row.upstream}: {message}")
        return None if wrong else linked.proven

    def _summary(self, row: VersionRow) -> Summary:
        """How many files and bytes upstream counted in a version."""
        exceptions = self._recorder.ask(lambda index: index.exceptions(row))
        parts = self._recorder.ask(lambda index: list(index.parts(row)))
        inline = self._earlier(row).inline().values()
        files = row.files + len(exceptions) - sum(one.files + one.exceptions - 1 for one in inline)
        for part in parts:
            own = is_split_off(self._dataset, part.dataset.partition(":")[2])
            files += part.files if own else 1
        size = row.bytes + sum(one["size"] for one in exceptions) + sum(one.bytes for one in parts)
        return Summary(files, size)

    def _compare_published(self, proven: Proven, row: VersionRow, scratch: Path) -> bool:
        """Whether a published version is what it was; tells what is not."""
        _, changes = self._parts.difference(row, proven, scratch)
        if not changes.same_files:
            self._incident(
                row.upstream,
                f"published version {row.upstream} now lists other files: {changes.added} added, "
                f"{changes.removed} removed, {changes.changed} with other bytes",
            )
            return False
        if changes.upgraded:
            self._event(
                "digest-upgrade",
                f"{changes.upgraded} files of published version {row.upstream} have better digests",
                {"version": row.upstream, "files": changes.upgraded},
            )
        return True

    # --- observed states

    def _observe(self, version: VersionRef) -> None:
        refs = self._publisher.repository.refs()
        commits = refs.get(MAIN), refs.get(ANNEX)
        last = self._publisher.last_observed()
        if (self._deep or self._history) and last is not None and self._has_parts(last):
            commits = None, None  # the listing says nothing of what is in its parts
        pending = self._reading.read(version, self._take_observed, *commits)
        if pending is not None and last is not None:
            # the last visit's own count may be that of a visit that failed
            self.outcome.pending = pending
            self.outcome.left_out = last.exceptions
            self._holds.lapse(version.upstream)
        self.outcome.checked = self._reading.checked
        self.outcome.refused = self._reading.refused
        self._take_problems()
        if self._publisher.rows():
            keep_links(self._recorder, self._dataset, self._reading.links)

    def _take_observed(self, listing: Listing, proven: Proven, scratch: Path) -> Commits | None:
        upstream = proven.header.version.upstream
        last = self._publisher.last_observed()
        if last is not None:
            difference, changes = self._parts.difference(last, proven, scratch)
            if self._after_past:
                # upstream's own versions tell how it came to be: an overwrite is one more of them
                changes.conflicts.clear()
            if not self._accepted(listing, proven, last, difference, changes):
                return None
            self.outcome.upgraded += changes.upgraded
        elif self._is_only_a_marker(proven) or self._settling(proven.header.newest):
            return None
        self._holds.lapse(upstream)
        self.outcome.pending = proven.pending
        return self._publish(proven, MAIN, scratch, None)

    def _accepted(
        self,
        listing: Listing,
        proven: Proven,
        last: VersionRow,
        difference: Difference,
        changes: Changes,
    ) -> bool:
        """Whether a state may follow the last one; else it is held.

        Raises ListingNotProven where upstream still has what the listing lacks.
        """
        upstream = proven.header.version.upstream
        conflict, loss = _conflict(changes), self._loss(changes)
        if loss and listing.loss_hint:
            loss = f"{loss}; {listing.loss_hint}"
        state = proven.state() if conflict or loss else ""
        held = bool(state) and not self._holds.released(upstream, state)
        self._check_gone(listing, proven, last, difference, thorough=not held)
        if held and conflict:
            message = f"{conflict}; the old state is kept"
            self._event("incident", message, {"version": upstream})
            hold = self._holds.place(upstream, state, conflict, changes.removed, changes.before)
            # what is mirrored stays behind upstream, so every run says so
            self.outcome.incidents.append(
                f"{message}; look upstream, then 'neuromirror release {hold}' to let the new "
                "state follow it"
            )
        elif held and loss:
            self._hold(upstream, state, loss, changes.removed, changes.before)
        return not held

    def _loss(self, changes: Changes) -> str:
        """Why a state that lost files is to be held; empty when it is not."""
        if not changes.before:
            return ""
        if not changes.after:
            return "the listing is empty"
        share = 100 * changes.removed / changes.before
        guards = self._settings.guards
        if share > guards.max_removed_percent and changes.removed > guards.max_removed_files:
            return f"{changes.removed} of {changes.before} files are gone ({share:.0f} %)"
        return ""

    def _check_gone(
        self,
        listing: Listing,
        proven: Proven,
        last: VersionRow,
        difference: Difference,
        *,
        thorough: bool,
    ) -> None:
        """Asks upstream for what the listing lacks: for all, or for the first hundred."""
        if listing.still_there is None:
            return
        header = proven.header
        elsewhere = {one.path for one in header.documents} | {one.path for one in header.exceptions}
        documents = self._publisher.documents_lost(last, proven, difference)
        missing = chain(documents, (path for path in difference.gone() if path not in elsewhere))
        asked = list(missing if thorough else islice(missing, _SAMPLE))
        there = listing.still_there(asked) if asked else []
        if there:
            raise ListingNotProven(
                f"{self._dataset.name} {header.version.upstream}: {len(there)} of {len(asked)} "
                f"files that the listing lacks are still there upstream, {text(there[0])!r} for one"
            )

    def _is_only_a_marker(self, proven: Proven) -> bool:
        """Whether a new dataset holds nothing but the marker of its folder, and so is none yet."""
        header = proven.header
        reasons = {one.reason for one in header.exceptions}
        if proven.files or header.documents or reasons != {FOLDER_MARKER}:
            return False
        self.outcome.waiting = (
            "new, and nothing but a folder marker; it is mirrored once it holds an object"
        )
        return True

    def _settling(self, newest: datetime | None) -> bool:
        """Whether a dataset that was never mirrored may still be growing."""
        minutes = self._settings.guards.settle_minutes
        if not minutes or newest is None or self._publisher.rows():
            return False
        age = datetime.now(UTC) - newest
        if age >= timedelta(minutes=minutes):
            return False
        at = newest.astimezone(UTC).isoformat(timespec="seconds")
        self.outcome.waiting = (
            f"new, and perhaps still growing: its newest file is of {at}; it is mirrored once "
            f"nothing has changed for {minutes:g} minutes"
        )
        return True

    # --- earlier states

    def _take_history(self, present: set[str]) -> bool:
        """Mints what upstream can list of the past; False when nothing may follow it now.

        ``present`` are upstream's words for what is observed now.
        """
        last = self._publisher.last_observed()
        states = earlier_states(self._source, self._dataset, last)
        self.outcome.past += len(states)
        if not self._publisher.rows() and states and self._settling(states[-1].time):
            return False
        if last is not None and last.upstream in present:
            states = not_seen(states, last, self._reading, self._parts.has_same_files)
        for version in states:
            self._reading.read(version, self._take_past, None)
            if self.outcome.held:
                return False
        last = self._publisher.last_observed()
        self._after_past = last is not None and last.upstream not in present
        return True

    def _take_past(self, listing: Listing, proven: Proven, scratch: Path) -> Commits | None:
        """Mints an earlier state: what it lacks, upstream's own versions say to be deleted."""
        upstream = proven.header.version.upstream
        last = self._publisher.last_observed()
        if last is not None and last.files and not proven.files:
            state = proven.state()
            if not self._holds.released(upstream, state):
                self._hold(upstream, state, "the listing is empty", last.files, last.files)
                return None
        self._publish(proven, MAIN, scratch, None)
        return None  # it is listed once: no memo

    # --- publishing, holds, incidents, events

    def _publish(
        self, proven: Proven, branch: str, scratch: Path, label: str | None
    ) -> Commits | None:
        proven = self._link_parts(proven, scratch)
        self.outcome.writing |= proven.parts.pending
        if (proven.parts.unproven or proven.parts.pending) and branch == PUBLISHED:
            return None  # it would lack them for ever
        state = self._parts.publish(proven, scratch)
        done = self._publisher.publish(state, branch, scratch, label)
        if done.new:
            self.outcome.minted.append(done.label)
            self._report_unreadable(proven, done.label)
        if done.new or branch == MAIN:
            self.outcome.left_out = len(proven.header.exceptions)
        commits = done.commit, done.annex_commit
        upstream, inline = proven.header.version.upstream, proven.parts.inline
        keep_inline(self._store, self._dataset, upstream, commits, inline)
        # else it is to be read again, though it may be the same
        return commits if proven.parts.settled else None

    def _report_unreadable(self, proven: Proven, label: str) -> None:
        """Raise an event for the sidecars that cannot be read in a new version."""
        facts = proven.header.facts
        sidecars = [value for name, value in facts.attributes if name == UNREADABLE]
        if sidecars:
            self._event(
                UNREADABLE,
                f"{label}: {', '.join(sidecars)} cannot be read (no valid JSON, or access is "
                "refused); what the last readable version said of the dataset still holds",
                {"version": label, "sidecars": sidecars},
            )

    # --- parts

    def _listed_parts(self, version: VersionRef) -> ListedParts:
        published = version.kind is VersionKind.PUBLISHED
        row = self._minted_as(version.upstream) if published else None
        earlier = self._earlier(row or self._before())
        refused = self._reading.is_lasting_refusal
        return ListedParts(self._recorder, self._settings.zarr, earlier, refused, again=self._deep)

    def _before(self) -> VersionRow | None:
        """The state that keeps what cannot be proven now, and has what need not be read again."""
        rows = self._publisher.rows()
        return self._publisher.last_observed() or (rows[-1] if rows else None)

    def _earlier(self, row: VersionRow | None) -> Earlier:
        return Earlier(self._store, self._dataset, row)

    def _has_parts(self, row: VersionRow) -> bool:
        """Whether a version has parts that upstream names itself."""
        parts = self._recorder.ask(lambda index: list(index.parts(row)))
        return bool(self._earlier(row).inline()) or any(
            not is_split_off(self._dataset, one.dataset.partition(":")[2]) for one in parts
        )

    def _link_parts(self, proven: Proven, scratch: Path) -> Proven:
        """Mirrors the parts that a state links to; gives the state with what came of it."""
        every = self._deep or self._history
        earlier = self._earlier(self._before())
        refused = self._reading.is_lasting_refusal
        linked = link_parts(proven, self._visits, earlier, scratch, refused, every=every)
        self.outcome.parts += linked.minted
        self.outcome.past += linked.past
        self.outcome.incidents += linked.incidents
        taken, upstream = linked.proven.parts, proven.header.version.upstream
        for message in taken.incidents:
            self._event("incident", message, {"version": upstream})
        self.outcome.incidents += taken.incidents
        self.outcome.unproven += taken.unproven
        return linked.proven

    def _hold(
        self, upstream: str, state: str, reason: str, removed: int = 0, before: int = 0
    ) -> None:
        hold = self._holds.place(upstream, state, reason, removed, before)
        self.outcome.held.append(
            f"{upstream} is held: {reason}; look upstream, then 'neuromirror release {hold}' to "
            "let it through"
        )

    def _incident(self, upstream: str, message: str) -> None:
        """Raises an incident with a published version: once, then it is known."""
        new = self._event("incident", message, {"version": upstream})
        (self.outcome.incidents if new else self.outcome.known).append(message)

    def _event(self, kind: str, message: str, data: dict[str, object]) -> bool:
        return raise_event(self._recorder, self._dataset, kind, message, data)


def _conflict(changes: Changes) -> str:
    """What is wrong with files that kept their upstream id and not their bytes; or nothing."""
    if not changes.conflicts:
        return ""
    paths = ", ".join(repr(text(path)) for path in changes.conflicts[:3])
    count = len(changes.conflicts)
    files = "1 file has" if count == 1 else f"{count} files have"
    return f"{files} other bytes under the same upstream id ({paths})"
