"""The block digests beside a lock file: one file per pin, named by its sha256.

The file is a sequence of encoded block digests (docs/reference/block-digests.md), sorted by key.
The lock file has its path, and thereby its sha256, so the digests are as trustworthy as the lock
file. The file itself is untrusted input.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self

from neuromirror.model import (
    BlockDigests,
    InvalidDocumentError,
    NeuromirrorError,
    count_of,
    default_piece_size,
    encode_block_digests,
)
from neuromirror.model.block_digests import MAX_HEAD_BYTES, decode_head
from neuromirror.store import SafeFolder, Store
from neuromirror.store.block_digests import BlockDigestsFolder, block_digests_name, check_encoded
from neuromirror.store.regular_files import NotARegularFileError, open_regular

BLOCK_DIGESTS_ENDING: Final = ".block-digests"
BLOCK_DIGESTS_NAME: Final = re.compile(rf"([0-9a-f]{{64}}){re.escape(BLOCK_DIGESTS_ENDING)}")
_MODE: Final = 0o644
_BLOCK: Final = 1 << 20


class LockBlockDigestsDamagedError(NeuromirrorError):
    """The block digests beside a lock file are missing, damaged, or not those of the lock file."""


class _Position(NamedTuple):
    """The position of a content's digests in the file, and the sha256 of their first line."""

    start: int
    length: int
    head: bytes


class LockBlockDigests:
    """The block digests of a pin. Thread-safe, and a context manager.

    Parameters
    ----------
    path
        The path of the file, whose name contains its sha256.

    Raises
    ------
    LockBlockDigestsDamagedError
        The file is missing, is damaged, or has another sha256.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open_regular(path)
        except (OSError, NotARegularFileError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a regular file"
            raise self._damaged(f"cannot be read ({reason})") from error
        try:
            self._positions = self._index(self._file)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        """Return the number of contents."""
        return len(self._positions)

    def __iter__(self) -> Iterator[str]:
        """Yield the annex keys, in the order of the file."""
        return iter(self._positions)

    def read(self, key: str) -> BlockDigests | None:
        """Return the block digests of a key's content.

        Parameters
        ----------
        key
            The annex key.

        Returns
        -------
        BlockDigests or None
            The digests, which are consistent and agree with the key; None if there are none.

        Raises
        ------
        LockBlockDigestsDamagedError
            The file changed, or the digests contradict the key.
        """
        position = self._positions.get(key)
        if position is None:
            return None
        content = os.pread(self._file.fileno(), position.length, position.start)
        if hashlib.sha256(content.partition(b"\n")[0]).digest() != position.head:
            raise self._damaged("was changed while it was in use")
        try:
            return check_encoded(content, str(self._path), key)[1]
        except InvalidDocumentError as error:
            raise self._damaged(f"is damaged ({error})") from error

    def _index(self, file: BinaryIO) -> dict[str, _Position]:
        """Return the positions by key, after a comparison of the whole file with its name."""
        name = BLOCK_DIGESTS_NAME.fullmatch(self._path.name)
        whole = hashlib.sha256()
        positions: dict[str, _Position] = {}
        left = os.fstat(file.fileno()).st_size
        start, before = 0, ""
        while line := file.readline(MAX_HEAD_BYTES + 1):
            try:
                head = decode_head(line.removesuffix(b"\n"), str(self._path))
            except InvalidDocumentError as error:
                raise self._damaged(f"is damaged ({error})") from error
            length = len(line) + head.body_length
            if not line.endswith(b"\n") or length > left or head.key <= before:
                raise self._damaged(f"is damaged at byte {start}: it is cut off or not sorted")
            digest = hashlib.sha256(line[:-1]).digest()
            positions[head.key] = _Position(start, length, digest)
            whole.update(line)
            missing = head.body_length
            while missing and (block := file.read(min(missing, _BLOCK))):
                whole.update(block)
                missing -= len(block)
            start, before, left = start + length, head.key, left - length
        if name is None or whole.hexdigest() != name[1]:
            raise self._damaged("does not have the sha256 in its name, which the lock file states")
        return positions

    def _damaged(self, problem: str) -> LockBlockDigestsDamagedError:
        return LockBlockDigestsDamagedError(
            f"{self._path} {problem}; copy it again from the source of the lock file, or run "
            "'neuromirror pin --streamable'"
        )


class PinnedDigests:
    """Collects the block digests of a pin's files, and writes them beside the lock file.

    Parameters
    ----------
    store
        The store. Digests that it lacks are read from the folder of the user.
    """

    def __init__(self, store: Store) -> None:
        self._folders = (BlockDigestsFolder.of_store(store), BlockDigestsFolder.of_user())
        self._names = {
            path.parent.name + path.name for folder in self._folders for path in folder.paths()
        }
        self._keys: set[str] = set()
        self._missing: set[str] = set()

    def add(self, key: str, size: int | None) -> None:
        """Add the key of a file of some size, which may have no block digests."""
        if self._names and block_digests_name(key) in self._names:
            self._keys.add(key)
        elif size is not None and size > default_piece_size(size):
            self._missing.add(key)

    def summary(self) -> str:
        """Return how many contents have block digests, for a message."""
        found = f"block digests of {count_of(len(self._keys), 'file')}"
        if not self._missing:
            return found
        return (
            f"{found}, none of {len(self._missing)} larger than a piece: run 'neuromirror digest' "
            "for the version, and pin it again"
        )

    def write(self, folder: SafeFolder) -> tuple[str, bool]:
        """Write the file; return its name, and whether it is new.

        Parameters
        ----------
        folder
            The folder of the dataset beside the lock file.

        Raises
        ------
        BlockDigestsDamagedError
            Block digests in the store are damaged.
        """
        draft, handle = folder.new_file()
        try:
            whole = hashlib.sha256()
            with os.fdopen(handle, "wb") as file:
                for encoded in self._encoded(sorted(self._keys)):
                    whole.update(encoded)
                    file.write(encoded)
                file.flush()
                os.fchmod(file.fileno(), _MODE)
                os.fsync(file.fileno())
            name = f"{whole.hexdigest()}{BLOCK_DIGESTS_ENDING}"
            is_new = folder.status(name) is None
            folder.replace(draft, folder, name)
        finally:
            folder.unlink(draft)
        return name, is_new

    def _encoded(self, keys: Iterable[str]) -> Iterator[bytes]:
        for key in keys:
            for folder in self._folders:
                if (found := folder.read(key)) is not None:
                    yield encode_block_digests(key, found)
                    break
