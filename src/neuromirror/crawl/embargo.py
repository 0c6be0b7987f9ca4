"""Dandisets under embargo: kept in a private store, and moved to the public one when they open.

Of what is in the private store a run says a dataset's name and the word ``embargoed``. What went
wrong there, the private store's own events tell.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from neuromirror.crawl.guards.events import record_event
from neuromirror.crawl.index_rebuild import rebuild_index
from neuromirror.crawl.recorder import Recorder, open_recorder
from neuromirror.crawl.results import Result
from neuromirror.crawl.timestamps import current_timestamp
from neuromirror.index import Index, UnknownDatasetError, UnknownMirrorError
from neuromirror.model import (
    ConfigurationError,
    DatasetRef,
    EventRaised,
    NeuromirrorError,
    VersionMinted,
)
from neuromirror.sources import Source
from neuromirror.store import Store, dataset_ref_of
from neuromirror.store.dataset_move import (
    check_copy_complete,
    copy_dataset,
    dataset_entries,
    remove_files,
    remove_from_journal,
)
from neuromirror.store.private_store import (
    find_private_store,
    open_private_store,
    restrict_to_owner,
)

EMBARGOED = "embargoed"

_MOVE_TIMEOUT = 600.0
"""Seconds that a move waits for another one."""


@runtime_checkable
class EmbargoAwareSource(Protocol):
    """A source some of whose datasets are shown to their owners alone."""

    def private(self) -> Source | None:
        """The source of these alone, with the right to read them; None where they are skipped.

        Raises ConfigurationError where something is missing for it.
        """
        ...

    def is_open(self, dataset: DatasetRef) -> bool:
        """Whether anybody may read a dataset."""
        ...

    def may_be_public(self, dataset: DatasetRef) -> bool:
        """Whether a dataset that upstream calls open may go into the public store.

        Upstream is asked as by a stranger, unless every request is a stranger's anyway.
        """
        ...


class NotPublicError(NeuromirrorError):
    """A dataset that upstream calls open, and does not show to those who ask without a token."""


def private_source(source: Source) -> Source | None:
    """The source of what is under embargo, where the mirror asks for that."""
    return source.private() if isinstance(source, EmbargoAwareSource) else None


def check_public(source: Source, dataset: DatasetRef) -> None:
    """Check that strangers may read a dataset that upstream calls open; raises NotPublicError."""
    if isinstance(source, EmbargoAwareSource) and not source.may_be_public(dataset):
        raise NotPublicError(
            f"{dataset.name}: upstream calls it open, and refuses it to those who ask without a "
            "token; nothing of it is published"
        )


class PrivateStore:
    """The private store of a run over the public one; ``folder`` None: no one named it."""

    def __init__(self, folder: Path | None, public: Store) -> None:
        self._folder = folder
        self._public = public

    def check_sources(self, sources: Iterable[Source]) -> None:
        """Raises ConfigurationError where a source needs a private store and there can be none."""
        private_sources = [
            view for source in sources if (view := private_source(source)) is not None
        ]
        if self._folder is not None:
            find_private_store(self._folder, self._public.root)
        elif private_sources:
            raise ConfigurationError(
                f"mirror '{private_sources[0].mirror}' keeps embargoed dandisets in a private "
                f"store, and "
                "none is named; name its folder, outside the public store, with --private-store"
                " or NEUROMIRROR_PRIVATE_STORE, or sync the other mirrors by name"
            )

    @contextmanager
    def open(self) -> Iterator[tuple[Store, Recorder]]:
        """The private store, made if it is missing, and its recorder; one run at a time.

        Raises StoreBusyError.
        """
        assert self._folder is not None
        store = open_private_store(self._folder, self._public.root)
        with ExitStack() as stack:
            stack.callback(restrict_to_owner, store.root)
            stack.enter_context(_exclusive_run(store))
            yield store, stack.enter_context(open_recorder(store, store.index_path))

    @contextmanager
    def open_index(self) -> Iterator[Index | None]:
        """The private index as it is, for a run that writes nothing; None without one."""
        store = self._find_store()
        if store is None or not store.index_path.exists():
            yield None
            return
        with Index.open_readonly(store.index_path) as index:
            yield index

    def _find_store(self) -> Store | None:
        if self._folder is None:
            return None
        return find_private_store(self._folder, self._public.root)

    def datasets_of(self, mirror: str) -> PrivateDatasets:
        """Which datasets of a mirror are in the private store."""
        store = self._find_store()
        if store is None:
            return PrivateDatasets(None, frozenset())
        names: set[str] = set()
        with self.open_index() as index:
            if index is not None and mirror in {one.mirror for one in index.mirror_status()}:
                names = {one.local_id for one in index.datasets(mirror)}
        return PrivateDatasets(store, frozenset(names))

    def move_to_public(self, dataset: DatasetRef, source: Source, recorder: Recorder) -> None:
        """Moves a dataset that was opened, with its parts, into the public store.

        The private store forgets it when the public one has all of it. Killed anywhere and done
        again, the outcome is the same. The caller holds the dataset's lock in the public store.
        Raises NotPublicError, and whatever keeps a copy from being whole.
        """
        store = self._find_store()
        assert store is not None
        if not (isinstance(source, EmbargoAwareSource) and source.is_open(dataset)):
            raise NotPublicError(
                f"{dataset.name}: embargoed for those who ask without a token; it stays in the "
                "private store"
            )
        with ExitStack() as stack:
            stack.callback(restrict_to_owner, store.root)
            stack.enter_context(_exclusive_run(store, _MOVE_TIMEOUT))
            moving = [*self._components(store, dataset, recorder), dataset]
            for one in moving:
                if one != dataset:
                    stack.enter_context(self._public.lock(one.dataset_id, one.name, _MOVE_TIMEOUT))
                stack.enter_context(store.lock(one.dataset_id, one.name, _MOVE_TIMEOUT))
            move_datasets(store, self._public, moving, recorder)

    def _components(
        self, store: Store, dataset: DatasetRef, recorder: Recorder
    ) -> list[DatasetRef]:
        """The parts of a dataset's versions of which the private store has anything.

        Both stores are asked: a move that was killed may have left only one that knows.
        """
        component_ids = recorder.ask(lambda index: _component_ids(index, dataset.name))
        with open_recorder(store, store.index_path) as own:
            component_ids |= own.ask(lambda index: _component_ids(index, dataset.name))
        found = dict.fromkeys(
            dataset_ref_of(entry)
            for one in (store, self._public)
            for _, entry in one.read_entries(0)
            if isinstance(entry, VersionMinted)
            and entry.mirror == dataset.mirror
            and (entry.local_id in component_ids or entry.within == dataset.local_id)
        )
        return [
            one for one in found if store.repository(one).exists() or dataset_entries(store, one)
        ]


class PrivateDatasets(Container[DatasetRef]):
    """The datasets of one mirror that are in the private store."""

    def __init__(self, store: Store | None, names: frozenset[str]) -> None:
        self._store = store
        self._names = names

    def __contains__(self, dataset: object) -> bool:
        if self._store is None or not isinstance(dataset, DatasetRef):
            return False
        # a move that was killed may have left the one or the other
        return dataset.local_id in self._names or self._store.repository(dataset).exists()


def move_datasets(
    source: Store, target: Store, datasets: Iterable[DatasetRef], recorder: Recorder
) -> None:
    """Carries datasets from a store to another, a dataset after its parts; see store.moving.

    ``recorder`` is the target's. The caller holds all locks.
    """
    moving = list(datasets)
    for one in moving:
        missing = copy_dataset(source, target, one)
        if missing:
            recorder.record(*missing)
    for one in moving:
        check_copy_complete(source, target, one)
    for one in moving:
        remove_from_journal(source, one)
    rebuild_index(source, source.index_path)
    for one in moving:
        remove_files(source, one)


def conceal_result(result: Result, store: Store, recorder: Recorder) -> Result:
    """A result of the private store, fit to be shown: without all that tells of what is in it.

    What a failure said becomes an event of the private store.
    """
    name, folder = result.dataset, store.root
    if result.status == "error":
        mirror, _, local_id = name.partition(":")
        _record_private_event(recorder, mirror, local_id, result.message)
        message = f"failed; 'neuromirror --store {folder} events' says why"
    elif result.visit == "held":
        message = f"a listing is held; see 'neuromirror --store {folder} holds'"
    elif result.visit == "not_found":
        message = "deleted upstream; what the private store has of it is kept"
    elif result.status == "ok":
        message = "the private store has a new state of it"
    else:
        message = "the private store has it as it is"
    return replace(result, message=f"{EMBARGOED}: {message}", versions=(), traffic={})


def _record_private_event(recorder: Recorder, mirror: str, local_id: str, message: str) -> None:
    """Keeps what went wrong as an event, unless the last one said the same."""
    try:
        name = f"{mirror}:{local_id}" if local_id else None
        last = recorder.ask(lambda index: next(index.events(name, limit=1), None))
        if last is not None and last.message == message:
            return
    except (UnknownDatasetError, UnknownMirrorError):
        pass
    recorder.record(EventRaised(mirror, local_id, "unavailable", message, current_timestamp()))


def unreadable_result(dataset: DatasetRef, reason: str) -> Result | None:
    """How a dataset of the private store fares that the token may not read; None if it is open."""
    if reason != EMBARGOED:
        return None
    message = f"{dataset.name}: the token may not read it; what the private store has is kept"
    return Result(dataset.name, "error", message, "failed")


def embargo_incident(store: Store, dataset: DatasetRef, recorder: Recorder) -> Result | None:
    """The incident of a dataset that was open and is under embargo; None for any other one."""
    if not store.repository(dataset).exists():
        return None
    message = (
        f"{dataset.name} is embargoed, and was open before; what was mirrored of it is kept, and "
        "still shown"
    )
    if record_event(recorder, dataset, "incident", message, {}):
        return Result(dataset.name, "error", message)
    return Result(dataset.name, "notneeded", f"known incident: {message}")


@contextmanager
def _exclusive_run(store: Store, wait: float = 0.0) -> Iterator[None]:
    """Keeps other runs out of the private store: a move makes its journal anew."""
    with store.lock("run", f"the private store {store.root}", wait):
        yield


def _component_ids(index: Index, name: str) -> set[str]:
    """The local ids of the parts of all versions of a dataset."""
    try:
        components = [
            component for one in list(index.versions(name)) for component in index.subdatasets(one)
        ]
        return {component.dataset.partition(":")[2] for component in components}
    except (UnknownDatasetError, UnknownMirrorError):
        return set()
