"""The contents that lock files pin, and their copies in vaults."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.annex import VaultKind, parse_key
from neuromirror.config.vault_files import S3VaultFile, VaultConfig
from neuromirror.index import (
    Index,
    UnknownDatasetError,
    UnknownMirrorError,
    UnknownVersionError,
    VersionRow,
)
from neuromirror.index.ledger import CheckMethod, Ledger, LedgerCopy, Stored
from neuromirror.lab.digest import files_by_dataset, files_of_lock
from neuromirror.lab.lockfile import Lock, PinnedVault, load_lock, pinned_vaults
from neuromirror.lab.output_files import add_vaults
from neuromirror.mint import CustodyRemote
from neuromirror.model import ConfigurationError, DatasetRef, NeuromirrorError, path_to_text
from neuromirror.store import Store
from neuromirror.store.custody import publish_locations, published_locations
from neuromirror.store.private_store import is_private_store
from neuromirror.store.withdrawn_datasets import (
    find_withdrawn_datasets,
    find_withdrawn_folder,
    withdrawn_folder,
)
from neuromirror.transfer.content_bodies import check_for, key_checksum
from neuromirror.transfer.outcomes import Finding, Outcome, Status
from neuromirror.transfer.verified_repository import Item
from neuromirror.vault.opening import open_vault
from neuromirror.vault.protocol import CopyRefusedError, Presence, Vault, VaultError


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
        return sum(item.size or 0 for item in self.items.values())

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
    for row in list(index.datasets.select(subdatasets=True)):
        dataset = row.dataset_ref
        for file in index.files.contents(row.name):
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
    if not any(find_withdrawn_folder(store, dataset) for dataset in chosen):
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
    create = not any(vault.name == config.name and vault.copies for vault in ledger.vaults())
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
            yield index.versions.resolve(pin.name, pin.commit)
        except (UnknownMirrorError, UnknownDatasetError, UnknownVersionError):
            continue


def _reference(row: VersionRow) -> DatasetRef:
    return row.dataset_ref


def _hosts(datasets: Iterable[DatasetRef]) -> frozenset[str]:
    return frozenset(filter(None, (urlsplit(dataset.source_uri).netloc for dataset in datasets)))


JOBS: Final = 8
"""Default number of concurrent copies."""

_COMMIT_COUNT: Final = 1000
_COMMIT_SECONDS: Final = 5.0
_BLOCK: Final = 1 << 20


class KeepOutcome(Outcome, frozen=True):
    """The outcome of ``keep`` for one content, or for the rest of a run.

    Attributes
    ----------
    vault
        The name of the vault.
    method
        How the copy was verified.
    """

    vault: str | None = None
    method: CheckMethod | None = None


class KeepOptions(Struct, frozen=True):
    """The options of a run.

    Attributes
    ----------
    jobs
        Number of concurrent downloads; of copies that the vault makes itself, four times as many.
    allowed_hosts
        Hosts of archives, with their ports, that may be accessed whatever their addresses are.
    with_credentials
        Whether credentials may be used for a vault that others may read: only if all contents are
        those of a public store. For a private vault, they are always used.
    bytes_per_second
        Limit for downloads; None for no limit.
    until
        When to stop, as :func:`time.monotonic`; None for no limit.
    is_stopping
        Returns whether to stop.
    report_bytes
        Called with the number of bytes that were received.
    """

    jobs: int = JOBS
    allowed_hosts: frozenset[str] = frozenset()
    with_credentials: bool = False
    bytes_per_second: float | None = None
    until: float | None = None
    is_stopping: Callable[[], bool] = field(default=lambda: False)
    report_bytes: Callable[[int], None] = field(default=lambda count: None)

    @property
    def is_over(self) -> bool:
        """Whether to stop now."""
        return (self.until is not None and time.monotonic() >= self.until) or self.is_stopping()


def item_outcome(
    name: str, item: KeepItem, status: Status, message: str, action: str = "keep"
) -> KeepOutcome:
    """Return the outcome for a content."""
    return KeepOutcome(
        *(action, status, item.path, message, item.dataset, item.version),
        key=item.key,
        size=item.size,
        vault=name,
    )


def copy_outcome(
    action: str,
    name: str,
    key: str,
    size: int | None,
    status: Status,
    message: str,
    method: CheckMethod | None = None,
) -> KeepOutcome:
    """Return the outcome for a copy, of which no file is known."""
    found = KeepItem("", "", ".", key, size, ())
    outcome = item_outcome(name, found, status, message, action)
    return replace(outcome, dataset=None, version=None, method=method)


class CopyBatch:
    """Confirmed copies that are not recorded yet.

    Making one copy durable takes as long as making a thousand durable.
    """

    def __init__(self, vault: Vault, ledger: Ledger) -> None:
        self._vault = vault
        self._ledger = ledger
        self._confirmed: list[tuple[Stored, KeepOutcome]] = []
        self._committed = time.monotonic()

    def add(self, stored: Stored, outcome: KeepOutcome) -> None:
        """Add a copy."""
        checksum = key_checksum(stored.key)
        outcome = replace(
            outcome,
            status="ok",
            size=stored.size,
            method=stored.method,
            evidence=checksum.evidence,
            checked="checked" if checksum.algorithm else None,
        )
        self._confirmed.append((stored, outcome))

    def commit_if_due(self) -> list[KeepOutcome]:
        """Commit if there are many copies, or if the last time was some seconds ago."""
        is_due = time.monotonic() - self._committed > _COMMIT_SECONDS
        return self.commit() if is_due or len(self._confirmed) >= _COMMIT_COUNT else []

    def commit(self) -> list[KeepOutcome]:
        """Make the copies durable and record them; return their outcomes.

        Raises
        ------
        VaultError
            The vault cannot be written; nothing is recorded.
        """
        self._committed = time.monotonic()
        confirmed, self._confirmed = self._confirmed, []
        if confirmed:
            # before they are recorded: a crash of the machine may lose what is not on the disk
            self._vault.flush()
            self._ledger.record(self._vault.uuid, [stored for stored, _ in confirmed])
        return [outcome for _, outcome in confirmed]

    def commit_after(
        self, steps: Generator[KeepOutcome, None, None]
    ) -> Generator[KeepOutcome, None, None]:
        """Yield the outcomes of steps that add copies, and at the end those of the last copies.

        The copies are recorded also if the vault fails or the caller stops, so that they are
        not copied again.

        Raises
        ------
        VaultError
            The vault failed in a step or cannot be written.
        """
        failure: VaultError | None = None
        finished: list[KeepOutcome] = []
        try:
            with closing(steps):
                yield from steps
        except VaultError as error:
            failure = error
        finally:
            try:
                finished = self.commit()
            except VaultError as error:
                failure = failure or error
        yield from finished
        if failure is not None:
            raise failure


def read_method(key: str) -> CheckMethod:
    """Return how reading all bytes of a content checks it."""
    return "full-read" if key_checksum(key).algorithm else "size"


def copies_of(vault: Vault, ledger: Ledger, keys: Sequence[str]) -> dict[str, LedgerCopy]:
    """Return the recorded copies of contents in a vault, in any state, by annex key."""
    return {
        copy.key: copy
        for copies in ledger.copies(keys, all_states=True).values()
        for copy in copies
        if copy.vault == vault.uuid
    }


def look_up_copies(
    vault: Vault, keys: Sequence[str]
) -> Iterator[tuple[str, Presence | CopyRefusedError]]:
    """Yield what a vault states about contents; one that it refuses to describe is no failure.

    Raises
    ------
    VaultError
        The vault does not respond.
    """
    left = dict.fromkeys(keys)
    try:
        for one in vault.presence(keys):
            del left[one.key]
            yield one.key, one
    except CopyRefusedError:
        for key in left:
            try:
                (found,) = vault.presence([key])
            except CopyRefusedError as error:
                yield key, error
            else:
                yield key, found


class UncheckedCopyError(NeuromirrorError):
    """A copy was not read to its end, so that nothing is known about its bytes."""


class BadSectorError(UncheckedCopyError):
    """The disk of a vault cannot return the bytes of a copy."""


def find_fault(vault: Vault, key: str, stop: threading.Event | None = None) -> str | None:
    """Read a copy completely; return why its bytes are not those of its key.

    Raises
    ------
    CopyMissingError
        The vault does not have it.
    UncheckedCopyError
        It was not read to its end, or the kind of its key is not supported.
    VaultError
        The vault cannot be read.
    """
    try:
        return find_mismatch(vault, key, stop)
    except BadSectorError as error:
        return str(error)


def find_mismatch(vault: Vault, key: str, stop: threading.Event | None = None) -> str | None:
    """Read a copy completely; return how its bytes differ from those of its key.

    Raises
    ------
    CopyMissingError
        The vault does not have it.
    BadSectorError
        The disk cannot return its bytes.
    UncheckedCopyError
        It was not read to its end, or the kind of its key is not supported.
    VaultError
        The vault cannot be read.
    """
    check = check_for(key)
    if check is None:
        raise UncheckedCopyError(f"{key}: keys of this kind cannot be verified")
    try:
        with vault.open(key) as file:
            while block := file.read(_BLOCK):
                check.update(block)
                if check.is_too_long:
                    break
                if stop is not None and stop.is_set():
                    raise UncheckedCopyError(f"{key}: the check was stopped")
    except CopyRefusedError as error:
        raise UncheckedCopyError(str(error)) from error
    except OSError as error:
        vault.check_access()  # an unavailable disk does not show that its copies are damaged
        why = f"its bytes cannot be read: {error}"
        # other errors are those of the network, of this process or of permissions
        raise (BadSectorError if error.errno == errno.EIO else UncheckedCopyError)(why) from error
    return check.mismatch()


def is_proof(presence: Presence) -> bool:
    """Return whether a vault's own statement shows that a content is right, without reading it."""
    checksum = key_checksum(presence.key)
    return (
        presence.sha256 is not None
        and checksum.algorithm == "sha256"
        and presence.sha256 == checksum.value
        and presence.size == checksum.size
    )
