"""The contents that a policy keeps, with the time at which upstream may delete them."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import Struct, field

from neuromirror.config.policy_files import Policies, Policy
from neuromirror.custody.keep_plan import (
    KeepContents,
    contents_of_lock,
    contents_of_version,
)
from neuromirror.custody.lock_sources import LockSourceError, find_locks
from neuromirror.custody.policy_plan import PolicyContents, RequiredContent
from neuromirror.index import (
    DatasetWithdrawnError,
    Index,
    RetainedFile,
    UnknownDatasetError,
    UnknownMirrorError,
    VersionRow,
)
from neuromirror.lab.globs import Globs
from neuromirror.lab.lockfile import Lock
from neuromirror.model import DatasetRef, Retention
from neuromirror.store import Store

_SAFE = frozenset({Retention.PUBLISHED, Retention.VERSIONED_BUCKET})
"""Upstream promises to keep contents with one of these."""


class SelectedContents(Struct):
    """The contents that a policy keeps.

    Attributes
    ----------
    required
        The policy with its contents.
    contents
        The contents; without items of those that are to be located in :attr:`datasets`.
    datasets
        Datasets whose records state where to get the other contents, with their annex keys.
    locks
        The lock files of a policy for pins.
    problems
        Lock files, manifests and records that cannot be read: their contents are not kept.
    """

    required: PolicyContents
    contents: KeepContents = field(default_factory=KeepContents)
    datasets: dict[str, set[str]] = field(default_factory=dict)
    locks: list[Lock] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def deletion_horizon(
    files: Iterable[RetainedFile], draft_days: float, listed_at: datetime | None
) -> datetime | None:
    """Return the earliest time at which upstream may delete a content.

    Content of a draft is kept for some days after its replacement, which is after the last visit
    that found it. Content of a bucket without versions may be lost as soon as it is replaced.

    Parameters
    ----------
    files
        The files of a dataset with this content.
    draft_days
        Days for which upstream keeps replaced content of drafts.
    listed_at
        When upstream last stated that the dataset has not changed since the last visit; None if
        that is not known.

    Returns
    -------
    datetime or None
        The time; None if upstream promises to keep it.
    """
    horizons = []
    for one in files:
        if one.retention in _SAFE:
            return None
        seen = datetime.fromisoformat(one.last_seen)
        if one.is_current and listed_at is not None:
            seen = max(seen, listed_at)
        days = draft_days if one.retention is Retention.DRAFT else 0.0
        horizons.append(seen.astimezone(UTC) + timedelta(days=days))
    return max(horizons, default=None)


def select_contents(
    policy: Policy, policies: Policies, store: Store, index: Index
) -> SelectedContents:
    """Return the contents that a policy keeps.

    Parameters
    ----------
    policy
        The policy.
    policies
        All policies, with the settings that they share.
    store
        The store with the records.
    index
        Its index.

    Returns
    -------
    SelectedContents
        The contents.
    """
    horizons = _Horizons(store, index, policies.settings.draft_days)
    found = SelectedContents(PolicyContents(policy, ()))
    if policy.what == "pins":
        required = _select_pins(found, policies, store, index, horizons)
    else:
        required = [
            one
            for dataset in _selected_datasets(policy, index)
            for one in _select_dataset(found, policy, store, index, dataset, horizons)
        ]
    found.required = PolicyContents(policy, required)
    return found


def locate_contents(
    selected: SelectedContents, keys: Collection[str], store: Store, index: Index
) -> None:
    """Add to :attr:`SelectedContents.contents` where to get contents.

    Parameters
    ----------
    selected
        The contents of a policy.
    keys
        Annex keys of contents that are to be copied.
    store, index
        The store and its index.
    """
    policy = selected.required.policy
    items = selected.contents.items
    for dataset, known in selected.datasets.items():
        left = known.intersection(keys) - items.keys()
        # the newest version has most of what is lacking, and the best URLs
        for row in reversed(_versions(index, dataset, policy)) if left else ():
            some = contents_of_version(store, index, row, policy.paths)
            items |= {key: some.items[key] for key in left & some.items.keys()}
            selected.contents.allowed_hosts |= some.allowed_hosts
            left -= items.keys()
            if not left:
                break


def _select_pins(
    found: SelectedContents, policies: Policies, store: Store, index: Index, horizons: _Horizons
) -> list[RequiredContent]:
    policy = found.required.policy
    cache = _locks_cache(store)
    required: dict[str, RequiredContent] = {}
    for text in policy.locks:
        try:
            for lock in find_locks(_source(policies, text), cache):
                if not isinstance(lock, Lock):
                    found.problems.append(str(lock))
                    continue
                found.locks.append(lock)
                some = contents_of_lock(lock, policy.paths, store, index)
                found.problems += (
                    f"{lock.path}: {one.dataset}: {one.message}" for one in some.findings
                )
                required |= _contents_of_pins(some, policy, horizons)
                _merge(found.contents, some, required.keys())
        except LockSourceError as error:
            found.problems.append(str(error))
    return list(required.values())


def remove_unused_locks(store: Store, selected: Iterable[SelectedContents]) -> None:
    """Remove the copies of committed lock files that no branch or tag has any more.

    Parameters
    ----------
    store
        The store.
    selected
        The contents of all policies, whose lock files could all be read.
    """
    used = {lock.path.parent.name for one in selected for lock in one.locks}
    with suppress(FileNotFoundError):
        for copy in _locks_cache(store).iterdir():
            if copy.name not in used:
                shutil.rmtree(copy, ignore_errors=True)


def _locks_cache(store: Store) -> Path:
    return store.journal_path.parent / "pinned-locks"


def _source(policies: Policies, text: str) -> Path:
    return (policies.path.parent / Path(text).expanduser()).resolve()


def _contents_of_pins(
    contents: KeepContents, policy: Policy, horizons: _Horizons
) -> dict[str, RequiredContent]:
    known: dict[str, datetime | None] = {}
    for owner, keys in contents.datasets.items():
        of_owner = horizons.of_dataset(f"{owner.mirror}:{owner.local_id}")
        known |= {key: of_owner[key] for key in keys & of_owner.keys()}
    return {
        key: RequiredContent(key, one.size or 0, one.dataset, known.get(key))
        for key, one in contents.items.items()
        if policy.selects(one.dataset)
    }


def _merge(target: KeepContents, more: KeepContents, keys: Collection[str]) -> None:
    """Add contents with some keys to others."""
    target.items |= {key: one for key, one in more.items.items() if key in keys}
    for owner, some in more.datasets.items():
        target.datasets.setdefault(owner, set()).update(some.intersection(keys))
    target.allowed_hosts |= more.allowed_hosts


def _selected_datasets(policy: Policy, index: Index) -> list[str]:
    """Return the names of the selected datasets and of their subdatasets."""
    matching: set[str] | None = None
    if policy.keywords:
        matching = {row.name for text in policy.keywords for row in index.search(text)}
    selected: dict[str, None] = {}
    rows = list(index.datasets())
    for row in rows:
        if policy.selects(row.name) and (matching is None or row.name in matching):
            selected[row.name] = None
    for row in rows:
        if row.is_subdataset and f"{row.mirror}:{row.within}" in selected:
            selected[row.name] = None
    return list(selected)


def _select_dataset(
    found: SelectedContents,
    policy: Policy,
    store: Store,
    index: Index,
    dataset: str,
    horizons: _Horizons,
) -> Iterator[RequiredContent]:
    """Yield the contents of a dataset; read records only where the index lacks the files."""
    published = policy.what == "published"
    globs = Globs(policy.paths)
    sizes: dict[str, int] = {}
    for one in index.retained_files(dataset, published_only=published):
        if not policy.paths or globs.matches(one.path):
            sizes.setdefault(one.key, one.size or 0)
    row = index.dataset(dataset)
    if row.source_uri:
        reference = DatasetRef(row.mirror, row.local_id, row.source_uri)
        found.contents.datasets.setdefault(reference, set()).update(sizes)
    for version in _versions(index, dataset, policy):
        # files of subdatasets belong to a published version only through its tree
        in_tree = published and next(index.subdatasets(version), None) is not None
        if not version.indexed or in_tree:
            some = contents_of_version(store, index, version, policy.paths)
            found.problems += (f"{dataset}: {one.message}" for one in some.findings)
            _merge(found.contents, some, some.items.keys())
            sizes |= {key: one.size or 0 for key, one in some.items.items()}
    found.datasets[dataset] = set(sizes)
    known = horizons.of_dataset(dataset)
    for key, size in sizes.items():
        yield RequiredContent(key, size, dataset, known.get(key))


def _versions(index: Index, dataset: str, policy: Policy) -> Sequence[VersionRow]:
    rows = list(index.versions(dataset))
    if policy.what == "published":
        rows = [row for row in rows if row.kind == "published"]
    return rows


class _Horizons:
    """The times at which upstream may delete contents, per dataset."""

    def __init__(self, store: Store, index: Index, draft_days: float) -> None:
        self._store = store
        self._index = index
        self._draft_days = draft_days
        self._known: dict[str, dict[str, datetime | None]] = {}

    def of_dataset(self, dataset: str) -> dict[str, datetime | None]:
        """Return the time by annex key; empty for a dataset that is not in the store."""
        if dataset not in self._known:
            try:
                self._known[dataset] = self._read(dataset)
            except (UnknownDatasetError, UnknownMirrorError, DatasetWithdrawnError):
                self._known[dataset] = {}
        return self._known[dataset]

    def _read(self, dataset: str) -> dict[str, datetime | None]:
        files: dict[str, list[RetainedFile]] = {}
        for one in self._index.retained_files(dataset):
            files.setdefault(one.key, []).append(one)
        row = self._index.dataset(dataset)
        listed = None
        if not row.is_removed_upstream and row.status == "full":
            listed = self._store.last_listed(row.mirror)
        return {
            key: deletion_horizon(some, self._draft_days, listed) for key, some in files.items()
        }
