"""Datasets that need credentials: kept in a private store, and moved when they are opened.

A run reports only the name of such a dataset, the word ``embargoed``, and the part of an error that
reveals neither content nor URLs. Failures are recorded as events of the private store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.crawl.guards import record_event
from neuromirror.crawl.plan import Result, refused_note
from neuromirror.crawl.recorder import Recorder, list_known, open_recorder, rebuild_index
from neuromirror.index import Index
from neuromirror.model import (
    ConfigurationError,
    DatasetRef,
    EventRaised,
    NeuromirrorError,
    VersionMinted,
    current_timestamp,
)
from neuromirror.sources import EMBARGOED, EmbargoAwareSource, Source
from neuromirror.store import Store
from neuromirror.store.private_store import (
    check_copy_complete,
    copy_dataset,
    dataset_entries,
    find_private_store,
    open_private_store,
    remove_files,
    remove_from_journal,
    restrict_to_owner,
)

_MOVE_TIMEOUT = 600.0
"""Seconds to wait for another move."""


class NotPublicError(NeuromirrorError):
    """Upstream says that a dataset is open, but refuses requests for it without a token."""


def private_source(source: Source) -> Source | None:
    """Return the source that reads the embargoed datasets of an archive, with credentials.

    Without ``embargoed = "private"`` in the mirror file, it returns None.
    """
    return source.private() if isinstance(source, EmbargoAwareSource) else None


def is_private_only(source: Source) -> bool:
    """Return whether all datasets of an archive must stay out of the public store."""
    return isinstance(source, EmbargoAwareSource) and source.is_private_only


def check_public(source: Source, dataset: DatasetRef) -> None:
    """Check that a dataset that upstream calls open is readable without a token.

    Raises
    ------
    NotPublicError
        If it is not.
    """
    if isinstance(source, EmbargoAwareSource) and not source.may_be_public(dataset):
        raise NotPublicError(
            f"{dataset.name}: upstream calls it open, but refuses requests without a token; "
            "nothing of it is published"
        )


class PrivateStore(Struct, frozen=True):
    """Opens the private store of a run over the public store, and checks that it is usable.

    Attributes
    ----------
    folder
        The private store's folder; None if none was given.
    public
        The public store.
    """

    folder: Path | None
    public: Store

    def check_sources(self, sources: Iterable[Source]) -> None:
        """Check that there is a valid private store if a source needs one.

        Parameters
        ----------
        sources
            The sources of a run.

        Raises
        ------
        ConfigurationError
            If a source needs a private store, and none is configured or its folder is not valid.
        """
        private_sources = [
            view for source in sources if (view := private_source(source)) is not None
        ]
        if self.folder is not None:
            find_private_store(self.folder, self.public.root)
        elif private_sources:
            raise ConfigurationError(
                f"mirror '{private_sources[0].mirror}' keeps datasets that need credentials in a "
                "private store, but no private store is configured; set its folder, outside the "
                "public store, with --private-store or NEUROMIRROR_PRIVATE_STORE, or sync the "
                "other mirrors by name"
            )

    @contextmanager
    def open(self) -> Iterator[tuple[Store, Recorder]]:
        """Open the private store, created if necessary; one run at a time.

        Yields
        ------
        tuple of Store and Recorder
            The private store and its recorder.

        Raises
        ------
        StoreBusyError
            If another run has the private store.
        """
        assert self.folder is not None
        store = open_private_store(self.folder, self.public.root)
        with ExitStack() as stack:
            stack.callback(restrict_to_owner, store.root)
            stack.enter_context(_lock_run(store))
            yield store, stack.enter_context(open_recorder(store, store.index_path))

    @contextmanager
    def open_index(self) -> Iterator[Index | None]:
        """Open the private index as it is, for a run that writes nothing.

        Yields
        ------
        Index or None
            The index; None if missing.
        """
        store = self._find_store()
        if store is None or not store.index_path.exists():
            yield None
            return
        with Index.open_readonly(store.index_path) as index:
            yield index

    def _find_store(self) -> Store | None:
        if self.folder is None:
            return None
        return find_private_store(self.folder, self.public.root)

    def datasets_of(self, mirror: str) -> PrivateDatasets:
        """Return the datasets of a mirror that are in the private store.

        Parameters
        ----------
        mirror
            The name of the mirror.

        Returns
        -------
        PrivateDatasets
            The store and the local ids; empty without a private store.
        """
        store = self._find_store()
        if store is None:
            return PrivateDatasets(None, frozenset())
        names: set[str] = set()
        with self.open_index() as index:
            if index is not None and mirror in {one.mirror for one in index.crawl.mirrors()}:
                names = {one.local_id for one in index.datasets.select(mirror)}
        return PrivateDatasets(store, frozenset(names))

    def move_to_public(self, dataset: DatasetRef, source: Source, recorder: Recorder) -> None:
        """Move a dataset that was opened, with its components, into the public store.

        The private store drops it once the public one has all of it. An interrupted move can be
        repeated.

        Parameters
        ----------
        dataset
            The dataset. The caller holds its lock in the public store.
        source
            The source without a token.
        recorder
            The recorder of the public store.

        Raises
        ------
        NotPublicError
            If the dataset is not readable without a token.
        NeuromirrorError
            If the copy cannot be completed.
        """
        store = self._find_store()
        assert store is not None
        if not (isinstance(source, EmbargoAwareSource) and source.is_open(dataset)):
            raise NotPublicError(
                f"{dataset.name}: upstream refuses requests without a token; it stays in the "
                "private store"
            )
        with ExitStack() as stack:
            stack.callback(restrict_to_owner, store.root)
            stack.enter_context(_lock_run(store, _MOVE_TIMEOUT))
            moving = [*self._components(store, dataset, recorder), dataset]
            for one in moving:
                if one != dataset:
                    stack.enter_context(self.public.lock(one.dataset_id, one.name, _MOVE_TIMEOUT))
                stack.enter_context(store.lock(one.dataset_id, one.name, _MOVE_TIMEOUT))
            # components come before the datasets that link them
            for one in moving:
                missing = copy_dataset(store, self.public, one)
                if missing:
                    recorder.record(*missing)
            for one in moving:
                check_copy_complete(store, self.public, one)
            for one in moving:
                remove_from_journal(store, one)
            rebuild_index(store, store.index_path)
            for one in moving:
                remove_files(store, one)

    def _components(
        self, store: Store, dataset: DatasetRef, recorder: Recorder
    ) -> list[DatasetRef]:
        """Return the components of a dataset's versions that are partly in the private store.

        Both stores are searched: after an interrupted move only one of them may have them.
        """
        component_ids = _component_ids(recorder, dataset.name)
        with open_recorder(store, store.index_path) as own:
            component_ids |= _component_ids(own, dataset.name)
        found = dict.fromkeys(
            entry.dataset_ref
            for one in (store, self.public)
            for _, entry in one.journal.read(0)
            if isinstance(entry, VersionMinted)
            and entry.mirror == dataset.mirror
            and (entry.local_id in component_ids or entry.within == dataset.local_id)
        )
        return [
            one
            for one in found
            if store.repositories.of(one).exists() or dataset_entries(store, one)
        ]


class PrivateDatasets(Struct, frozen=True):
    """The datasets of one mirror that are in the private store; supports ``dataset in``."""

    store: Store | None
    names: frozenset[str]

    def __contains__(self, dataset: object) -> bool:
        if self.store is None or not isinstance(dataset, DatasetRef):
            return False
        # an interrupted move may have left only one of the two
        return dataset.local_id in self.names or self.store.repositories.of(dataset).exists()


def conceal_result(result: Result, store: Store, recorder: Recorder) -> Result:
    """Return a result of the private store without details that the public must not see.

    The message of a failure is recorded as an event of the private store.
    """
    name, folder = result.dataset, store.root
    if result.status == "error":
        mirror, colon, local_id = name.partition(":")
        dataset = name if colon else None
        last = list_known(recorder, lambda index: index.crawl.events(dataset, limit=1))
        if result.message not in [event.message for event in last]:
            names = mirror, local_id, "unavailable", result.message
            recorder.record(EventRaised(*names, current_timestamp()))
        cause = f" ({result.cause})" if result.cause else ""
        message = f"failed{cause}; run 'neuromirror --store {folder} events' for the reason"
    elif result.visit == "held":
        message = f"a listing is held; see 'neuromirror --store {folder} holds'"
    elif result.visit == "not_found":
        message = "deleted upstream; the copy in the private store is kept"
    elif result.status == "ok":
        message = "new state in the private store"
    else:
        message = "the private store is up to date"
    message += refused_note(result.refused_count)
    return replace(result, message=f"{EMBARGOED}: {message}", versions=(), traffic={})


def unreadable_result(dataset: DatasetRef, reason: str) -> Result | None:
    """Return the failure for a dataset of the private store that the token may not read any more.

    For another ``reason`` than the embargo it returns None.
    """
    if reason != EMBARGOED:
        return None
    message = f"{dataset.name}: not readable with the token; the copy in the private store is kept"
    return Result(dataset.name, "error", message, "failed")


def embargo_incident(store: Store, dataset: DatasetRef, recorder: Recorder) -> Result | None:
    """Return the incident for an embargoed dataset that the public store has; None for any other.

    Its public copy is kept and still shown.
    """
    if not store.repositories.of(dataset).exists():
        return None
    message = (
        f"{dataset.name} is embargoed and was open before; its public copy is kept and still shown"
    )
    if record_event(recorder, dataset, "incident", message, {}):
        return Result(dataset.name, "error", message)
    return Result(dataset.name, "notneeded", f"known incident: {message}")


def _lock_run(store: Store, wait: float = 0.0) -> AbstractContextManager[None]:
    """Keep other runs away from the private store: a move rewrites its journal."""
    return store.lock("run", f"the private store {store.root}", wait)


def _component_ids(recorder: Recorder, name: str) -> set[str]:
    """Return the local ids of the components of all versions of a dataset."""
    components = list_known(
        recorder,
        lambda index: chain.from_iterable(
            map(index.versions.subdatasets, list(index.versions.of(name)))
        ),
    )
    return {component.dataset.partition(":")[2] for component in components}
