"""Visit a component, which is a dataset of its own, before a dataset links to it."""

from __future__ import annotations

import math
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.config.mirror_settings import ZarrLimits
from neuromirror.crawl.components.component_publisher import ComponentPublisher
from neuromirror.crawl.components.failures import lost_files_message
from neuromirror.crawl.components.subdataset_links import (
    SubdatasetLink,
    find_minted_version,
    link_to_version,
    names_exact_state,
)
from neuromirror.crawl.guards.events import record_event
from neuromirror.crawl.plan import takedown_message
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.visit.history import is_earlier_state, list_earlier_states, unseen_states
from neuromirror.crawl.visit.publisher import Publisher
from neuromirror.crawl.visit.snapshot import SpooledSnapshot
from neuromirror.crawl.visit.version_reader import StateCommits, VersionReader
from neuromirror.index import VersionRow
from neuromirror.model import VersionRef
from neuromirror.sources import (
    ComponentEntry,
    ComponentMismatchError,
    ComponentUnavailableError,
    Listing,
    Source,
)
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, TAG_PREFIX, Store

_MEMO_NAME = "component"
"""The name of a component's only memo; a component has one memo, not one per state."""


class ComponentVisitResult(Struct):
    """The result of visiting a component: a Zarr or volume scale with a dataset of its own.

    Attributes
    ----------
    link
        The link to the component's state; None if the component is empty.
    new_state_count
        The number of new states.
    earlier_state_count
        The number of earlier states that upstream listed.
    incident
        The defect of a mirrored state, or an empty text.
    change_message
        A message if the archive has meanwhile replaced the requested state, although that state is
        mirrored; else empty.
    """

    link: SubdatasetLink | None = None
    new_state_count: int = 0
    earlier_state_count: int = 0
    incident: str = ""
    change_message: str = ""


class ComponentVisitor:
    """Visits the components of a dataset that are datasets of their own, each under its own lock.

    It is thread-safe. Each state is visited once, because several versions of a dataset may have
    the same state of a component.

    Parameters
    ----------
    source, store, recorder
        The mirror's source, and the store with its recorder.
    limits
        The ``[zarr]`` table of the mirror file.
    deep
        Whether a component is read even if its state is known.
    history
        Whether the earlier states that upstream can list are published first.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        recorder: Recorder,
        limits: ZarrLimits,
        *,
        deep: bool,
        history: bool,
    ) -> None:
        self._source = source
        self._store = store
        self._recorder = recorder
        self._limits = limits
        self._deep = deep
        self._history = history
        self._results: dict[tuple[str, str], ComponentVisitResult] = {}

    def visit(self, component: ComponentEntry) -> ComponentVisitResult:
        """Bring a component to its current state; wait while another visit has its lock.

        Raises
        ------
        ComponentUnavailableError
            If the component was taken down.
        NeuromirrorError
            Whatever the source raises.
        """
        dataset = component.dataset
        state = dataset.local_id, component.version.upstream
        with self._store.lock(dataset.dataset_id, dataset.name, wait=math.inf):
            tombstone = self._recorder.ask(lambda index: index.tombstone(dataset.name))
            if tombstone is not None:
                raise ComponentUnavailableError(
                    f"{dataset.name}: {takedown_message(tombstone)}", "taken down"
                )
            result = self._results.get(state)
            if result is not None:
                return replace(result, new_state_count=0, earlier_state_count=0)
            # not a dataset that links it: in another store, another dataset may come first
            within = dataset.local_id.rpartition("/")[0] or "parts"
            publisher = Publisher(
                self._store,
                self._recorder,
                dataset,
                within=within,
                index_entries=self._limits.index_entries,
            )
            publisher.catch_up()
            component_visit = _ComponentVisit(
                component,
                self._source,
                self._recorder,
                publisher,
                ComponentPublisher(self._store, self._recorder, publisher, self._limits),
                VersionReader(self._source, self._store, self._recorder, dataset, attempts=1),
            )
            component_visit.run(deep=self._deep, history=self._history)
            if publisher.repository.exists():
                publisher.repository.update_server_info()
            is_reusable = (
                self._deep or self._history
            ) and not component_visit.result.change_message
            if is_reusable and names_exact_state(component.version):
                self._results[state] = component_visit.result
            return component_visit.result


class _ComponentVisit:
    """One visit of one component; the caller holds the component's lock."""

    def __init__(
        self,
        component: ComponentEntry,
        source: Source,
        recorder: Recorder,
        publisher: Publisher,
        component_publisher: ComponentPublisher,
        reader: VersionReader,
    ) -> None:
        self._component = component
        self._source = source
        self._recorder = recorder
        self._publisher = publisher
        self._component_publisher = component_publisher
        self._reader = reader
        self.result = ComponentVisitResult()

    def run(self, *, deep: bool, history: bool) -> None:
        """Bring the component up to date, and set ``result``."""
        if history:
            self._mint_history()
        version = self._component.version
        row = self._find_minted(version)
        if row is None:
            self._read()
        elif not deep:
            self._link(row)
        else:
            self._link(row)
            self._verify_state(row)

    def _find_minted(self, version: VersionRef) -> VersionRow | None:
        return self._recorder.ask(lambda index: find_minted_version(index, version))

    def _link(self, row: VersionRow) -> None:
        self.result.link = self._recorder.ask(lambda index: link_to_version(index, row))

    # --- the present state

    def _read(self) -> None:
        refs = self._publisher.repository.refs()
        unread = self._reader.read(
            self._component.version,
            self._accept,
            refs.get(MAIN_BRANCH),
            refs.get(ANNEX_BRANCH),
            listing=self._component.listing,
            memo_name=_MEMO_NAME,
        )
        last = self._publisher.last_observed() if unread is not None else None
        if last is not None:
            self._link(last)

    def _accept(
        self, listing: Listing, snapshot: SpooledSnapshot, scratch: Path
    ) -> StateCommits | None:
        version = snapshot.header.version
        # upstream may have changed the state since it stated the version
        row = self._find_minted(version)
        if row is not None:
            self._link(row)
            return row.commit, row.annex_commit
        if snapshot.is_empty:
            if self._publisher.versions():
                raise ComponentMismatchError(
                    f"{version.dataset.name}: upstream lists no files, without a checksum that "
                    "confirms it"
                )
            return None
        return self._publish(
            snapshot, scratch, version.upstream if names_exact_state(version) else ""
        )

    def _publish(self, snapshot: SpooledSnapshot, scratch: Path, label: str) -> StateCommits:
        state = self._component_publisher.publish(snapshot, scratch)
        is_taken = TAG_PREFIX + label in self._publisher.repository.refs()
        free_label = None if is_taken or not label else label
        published = self._publisher.publish(state, MAIN_BRANCH, scratch, free_label)
        self.result.new_state_count += published.is_new
        last = self._publisher.last_observed()
        assert last is not None
        self._link(last)
        return published.commit, published.annex_commit

    def _verify_state(self, row: VersionRow) -> None:
        """Check that upstream still has the state that is mirrored."""

        def accept(
            listing: Listing, snapshot: SpooledSnapshot, scratch: Path
        ) -> StateCommits | None:
            present = snapshot.header.version.upstream
            if present == row.upstream:
                self._component_publisher.renew(row, snapshot, scratch)
                return row.commit, self._publisher.repository.refs()[ANNEX_BRANCH]
            name = self._component.dataset.name
            self.result.change_message = f"{name} is {present} now, not {row.upstream}"
            return self._accept(listing, snapshot, scratch)

        try:
            self._reader.read(
                self._component.version,
                accept,
                row.commit,
                listing=self._component.listing,
                memo_name=_MEMO_NAME,
            )
        except ComponentMismatchError as error:
            self.result.incident = lost_files_message(self._component, error)
            data: dict[str, object] = {"version": row.upstream}
            record_event(
                self._recorder, self._component.dataset, "incident", self.result.incident, data
            )

    # --- earlier states

    def _mint_history(self) -> None:
        """Publish the earlier states that upstream can list and the mirror lacks."""
        last = self._publisher.last_observed()
        states = list_earlier_states(self._source, self._component.dataset, last)
        self.result.earlier_state_count = len(states)
        if last is not None and not is_earlier_state(last.upstream):
            states = unseen_states(
                states, last, self._reader, self._component_publisher.has_same_files
            )

        def accept(listing: Listing, snapshot: SpooledSnapshot, scratch: Path) -> None:
            # a deleted Zarr has no state
            if not snapshot.is_empty:
                self._publish(snapshot, scratch, "")

        for version in states:
            self._reader.read(version, accept, None)
