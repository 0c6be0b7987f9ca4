"""Open private stores: stores of datasets that are not public, which only their owner can enter.

The file ``neuromirror/private`` marks a store as private. A private store is rejected where a
public one is expected, and vice versa. Neither may be inside the other, so that a server of the
public store cannot reach the private one.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from neuromirror.git import try_git
from neuromirror.model import (
    ConfigurationError,
    ContentsDigested,
    DatasetRef,
    HoldLapsed,
    HoldPlaced,
    HoldReleased,
    JournalEntry,
    MirrorProbed,
    MirrorSeen,
    NeuromirrorError,
    VersionMinted,
    dump_entry,
)
from neuromirror.store.block_digests import BlockDigestsFolder, digested_keys
from neuromirror.store.durable_files import (
    FILE_MODE,
    FOLDER_MODE,
    copy_atomically,
    fsync_path,
    fsync_tree,
    make_folder,
    protect,
)
from neuromirror.store.repository import (
    CUSTODY_BRANCH,
    TAG_PREFIX,
    Repository,
    run_git,
    update_refs,
)
from neuromirror.store.store import Store

_MARKER = Path("neuromirror", "private")
_PUBLIC_MESSAGE = "{root} is a public store; choose another folder with --private-store"
_TWO_STORES = "specify it with --private-store, and the public store with --store"
_OTHERS_MODE = 0o007
_OWNER_MODE = 0o700


class StoreNotPrivateError(ConfigurationError):
    """The folder cannot be used as a private store.

    Other users can enter it, it is a public store, or one of the two stores is inside the other.
    """


class UnexpectedPrivateStoreError(ConfigurationError):
    """A private store was given where a public one is expected."""


def is_private_store(root: Path) -> bool:
    """Return whether the store at ``root`` is private."""
    return (root / _MARKER).exists()


def require_public_store(root: Path, advice: str = _TWO_STORES) -> None:
    """Raise UnexpectedPrivateStoreError if the store at ``root`` is private.

    ``advice`` is the end of the message.
    """
    if is_private_store(root):
        raise UnexpectedPrivateStoreError(f"{root} is a private store; {advice}")


def open_private_store(root: Path, public: Path) -> Store:
    """Open the private store at ``root``; create it with mode 0700 if it is missing.

    Parameters
    ----------
    root
        The private store's folder.
    public
        The public store's folder.

    Raises
    ------
    StoreNotPrivateError
        One of the stores is inside the other, users outside of the owner's group can enter
        ``root``, or it is a public store. Nothing was created.
    """
    root = root.absolute()
    _check_not_nested(root.resolve(), public.resolve())
    if not root.exists():
        make_folder(root.parent)
        # mkdir with the mode: the folder is never open to others
        with suppress(FileExistsError):
            root.mkdir(_OWNER_MODE)
            root.chmod(_OWNER_MODE)
            fsync_path(root.parent)
    if root.is_dir():
        _check_mode(root)
        if not is_private_store(root):
            _write_marker(root)
    store = Store.open(root, create=True)
    restrict_to_owner(root)
    return store


def find_private_store(root: Path, public: Path) -> Store | None:
    """Open the private store at ``root`` if there is one; write nothing.

    Raises StoreNotPrivateError as :func:`open_private_store` does.
    """
    _check_not_nested(root.resolve(), public.resolve())
    if not (root / "neuromirror" / "store.json").exists():
        return None
    _check_mode(root)
    if not is_private_store(root):
        raise StoreNotPrivateError(_PUBLIC_MESSAGE.format(root=root))
    return Store.open(root)


def restrict_to_owner(folder: Path) -> None:
    """Remove from everything in a folder the permissions for others that the folder itself lacks.

    To be called after other programs, such as git, have written to a private store.
    """
    refused = ~folder.stat().st_mode & 0o077
    for directory, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(directory, name)  # a Path takes several times as long
            # another process may remove its files meanwhile
            with suppress(FileNotFoundError):
                found = os.lstat(path).st_mode
                if not stat.S_ISLNK(found) and found & refused:
                    os.chmod(path, stat.S_IMODE(found) & ~refused)


def _check_not_nested(root: Path, public: Path) -> None:
    if root == public or public in root.parents or root in public.parents:
        raise StoreNotPrivateError(
            f"the private store {root} and the public store {public} must not contain each other: "
            "a server of the public one would serve both; choose another folder with "
            "--private-store"
        )


def _check_mode(root: Path) -> None:
    mode = stat.S_IMODE(root.stat().st_mode)
    if mode & _OTHERS_MODE:
        raise StoreNotPrivateError(
            f"all users of this machine can read {root} (mode {mode:04o}); run 'chmod 700 {root}' "
            "(or 750 for a group), or choose another folder with --private-store"
        )


def _write_marker(root: Path) -> None:
    """Mark an empty folder, or the incomplete store of a killed process, as private."""
    own = root / _MARKER.parent
    if (own / "store.json").exists():
        raise StoreNotPrivateError(_PUBLIC_MESSAGE.format(root=root))
    if any(root.iterdir()) and not own.is_dir():
        return  # not a store: Store.open raises the error
    own.mkdir(_OWNER_MODE, exist_ok=True)
    (own / _MARKER.name).touch()
    fsync_path(own)


_DATASET_FOLDERS = (Path("neuromirror", "records"), Path("neuromirror", "memos"))


class DivergedHistoriesError(NeuromirrorError):
    """The two stores of a move have different histories of the dataset, so it cannot be moved."""


def dataset_entries(store: Store, dataset: DatasetRef) -> list[JournalEntry]:
    """Return the journal entries of a dataset, oldest first."""
    belongs = _DatasetFilter(dataset)
    return [entry for _, entry in store.journal.read(0) if belongs(entry)]


def copy_dataset(source: Store, target: Store, dataset: DatasetRef) -> list[JournalEntry]:
    """Copy a dataset's files from ``source`` to ``target``.

    The caller holds the dataset's locks in both stores.

    Returns
    -------
    list[JournalEntry]
        The journal entries that ``target`` lacks, for the caller to append.

    Raises
    ------
    DivergedHistoriesError
        ``target`` has another history of the dataset; nothing was written.
    """
    source_repository, target_repository = (
        source.repositories.of(dataset),
        target.repositories.of(dataset),
    )
    if source_repository.exists():
        source_repository.remove_stale_files()
        _check_fast_forward(dataset, source_repository, target_repository)
    entries = dataset_entries(source, dataset)
    with target.scratch() as scratch:
        for state in _states(entries):
            _copy_file(source.manifest_path(state), target.manifest_path(state), scratch)
        records = _dataset_folders(source.root, dataset)[0]
        for path in sorted(records.glob("*.zst")):
            _copy_file(path, _dataset_folders(target.root, dataset)[0] / path.name, scratch)
        # a rebuild of the index finds them; those of the source remain, as of other datasets
        copies = BlockDigestsFolder.of_store(target)
        for key in sorted(digested_keys(source, dataset).keys):
            _copy_file(BlockDigestsFolder.of_store(source).path(key), copies.path(key), scratch)
    if source_repository.exists() and not target_repository.refs():
        _copy_repository(
            source_repository, target_repository, only_reachable=is_private_store(source.root)
        )
    if target_repository.exists():
        target_repository.remove_stale_files()
        target_repository.update_server_info()
        target.repositories.alias(dataset)
    known = {dump_entry(entry) for entry in dataset_entries(target, dataset)}
    return [entry for entry in entries if dump_entry(entry) not in known]


def check_copy_complete(source: Store, target: Store, dataset: DatasetRef) -> None:
    """Check that ``target`` has everything that ``source`` has of a dataset.

    Raises
    ------
    DivergedHistoriesError
        ``target`` lacks a file or a journal entry.
    StoreDamagedError
        ``git fsck`` rejects the copied repository.
    """
    source_repository, target_repository = (
        source.repositories.of(dataset),
        target.repositories.of(dataset),
    )
    missing = [
        path.name
        for path in _dataset_folders(source.root, dataset)[0].glob("*.zst")
        if not (_dataset_folders(target.root, dataset)[0] / path.name).exists()
    ]
    known = {dump_entry(entry) for entry in dataset_entries(target, dataset)}
    for entry in dataset_entries(source, dataset):
        if dump_entry(entry) not in known:
            missing.append("a journal entry")
        if isinstance(entry, VersionMinted):
            name = source.manifest_path(entry.state)
            if name.exists() and not target.manifest_path(entry.state).exists():
                missing.append(name.name)
    if missing:
        raise DivergedHistoriesError(
            f"{dataset.name}: {target.root} lacks {missing[0]} ({len(missing)} files and entries "
            f"in all). {source.root} still has everything; run the sync again."
        )
    if source_repository.exists():
        _check_fast_forward(dataset, source_repository, target_repository)
        run_git(
            target_repository.path, "fsck", "--connectivity-only", "--no-dangling", "--no-progress"
        )


def remove_from_journal(store: Store, dataset: DatasetRef) -> None:
    """Remove a dataset's alias, manifests and journal entries from a store.

    The caller holds the dataset's lock, and must rebuild the index afterwards.
    """
    alias = store.root / "alias" / dataset.alias
    alias.unlink(missing_ok=True)
    fsync_path(alias.parent)
    belongs = _DatasetFilter(dataset)
    others = [entry for _, entry in store.journal.read(0) if not belongs(entry)]
    for state in _states(dataset_entries(store, dataset)) - _states(others):
        store.manifest_path(state).unlink(missing_ok=True)
    if store.journal.size():
        store.journal.drop(_DatasetFilter(dataset))


def remove_files(store: Store, dataset: DatasetRef) -> None:
    """Remove a dataset's repository, records, memos and unfinished listings from a store.

    The caller holds the dataset's lock.
    """
    repository = store.repositories.of(dataset).path
    workspaces = store.root / "neuromirror" / "workspaces" / dataset.dataset_id
    for folder in (*_dataset_folders(store.root, dataset), workspaces, repository):
        if folder.exists():
            shutil.rmtree(folder)
            fsync_path(folder.parent)


class _DatasetFilter:
    """Selects the entries of one dataset; must be called in the journal's order."""

    def __init__(self, dataset: DatasetRef) -> None:
        self._name = (dataset.mirror, dataset.local_id)
        self._holds: set[str] = set()

    def __call__(self, entry: JournalEntry) -> bool:
        match entry:
            case MirrorSeen() | MirrorProbed() | ContentsDigested():
                return False
            case HoldReleased() | HoldLapsed():
                return entry.hold in self._holds
            case _:
                belongs = (entry.mirror, entry.local_id) == self._name
                if belongs and isinstance(entry, HoldPlaced):
                    self._holds.add(entry.hold)
                return belongs


def _states(entries: list[JournalEntry]) -> set[str]:
    return {entry.state for entry in entries if isinstance(entry, VersionMinted)}


def _dataset_folders(root: Path, dataset: DatasetRef) -> list[Path]:
    """Return the folders of a dataset's records and memos, in this order."""
    name = dataset.dataset_id
    return [root / folder / name[:3] / name[3:] for folder in _DATASET_FOLDERS]


def _check_fast_forward(
    dataset: DatasetRef, source_repository: Repository, target_repository: Repository
) -> None:
    """Check that the target's refs contain the source's; a target without refs passes.

    Raises DivergedHistoriesError.
    """
    refs = target_repository.refs()
    for name, commit in source_repository.refs().items() if refs else ():
        at = refs.get(name)
        if at == commit or name == CUSTODY_BRANCH:
            continue
        if (
            at is None
            or name.startswith(TAG_PREFIX)
            or not _is_ancestor(target_repository, commit, at)
        ):
            raise DivergedHistoriesError(
                f"{dataset.name}: the histories of {target_repository.path} and "
                f"{source_repository.path} differ at {name}. Both were kept; move one of the "
                "repositories out of its store."
            )


def _is_ancestor(repository: Repository, commit: str, of: str) -> bool:
    return try_git(repository.path, "merge-base", "--is-ancestor", commit, of).returncode == 0


def _copy_repository(
    source_repository: Repository, target_repository: Repository, *, only_reachable: bool
) -> None:
    """Copy a repository under a temporary name, fsync it, and rename it.

    Each store records the copies in its own vaults, so that the branch with them is not copied. Its
    objects name vaults, and the packs of a public store are served: if there is the branch, or with
    ``only_reachable``, only the objects that other refs reach are copied.
    """
    draft = target_repository.path.with_name(f".new-{target_repository.path.name}")
    shutil.rmtree(draft, ignore_errors=True)
    make_folder(draft.parent)
    refs = source_repository.refs()
    if refs.pop(CUSTODY_BRANCH, None) is not None or only_reachable:
        Repository(draft).create()
        _copy_reachable_objects(source_repository, draft, refs.values())
        update_refs(draft, {}, refs)
    else:
        shutil.copytree(source_repository.path, draft)
        for folder, _, files in os.walk(draft):
            Path(folder).chmod(FOLDER_MODE)
            for name in files:
                path = Path(folder, name)
                path.chmod(FILE_MODE if path.stat().st_mode & 0o200 else FILE_MODE & 0o444)
        protect(draft)
    fsync_tree(draft)
    # a repository without refs is left over from a killed visit
    shutil.rmtree(target_repository.path, ignore_errors=True)
    os.rename(draft, target_repository.path)
    fsync_path(target_repository.path.parent)


def _copy_reachable_objects(
    source_repository: Repository, target: Path, commits: Iterable[str]
) -> None:
    """Write a pack with the given commits, and all objects that they refer to."""
    # git writes temporary files to the objects of the repository in which it runs
    alternates = target / "objects" / "info" / "alternates"
    objects = (source_repository.path / "objects").absolute()
    alternates.write_bytes(os.fsencode(objects) + b"\n")
    run_git(
        *(target, "pack-objects", "--revs", "--non-empty", "--delta-base-offset", "-q"),
        str((target / "objects" / "pack" / "pack").absolute()),
        stdin="".join(f"{commit}\n" for commit in commits),
    )
    alternates.unlink()


def _copy_file(path: Path, target: Path, scratch: Path) -> None:
    """Copy an immutable file; do nothing where the target exists or the source is missing."""
    if path.exists() and not target.exists():
        copy_atomically(path, target, scratch)
