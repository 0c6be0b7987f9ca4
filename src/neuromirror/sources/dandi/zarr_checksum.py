"""DANDI's checksum of a whole Zarr: ``<md5>-<files>--<bytes>``.

The format is that of the ``zarr-checksum`` library. A folder's checksum is the MD5 of its compact
JSON listing, ``{"directories":[{"digest","name","size"}…],"files":[…]}``, each list sorted by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from tempfile import SpooledTemporaryFile
from typing import IO, Final, NamedTuple

from neuromirror.model import FileTotals
from neuromirror.net import ObjectRow

CHECKSUM_PATTERN: Final = re.compile(
    r"(?P<md5>[0-9a-f]{32})-(?P<files>[0-9]{1,19})--(?P<bytes>[0-9]{1,19})\Z"
)
_LIBRARY_MOST: Final = 20_000
"""Files per folder up to which the library is used; it needs 600 bytes of memory per file."""
_SPILL: Final = 1 << 24
_CHUNK: Final = 1 << 20


class _Entry(NamedTuple):
    digest: str
    name: str
    size: int


def parse_checksum(checksum: str) -> FileTotals:
    """Return the totals in a checksum; raise ValueError for other text."""
    found = CHECKSUM_PATTERN.match(checksum)
    if found is None:
        raise ValueError(f"{checksum[:80]!r} is not a checksum of a Zarr")
    return FileTotals(int(found["files"]), int(found["bytes"]))


def compute_zarr_checksum(rows: Iterable[ObjectRow], prefix: bytes) -> str:
    """Return the checksum of a Zarr's objects; ``rows`` are sorted by the bytes of their keys.

    In this order everything below a folder is contiguous, so only the open folders are in memory.
    The files of a folder with more than 20,000 are spooled to disk.
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
    """Return a key as text, reversibly."""
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
        self._files: list[_Entry] = []
        self._spool: IO[bytes] | None = None
        self._count = self._bytes = 0

    def add(self, file: _Entry) -> None:
        self._count += 1
        self._bytes += file.size
        self._files.append(file)
        if len(self._files) > _LIBRARY_MOST:
            self._spill()

    def entry(self) -> _Entry:
        digest = self._checksum_by_library() if self._spool is None else self._checksum_from_spool()
        return _Entry(digest, self.name, int(digest.rpartition("--")[2]))

    def _checksum_by_library(self) -> str:
        from zarr_checksum.checksum import ZarrChecksum, ZarrChecksumManifest

        manifest = ZarrChecksumManifest(
            [ZarrChecksum(*one) for one in self.folders],
            [ZarrChecksum(*one) for one in self._files],
        )
        return str(manifest.generate_digest())

    def _spill(self) -> None:
        if self._spool is None:
            self._spool = SpooledTemporaryFile(_SPILL)  # noqa: SIM115 - closed after hashing
        for one in self._files:
            self._spool.write(_json(one) + b",")
        self._files.clear()

    def _checksum_from_spool(self) -> str:
        """Compute the checksum of a folder whose files are in the spool."""
        self._spill()
        spool = self._spool
        assert spool is not None
        md5 = hashlib.md5(b'{"directories":[', usedforsecurity=False)
        count, size = self._count, self._bytes
        for number, folder in enumerate(sorted(self.folders, key=lambda one: one.name)):
            md5.update(b"," * bool(number) + _json(folder))
            count += parse_checksum(folder.digest).files
            size += folder.size
        md5.update(b'],"files":[')
        left = spool.tell() - 1  # without the last comma
        spool.seek(0)
        while left > 0:
            chunk = spool.read(min(left, _CHUNK))
            left -= len(chunk)
            md5.update(chunk)
        spool.close()
        md5.update(b"]}")
        return f"{md5.hexdigest()}-{count}--{size}"


def _json(entry: _Entry) -> bytes:
    return json.dumps(entry._asdict(), separators=(",", ":")).encode("ascii")
