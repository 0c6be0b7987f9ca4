"""DANDI's checksum of a whole Zarr: ``<md5>-<files>--<bytes>``.

The format is that of the ``zarr-checksum`` library, which needs 600 bytes of memory per file of a
folder; the tests compare both. A folder's checksum is the MD5 of its compact JSON listing,
``{"directories":[{"digest","name","size"}…],"files":[…]}``, each list sorted by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from tempfile import SpooledTemporaryFile
from typing import Final, NamedTuple

from neuromirror.model import FileTotals
from neuromirror.net import ObjectRow

CHECKSUM_PATTERN: Final = re.compile(
    r"(?P<md5>[0-9a-f]{32})-(?P<files>[0-9]{1,19})--(?P<bytes>[0-9]{1,19})\Z"
)
_MAX_IN_MEMORY: Final = 1 << 24
"""Bytes of the listing of one folder's files; longer ones are on disk."""
_CHUNK: Final = 1 << 20


class _Entry(NamedTuple):
    digest: str
    name: str
    size: int


def parse_checksum(checksum: str) -> FileTotals:
    """Return the number of files and bytes that a Zarr checksum states.

    Raises
    ------
    ValueError
        The text is no Zarr checksum.
    """
    found = CHECKSUM_PATTERN.match(checksum)
    if found is None:
        raise ValueError(f"{checksum[:80]!r} is not a checksum of a Zarr")
    return FileTotals(int(found["files"]), int(found["bytes"]))


def compute_zarr_checksum(rows: Iterable[ObjectRow], prefix: bytes) -> str:
    """Return the checksum of a Zarr's objects; ``rows`` are sorted by the bytes of their keys.

    In this order everything below a folder is contiguous, so only the open folders are in memory.
    The listing of a folder with many files is spooled to disk.
    """
    open_folders = [_Folder("")]
    for row in rows:
        # split paths like pathlib, as the archive does
        *above, name = [
            one for one in decode_key(row.key[len(prefix) :]).split("/") if one not in ("", ".")
        ] or [""]
        depth = 0
        while (
            depth < len(above)
            and depth + 1 < len(open_folders)
            and open_folders[depth + 1].name == above[depth]
        ):
            depth += 1
        _close(open_folders, depth + 1)
        open_folders += [_Folder(one) for one in above[depth:]]
        open_folders[-1].add(_Entry(row.etag, name, row.size))
    _close(open_folders, 1)
    return open_folders[0].entry().digest


def decode_key(key: bytes) -> str:
    """Decode an object key to text, so that bytes that are not UTF-8 can be restored."""
    return key.decode("utf-8", "surrogateescape")


def _close(open_folders: list[_Folder], until: int) -> None:
    while len(open_folders) > until:
        done = open_folders.pop().entry()
        open_folders[-1].folders.append(done)


class _Folder:
    """A folder whose entries are being added: files in order of name, folders in any order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folders: list[_Entry] = []
        self._files = SpooledTemporaryFile(_MAX_IN_MEMORY)  # noqa: SIM115 - closed after hashing
        self._count = self._bytes = 0

    def add(self, file: _Entry) -> None:
        self._files.write(b"," * bool(self._count) + _json(file))
        self._count += 1
        self._bytes += file.size

    def entry(self) -> _Entry:
        md5 = hashlib.md5(b'{"directories":[', usedforsecurity=False)
        for number, folder in enumerate(sorted(self.folders, key=lambda one: one.name)):
            md5.update(b"," * bool(number) + _json(folder))
            self._count += parse_checksum(folder.digest).files
            self._bytes += folder.size
        md5.update(b'],"files":[')
        with self._files as files:
            files.seek(0)
            while chunk := files.read(_CHUNK):
                md5.update(chunk)
        md5.update(b"]}")
        digest = f"{md5.hexdigest()}-{self._count}--{self._bytes}"
        return _Entry(digest, self.name, self._bytes)


def _json(entry: _Entry) -> bytes:
    return json.dumps(entry._asdict(), separators=(",", ":")).encode("ascii")
