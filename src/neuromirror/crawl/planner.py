"""Parse sync requests and turn them into tasks."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.config.builtin_mirrors import include_named
from neuromirror.config.mirror_files import Mirror, find_mirror
from neuromirror.crawl.plan import DatasetTask, plan_dataset, takedown_message, vanished_datasets
from neuromirror.index import CrawlIndex, LastVisit, UnknownDatasetError, UnknownMirrorError
from neuromirror.model import ConfigurationError, DatasetHint, DatasetRef, Traffic
from neuromirror.net import ListingTooLongError, TrafficCounter, count_traffic
from neuromirror.sources import DatasetNotFoundError, Source

_REQUESTS_PER_DATASET: Final = 10
"""Limit of requests for an overview, per permitted dataset; the sources need one to three."""


class SyncRequest(Struct, frozen=True):
    """A request to sync a mirror or one of its datasets.

    Attributes
    ----------
    mirror
        The mirror.
    local_id
        The local id of the dataset; None for all datasets.
    hint
        The dataset's entry of an overview that was read before, if there is one.
    """

    mirror: Mirror
    local_id: str | None
    hint: DatasetHint | None = None

    @property
    def name(self) -> str:
        """The name of the mirror or of the dataset."""
        name = self.mirror.name
        return name if self.local_id is None else f"{name}:{self.local_id}"


def parse_sync_requests(names: Sequence[str], mirrors: dict[str, Mirror]) -> list[SyncRequest]:
    """Parse names such as ``dandi`` and ``dandi:000027``; no names request all mirrors.

    Parameters
    ----------
    names
        The names; empty for all mirrors.
    mirrors
        The configured mirrors, by name.

    Returns
    -------
    list[SyncRequest]
        One request per mirror or dataset, without duplicates.

    Raises
    ------
    ConfigurationError
        For an unknown mirror, invalid options of a requested mirror, or a malformed name; before
        any request is made and before anything is written.
    """
    requests: dict[tuple[str, str | None], SyncRequest] = {}
    mirrors = include_named(mirrors, names)
    for mirror in () if names else mirrors.values():
        requests[mirror.name, None] = SyncRequest(mirror, None)
    for name in names:
        mirror_name, colon, local_id = name.partition(":")
        mirror = find_mirror(mirrors, mirror_name)
        if colon and not local_id:
            raise ConfigurationError(f"'{name}' has no dataset id; write {mirror_name}:ID")
        if "@" in local_id:
            raise ConfigurationError(
                f"'{name}' is a version; sync takes datasets: {name.partition('@')[0]}"
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
    """Return all datasets that the archive lists, by local id.

    Raises
    ------
    ListingTooLongError
        If there are more than the mirror file permits.
    """
    limit = mirror.settings.listing.max_datasets
    hints: dict[str, DatasetHint] = {}
    with count_traffic(_OverviewLimit(mirror, source.uri)):
        for hint in source.datasets():
            hints[hint.dataset.local_id] = hint
            if len(hints) > limit:
                raise ListingTooLongError(
                    f"{mirror.name}: the archive lists more than {limit} datasets; none was "
                    "visited. If the number is correct, raise max_datasets in [listing] of "
                    f"{mirror.path}",
                    url=source.uri,
                )
    return hints


class _OverviewLimit(TrafficCounter):
    """Counts the requests for an archive's overview and stops one that takes too many."""

    def __init__(self, mirror: Mirror, uri: str) -> None:
        super().__init__()
        self._mirror = mirror
        self._uri = uri
        self._requests = 0
        self._since = time.monotonic()

    def add(self, host: str, more: Traffic) -> None:
        """Add to the counts; raise ListingTooLongError beyond the mirror's limits."""
        super().add(host, more)
        self._requests += more.requests
        limits = self._mirror.settings.listing
        requests = _REQUESTS_PER_DATASET * limits.max_datasets
        if self._requests > requests:
            reason, option = f"takes more than {requests} requests", "max_datasets"
        elif time.monotonic() - self._since > 3600 * limits.max_hours:
            reason, option = f"takes more than {limits.max_hours:g} hours", "max_hours"
        else:
            return
        raise ListingTooLongError(
            f"{self._mirror.name}: the archive's overview {reason}; no dataset was visited. If the "
            f"archive is that large, raise {option} in [listing] of {self._mirror.path}",
            url=self._uri,
        )


@runtime_checkable
class PartiallyListedSource(Protocol):
    """A source whose archive has datasets that its list of datasets does not show."""

    def is_listed(self, dataset: DatasetRef) -> bool:
        """Return whether the list of all datasets includes this one."""
        ...


class Planner:
    """Turns sync requests into tasks, from the archive's overview and the index.

    Parameters
    ----------
    index
        The store's index; None for a store without one.
    visit_all_reason
        Why all datasets are visited even if the overview reports no change (``deep visit``);
        empty if they are not.
    in_private_store
        Datasets that are visited in any case, because they have to be moved from the private store.
    """

    def __init__(
        self,
        index: CrawlIndex | None,
        visit_all_reason: str = "",
        in_private_store: Container[DatasetRef] = (),
    ) -> None:
        self._index = index
        self._visit_all_reason = visit_all_reason
        self._in_private_store = in_private_store

    def plan(self, request: SyncRequest, source: Source) -> tuple[list[DatasetTask], list[str]]:
        """Return the tasks of a request, and the local ids that the archive no longer lists.

        Raises
        ------
        ConfigurationError
            If the store has the mirror's name for another archive, or the requested dataset is a
            component of another dataset.
        NeuromirrorError
            Whatever the source raises.
        """
        self._check_archive(request.mirror, source)
        known: dict[str, LastVisit] = {}
        held: frozenset[str] = frozenset()
        released: frozenset[str] = frozenset()
        takedowns: dict[str, str] = {}
        if self._index is not None:
            known = self._index.last_visits(request.mirror.name)
            held = frozenset(one.dataset for one in self._index.open_holds())
            released = self._index.released_datasets()
            takedowns = takedown_messages(self._index, request.mirror.name)
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
        tasks = self._refuse_shared_ids(request.mirror.name, tasks)
        vanished_ids = vanished_datasets(hints, known) if request.local_id is None else []
        vanished_ids = [one for one in vanished_ids if one not in takedowns]
        if isinstance(source, PartiallyListedSource):
            vanished = [self.resolve_vanished(source, one) for one in vanished_ids]
            vanished_ids = [
                dataset.local_id
                for dataset, refusal in vanished
                if refusal or source.is_listed(dataset)
            ]
        return tasks, vanished_ids

    def resolve_vanished(self, source: Source, local_id: str) -> tuple[DatasetRef, str]:
        """Return an unlisted dataset of the index; see :func:`resolve_vanished`."""
        if self._index is None:
            return source.dataset(local_id), ""
        return resolve_vanished(source, local_id, self._index)

    def _check_archive(self, mirror: Mirror, source: Source) -> None:
        """Raise ConfigurationError if the mirror's name belongs to another archive in this store.

        Local ids do not identify the archive, so the datasets of both would be mixed.
        """
        for one in () if self._index is None else self._index.mirror_status():
            if one.mirror == mirror.name and one.uri not in ("", source.uri):
                raise ConfigurationError(
                    f"{mirror.path}: the archive is {source.uri}, but in this store the mirror "
                    f"'{mirror.name}' has the archive {one.uri}; rename the file, or use another "
                    "--store"
                )

    def _check_other_mirrors(self, mirror: Mirror, hints: Iterable[DatasetHint]) -> None:
        """Raise ConfigurationError if another mirror has one of the datasets.

        Both would write to the same repository.
        """
        others = {} if self._index is None else self._index.names_in_other_mirrors(mirror.name)
        for hint in hints if others else ():
            other = others.get(hint.dataset.source_uri)
            if other is not None:
                raise ConfigurationError(
                    f"{mirror.path}: {hint.dataset.name} is already mirrored in this store as "
                    f"{other}; remove one of the two configuration files, or use another --store "
                    "for it"
                )

    def _refuse_shared_ids(self, mirror: str, tasks: list[DatasetTask]) -> list[DatasetTask]:
        """Refuse datasets whose dataset id belongs to another local id, also a withdrawn one.

        Both would write to the same repository.
        """
        ids = [task.hint.dataset.dataset_id for task in tasks]
        owners = {} if self._index is None else self._index.local_ids_with_versions(mirror, ids)
        checked = []
        for planned, dataset_id in zip(tasks, ids, strict=True):
            task, dataset = planned, planned.hint.dataset
            if task.action == "visit":
                owner = owners.setdefault(dataset_id, dataset.local_id)
                if owner != dataset.local_id:
                    reason = (
                        f"its source URI {dataset.source_uri} is that of {mirror}:{owner}, so that "
                        "both would have one repository; the source must return another source_uri "
                        f"for each dataset. 'neuromirror takedown {dataset.name} --reason TEXT' "
                        "hides this one"
                    )
                    task = replace(task, action="refused", reason=reason)
            checked.append(task)
        return checked

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
            raise ConfigurationError(
                f"{dataset.name} is a component of {around}; sync that dataset instead"
            )


def resolve_vanished(source: Source, local_id: str, index: CrawlIndex) -> tuple[DatasetRef, str]:
    """Return an unlisted dataset of the index, and why the source refuses its local id.

    The reason is empty if the source accepts the local id.
    """
    try:
        return source.dataset(local_id), ""
    except ValueError as error:
        row = index.dataset(f"{source.mirror}:{local_id}")
        dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
        return dataset, (
            f"the source refuses the id: {error}. The mirrored copy is kept; correct the source, "
            f"or withdraw the dataset with 'neuromirror takedown {row.name} --reason TEXT'"
        )


def takedown_messages(index: CrawlIndex, mirror: str) -> dict[str, str]:
    """Return the messages for the mirror's datasets that were taken down, by local id."""
    return {
        one.dataset.partition(":")[2]: takedown_message(one) for one in index.tombstones(mirror)
    }
