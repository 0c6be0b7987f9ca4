"""Super-datasets: the mirror's own, and those that its datasets are grouped in.

A source that groups its datasets (a BOSS: collection, experiment, channel) has a super-dataset for
each group; it holds those below it, and is held by the one above, down from the mirror's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from neuromirror.config.mirror_files import Mirror
from neuromirror.crawl.failure_log import TOP_ALIAS
from neuromirror.crawl.recorder import Recorder
from neuromirror.index import Index, UnknownMirrorError
from neuromirror.model import DatasetRef
from neuromirror.sources import Source
from neuromirror.store import (
    MAIN_BRANCH,
    Store,
    SuperdatasetMember,
    has_complete_commit,
    update_superdataset,
)

MAX_POSTPONEMENT = timedelta(days=1)
"""How long super-datasets wait for visits that failed."""

TOP_URI = "neuromirror:mirrors"
"""The source URI of the super-dataset above all mirrors: the same in every store."""


class SuperdatasetWriter:
    """Writes the super-datasets of a store at the end of a run, from the final states.

    A commit of a super-dataset stands for a run that went well: while the last visit of a dataset
    failed, the super-datasets around it wait, so that a passing fault adds no commit that an
    undisturbed store would not have. They wait no longer than :data:`MAX_POSTPONEMENT`, so that a
    lasting
    fault of one dataset does not hide what is new in the others. One that does not exist yet is
    made at once; until the visits succeed, its commit is replaced and not followed by others.
    """

    def __init__(self, store: Store, recorder: Recorder) -> None:
        self._store = store
        self._recorder = recorder

    def update(self, mirror: Mirror, source: Source, *, failed: bool, wait: bool = True) -> None:
        """Bring the super-datasets of a mirror to the latest versions.

        Parameters
        ----------
        failed
            Whether something of the mirror failed in this run; what the index knows of failed
            visits counts too.
        wait
            Whether to wait for what failed.
        """
        top, name = mirror.superdataset(source.uri), mirror.name

        def write(complete: bool) -> None:
            update_mirror_superdatasets(
                self._store, self._recorder, mirror, source, complete=complete
            )

        self._update(top, name, write, failed=wait and (failed or self._has_failed(name)))

    def update_top(self, *, failed: bool, wait: bool = True) -> None:
        """Bring the super-dataset above all mirrors up to date; as :meth:`update`."""
        top = DatasetRef(TOP_ALIAS, "", TOP_URI)

        def write(complete: bool) -> None:
            members = []
            for row in self._recorder.ask(lambda index: list(index.mirror_status())):
                dataset = DatasetRef(row.mirror, "", row.uri)
                commit = self._store.repository(dataset).main_tip()
                if commit is not None:
                    members.append(
                        SuperdatasetMember(row.mirror, dataset, *commit, url=f"../{row.mirror}")
                    )
            if members:
                update_superdataset(self._store, top, TOP_ALIAS, members, complete=complete)

        self._update(top, TOP_ALIAS, write, failed=wait and (failed or self._has_failed()))

    def _update(
        self, top: DatasetRef, name: str, write: Callable[[bool], None], *, failed: bool
    ) -> None:
        task = f"super-dataset-{name}"
        waiting = failed and self._store.may_postpone(task, MAX_POSTPONEMENT)
        if waiting and has_complete_commit(self._store, top):
            return
        write(not waiting)
        if not waiting:
            self._store.clear_postponement(task)

    def _has_failed(self, mirror: str | None = None) -> bool:
        return self._recorder.ask(lambda index: index.has_failures(mirror))


def update_mirror_superdatasets(
    store: Store, recorder: Recorder, mirror: Mirror, source: Source, *, complete: bool
) -> None:
    """Bring the mirror's super-dataset, and the groups below it, to the latest versions."""
    datasets = recorder.ask(lambda index: _member_states(index, mirror.name))
    members = group_members(
        datasets,
        source.superdataset,
        lambda group, held: _update_group(store, group, held, complete=complete),
    )
    top = mirror.superdataset(source.uri)
    # what was moved away must not stay in it
    if members or store.repository(top).exists():
        update_superdataset(store, top, mirror.name, members, complete=complete)


@dataclass(frozen=True, slots=True)
class MemberState:
    """The newest state of a dataset: its commit (hex) and upstream's time of it in seconds."""

    commit: str
    date: int | None


def group_members(
    datasets: Mapping[DatasetRef, MemberState],
    group: Callable[[str], DatasetRef | None],
    update_group: Callable[[DatasetRef, Sequence[SuperdatasetMember]], MemberState],
) -> list[SuperdatasetMember]:
    """The members of the mirror's own super-dataset; ``bring`` updates the others, deepest first.

    ``group`` is :meth:`~neuromirror.sources.Source.group`; a dataset inside of another one
    (which can have been there before it) has no place.
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
    """The innermost group of a dataset or group, put into ``groups`` with those around it."""
    innermost = ""
    for group_id in sorted(_ancestor_ids(local_id), key=len):
        known = groups.get(group_id) or group(group_id)
        if known is not None:
            groups[group_id] = known
            innermost = group_id
    return innermost


def _ancestor_ids(local_id: str) -> set[str]:
    """What a local id lies in: ``{"a", "a/b"}`` for ``a/b/c``."""
    segments = local_id.split("/")
    return {"/".join(segments[:depth]) for depth in range(1, len(segments))}


def _member(within: str, dataset: DatasetRef, state: MemberState) -> SuperdatasetMember:
    path = dataset.local_id[len(within) + 1 :] if within else dataset.local_id
    return SuperdatasetMember(path, dataset, state.commit, state.date, url=f"../{dataset.alias}")


def _update_group(
    store: Store, group: DatasetRef, members: Sequence[SuperdatasetMember], *, complete: bool
) -> MemberState:
    update_superdataset(store, group, group.alias, members, complete=complete)
    commit = store.repository(group).refs()[MAIN_BRANCH]
    dates = [member.date for member in members if member.date is not None]
    return MemberState(commit, max(dates, default=None))


def _member_states(index: Index, mirror: str) -> dict[DatasetRef, MemberState]:
    """What each dataset's name means: its newest published version, else the newest observed."""
    states: dict[DatasetRef, MemberState] = {}
    try:
        rows = list(index.datasets(mirror))
    except UnknownMirrorError:
        return states  # its list was never read
    for row in rows:
        if row.within:
            continue  # it is a part of another one, and found there
        if not row.versions:
            continue
        current = index.resolve(row.name)
        time = current.upstream_time
        date = None if time is None else int(datetime.fromisoformat(time).timestamp())
        states[DatasetRef(mirror, row.local_id, row.source_uri)] = MemberState(current.commit, date)
    return states
