"""Check the copies of a vault, and import files into it."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.custody.copies import (
    CopyBatch,
    KeepItem,
    KeepOptions,
    KeepOutcome,
    UncheckedCopyError,
    copies_of,
    copy_outcome,
    find_fault,
    read_method,
)
from neuromirror.index.ledger import CheckMethod, Ledger, Stored
from neuromirror.transfer.content_bodies import KeyChecksum, key_checksum
from neuromirror.transfer.outcomes import ByteProgress, Status
from neuromirror.transfer.work_tree import map_in_order
from neuromirror.vault.protocol import CopyMissingError, CopyRefusedError, Vault, VaultError

_BATCH: Final = 1000
_READ: Final = 256
_JOBS: Final = 4
_DAY: Final = 86_400.0
_LOST: Final = "the vault does not have it any more"


def check_vault(vault: Vault, ledger: Ledger, *, full: bool = False) -> Iterator[KeepOutcome]:
    """Compare what a vault has with the ledger, and correct the ledger.

    Copies that are not recorded or not present in the ledger are read; with ``full``, all of them.

    Raises
    ------
    VaultError
        The vault cannot be read; nothing is reported as missing then.
    """
    vault.check_access()
    uuid = vault.uuid
    ledger.add_vault(uuid, vault.config.name, vault.config.settings.kind)
    started = ledger.clock()
    listed = vault.keys()
    while batch := dict(islice(listed, _BATCH)):
        copies = copies_of(vault, ledger, list(batch))
        known: dict[str, int] = {}
        if not full:
            present = (key for key, one in copies.items() if one.state == "present")
            known = {key: batch[key] for key in present if _has_size(key, batch[key])}
        ledger.record(uuid, [Stored(key, size, "listing") for key, size in known.items()])
        for key, size in known.items():
            yield _outcome(vault, key, size, "notneeded", "in the vault")
        unknown = {key: size for key, size in batch.items() if key not in known}
        for check in _read(vault, ledger, unknown, KeepOptions()):
            if check.is_unread and check.key in copies and _has_size(check.key, check.size):
                # it was listed, so that it is not missing; a damaged copy stays damaged
                ledger.record(uuid, [Stored(check.key, check.size, "listing")])
            elif check.is_unread and not _has_size(check.key, check.size):
                ledger.mark(uuid, [check.key], "damaged", "listing")
            yield check.outcome(vault)
    ledger.finish_listing(uuid, started)
    # also those that were missing before
    last = ""
    while lost := ledger.copies_in(uuid, after=last, state="missing"):
        last = lost[-1].key
        for one in lost:
            yield _outcome(vault, one.key, None, "error", _LOST)


def read_due_copies(
    vault: Vault, ledger: Ledger, days: float, options: KeepOptions
) -> Iterator[KeepOutcome]:
    """Read the copies that were not read for some days, those of the longest time first.

    A copy that could not be read has the name of the vault as ``host``; nothing is known about it.

    Raises
    ------
    VaultError
        The vault cannot be read.
    """
    vault.check_access()
    before, unread = ledger.clock() - days * _DAY, 0
    while not options.is_over:
        # those that could not be read stay the oldest ones
        oldest = ledger.least_recently_read(vault.uuid, _READ, offset=unread)
        due = {one.key: one.size for one in oldest if one.hashed < before}
        if not due:
            return
        for check in _read(vault, ledger, due, options):
            unread += check.is_unread
            if check.fault is not None and check.method is None:
                ledger.mark(vault.uuid, [check.key], "missing", "listing")
            outcome = check.outcome(vault)
            yield replace(outcome, host=vault.config.name) if check.is_unread else outcome


class _Check(NamedTuple):
    """The result of reading a copy; without a method, the vault does not have it."""

    key: str
    size: int
    fault: str | None
    method: CheckMethod | None
    is_unread: bool = False

    def outcome(self, vault: Vault) -> KeepOutcome:
        status: Status = "ok" if self.fault is None else "error"
        outcome = _outcome(vault, self.key, self.size, status, self.fault or "read")
        return outcome if self.fault is not None else replace(outcome, method=self.method)


def _read(
    vault: Vault, ledger: Ledger, sizes: dict[str, int], options: KeepOptions
) -> Iterator[_Check]:
    """Read copies; record those that are right, and recorded ones that are damaged."""
    stop = threading.Event()

    def check(key: str) -> _Check | None:
        if options.is_over:
            return None
        try:
            return _Check(key, sizes[key], find_fault(vault, key, stop), read_method(key))
        except UncheckedCopyError as error:
            return _Check(key, sizes[key], str(error), "listing", is_unread=True)
        except CopyMissingError as error:
            return _Check(key, sizes[key], str(error), None)

    right: list[Stored] = []
    try:
        for found in map_in_order(_JOBS, stop, check, sizes):
            if found is None:
                continue
            if found.method is not None and found.fault is None:
                right.append(Stored(found.key, found.size, found.method))
            elif found.method is not None and not found.is_unread:
                # a vault that fails in the middle is no reason to distrust its copies
                vault.check_access()
                ledger.mark(vault.uuid, [found.key], "damaged", "full-read")
            yield found
    finally:
        # also if the vault fails, or the caller stops here: what was read is not read once more
        ledger.record(vault.uuid, right)


def _has_size(key: str, size: int) -> bool:
    return key_checksum(key).size in (None, size)


def _outcome(vault: Vault, key: str, size: int | None, status: Status, message: str) -> KeepOutcome:
    return copy_outcome("vault", vault.config.name, key, size, status, message)


_BLOCK: Final = 1 << 20

_Form = tuple[str, int]
"""Algorithm and part size of a checksum."""


class FoundFile(Struct, frozen=True):
    """A regular file of a folder.

    Attributes
    ----------
    path
        Its path.
    size
        Its size in bytes.
    """

    path: Path
    size: int


def find_files(folder: Path) -> list[FoundFile]:
    """Return the regular files in a folder, also those of git-annex, sorted by path."""
    found = []
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(where, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                found.append(FoundFile(path, path.stat().st_size))
    return found


def adopt_files(
    files: list[FoundFile],
    folder: Path,
    items: Mapping[str, KeepItem],
    vault: Vault,
    ledger: Ledger,
    progress: ByteProgress | None = None,
) -> Iterator[KeepOutcome]:
    """Store files in a vault if they have one of the given contents.

    Raises
    ------
    VaultError
        The vault cannot be written.
    """
    vault.check_access(write=True)
    ledger.add_vault(vault.uuid, vault.config.name, vault.config.settings.kind)
    batch = CopyBatch(vault, ledger)
    adoption = _Adoption(folder, vault, batch)
    for key in ledger.missing(vault.uuid, list(items)):
        adoption.add(items[key])
    relevant = [file for file in files if file.size in adoption.items_by_size]
    yield from batch.commit_after(adoption.adopt_all(relevant, progress or (lambda *_: None)))


class _Adoption:
    """The contents that are still to be found; those that are found are added to a batch."""

    def __init__(self, folder: Path, vault: Vault, batch: CopyBatch) -> None:
        self._folder = folder
        self._vault = vault
        self._batch = batch
        self.items_by_size: dict[int, dict[str, KeepItem]] = defaultdict(dict)

    def add(self, item: KeepItem) -> None:
        if item.size is not None and key_checksum(item.key).algorithm:
            self.items_by_size[item.size][item.key] = item

    def adopt_all(
        self, files: list[FoundFile], progress: ByteProgress
    ) -> Generator[KeepOutcome, None, None]:
        """Adopt files; yield outcomes for those that failed, and for copies that are recorded."""
        total, done = sum(one.size for one in files), 0
        for file in files:
            yield from self._adopt(file)
            done += file.size
            progress(done, total)
            yield from self._batch.commit_if_due()

    def _adopt(self, file: FoundFile) -> Iterator[KeepOutcome]:
        """Store a file under the keys that it has; yield outcomes for those that failed."""
        candidates = self.items_by_size[file.size]
        if not candidates:
            return
        path = os.path.relpath(file.path, self._folder)
        checksums = {key: key_checksum(key) for key in candidates}
        try:
            with file.path.open("rb") as opened:
                digests = _digests(opened, checksums.values())
            for key, checksum in checksums.items():
                digest = digests.get(_form(checksum))
                if digest is None or not checksum.matches(digest, file.size):
                    continue
                item = candidates.pop(key)
                outcome = KeepOutcome(
                    *("keep", "ok", path, f"{item.dataset} {item.path}", item.dataset),
                    key=key,
                    size=file.size,
                    evidence=checksum.evidence,
                    checked="checked",
                    vault=self._vault.config.name,
                )
                test = partial(_is_content, checksum, file.size)
                try:
                    stored = self._vault.store(key, file.path, test)
                except CopyRefusedError as error:
                    yield replace(outcome, status="error", message=str(error), checked=None)
                    continue
                self._batch.add(stored, outcome)
        except VaultError:
            raise
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
            name = self._vault.config.name
            yield KeepOutcome("keep", "error", path, why, size=file.size, vault=name)


def _form(checksum: KeyChecksum) -> _Form:
    return checksum.algorithm, checksum.part_size


def _is_content(checksum: KeyChecksum, size: int, file: BinaryIO) -> bool:
    """Return whether a copy has the bytes that were found; the file may be another one by now."""
    return checksum.matches(_digests(file, [checksum])[_form(checksum)], size)


def _digests(file: BinaryIO, checksums: Collection[KeyChecksum]) -> dict[_Form, str]:
    """Return the digests of a file that are needed to compare it with checksums, in one read."""
    hashers = {}
    for checksum in checksums:
        hasher = None if _form(checksum) in hashers else checksum.hasher()
        if hasher is not None:
            hashers[_form(checksum)] = hasher
    while block := file.read(_BLOCK):
        for hasher in hashers.values():
            hasher.update(block)
    return {form: hasher.hexdigest() for form, hasher in hashers.items()}
