"""What a person asked to sync, and what the run is to do about it."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from neuromirror.crawl.mirrors import Mirror, find_mirror
from neuromirror.crawl.plan import Task, plan_one, taken_down, vanished
from neuromirror.index import Index, LastVisit, UnknownDataset, UnknownMirror
from neuromirror.model import ConfigurationError, DatasetHint, DatasetRef, Traffic
from neuromirror.net import ListingTooLong, TrafficCounter, counted
from neuromirror.sources import DatasetNotFound, Source

_REQUESTS_PER_DATASET: Final = 10
"""Requests for an overview per dataset of the maximum; the sources need one to three."""


@dataclass(frozen=True, slots=True)
class Request:
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


def parse_requests(names: Sequence[str], mirrors: dict[str, Mirror]) -> list[Request]:
    """Requests for names such as ``dandi`` and ``dandi:000027``; all mirrors for no name.

    Raises ConfigurationError for an unknown mirror, wrong options of one that is asked for, or a
    malformed dataset name: all before anything is asked or written.
    """
    requests: dict[tuple[str, str | None], Request] = {}
    for mirror in () if names else mirrors.values():
        requests[mirror.name, None] = Request(mirror, None)
    for name in names:
        mirror_name, colon, local_id = name.partition(":")
        mirror = find_mirror(mirrors, mirror_name)
        if colon and not local_id:
            raise ConfigurationError(f"'{name}' names no dataset; write {mirror_name}:ID")
        if "@" in local_id:
            raise ConfigurationError(
                f"'{name}' names a version; sync takes datasets: {name.partition('@')[0]}"
            )
        request = Request(mirror, local_id or None)
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


def _hints(source: Source, mirror: Mirror) -> dict[str, DatasetHint]:
    """Return all datasets that the archive lists; raises ListingTooLong where they are too many."""
    most = mirror.settings.listing.max_datasets
    hints: dict[str, DatasetHint] = {}
    with counted(_Overview(mirror, source.uri)):
        for hint in source.datasets():
            hints[hint.dataset.local_id] = hint
            if len(hints) > most:
                raise ListingTooLong(
                    f"{mirror.name}: the archive lists more than {most} datasets; none is visited;"
                    f" if it is right, raise max_datasets in [listing] of {mirror.path}",
                    url=source.uri,
                )
    return hints


class _Overview(TrafficCounter):
    """Counts the requests for an archive's overview, and ends one that never comes to datasets."""

    def __init__(self, mirror: Mirror, uri: str) -> None:
        super().__init__()
        self._mirror = mirror
        self._uri = uri
        self._requests = 0
        self._since = time.monotonic()

    def add(self, host: str, more: Traffic) -> None:
        """Count something more; raises ListingTooLong beyond the mirror's limits."""
        super().add(host, more)
        self._requests += more.requests
        limits = self._mirror.settings.listing
        requests = _REQUESTS_PER_DATASET * limits.max_datasets
        if self._requests > requests:
            why, option = f"takes more than {requests} requests", "max_datasets"
        elif time.monotonic() - self._since > 3600 * limits.max_hours:
            why, option = f"has no end after {limits.max_hours:g} hours", "max_hours"
        else:
            return
        raise ListingTooLong(
            f"{self._mirror.name}: the archive's overview {why}; no dataset is visited; if it is "
            f"right, raise {option} in [listing] of {self._mirror.path}",
            url=self._uri,
        )


@runtime_checkable
class ListsSome(Protocol):
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
        self, index: Index | None, regardless: str = "", moving: Container[DatasetRef] = ()
    ) -> None:
        self._index = index
        self._regardless = regardless
        self._moving = moving

    def plan(self, request: Request, source: Source) -> tuple[list[Task], list[str]]:
        """Tasks, and local ids that vanished from the list; raises what the source raises.

        Raises ConfigurationError when the store knows the mirror's name for another archive, or
        what is asked for as a part of a dataset.
        """
        self._check_archive(request.mirror, source)
        known = self._known(request.mirror.name)
        held, released = self._held(), self._released()
        down = self._down(request.mirror.name)
        if request.local_id is not None:
            dataset = _dataset(source, request.local_id)
            if request.local_id in down:
                hint = DatasetHint(dataset, None)
                return [Task(hint, "skip", down[request.local_id])], []
            self._check_whole(dataset)
            try:
                hints = {request.local_id: request.hint or source.hint(dataset)}
            except DatasetNotFound:
                if request.local_id in known:
                    return [], [request.local_id]
                raise
        else:
            hints = _hints(source, request.mirror)
        self._check_shared(request.mirror, hints.values())
        tasks = [
            plan_one(
                hint,
                known.get(local_id),
                held,
                self._regardless,
                released=released,
                moving=hint.dataset in self._moving,
            )
            if local_id not in down
            else Task(hint, "skip", down[local_id], known.get(local_id))
            for local_id, hint in hints.items()
        ]
        gone = vanished(hints, known) if request.local_id is None else []
        gone = [one for one in gone if one not in down]
        if isinstance(source, ListsSome):
            gone = [one for one in gone if source.is_listed(source.dataset(one))]
        return tasks, gone

    def _check_archive(self, mirror: Mirror, source: Source) -> None:
        """One name for two archives would mix their datasets: ids say nothing of the archive."""
        for one in () if self._index is None else self._index.mirror_status():
            if one.mirror == mirror.name and one.uri not in ("", source.uri):
                raise ConfigurationError(
                    f"{mirror.path} names the archive {source.uri}, but in this store the mirror "
                    f"'{mirror.name}' is of {one.uri}; give the file another name, or use another "
                    "--store"
                )

    def _check_shared(self, mirror: Mirror, hints: Iterable[DatasetHint]) -> None:
        """One dataset under two mirrors would be one repository that each brings to its own way."""
        others = {} if self._index is None else self._index.mirrored_elsewhere(mirror.name)
        for hint in hints if others else ():
            other = others.get(hint.dataset.source_uri)
            if other is not None:
                raise ConfigurationError(
                    f"{mirror.path}: {hint.dataset.name} is mirrored in this store as {other}; "
                    "remove one of the two mirror files, or use another --store for it"
                )

    def _check_whole(self, dataset: DatasetRef) -> None:
        if self._index is None:
            return
        try:
            within = self._index.dataset(dataset.name).within
            holders = self._index.holders(dataset.name)
        except (UnknownDataset, UnknownMirror):
            return
        if within:
            around = " and ".join(holders) or "another dataset"
            raise ConfigurationError(f"{dataset.name} is a part of {around}; sync that")

    def _known(self, mirror: str) -> dict[str, LastVisit]:
        return {} if self._index is None else self._index.hints(mirror)

    def _down(self, mirror: str) -> dict[str, str]:
        """Why datasets of the mirror are not visited that were taken down, by local id."""
        if self._index is None:
            return {}
        return {
            one.dataset.partition(":")[2]: taken_down(one) for one in self._index.withheld(mirror)
        }

    def _held(self) -> frozenset[str]:
        if self._index is None:
            return frozenset()
        return frozenset(one.dataset for one in self._index.open_holds())

    def _released(self) -> frozenset[str]:
        return frozenset() if self._index is None else self._index.released()
