"""Mint states of a dataset again from upstream, in an empty store.

The scratch store is filled by the same code as a real one, without data of earlier visits: no
index, no memos, no known URLs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import ClassVar

from msgspec.structs import replace
from pydantic import BaseModel

from neuromirror.crawl import DatasetVisit, GuardSettings, Mirror, Recorder, release_hold
from neuromirror.index import SubdatasetRow, VersionRow
from neuromirror.model import (
    DatasetHint,
    DatasetRef,
    NeuromirrorError,
    VersionKind,
    VersionRef,
)
from neuromirror.sources import Estimate, Listing, ListingEntry, Source, VisitContext
from neuromirror.store import Store


class NotMintedError(NeuromirrorError):
    """A version that must be minted again for a comparison cannot be minted."""


class SelectedVersionsSource:
    """A source that lists only some versions of a dataset, so that a visit mints only these.

    Parameters
    ----------
    source
        The archive's source.
    versions
        The versions to mint, with their names in the store.
    upstream_versions
        Upstream's version by the name in the store, for versions of which upstream has another name
        (an earlier state).
    """

    Options: ClassVar[type[BaseModel]] = BaseModel

    def __init__(
        self,
        source: Source,
        versions: Sequence[VersionRef],
        upstream_versions: Mapping[str, VersionRef] | None = None,
    ) -> None:
        self._source = source
        self._versions = list(versions)
        self._upstream_versions = upstream_versions or {}
        self.mirror = source.mirror
        self.uri = source.uri

    def dataset(self, local_id: str) -> DatasetRef:
        """Return the result of the wrapped source."""
        return self._source.dataset(local_id)

    def datasets(self) -> Iterator[DatasetHint]:
        """Return the result of the wrapped source."""
        return self._source.datasets()

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """Return the result of the wrapped source."""
        return self._source.hint(dataset)

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Return the selected versions."""
        return self._versions

    def history(self, dataset: DatasetRef, since: datetime | None) -> list[VersionRef]:
        """Return no earlier states; they are among the selected versions if requested."""
        return []

    def capabilities(self) -> Mapping[str, str]:
        """Return the result of the wrapped source."""
        return self._source.capabilities()

    def estimate(self, dataset: DatasetRef) -> Estimate | None:
        """Return the result of the wrapped source."""
        return self._source.estimate(dataset)

    def superdataset(self, id_prefix: str) -> DatasetRef | None:
        """Return the result of the wrapped source."""
        return self._source.superdataset(id_prefix)

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        """Return the listing of a version, or of an earlier state under its new name."""
        upstream_version = self._upstream_versions.get(version.upstream)
        if upstream_version is None:
            return self._source.listing(version, context)
        return _RenamedListing(self._source.listing(upstream_version, context), version.upstream)


class _RenamedListing(Listing):
    """A listing of an earlier state, with the upstream name of the version in the store."""

    def __init__(self, listing: Listing, upstream: str) -> None:
        vars(self).update(vars(listing), can_find_present=False)
        self._listing = listing
        self._upstream = upstream

    def entries(self) -> Iterator[ListingEntry]:
        yield from self._listing.entries()
        # the version is only known at the end of the listing
        self.version = replace(self._listing.version, upstream=self._upstream)
        self.facts, self.documents = self._listing.facts, self._listing.documents

    def confirm_version(self) -> VersionRef:
        return replace(self._listing.confirm_version(), upstream=self._upstream)

    def problems(self) -> Sequence[str]:
        return self._listing.problems()

    def refused_count(self) -> int:
        return self._listing.refused_count()


class Reminter:
    """Mints versions of one dataset again from upstream, in a scratch store without guards.

    Parameters
    ----------
    mirror, hint
        The mirror, and the dataset's entry in its archive's overview.
    scratch, recorder
        The scratch store and its recorder.
    """

    def __init__(
        self,
        mirror: Mirror,
        hint: DatasetHint,
        scratch: Store,
        recorder: Recorder,
    ) -> None:
        # listings that a real store would hold are minted here
        guards = GuardSettings(max_removed_percent=100, settle_minutes=0)
        self._settings = mirror.settings.model_copy(update={"guards": guards})
        self._hint = hint
        self._recorder = recorder
        self.store = scratch

    def mint(self, source: Source, version: VersionRef) -> VersionRow:
        """Mint all versions of a source up to ``version``, the last one; return its row.

        Raises
        ------
        NotMintedError
            The version cannot be minted.
        NetError, UnreliableListingError
            The archive cannot be read.
        """
        dataset = self._hint.dataset
        with self.store.lock(dataset.dataset_id, dataset.name):
            visit = DatasetVisit(source, self.store, self._recorder, self._settings, self._hint)
            outcome = visit.run()
            if outcome.hold_messages:
                # release the hold: the result is only compared with the store
                for one in self._recorder.ask(lambda index: list(index.open_holds())):
                    release_hold(self._recorder, one.hold)
                visit = DatasetVisit(source, self.store, self._recorder, self._settings, self._hint)
                outcome = visit.run()
        if outcome.problems:
            why = "; ".join(outcome.problems)
            raise NotMintedError(f"{dataset.name} {version.upstream} cannot be minted again: {why}")
        published = version.kind is VersionKind.PUBLISHED
        minted = self._recorder.ask(
            lambda index: (
                index.published_version(dataset.name, version.upstream)
                if published
                else index.last_version(dataset.name, version.kind.value)
            )
        )
        if minted is None:
            problems = [*outcome.incidents, *outcome.hold_messages, outcome.waiting_reason]
            why = "; ".join(filter(None, problems)) or "the visit created no version"
            raise NotMintedError(f"{dataset.name} {version.upstream} cannot be minted again: {why}")
        return minted

    def subdatasets(self, minted: VersionRow) -> list[SubdatasetRow]:
        """Return the subdatasets of a version in the scratch store."""
        return self._recorder.ask(lambda index: list(index.subdatasets(minted)))

    def version_at(self, name: str, commit: str) -> VersionRow:
        """Return the version of a dataset in the scratch store that has a commit."""
        return self._recorder.ask(lambda index: index.resolve(name, commit))
