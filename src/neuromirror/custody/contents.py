"""Select the contents to keep, and publish which of them a vault has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct, field

from neuromirror.annex import VaultKind, parse_key
from neuromirror.config.vault_files import S3VaultFile, VaultConfig
from neuromirror.index import (
    Index,
    UnknownDatasetError,
    UnknownMirrorError,
    UnknownVersionError,
    VersionRow,
)
from neuromirror.index.ledger import Ledger
from neuromirror.lab.digest import files_by_dataset, files_of_lock
from neuromirror.lab.lockfile import Lock, PinnedVault, load_lock, pinned_vaults
from neuromirror.lab.output_files import add_vaults
from neuromirror.mint import CustodyRemote
from neuromirror.model import ConfigurationError, DatasetRef, path_to_text
from neuromirror.store import Store
from neuromirror.store.custody import publish_locations, published_locations
from neuromirror.store.private_store import is_private_store
from neuromirror.store.withdrawn_datasets import (
    find_withdrawn_datasets,
    find_withdrawn_folder,
    withdrawn_folder,
)
from neuromirror.transfer.outcomes import Finding
from neuromirror.transfer.verified_repository import Item
from neuromirror.vault.opening import open_vault
from neuromirror.vault.protocol import Vault


class KeepItem(NamedTuple):
    """A content to keep.

    Attributes
    ----------
    dataset
        The name of a dataset that has it.
    version
        The label of a version that has it.
    path
        Its path there.
    key
        Its annex key.
    size
        Its size in bytes; None if unknown.
    urls
        Where to download it, best first.
    """

    dataset: str
    version: str
    path: str
    key: str
    size: int | None
    urls: tuple[str, ...]


class KeepContents(Struct):
    """The contents of versions, each once.

    Attributes
    ----------
    items
        The contents by annex key.
    findings
        Damaged manifests or records, whose files are not among the contents.
    datasets
        The datasets and subdatasets of the store that have the contents, with their annex keys.
    allowed_hosts
        The hosts of the archives of these datasets.
    """

    items: dict[str, KeepItem] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    datasets: dict[DatasetRef, set[str]] = field(default_factory=dict)
    allowed_hosts: frozenset[str] = frozenset()

    @property
    def bytes(self) -> int:
        """The size of all contents whose size is known."""
        return sum(one.size or 0 for one in self.items.values())

    def are_public(self, store: Store | None) -> bool:
        """Return whether all contents are those of datasets of a public store.

        A lock file does not say whether its datasets are public.
        """
        if store is None or is_private_store(store.root):
            return False
        return self.items.keys() <= set().union(*self.datasets.values())

    def add(self, dataset: str, label: str, item: Item) -> None:
        """Add a file or a finding of a version."""
        if isinstance(item, Finding):
            if item.failed:
                self.findings.append(item.for_version(dataset, label))
        elif item.key not in self.items:
            size = parse_key(item.key).size
            path = path_to_text(item.path)
            self.items[item.key] = KeepItem(dataset, label, path, item.key, size, item.urls)


def contents_of_version(
    store: Store, index: Index, row: VersionRow, globs: Sequence[str] = ()
) -> KeepContents:
    """Collect the contents of a version and its subdatasets."""
    found = KeepContents()
    for owner, item in files_by_dataset(store, index, row, globs):
        found.add(row.dataset_name, row.label, item)
        if not isinstance(item, Finding):
            found.datasets.setdefault(_reference(owner), set()).add(item.key)
    found.allowed_hosts = _hosts(found.datasets)
    return found


def contents_of_lock(
    lock: Lock, globs: Sequence[str] = (), store: Store | None = None, index: Index | None = None
) -> KeepContents:
    """Collect the contents that a lock file pins."""
    found = KeepContents()
    for dataset, label, item in files_of_lock(lock, globs):
        found.add(dataset, label, item)
    if store is not None and index is not None:
        for row in _pinned_versions(lock, index):
            for owner, item in files_by_dataset(store, index, row, ()):
                if not isinstance(item, Finding) and item.key in found.items:
                    found.datasets.setdefault(_reference(owner), set()).add(item.key)
    found.allowed_hosts = _hosts(found.datasets)
    return found


def contents_of_store(index: Index, sizes: Collection[int]) -> KeepContents:
    """Collect the contents with certain sizes of all versions of all datasets of a store."""
    contents = KeepContents()
    selected = frozenset(sizes)
    for row in list(index.datasets(subdatasets=True)):
        dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
        for file in index.file_contents(row.name):
            if file.size in selected:
                item = KeepItem(row.name, "", file.path, file.key, file.size, ())
                contents.items.setdefault(file.key, item)
                contents.datasets.setdefault(dataset, set()).add(file.key)
    return contents


def contents_of_withdrawn(store: Store, name: str, vault: str) -> KeepContents:
    """Collect the contents of a withdrawn dataset that a vault has according to its repository.

    Raises
    ------
    ConfigurationError
        The dataset is not withdrawn, or was deleted permanently.
    """
    mirror, _, local_id = name.partition(":")
    found = KeepContents()
    entries = find_withdrawn_datasets(store).items()
    chosen = [
        dataset
        for dataset, entry in entries
        if dataset.mirror == mirror and local_id in (entry.local_id, entry.within)
    ]
    if not any(find_withdrawn_folder(store, one) for one in chosen):
        raise ConfigurationError(
            f"{name}: its contents are unknown, since {withdrawn_folder(store)} does not have the "
            "dataset; 'neuromirror vault check --full' reads what a vault has"
        )
    for dataset in chosen:
        for key, uuids in published_locations(store, dataset, withdrawn=True):
            if vault in uuids:
                item = KeepItem(name, "", key, key, parse_key(key).size, ())
                found.items.setdefault(key, item)
                found.datasets.setdefault(dataset, set()).add(key)
    return found


def check_privacy(store: Store | None, vault: VaultConfig) -> None:
    """Refuse to keep data of a private store in a vault that others may read.

    Raises
    ------
    ConfigurationError
        The store is private, and the vault is not.
    """
    if store is not None and is_private_store(store.root) and not vault.settings.private:
        raise ConfigurationError(
            f"{vault.path}: the store {store.root} is private, and others may read this "
            "vault; set 'private = true' in it if no one else can, or choose another vault"
        )


def open_to_fill(config: VaultConfig, store: Store | None, ledger: Ledger) -> Vault:
    """Open a vault to store contents of a store in it; create it where it does not exist.

    A vault that has copies is not created: a file system that is not mounted must not become a new
    vault.

    Raises
    ------
    ConfigurationError
        The store is private, and the vault is not.
    VaultError
        The vault cannot be used.
    """
    check_privacy(store, config)
    create = not any(one.name == config.name and one.copies for one in ledger.vaults())
    return open_vault(config, store, create=create)


def publish_copies(
    store: Store, contents: KeepContents, vault: Vault, kept: Collection[str]
) -> int:
    """Publish in the repositories of datasets which contents a vault has.

    Raises
    ------
    NeuromirrorError
        A repository cannot be written.
    """
    remote = CustodyRemote(vault.uuid, vault.config.name, vault.remote_config())
    return sum(
        publish_locations(store, dataset, remote, sorted(keys.intersection(kept)))
        for dataset, keys in contents.datasets.items()
        if not keys.isdisjoint(kept)
    )


def name_in_lock(
    path: Path, contents: KeepContents, vault: Vault, kept: Collection[str]
) -> list[str]:
    """Name a vault in a lock file, so that the file can be restored from the vault.

    Raises
    ------
    LockUnusableError
        The file is not a valid lock file.
    LockBusyError
        Another process is writing it.
    """
    config, settings = vault.remote_config(), vault.config.settings
    named = pinned_vaults({} if config is None else {vault.uuid: config})
    if config is None and isinstance(settings, S3VaultFile):
        url = f"s3://{settings.bucket}/{settings.prefix}"
        named = (PinnedVault(vault.config.name, vault.uuid, VaultKind.S3, url),)
    datasets = {one.name for one, keys in contents.datasets.items() if not keys.isdisjoint(kept)}
    pins = {pin.name for pin in load_lock(path).datasets}
    datasets |= {one.dataset for key, one in contents.items.items() if key in kept}
    # the contents of subdatasets belong to one of the pins
    chosen = pins if datasets - pins else pins & datasets
    return add_vaults(path, dict.fromkeys(chosen, named)) if named else []


def _pinned_versions(lock: Lock, index: Index) -> Iterator[VersionRow]:
    """Yield the versions of pins that the index has."""
    for pin in lock.datasets:
        try:
            yield index.resolve(pin.name, pin.commit)
        except (UnknownMirrorError, UnknownDatasetError, UnknownVersionError):
            continue


def _reference(row: VersionRow) -> DatasetRef:
    return DatasetRef(row.mirror, row.local_id, row.source_uri)


def _hosts(datasets: Iterable[DatasetRef]) -> frozenset[str]:
    return frozenset(filter(None, (urlsplit(one.source_uri).netloc for one in datasets)))
