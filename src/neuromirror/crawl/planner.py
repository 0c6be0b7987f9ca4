"""What a person asked to sync, and what the run is to do about it."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from neuromirror.config.mirror_files import Mirror, find_mirror
from neuromirror.crawl.plan import DatasetTask, plan_dataset, takedown_message, vanished_datasets
from neuromirror.index import Index, LastVisit, UnknownDatasetError, UnknownMirrorError
from neuromirror.model import ConfigurationError, DatasetHint, DatasetRef, Traffic
from neuromirror.net import ListingTooLongError, TrafficCounter, count_traffic
from neuromirror.sources import DatasetNotFoundError, Source

_REQUESTS_PER_DATASET: Final = 10
"""Requests for an overview per dataset of the maximum; the sources need one to three."""


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What a person asked to sync: a mirror, and one of its datasets or all (None).

    ``hint`` is what upstream's overview said of the one, where it was read a while ago.
    """

    mirror: Mirror
    local_id: str | None
    hint: DatasetHint | None = None

    @property
    def name(self) -> str:
        """The name of the mirror, or of its one dataset."""
        name = self.mirror.name
        return name if self.local_id is None else f"{name}:{self.local_id}"


def parse_sync_requests(names: Sequence[str], mirrors: dict[str, Mirror]) -> list[SyncRequest]:
    """Requests for names such as ``dandi`` and ``dandi:000027``; all mirrors for no name.

    Raises ConfigurationError for an unknown mirror, wrong options of one that is asked for, or a
    malformed dataset name: all before anything is asked or written.
    """
    requests: dict[tuple[str, str | None], SyncRequest] = {}
    for mirror in () if names else mirrors.values():
        requests[mirror.name, None] = SyncRequest(mirror, None)
    for name in names:
        mirror_name, colon, local_id = name.partition(":")
        mirror = find_mirror(mirrors, mirror_name)
        if colon and not local_id:
            raise ConfigurationError(f"'{name}' names no dataset; write {mirror_name}:ID")
        if "@" in local_id:
            raise ConfigurationError(
                f"'{name}' names a version; sync takes datasets: {name.partition('@')[0]}"
            )
        request = SyncRequest(mirror, local_id or None)
        requests[mirror_name, request.local_id] = request
    for request in requests.values():
        source = request.mirror.open()
        if request.local_id is not None:
            _dataset(source, request.local_id)
    return list(requests.values())


def _dataset(source: Source, local_id: str) -> DatasetRef:
    try:
        return source.dataset(local_id)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _read_overview(source: Source, mirror: Mirror) -> dict[str, DatasetHint]:
    """Return all datasets that the archive lists; raises ListingTooLongError where they are too
    many."""
    limit = mirror.settings.listing.max_datasets
    hints: dict[str, DatasetHint] = {}
    with count_traffic(_OverviewLimit(mirror, source.uri)):
        for hint in source.datasets():
            hints[hint.dataset.local_id] = hint
            if len(hints) > limit:
                raise ListingTooLongError(
                    f"{mirror.name}: the archive lists more than {limit} datasets; none is visited;"
                    f" if it is right, raise max_datasets in [listing] of {mirror.path}",
                    url=source.uri,
                )
    return hints


class _OverviewLimit(TrafficCounter):
    """Counts the requests for an archive's overview, and ends one that never comes to datasets."""

    def __init__(self, mirror: Mirror, uri: str) -> None:
        super().__init__()
        self._mirror = mirror
        self._uri = uri
        self._requests = 0
        self._since = time.monotonic()

    def add(self, host: str, more: Traffic) -> None:
        """Count something more; raises ListingTooLongError beyond the mirror's limits."""
        super().add(host, more)
        self._requests += more.requests
        limits = self._mirror.settings.listing
        requests = _REQUESTS_PER_DATASET * limits.max_datasets
        if self._requests > requests:
            reason, option = f"takes more than {requests} requests", "max_datasets"
        elif time.monotonic() - self._since > 3600 * limits.max_hours:
            reason, option = f"has no end after {limits.max_hours:g} hours", "max_hours"
        else:
            return
        raise ListingTooLongError(
            f"{self._mirror.name}: the archive's overview {reason}; no dataset is visited; if it "
            f"is right, raise {option} in [listing] of {self._mirror.path}",
            url=self._uri,
        )


@runtime_checkable
class PartiallyListedSource(Protocol):
    """A source with datasets that can be asked for by name and are in no list."""

    def is_listed(self, dataset: DatasetRef) -> bool:
        """Whether the list of all datasets would name this one."""
        ...


class Planner:
    """Turns requests into tasks, reading upstream's overview and the index.

    ``regardless`` says why all datasets are to be visited whatever the overview says (``deep
    visit``), and is empty where it decides. ``moving`` are to be visited in any case: they are in
    the private store, and were opened.
    """

    def __init__(
        self,
        index: Index | None,
        visit_all_reason: str = "",
        in_private_store: Container[DatasetRef] = (),
    ) -> None:
        self._index = index
        self._visit_all_reason = visit_all_reason
        self._in_private_store = in_private_store

    def plan(self, request: SyncRequest, source: Source) -> tuple[list[DatasetTask], list[str]]:
        """Tasks, and local ids that vanished from the list; raises what the source raises.

        Raises ConfigurationError when the store knows the mirror's name for another archive, or
        what is asked for as a part of a dataset.
        """
        self._check_archive(request.mirror, source)
        known = self._last_visits(request.mirror.name)
        held, released = self._held(), self._released()
        takedowns = self._takedown_messages(request.mirror.name)
        if request.local_id is not None:
            dataset = _dataset(source, request.local_id)
            if request.local_id in takedowns:
                hint = DatasetHint(dataset, None)
                return [DatasetTask(hint, "skip", takedowns[request.local_id])], []
            self._check_standalone(dataset)
            try:
                hints = {request.local_id: request.hint or source.hint(dataset)}
            except DatasetNotFoundError:
                if request.local_id in known:
                    return [], [request.local_id]
                raise
        else:
            hints = _read_overview(source, request.mirror)
        self._check_other_mirrors(request.mirror, hints.values())
        tasks = [
            plan_dataset(
                hint,
                known.get(local_id),
                held,
                self._visit_all_reason,
                released=released,
                in_private_store=hint.dataset in self._in_private_store,
            )
            if local_id not in takedowns
            else DatasetTask(hint, "skip", takedowns[local_id], known.get(local_id))
            for local_id, hint in hints.items()
        ]
        vanished_ids = vanished_datasets(hints, known) if request.local_id is None else []
        vanished_ids = [one for one in vanished_ids if one not in takedowns]
        if isinstance(source, PartiallyListedSource):
            vanished_ids = [one for one in vanished_ids if source.is_listed(source.dataset(one))]
        return tasks, vanished_ids

    def _check_archive(self, mirror: Mirror, source: Source) -> None:
        """One name for two archives would mix their datasets: ids say nothing of the archive."""
        for one in () if self._index is None else self._index.mirror_status():
            if one.mirror == mirror.name and one.uri not in ("", source.uri):
                raise ConfigurationError(
                    f"{mirror.path} names the archive {source.uri}, but in this store the mirror "
                    f"'{mirror.name}' is of {one.uri}; give the file another name, or use another "
                    "--store"
                )

    def _check_other_mirrors(self, mirror: Mirror, hints: Iterable[DatasetHint]) -> None:
        """One dataset under two mirrors would be one repository that each brings to its own way."""
        others = {} if self._index is None else self._index.names_in_other_mirrors(mirror.name)
        for hint in hints if others else ():
            other = others.get(hint.dataset.source_uri)
            if other is not None:
                raise ConfigurationError(
                    f"{mirror.path}: {hint.dataset.name} is mirrored in this store as {other}; "
                    "remove one of the two mirror files, or use another --store for it"
                )

    def _check_standalone(self, dataset: DatasetRef) -> None:
        if self._index is None:
            return
        try:
            within = self._index.dataset(dataset.name).within
            holders = self._index.superdatasets(dataset.name)
        except (UnknownDatasetError, UnknownMirrorError):
            return
        if within:
            around = " and ".join(holders) or "another dataset"
            raise ConfigurationError(f"{dataset.name} is a part of {around}; sync that")

    def _last_visits(self, mirror: str) -> dict[str, LastVisit]:
        return {} if self._index is None else self._index.last_visits(mirror)

    def _takedown_messages(self, mirror: str) -> dict[str, str]:
        """Why datasets of the mirror are not visited that were taken down, by local id."""
        if self._index is None:
            return {}
        return {
            one.dataset.partition(":")[2]: takedown_message(one)
            for one in self._index.tombstones(mirror)
        }

    def _held(self) -> frozenset[str]:
        if self._index is None:
            return frozenset()
        return frozenset(one.dataset for one in self._index.open_holds())

    def _released(self) -> frozenset[str]:
        return frozenset() if self._index is None else self._index.released_datasets()
