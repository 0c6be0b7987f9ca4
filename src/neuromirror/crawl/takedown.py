"""Take down a dataset, and reinstate it: in git, index, superdatasets and crawl.

The journal entry comes first: from then on the dataset is not visited, and the index does not show
it. Each step skips what is already done, so an interrupted command can be repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, suppress

from neuromirror.config.mirror_files import Mirror
from neuromirror.crawl.plan import Result
from neuromirror.crawl.recorder import JournalRecorder
from neuromirror.crawl.sync import Sync
from neuromirror.index import CrawlIndex, UnknownDatasetError, effective_entries
from neuromirror.model import (
    ConfigurationError,
    ContentsDigested,
    DatasetRef,
    DatasetReinstated,
    DatasetWithdrawn,
    VersionMinted,
    current_timestamp,
)
from neuromirror.store import Store, StoreDamagedError
from neuromirror.store.block_digests import (
    BlockDigestsDamagedError,
    BlockDigestsFolder,
    block_digests_name,
    digest_entries,
    digested_content,
    digested_keys,
    keys_of_version,
)
from neuromirror.store.private_store import require_public_store
from neuromirror.store.store import delete_previews
from neuromirror.store.withdrawn_datasets import (
    find_other_owner,
    find_withdrawn_datasets,
    find_withdrawn_folder,
    finish_reinstatement,
    reinstate_dataset,
    withdraw_dataset,
    withdrawn_folder,
)

_ONLY_PUBLIC = "only its owner can read it, and datasets are withdrawn from public stores only"
_WAIT = 60.0
"""Seconds to wait for a visit in progress."""


def take_down(
    store: Store,
    recorder: JournalRecorder,
    name: str,
    reason: str,
    by: str,
    mirrors: Mapping[str, Mirror],
) -> Iterator[Result]:
    """Stop showing a dataset and the components that only it has; yield the result for each.

    Nothing is deleted; see :mod:`neuromirror.store.withdrawn_datasets`. If ``mirrors`` lacks its
    mirror, its superdatasets are not updated, which is reported as a failure.

    Parameters
    ----------
    store, recorder
        The public store and its recorder.
    name
        The name of the dataset.
    reason
        The reason, which is shown to everyone who requests the dataset.
    by
        The login name of the operator.
    mirrors
        The configured mirrors by name.

    Raises
    ------
    UnknownDatasetError
        If the index does not have the dataset.
    ConfigurationError
        If it is a component of another dataset.
    StoreBusyError
        If it is being visited.
    """
    require_public_store(store.root, _ONLY_PUBLIC)
    down = _dataset_entries(find_withdrawn_datasets(store), name)
    if not down:
        entries = recorder.ask(lambda index: _new_entries(index, name, reason, by))
        recorder.record(*entries)
        down = _dataset_entries(find_withdrawn_datasets(store), name)
    for dataset, entry in down.items():
        with store.lock(dataset.dataset_id, dataset.name, _WAIT):
            digested = digested_keys(store, dataset)
            kept, unknown = _kept_keys(store, recorder, digested.keys)
            # a rebuilt index has them by an entry after those of the datasets that have them, too
            recorder.record(*_digest_entries(store, kept))
            moved = withdraw_dataset(store, entry, sorted(digested.keys - kept))
        message = f"taken down: {entry.reason}"
        if other := find_other_owner(store, dataset):
            message += f" (hidden only: {other} has the same dataset id, and keeps the repository)"
        yield Result(dataset.name, "ok" if moved else "notneeded", message)
        for name_of_other, problem in unknown.items():
            message = (
                "all block digests of its contents are still served, because the files of "
                f"{name_of_other}, which may share them, are unknown: {problem}"
            )
            yield Result(dataset.name, "error", message, "failed")
        for label, problem in digested.problems.items():
            message = (
                f"the block digests of version {label} may still be served, because its files are "
                f"unknown: {problem}"
            )
            yield Result(dataset.name, "error", message, "failed")
    delete_previews(store)
    if not all(
        recorder.ask(lambda index: [index.datasets.has_only_version_ids(one.name) for one in down])
    ):
        recorder.rebuild()
    yield from _update_superdatasets(store, recorder, name, mirrors)


def reinstate(
    store: Store, recorder: JournalRecorder, name: str, by: str, mirrors: Mapping[str, Mirror]
) -> Iterator[Result]:
    """Show a dataset again, as if it had never been taken down; yield the result for each part.

    Parameters
    ----------
    store, recorder
        The public store and its recorder.
    name
        The name of the dataset.
    by
        The login name of the operator.
    mirrors
        The configured mirrors by name, as for :func:`take_down`.

    Raises
    ------
    ConfigurationError
        If it is not taken down, or its files are missing.
    """
    require_public_store(store.root, _ONLY_PUBLIC)
    ever = {
        one.dataset_ref: one
        for _, one in store.journal.read(0)
        if isinstance(one, DatasetWithdrawn)
    }
    down = find_withdrawn_datasets(store)
    back = [
        one
        for one in _dataset_entries(ever, name)
        if one in down or find_withdrawn_folder(store, one)
    ]
    if not back:
        raise ConfigurationError(f"{name} is not taken down; nothing to undo")
    for one in back:
        if (
            find_withdrawn_folder(store, one) is None
            and not find_other_owner(store, one)
            and not store.repositories.of(one).exists()
        ):
            raise ConfigurationError(
                f"{one.name}: {one.dataset_id} is missing in {withdrawn_folder(store)}; restore it "
                "there from a backup, or leave the dataset taken down"
            )
    with ExitStack() as stack:
        for one in back:
            stack.enter_context(store.lock(one.dataset_id, one.name, _WAIT))
            reinstate_dataset(store, one)
        recorder.record(
            *(
                DatasetReinstated(one.mirror, one.local_id, one.source_uri, by, current_timestamp())
                for one in back
                if one in down
            )
        )
        recorder.rebuild()
        for one in back:
            finish_reinstatement(store, one)
            yield Result(one.name, "ok", "shown again")
    yield from _update_superdatasets(store, recorder, name, mirrors)


def _kept_keys(
    store: Store, recorder: JournalRecorder, keys: Collection[str]
) -> tuple[set[str], dict[str, str]]:
    """Return the keys that datasets have which are not withdrawn, and why files are unknown.

    The reasons are by the name of the version; with one, all keys are kept.
    """
    kept = recorder.ask(lambda index: index.files.shown_keys(keys))
    down = find_withdrawn_datasets(store)
    names = set(map(block_digests_name, keys))
    unknown: dict[str, str] = {}
    for _, entry in effective_entries(store):
        if len(kept) == len(keys):
            break
        if not isinstance(entry, VersionMinted) or entry.indexed:
            continue
        dataset = entry.dataset_ref
        if dataset not in down:
            try:
                found = keys_of_version(store, dataset, entry, names)
                if found is None:
                    raise StoreDamagedError("its repository is missing")
                kept.update(found)
            except StoreDamagedError as error:
                unknown[f"{dataset.name}@{entry.label}"] = str(error)
    return (set(keys) if unknown else kept), unknown


def _digest_entries(store: Store, keys: Collection[str]) -> list[ContentsDigested]:
    folder = BlockDigestsFolder.of_store(store)
    contents = []
    for key in sorted(keys):
        with suppress(BlockDigestsDamagedError):  # fsck reports it
            if (digests := folder.read(key)) is not None:
                contents.append(digested_content(key, digests))
    return [*digest_entries(contents, current_timestamp())]


def _dataset_entries(
    entries: Mapping[DatasetRef, DatasetWithdrawn], name: str
) -> dict[DatasetRef, DatasetWithdrawn]:
    """Return the entries of a dataset and its components, the components first."""
    mirror, _, local_id = name.partition(":")
    found = {
        dataset: entry
        for dataset, entry in entries.items()
        if dataset.mirror == mirror and local_id in (entry.local_id, entry.within)
    }
    return dict(sorted(found.items(), key=lambda one: (one[1].within == "", one[0].local_id)))


def _new_entries(index: CrawlIndex, name: str, reason: str, by: str) -> list[DatasetWithdrawn]:
    row = index.datasets.get(name)
    if row.within:
        around = " and ".join(index.datasets.superdatasets(name)) or "another dataset"
        raise ConfigurationError(
            f"{name} is a component of {around}; take down that dataset instead"
        )
    at = current_timestamp()
    found = []
    for local_id in index.datasets.exclusive_subdatasets(name):
        try:
            row_of_component = index.datasets.get(f"{row.mirror}:{local_id}")
        except UnknownDatasetError:
            continue
        names = row.mirror, local_id, row_of_component.source_uri
        found.append(DatasetWithdrawn(*names, reason, by, at, within=row.local_id))
    return [*found, DatasetWithdrawn(row.mirror, row.local_id, row.source_uri, reason, by, at)]


def _update_superdatasets(
    store: Store, recorder: JournalRecorder, name: str, mirrors: Mapping[str, Mirror]
) -> Iterator[Result]:
    mirror = mirrors.get(name.partition(":")[0])
    if mirror is None:
        message = (
            "its superdataset was not updated: the configuration file of the mirror is missing; "
            "run the command again "
            "with --mirrors"
        )
        yield Result(name.partition(":")[0], "error", message, "failed")
        return
    sync = Sync(store, recorder.index_path, recorder=recorder)
    yield from sync.update_superdatasets(mirror, wait=False)
    yield from sync.update_top_superdataset(wait=False)
