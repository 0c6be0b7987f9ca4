"""A dataset taken down, and shown again: out of git, index, super-datasets and crawl.

The journal comes first: from then on no visit is made, and the index tells nothing of it. Each
step leaves alone what is done already; killed anywhere and repeated, the outcome is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from neuromirror.crawl.mirrors import Mirror
from neuromirror.crawl.recorder import JournalRecorder
from neuromirror.crawl.results import Result
from neuromirror.crawl.sync import Sync
from neuromirror.crawl.times import now
from neuromirror.index import Index, UnknownDataset
from neuromirror.model import ConfigurationError, DatasetRef, Reinstated, Withheld
from neuromirror.store import Store
from neuromirror.store.private import refuse_private
from neuromirror.store.withheld import (
    down_in,
    forget,
    kept_of,
    move_back,
    move_out,
    withheld_folder,
)

_WAIT = 60.0
"""Seconds to wait for a visit that is under way."""


def take_down(
    store: Store,
    recorder: JournalRecorder,
    name: str,
    reason: str,
    by: str,
    mirrors: Mapping[str, Mirror],
) -> Iterator[Result]:
    """Stops showing a dataset, with the parts that only it has; yields how each fared.

    Nothing is deleted; see :mod:`neuromirror.store.withheld`. Without its mirror among
    ``mirrors`` its super-datasets stay as they are, which is a failure. Raises UnknownDataset,
    ConfigurationError for a part, StoreBusy for one that is being visited.
    """
    refuse_private(store.root)
    down = _of(down_in(store), name)
    if not down:
        entries = recorder.ask(lambda index: _entries(index, name, reason, by))
        recorder.record(*entries)
        down = _of(down_in(store), name)
    for dataset, entry in down.items():
        with store.lock(dataset.dataset_id, dataset.name, _WAIT):
            moved = move_out(store, entry)
        said = f"taken down: {entry.reason}"
        yield Result(dataset.name, "ok" if moved else "notneeded", said)
    if not all(recorder.ask(lambda index: [index.is_bare(one.name) for one in down])):
        recorder.renew()
    yield from _regroup(store, recorder, name, mirrors)


def reinstate(
    store: Store,
    recorder: JournalRecorder,
    name: str,
    by: str,
    mirrors: Mapping[str, Mirror],
) -> Iterator[Result]:
    """Shows a dataset again, as if it had never been taken down; yields how each part fared.

    Raises ConfigurationError for one that was not.
    """
    refuse_private(store.root)
    ever = {
        DatasetRef(one.mirror, one.local_id, one.source_uri): one
        for _, one in store.journal_from(0)
        if isinstance(one, Withheld)
    }
    down = down_in(store)
    back = [one for one in _of(ever, name) if one in down or kept_of(store, one)]
    if not back:
        raise ConfigurationError(f"{name} is not taken down; there is nothing to undo")
    for one in back:
        if kept_of(store, one) is None and not store.repository(one).exists():
            raise ConfigurationError(
                f"what was kept of {one.name} is not in {withheld_folder(store)} any more; put "
                f"{one.dataset_id} back there (from a backup), or leave it taken down"
            )
    with ExitStack() as stack:
        for one in back:
            stack.enter_context(store.lock(one.dataset_id, one.name, _WAIT))
            move_back(store, one)
        recorder.record(
            *(
                Reinstated(one.mirror, one.local_id, one.source_uri, by, now())
                for one in back
                if one in down
            )
        )
        recorder.renew()
        for one in back:
            forget(store, one)
            yield Result(one.name, "ok", "shown again")
    yield from _regroup(store, recorder, name, mirrors)


def _of(entries: Mapping[DatasetRef, Withheld], name: str) -> dict[DatasetRef, Withheld]:
    """The entries about a dataset and its parts, those of the parts first."""
    mirror, _, local_id = name.partition(":")
    found = {
        dataset: entry
        for dataset, entry in entries.items()
        if dataset.mirror == mirror and local_id in (entry.local_id, entry.within)
    }
    return dict(sorted(found.items(), key=lambda one: (one[1].within == "", one[0].local_id)))


def _entries(index: Index, name: str, reason: str, by: str) -> list[Withheld]:
    row = index.dataset(name)
    if row.within:
        around = " and ".join(index.holders(name)) or "another dataset"
        raise ConfigurationError(f"{name} is a part of {around}; take that down")
    at = now()
    found = []
    for local_id in index.own_parts(name):
        try:
            part = index.dataset(f"{row.mirror}:{local_id}")
        except UnknownDataset:
            continue
        found.append(
            Withheld(row.mirror, local_id, part.source_uri, reason, by, at, within=row.local_id)
        )
    return [*found, Withheld(row.mirror, row.local_id, row.source_uri, reason, by, at)]


def _regroup(
    store: Store, recorder: JournalRecorder, name: str, mirrors: Mapping[str, Mirror]
) -> Iterator[Result]:
    mirror = mirrors.get(name.partition(":")[0])
    if mirror is None:
        message = (
            "its super-dataset is as it was: there is no such mirror file; run the command again "
            "with --mirrors"
        )
        yield Result(name.partition(":")[0], "error", message, "failed")
        return
    sync = Sync(store, recorder.index_path, recorder=recorder)
    yield from sync.regroup(mirror, wait=False)
    yield from sync.regroup_top(wait=False)
