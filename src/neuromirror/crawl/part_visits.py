"""A visit of a part, which is a dataset of its own: its state is there before it is linked to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from neuromirror.crawl.events import raise_event
from neuromirror.crawl.links import Link, known_row, link_to, names_one_state
from neuromirror.crawl.mirrors import ZarrLimits
from neuromirror.crawl.part_entries import no_longer
from neuromirror.crawl.parts import Parts
from neuromirror.crawl.past import earlier_states, is_past, not_seen
from neuromirror.crawl.plan import taken_down
from neuromirror.crawl.prove import Proven
from neuromirror.crawl.publish import Publisher
from neuromirror.crawl.reading import Commits, Reading
from neuromirror.crawl.recorder import Recorder
from neuromirror.index import VersionRow
from neuromirror.model import VersionRef
from neuromirror.sources import Listing, Part, PartContradicted, PartUnavailable, Source
from neuromirror.store import ANNEX, MAIN, TAGS, Store

_WORD = "part"
"""One memo is kept of a part, and not one of each of its states."""


@dataclass(slots=True)
class Brought:
    """What a visit of a part gave: ``link`` None where there is nothing in it.

    ``minted`` counts new states, ``past`` the earlier ones that upstream listed; ``incident``
    says what is wrong with a state that was mirrored, or nothing; ``moved`` says that upstream has
    gone on from the state that was asked for, which is mirrored, to another one.
    """

    link: Link | None = None
    minted: int = 0
    past: int = 0
    incident: str = ""
    moved: str = ""


class PartVisits:
    """Brings parts of a dataset up to date, each under its own lock; shared by threads.

    With ``deep`` a part is read whether it is known or not; with ``history`` earlier states that
    upstream can list go before the present one. What was asked so once is not asked again: several
    versions of a dataset may hold the same state of a part.
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
        self._brought: dict[tuple[str, str], Brought] = {}

    def bring(self, part: Part) -> Brought:
        """Brings a part to its present state, as far as upstream proves it.

        Waits while another visit has it. Raises what the source raises.
        """
        dataset = part.dataset
        state = dataset.local_id, part.version.upstream
        with self._store.lock(dataset.dataset_id, dataset.name, wait=math.inf):
            stone = self._recorder.ask(lambda index: index.tombstone(dataset.name))
            if stone is not None:
                raise PartUnavailable(f"{dataset.name}: {taken_down(stone)}", "taken down")
            brought = self._brought.get(state)
            if brought is not None:
                return replace(brought, minted=0, past=0)
            # never one of the datasets that link it, since others may come first elsewhere
            within = dataset.local_id.rpartition("/")[0] or "parts"
            publisher = Publisher(
                self._store,
                self._recorder,
                dataset,
                within=within,
                index_entries=self._limits.index_entries,
            )
            publisher.catch_up()
            visit = _Visit(
                part,
                self._source,
                self._recorder,
                publisher,
                Parts(self._store, self._recorder, publisher, self._limits),
                Reading(self._source, self._store, self._recorder, dataset, attempts=1),
            )
            visit.run(deep=self._deep, history=self._history)
            if publisher.repository.exists():
                publisher.repository.refresh()
            again = (self._deep or self._history) and not visit.brought.moved
            if again and names_one_state(part.version):
                self._brought[state] = visit.brought
            return visit.brought


class _Visit:
    """One visit of one part; the caller holds the part's lock."""

    def __init__(
        self,
        part: Part,
        source: Source,
        recorder: Recorder,
        publisher: Publisher,
        parts: Parts,
        reading: Reading,
    ) -> None:
        self._part = part
        self._source = source
        self._recorder = recorder
        self._publisher = publisher
        self._parts = parts
        self._reading = reading
        self.brought = Brought()

    def run(self, *, deep: bool, history: bool) -> None:
        """Brings the part up to date; what it came to is in ``brought``."""
        if history:
            self._take_history()
        version = self._part.version
        row = self._known(version)
        if row is None:
            self._read()
        elif not deep:
            self._link(row)
        else:
            self._link(row)
            self._read_again(row)

    def _known(self, version: VersionRef) -> VersionRow | None:
        return self._recorder.ask(lambda index: known_row(index, version))

    def _link(self, row: VersionRow) -> None:
        self.brought.link = self._recorder.ask(lambda index: link_to(index, row))

    # --- the present state

    def _read(self) -> None:
        refs = self._publisher.repository.refs()
        unread = self._reading.read(
            self._part.version,
            self._take,
            refs.get(MAIN),
            refs.get(ANNEX),
            listing=self._part.listing,
            word=_WORD,
        )
        last = self._publisher.last_observed() if unread is not None else None
        if last is not None:
            self._link(last)

    def _take(self, listing: Listing, proven: Proven, scratch: Path) -> Commits | None:
        version = proven.header.version
        # upstream may have gone on to another state since it was asked which it is
        row = self._known(version)
        if row is not None:
            self._link(row)
            return row.commit, row.annex_commit
        if proven.empty:
            if self._publisher.rows():
                raise PartContradicted(
                    f"{version.dataset.name}: upstream lists no files any more, and no checksum "
                    "that says so"
                )
            return None
        return self._publish(proven, scratch, version.upstream if names_one_state(version) else "")

    def _publish(self, proven: Proven, scratch: Path, label: str) -> Commits:
        state = self._parts.publish(proven, scratch)
        taken = TAGS + label in self._publisher.repository.refs()
        chosen = None if taken or not label else label
        done = self._publisher.publish(state, MAIN, scratch, chosen)
        self.brought.minted += done.new
        last = self._publisher.last_observed()
        assert last is not None
        self._link(last)
        return done.commit, done.annex_commit

    def _read_again(self, row: VersionRow) -> None:
        """Asks whether upstream still has just the state that is mirrored."""

        def take(listing: Listing, proven: Proven, scratch: Path) -> Commits | None:
            present = proven.header.version.upstream
            if present == row.upstream:
                return row.commit, row.annex_commit
            self.brought.moved = (
                f"{self._part.dataset.name} is {present} now, where {row.upstream} was mirrored"
            )
            return self._take(listing, proven, scratch)

        try:
            self._reading.read(
                self._part.version, take, row.commit, listing=self._part.listing, word=_WORD
            )
        except PartContradicted as error:
            self.brought.incident = no_longer(self._part, error)
            data: dict[str, object] = {"version": row.upstream}
            raise_event(self._recorder, self._part.dataset, "incident", self.brought.incident, data)

    # --- earlier states

    def _take_history(self) -> None:
        """Mints the earlier states that upstream can list and the mirror lacks."""
        last = self._publisher.last_observed()
        states = earlier_states(self._source, self._part.dataset, last)
        self.brought.past = len(states)
        if last is not None and not is_past(last.upstream):
            states = not_seen(states, last, self._reading, self._parts.has_same_files)

        def take(listing: Listing, proven: Proven, scratch: Path) -> None:
            # what was deleted whole is no state of a Zarr
            if not proven.empty:
                self._publish(proven, scratch, "")

        for version in states:
            self._reading.read(version, take, None)
