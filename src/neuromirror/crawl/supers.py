"""Super-datasets: the mirror's own, and those that its datasets are grouped in.

A source that groups its datasets (a BOSS: collection, experiment, channel) has a super-dataset for
each group; it holds those below it, and is held by the one above, down from the mirror's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from neuromirror.crawl.failures import TOP_ALIAS
from neuromirror.crawl.mirrors import Mirror
from neuromirror.crawl.recorder import Recorder
from neuromirror.index import Index, UnknownMirror
from neuromirror.model import DatasetRef
from neuromirror.sources import Source
from neuromirror.store import MAIN, Member, Store, may_wait, update_superdataset

PATIENCE = timedelta(days=1)
"""How long super-datasets wait for visits that failed."""

TOP_URI = "neuromirror:mirrors"
"""The source URI of the super-dataset above all mirrors: the same in every store."""


class SuperDatasets:
    """Writes the super-datasets of a store at the end of a run, from the final states.

    A commit of a super-dataset stands for a run that went well: while the last visit of a dataset
    failed, the super-datasets around it wait, so that a passing fault adds no commit that an
    undisturbed store would not have. They wait no longer than :data:`PATIENCE`, so that a lasting
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
            update_supers(self._store, self._recorder, mirror, source, complete=complete)

        self._update(top, name, write, failed=wait and (failed or self._has_failed(name)))

    def update_top(self, *, failed: bool, wait: bool = True) -> None:
        """Bring the super-dataset above all mirrors up to date; as :meth:`update`."""
        top = DatasetRef(TOP_ALIAS, "", TOP_URI)

        def write(complete: bool) -> None:
            members = []
            for row in self._recorder.ask(lambda index: list(index.mirror_status())):
                dataset = DatasetRef(row.mirror, "", row.uri)
                commit = self._store.repository(dataset).main()
                if commit is not None:
                    members.append(Member(row.mirror, dataset, *commit, url=f"../{row.mirror}"))
            if members:
                update_superdataset(self._store, top, TOP_ALIAS, members, complete=complete)

        self._update(top, TOP_ALIAS, write, failed=wait and (failed or self._has_failed()))

    def _update(
        self, top: DatasetRef, name: str, write: Callable[[bool], None], *, failed: bool
    ) -> None:
        task = f"super-dataset-{name}"
        waiting = failed and self._store.postpone(task, PATIENCE)
        if waiting and may_wait(self._store, top):
            return
        write(not waiting)
        if not waiting:
            self._store.postponed_no_more(task)

    def _has_failed(self, mirror: str | None = None) -> bool:
        return self._recorder.ask(lambda index: index.has_failing(mirror))


def update_supers(
    store: Store, recorder: Recorder, mirror: Mirror, source: Source, *, complete: bool
) -> None:
    """Bring the mirror's super-dataset, and the groups below it, to the latest versions."""
    datasets = recorder.ask(lambda index: _datasets(index, mirror.name))
    members = grouped(
        datasets,
        source.group,
        lambda group, held: _bring(store, group, held, complete=complete),
    )
    top = mirror.superdataset(source.uri)
    # what was moved away must not stay in it
    if members or store.repository(top).exists():
        update_superdataset(store, top, mirror.name, members, complete=complete)


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


def _bring(store: Store, group: DatasetRef, members: Sequence[Member], *, complete: bool) -> State:
    update_superdataset(store, group, group.alias, members, complete=complete)
    commit = store.repository(group).refs()[MAIN]
    dates = [member.date for member in members if member.date is not None]
    return State(commit, max(dates, default=None))


def _datasets(index: Index, mirror: str) -> dict[DatasetRef, State]:
    """What each dataset's name means: its newest published version, else the newest observed."""
    states: dict[DatasetRef, State] = {}
    try:
        rows = list(index.datasets(mirror))
    except UnknownMirror:
        return states  # its list was never read
    for row in rows:
        if row.within:
            continue  # it is a part of another one, and found there
        if not row.versions:
            continue
        current = index.resolve(row.name)
        time = current.upstream_time
        date = None if time is None else int(datetime.fromisoformat(time).timestamp())
        states[DatasetRef(mirror, row.local_id, row.source_uri)] = State(current.commit, date)
    return states
