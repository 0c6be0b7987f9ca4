"""Super-datasets: the mirror's own, and those that its datasets are grouped in.

A source that groups its datasets (a BOSS: collection, experiment, channel) has a super-dataset for
each group; it holds those below it, and is held by the one above, down from the mirror's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from neuromirror.crawl.mirrors import Mirror
from neuromirror.crawl.recorder import Recorder
from neuromirror.index import Index
from neuromirror.model import DatasetRef, VersionKind
from neuromirror.sources import Source
from neuromirror.store import MAIN, Member, Store, update_superdataset


def update_supers(store: Store, recorder: Recorder, mirror: Mirror, source: Source) -> None:
    """Brings the mirror's super-dataset, and the groups below it, to the newest states."""
    datasets = recorder.ask(lambda index: _datasets(index, mirror.name))
    members = grouped(
        datasets,
        source.group,
        lambda group, held: _bring(store, group, held),
    )
    top = mirror.superdataset(source.uri)
    # what was moved away must not stay in it
    if members or store.repository(top).exists():
        update_superdataset(store, top, mirror.name, members)


@dataclass(frozen=True, slots=True)
class State:
    """The newest state of a dataset: its commit (hex) and upstream's time of it in seconds."""

    commit: str
    date: int | None


def grouped(
    datasets: Mapping[DatasetRef, State],
    group: Callable[[str], DatasetRef | None],
    bring: Callable[[DatasetRef, Sequence[Member]], State],
) -> list[Member]:
    """The members of the mirror's own super-dataset; ``bring`` updates the others, deepest first.

    ``group`` is :meth:`~neuromirror.sources.Source.group`; a dataset inside of another one
    (which can have been there before it) has no place.
    """
    taken = {dataset.local_id for dataset in datasets}
    datasets = {one: state for one, state in datasets.items() if not _above(one.local_id) & taken}

    groups: dict[str, DatasetRef] = {}
    within: dict[str, list[tuple[DatasetRef, State]]] = {"": []}
    for dataset, state in datasets.items():
        within.setdefault(_around(dataset.local_id, group, groups), []).append((dataset, state))
    for local_ids in list(groups):
        _around(local_ids, group, groups)
    for local_ids in sorted(groups, key=lambda one: (-one.count("/"), one)):
        members = [_member(local_ids, *one) for one in within.get(local_ids, ())]
        state = bring(groups[local_ids], members)
        around = _around(local_ids, group, groups)
        within.setdefault(around, []).append((groups[local_ids], state))
    return [_member("", *one) for one in within[""]]


def _around(
    local_id: str, group: Callable[[str], DatasetRef | None], groups: dict[str, DatasetRef]
) -> str:
    """The innermost group of a dataset or group, put into ``groups`` with those around it."""
    innermost = ""
    for local_ids in sorted(_above(local_id), key=len):
        known = groups.get(local_ids) or group(local_ids)
        if known is not None:
            groups[local_ids] = known
            innermost = local_ids
    return innermost


def _above(local_id: str) -> set[str]:
    """What a local id lies in: ``{"a", "a/b"}`` for ``a/b/c``."""
    parts = local_id.split("/")
    return {"/".join(parts[:depth]) for depth in range(1, len(parts))}


def _member(within: str, dataset: DatasetRef, state: State) -> Member:
    path = dataset.local_id[len(within) + 1 :] if within else dataset.local_id
    return Member(path, dataset, state.commit, state.date, url=f"../{dataset.alias}")


def _bring(store: Store, group: DatasetRef, members: Sequence[Member]) -> State:
    update_superdataset(store, group, group.alias, members)
    commit = store.repository(group).refs()[MAIN]
    dates = [member.date for member in members if member.date is not None]
    return State(commit, max(dates, default=None))


def _datasets(index: Index, mirror: str) -> dict[DatasetRef, State]:
    states = {}
    for row in index.datasets(mirror):
        if row.within:
            continue  # it is a part of another one, and found there
        last = index.last_version(row.name, VersionKind.OBSERVED.value) or index.last_version(
            row.name, VersionKind.PUBLISHED.value
        )
        if last is not None:
            time = last.upstream_time
            date = None if time is None else int(datetime.fromisoformat(time).timestamp())
            states[DatasetRef(mirror, row.local_id, row.source_uri)] = State(last.commit, date)
    return states
