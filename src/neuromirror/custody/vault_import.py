"""Store files that a lab has already downloaded in a vault: found by size, verified by digest."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.custody.contents import KeepItem
from neuromirror.custody.copies import CopyBatch, KeepOutcome
from neuromirror.index.ledger import Ledger
from neuromirror.transfer.content_bodies import KeyChecksum, key_checksum
from neuromirror.transfer.outcomes import ByteProgress
from neuromirror.vault.errors import CopyRefusedError, VaultError
from neuromirror.vault.protocol import Vault

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
    relevant = [one for one in files if one.size in adoption.items_by_size]
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
