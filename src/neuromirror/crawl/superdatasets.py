"""Superdatasets: the mirror's own, and those of the groups of its datasets.

A source that groups its datasets (BOSS: collection, experiment, channel) has a superdataset per
group. It contains the datasets and groups below it, and the mirror's superdataset contains the top
groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

from msgspec import Struct

from neuromirror.config.mirror_files import Mirror
from neuromirror.crawl.recorder import TOP_ALIAS, Recorder, RefMove
from neuromirror.index import CrawlIndex, UnknownMirrorError
from neuromirror.model import DatasetRef
from neuromirror.sources import Source
from neuromirror.store import (
    MAIN_BRANCH,
    Store,
    SuperdatasetMember,
    has_complete_commit,
    superdataset_commit,
)
from neuromirror.store.foreign_commits import check_packs
from neuromirror.store.superdatasets import SuperdatasetLog

MAX_POSTPONEMENT = timedelta(days=1)
"""How long superdatasets are postponed after failed visits."""

TOP_URI = "neuromirror:mirrors"
"""The source URI of the superdataset above all mirrors: the same in every store."""


def update_superdatasets(
    store: Store,
    recorder: Recorder,
    mirror: Mirror,
    source: Source,
    *,
    failed: bool,
    wait: bool = True,
) -> None:
    """Update the superdatasets of a mirror to the latest versions of its datasets.

    ``failed`` is whether something failed in this run; failed visits in the index count too. If
    ``wait``, failures postpone the update (:func:`_postpone`).
    """
    top, name = mirror.superdataset(source.uri), mirror.name
    has_failed = wait and (failed or recorder.ask(lambda index: index.crawl.has_failures(name)))
    waiting = _postpone(store, name, has_failed)
    if waiting and has_complete_commit(store, name):
        return
    commit = partial(_commit_members, store, recorder, complete=not waiting)

    def update_group(group: DatasetRef, members: Sequence[SuperdatasetMember]) -> MemberState:
        commit(group, group.alias, members)
        dates = [member.date for member in members if member.date is not None]
        return MemberState(
            store.repositories.of(group).refs()[MAIN_BRANCH], max(dates, default=None)
        )

    datasets = recorder.ask(lambda index: _member_states(index, name))
    members = group_members(datasets, source.superdataset, update_group)
    # also without members: datasets that were moved away must not stay in it
    if members or store.repositories.of(top).exists():
        commit(top, name, members)
    if not waiting:
        store.clear_postponement(_task(name))


def update_top_superdataset(
    store: Store, recorder: Recorder, *, failed: bool, wait: bool = True
) -> None:
    """Update the superdataset above all mirrors; as :func:`update_superdatasets`."""
    has_failed = wait and (failed or recorder.ask(lambda index: index.crawl.has_failures()))
    waiting = _postpone(store, TOP_ALIAS, has_failed)
    if waiting and has_complete_commit(store, TOP_ALIAS):
        return
    members = []
    mirrors = recorder.ask(lambda index: list(index.crawl.mirrors()))
    if not all(row.uri for row in mirrors):
        return  # the journal was lost, and a mirror was not visited since: its archive is unknown
    for row in mirrors:
        dataset = DatasetRef(row.mirror, "", row.uri)
        repository = store.repositories.of(dataset)
        if SuperdatasetLog(store, row.mirror).commits:
            check_packs(repository, row.mirror)
        tip = repository.main_tip()
        if tip is not None:
            url = f"../{row.mirror}"
            members.append(SuperdatasetMember(row.mirror, dataset, *tip, url=url))
    if members:
        top = DatasetRef(TOP_ALIAS, "", TOP_URI)
        _commit_members(store, recorder, top, TOP_ALIAS, members, complete=not waiting)
    if not waiting:
        store.clear_postponement(_task(TOP_ALIAS))


def _postpone(store: Store, alias: str, has_failed: bool) -> bool:
    """Return whether an update waits for failed visits.

    If the last visit of a dataset failed, the superdatasets above it are postponed, so that a
    transient failure adds no commit that another store would not have. After
    :data:`MAX_POSTPONEMENT` they are written anyway, so that a lasting failure of one dataset does
    not hide updates of the others. A missing superdataset is created at once; until the visits
    succeed, its commit is replaced instead of followed by another.
    """
    return has_failed and store.may_postpone(_task(alias), MAX_POSTPONEMENT)


def _task(alias: str) -> str:
    return f"superdataset-{alias}"


class MemberState(Struct, frozen=True):
    """The newest state of a dataset: its commit (hex) and its upstream time (Unix seconds)."""

    commit: str
    date: int | None


def group_members(
    datasets: Mapping[DatasetRef, MemberState],
    group: Callable[[str], DatasetRef | None],
    update_group: Callable[[DatasetRef, Sequence[SuperdatasetMember]], MemberState],
) -> list[SuperdatasetMember]:
    """Update the groups of a mirror, and return the members of the mirror's own superdataset.

    The groups are superdatasets between the mirror's and its datasets, such as a BOSS collection.

    Parameters
    ----------
    datasets
        The datasets with a version.
    group
        Returns the group of a local id, None without one
        (:meth:`neuromirror.sources.Source.superdataset`).
    update_group
        Writes a group with its members, and returns its new state; called for the deepest groups
        first.

    Returns
    -------
    list[SuperdatasetMember]
        The groups and the datasets outside of groups.

    Notes
    -----
    A dataset below the path of another dataset is left out.
    """
    dataset_ids = {dataset.local_id for dataset in datasets}
    datasets = {
        one: state
        for one, state in datasets.items()
        if not _ancestor_ids(one.local_id) & dataset_ids
    }

    groups: dict[str, DatasetRef] = {}
    within: dict[str, list[tuple[DatasetRef, MemberState]]] = {"": []}
    for dataset, state in datasets.items():
        within.setdefault(_innermost_group(dataset.local_id, group, groups), []).append(
            (dataset, state)
        )
    for group_id in list(groups):
        _innermost_group(group_id, group, groups)
    for group_id in sorted(groups, key=lambda one: (-one.count("/"), one)):
        members = [_member(group_id, *one) for one in within.get(group_id, ())]
        state = update_group(groups[group_id], members)
        outer_id = _innermost_group(group_id, group, groups)
        within.setdefault(outer_id, []).append((groups[group_id], state))
    return [_member("", *one) for one in within[""]]


def _innermost_group(
    local_id: str, group: Callable[[str], DatasetRef | None], groups: dict[str, DatasetRef]
) -> str:
    """Return the innermost group of a dataset or group; add its groups to ``groups``."""
    innermost = ""
    for group_id in sorted(_ancestor_ids(local_id), key=len):
        known = groups.get(group_id) or group(group_id)
        if known is not None:
            groups[group_id] = known
            innermost = group_id
    return innermost


def _ancestor_ids(local_id: str) -> set[str]:
    """Return the prefixes of a local id: ``{"a", "a/b"}`` for ``a/b/c``."""
    segments = local_id.split("/")
    return {"/".join(segments[:depth]) for depth in range(1, len(segments))}


def _member(within: str, dataset: DatasetRef, state: MemberState) -> SuperdatasetMember:
    path = dataset.local_id[len(within) + 1 :] if within else dataset.local_id
    return SuperdatasetMember(path, dataset, state.commit, state.date, url=f"../{dataset.alias}")


def _commit_members(
    store: Store,
    recorder: Recorder,
    top: DatasetRef,
    alias: str,
    members: Sequence[SuperdatasetMember],
    *,
    complete: bool,
) -> None:
    """Commit the members of a superdataset to its ``main`` branch, if they changed."""
    with superdataset_commit(store, top, alias, members, complete=complete) as (tip, commit):
        if commit is not None:
            recorder.publish(top, RefMove({MAIN_BRANCH: tip}, {MAIN_BRANCH: commit}, alias))


def _member_states(index: CrawlIndex, mirror: str) -> dict[DatasetRef, MemberState]:
    """Return the newest published version of each dataset, else the newest observed one."""
    states: dict[DatasetRef, MemberState] = {}
    try:
        rows = list(index.datasets.select(mirror))
    except UnknownMirrorError:
        return states  # its list was never read
    for row in rows:
        if row.within:
            continue  # a component, which another dataset links
        if not row.versions:
            continue
        current = index.versions.resolve(row.name)
        time = current.upstream_time
        date = None if time is None else int(datetime.fromisoformat(time).timestamp())
        states[DatasetRef(mirror, row.local_id, row.source_uri)] = MemberState(current.commit, date)
    return states
