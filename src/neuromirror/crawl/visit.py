"""One visit of one dataset: publish new versions and record them in journal and index."""

from __future__ import annotations

from pathlib import Path

from neuromirror.config.mirror_files import MirrorFile
from neuromirror.crawl.component_visits import (
    ComponentVisitor,
    StoreComponentResolver,
    link_components,
)
from neuromirror.crawl.components import (
    ComponentPublisher,
    PreviousState,
    is_split_component,
    save_inline_components,
)
from neuromirror.crawl.guards import check_dataset_name, check_version_name, record_event
from neuromirror.crawl.listing import SpooledSnapshot
from neuromirror.crawl.plan import VisitOutcome
from neuromirror.crawl.publisher import Publisher, record_viewer_links
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.version_reader import (
    StateCommits,
    StateGuard,
    VersionReader,
    list_earlier_states,
    unseen_states,
)
from neuromirror.index import VersionRow
from neuromirror.model import UNREADABLE, DatasetHint, FileTotals, VersionKind, VersionRef
from neuromirror.sources import Listing, Source, UpstreamChangingError
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, PUBLISHED_BRANCH, Store


class DatasetVisit:
    """Visits one dataset: lists it, publishes new versions, and records them in journal and index.

    The caller holds the dataset's lock.

    Parameters
    ----------
    source, store, recorder
        The source of the mirror, and the store with its recorder.
    settings
        The mirror file.
    hint
        The dataset's entry in the archive's overview.
    """

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
        self._component_publisher = ComponentPublisher(
            store, recorder, self._publisher, settings.zarr
        )
        self._reader = VersionReader(
            source, store, recorder, hint.dataset, create_resolver=self._create_resolver
        )
        self._follows_history = False
        self._deep = self._history = False
        self._component_visitor: ComponentVisitor  # created in run(), with its options
        self.outcome = VisitOutcome()
        self._guard = StateGuard(settings.guards, self._publisher, recorder, self.outcome)

    def run(
        self, *, deep: bool = False, history: bool = False, pending_only: bool = False
    ) -> VisitOutcome:
        """Bring the dataset up to date: published versions first, then the observed state.

        Versions that were published before an exception stay, and are in ``outcome``.

        Parameters
        ----------
        deep
            Do not trust upstream's own version names and checksums.
        history
            First publish the earlier states that upstream can still list.
        pending_only
            Check what was pending upstream, and do the rest of the visit only if some of it is
            complete now.

        Returns
        -------
        VisitOutcome
            The published versions and the status of the visit.
        """
        self._deep, self._history = deep, history
        self._component_visitor = ComponentVisitor(
            self._source,
            self._store,
            self._recorder,
            self._settings.zarr,
            deep=deep,
            history=history,
        )
        self._reader.deep = deep
        check_dataset_name(self._dataset)
        if pending_only and self._is_still_pending():
            return self.outcome
        versions = self._source.versions(self._dataset)
        for version in versions:
            check_version_name(version)
        self._publisher.catch_up()
        published = [one for one in versions if one.kind is VersionKind.PUBLISHED]
        observed = [one for one in versions if one.kind is VersionKind.OBSERVED]
        self._check_vanished(published)
        for version in published:
            row = self._find_minted(version.upstream)
            if row is None:
                if not self._mint_published(version):
                    break
            else:
                self._check_published(version, row)
        if not history or self._mint_history({one.upstream for one in observed}):
            for version in observed:
                try:
                    self._observe(version)
                except UpstreamChangingError as error:
                    self.outcome.waiting_reason = f"changing now: {error}"
        if self._publisher.repository.exists():
            self._publisher.repository.update_server_info()
        return self.outcome

    def _add_problems(self) -> None:
        """Add the problems of the last listing, without duplicates from shared objects."""
        self.outcome.problems = [*dict.fromkeys([*self.outcome.problems, *self._reader.problems])]

    def _is_still_pending(self) -> bool:
        """Return whether upstream has completed none of the pending items of the last state."""
        self._publisher.catch_up()
        last = self._publisher.last_observed()
        if last is None:
            return False
        refs = self._publisher.repository.refs()
        count = self._reader.count_still_pending(
            last.upstream, refs.get(MAIN_BRANCH), refs.get(ANNEX_BRANCH)
        )
        if count is None:
            return False
        self.outcome.pending_files = count
        self.outcome.exception_count = last.exceptions
        return True

    # --- published versions

    def _find_minted(self, upstream: str) -> VersionRow | None:
        name = self._dataset.name
        return self._recorder.ask(lambda index: index.published_version(name, upstream))

    def _check_vanished(self, published: list[VersionRef]) -> None:
        listed = {version.upstream for version in published}
        for row in self._publisher.versions():
            if row.kind == VersionKind.PUBLISHED.value and row.upstream not in listed:
                self._record_incident(
                    row.upstream, f"published version {row.upstream} is no longer listed upstream"
                )

    def _mint_published(self, version: VersionRef) -> bool:
        """Publish a published version; return False if it is held and no other may follow it."""
        is_minted = False

        def accept(
            listing: Listing, snapshot: SpooledSnapshot, scratch: Path
        ) -> StateCommits | None:
            nonlocal is_minted
            if snapshot.is_empty:
                state = snapshot.state_digest()
                if not self._guard.is_released(version.upstream, state):
                    self._guard.hold(version.upstream, state, "an empty published version")
                    return None
            commits = self._publish(snapshot, PUBLISHED_BRANCH, scratch, version.upstream)
            is_minted = self._find_minted(version.upstream) is not None
            return commits

        self._reader.read(version, accept, None)
        self._add_problems()
        return is_minted

    def _check_published(self, version: VersionRef, row: VersionRow) -> None:
        claimed, recorded = version.claimed_totals, self._upstream_summary(row)
        # the memo of inline components, which upstream counts as one file each, may be missing
        folders = claimed and claimed.bytes == recorded.bytes and claimed.files < recorded.files
        if claimed is not None and claimed != recorded and not folders:
            self._record_incident(
                version.upstream,
                f"published version {version.upstream} now has {claimed.files} files with "
                f"{claimed.bytes} bytes, it had {recorded.files} with {recorded.bytes}",
            )
        elif self._deep or folders or self._reader.had_problems(version.upstream):

            def accept(
                listing: Listing, snapshot: SpooledSnapshot, scratch: Path
            ) -> StateCommits | None:
                if self._deep:
                    checked = self._check_components(snapshot, row, scratch)
                    if checked is None:
                        return None
                    snapshot = checked
                if snapshot.components.problems:
                    self.outcome.problems += snapshot.components.problems
                    return None
                if not self._compare_published(snapshot, row, scratch):
                    return None
                if self._deep:
                    self._component_publisher.renew(row, snapshot, scratch)
                commits = row.commit, self._publisher.repository.refs()[ANNEX_BRANCH]
                save_inline_components(
                    self._store, self._dataset, row.upstream, commits, snapshot.components.inline
                )
                return commits

            must_read = self._deep and self._has_named_components(row)
            self._reader.read(version, accept, None if must_read else row.commit)
            self._add_problems()

    def _check_components(
        self, snapshot: SpooledSnapshot, row: VersionRow, scratch: Path
    ) -> SpooledSnapshot | None:
        """Read the components of a published version again; return None if one of them changed."""
        previous, record_refusal = self._previous_state(row), self._reader.record_refusal
        linking = link_components(
            snapshot, self._component_visitor, previous, scratch, record_refusal, visit_all=True
        )
        self.outcome.new_component_states += linking.new_state_count
        self.outcome.earlier_state_count += linking.earlier_state_count
        wrong = [
            *linking.incidents,
            *linking.change_messages,
            *linking.snapshot.components.incidents,
        ]
        for message in wrong:
            self._record_incident(row.upstream, f"published version {row.upstream}: {message}")
        return None if wrong else linking.snapshot

    def _upstream_summary(self, row: VersionRow) -> FileTotals:
        """Return the number of files and bytes of a version as upstream counts them."""
        exceptions = self._recorder.ask(lambda index: index.exceptions(row))
        components = self._recorder.ask(lambda index: list(index.subdatasets(row)))
        inline = self._previous_state(row).inline_components().values()
        files = row.files + len(exceptions) - sum(one.files + one.exceptions - 1 for one in inline)
        for component in components:
            own = is_split_component(self._dataset, component.dataset.partition(":")[2])
            files += component.files if own else 1
        size = (
            row.bytes
            + sum(one["size"] for one in exceptions)
            + sum(one.bytes for one in components)
        )
        return FileTotals(files, size)

    def _compare_published(self, snapshot: SpooledSnapshot, row: VersionRow, scratch: Path) -> bool:
        """Return whether a published version is unchanged; record an incident if not."""
        _, changes = self._component_publisher.difference(row, snapshot, scratch)
        if not changes.has_same_files:
            self._record_incident(
                row.upstream,
                f"published version {row.upstream} now lists other files: {changes.added} added, "
                f"{changes.removed} removed, {changes.changed} with different content",
            )
            return False
        if changes.upgraded:
            self._record_event(
                "digest-upgrade",
                f"{changes.upgraded} files of published version {row.upstream} have better digests",
                {"version": row.upstream, "files": changes.upgraded},
            )
        return True

    # --- observed states

    def _observe(self, version: VersionRef) -> None:
        refs = self._publisher.repository.refs()
        commits = refs.get(MAIN_BRANCH), refs.get(ANNEX_BRANCH)
        last = self._publisher.last_observed()
        if (self._deep or self._history) and last is not None and self._has_named_components(last):
            commits = None, None  # a memo of the listing does not cover the components
        pending = self._reader.read(version, self._accept_observed, *commits)
        if pending is not None and last is not None:
            # the count in the last visit's record may be of a failed visit
            self.outcome.pending_files = pending
            self.outcome.exception_count = last.exceptions
            self._guard.lapse(version.upstream)
        self.outcome.comparison_scope = self._reader.comparison_scope
        self.outcome.refused_count = self._reader.refused_count
        self.outcome.archived_count = self._reader.archived_count
        self._add_problems()
        if self._publisher.versions():
            record_viewer_links(self._recorder, self._dataset, self._reader.viewer_links)

    def _accept_observed(
        self, listing: Listing, snapshot: SpooledSnapshot, scratch: Path
    ) -> StateCommits | None:
        upstream = snapshot.header.version.upstream
        last = self._publisher.last_observed()
        if last is not None:
            difference, changes = self._component_publisher.difference(last, snapshot, scratch)
            if self._follows_history:
                # upstream keeps versions of its objects, so an overwrite is a version, no conflict
                changes.conflicts.clear()
            if not self._guard.accepts(listing, snapshot, last, difference, changes):
                return None
        elif self._guard.is_postponed(snapshot):
            return None
        self._guard.lapse(upstream)
        self.outcome.pending_files = snapshot.pending_files
        return self._publish(snapshot, MAIN_BRANCH, scratch, None)

    # --- earlier states

    def _mint_history(self, present: set[str]) -> bool:
        """Publish the earlier states; return False if no state may follow them now.

        ``present`` are upstream's names of the current observed states.
        """
        last = self._publisher.last_observed()
        states = list_earlier_states(self._source, self._dataset, last)
        self.outcome.earlier_state_count += len(states)
        if not self._publisher.versions() and states and self._guard.is_settling(states[-1].time):
            return False
        if last is not None and last.upstream in present:
            states = unseen_states(
                states, last, self._reader, self._component_publisher.has_same_files
            )
        for version in states:
            self._reader.read(version, self._accept_earlier_state, None)
            if self.outcome.hold_messages:
                return False
        last = self._publisher.last_observed()
        self._follows_history = last is not None and last.upstream not in present
        return True

    def _accept_earlier_state(
        self, listing: Listing, snapshot: SpooledSnapshot, scratch: Path
    ) -> StateCommits | None:
        """Publish an earlier state; upstream's own versions confirm its deletions."""
        upstream = snapshot.header.version.upstream
        last = self._publisher.last_observed()
        if last is not None and last.files and not snapshot.files:
            state = snapshot.state_digest()
            if not self._guard.is_released(upstream, state):
                self._guard.hold(upstream, state, "the listing is empty", last.files, last.files)
                return None
        self._publish(snapshot, MAIN_BRANCH, scratch, None)
        return None  # no memo: an earlier state is listed once

    # --- publishing, holds, incidents, events

    def _publish(
        self, snapshot: SpooledSnapshot, branch: str, scratch: Path, label: str | None
    ) -> StateCommits | None:
        snapshot = self._link_components(snapshot, scratch)
        self.outcome.unfinished_components |= snapshot.components.pending_ids
        if (
            snapshot.components.problems or snapshot.components.pending_ids
        ) and branch == PUBLISHED_BRANCH:
            return None  # a published version is final, so it must not lack components
        state = self._component_publisher.publish(snapshot, scratch)
        published = self._publisher.publish(state, branch, scratch, label)
        if published.is_new:
            self.outcome.new_labels.append(published.label)
            self._report_unreadable(snapshot, published.label)
        if published.is_new or branch == MAIN_BRANCH:
            self.outcome.exception_count = len(snapshot.header.exceptions)
        commits = published.commit, published.annex_commit
        upstream, inline = snapshot.header.version.upstream, snapshot.components.inline
        save_inline_components(self._store, self._dataset, upstream, commits, inline)
        # without commits no memo is kept, so that the next visit reads the listing again
        return commits if snapshot.components.is_final else None

    def _report_unreadable(self, snapshot: SpooledSnapshot, label: str) -> None:
        """Record an event for the sidecars of a new version that cannot be read."""
        facts = snapshot.header.facts
        sidecars = [value for name, value in facts.attributes if name == UNREADABLE]
        if sidecars:
            self._record_event(
                UNREADABLE,
                f"{label}: {', '.join(sidecars)} cannot be read (invalid JSON, or access "
                "refused); the metadata of the last readable version, if any, is kept",
                {"version": label, "sidecars": sidecars},
            )

    # --- components

    def _create_resolver(self, version: VersionRef) -> StoreComponentResolver:
        published = version.kind is VersionKind.PUBLISHED
        row = self._find_minted(version.upstream) if published else None
        previous = self._previous_state(row or self._previous_version())
        record_refusal = self._reader.record_refusal
        return StoreComponentResolver(
            self._recorder, self._settings.zarr, previous, record_refusal, reread_all=self._deep
        )

    def _previous_version(self) -> VersionRow | None:
        """Return the version whose components are kept or copied in the new one."""
        rows = self._publisher.versions()
        return self._publisher.last_observed() or (rows[-1] if rows else None)

    def _previous_state(self, row: VersionRow | None) -> PreviousState:
        return PreviousState(self._store, self._dataset, row)

    def _has_named_components(self, row: VersionRow) -> bool:
        """Return whether a version has components that upstream itself names."""
        components = self._recorder.ask(lambda index: list(index.subdatasets(row)))
        return bool(self._previous_state(row).inline_components()) or any(
            not is_split_component(self._dataset, one.dataset.partition(":")[2])
            for one in components
        )

    def _link_components(self, snapshot: SpooledSnapshot, scratch: Path) -> SpooledSnapshot:
        """Mirror the components to which a state links; return the state with the links."""
        visit_all = self._deep or self._history
        previous = self._previous_state(self._previous_version())
        record_refusal = self._reader.record_refusal
        linking = link_components(
            snapshot,
            self._component_visitor,
            previous,
            scratch,
            record_refusal,
            visit_all=visit_all,
        )
        self.outcome.new_component_states += linking.new_state_count
        self.outcome.earlier_state_count += linking.earlier_state_count
        self.outcome.incidents += linking.incidents
        resolved, upstream = linking.snapshot.components, snapshot.header.version.upstream
        for message in resolved.incidents:
            self._record_event("incident", message, {"version": upstream})
        self.outcome.incidents += resolved.incidents
        self.outcome.problems += resolved.problems
        return linking.snapshot

    def _record_incident(self, upstream: str, message: str) -> None:
        """Record an incident with a published version; report it as known if it is not new."""
        is_new = self._record_event("incident", message, {"version": upstream})
        (self.outcome.incidents if is_new else self.outcome.known_incidents).append(message)

    def _record_event(self, kind: str, message: str, data: dict[str, object]) -> bool:
        return record_event(self._recorder, self._dataset, kind, message, data)
