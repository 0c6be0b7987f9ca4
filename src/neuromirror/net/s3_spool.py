"""What was listed so far, on disk: a killed listing goes on from here.

One file of records: length and CRC-32 (little-endian, 4 bytes each), then a piece's description
(MessagePack, its length first) and the page's body (zstd). A record is written by one append, so
what a kill leaves is whole records and at most one torn one at the end, which is dropped.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import msgspec
import zstandard

FORMAT: Final = 1
MAX_AGE_SECONDS: Final = 24 * 3600.0
"""Seconds after which what was listed is listed again."""

_HEAD: Final = struct.Struct("<II")
_COVERAGE_LENGTH: Final = struct.Struct("<I")
_MAX_RECORD_BYTES: Final = 64 * 2**20
_MAX_PAGE_BYTES: Final = 2**25


class ListingIdentity(msgspec.Struct, frozen=True, array_like=True):
    """What a spool is a listing of; with another of these it is of no use."""

    uri: str
    prefix: bytes
    versions: bool
    page_size: int
    format: int = FORMAT
    started: float = 0.0


class PageCoverage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one page is good for: the keys greater than ``start`` and not greater than ``until``.

    ``until`` None stands for the end. ``following`` is the key (and ``version``, of a versions
    listing, the version) after which the next page of the same range begins, None where this one
    is its last; ``reach`` the last key of the page, None where the page is the last of all.
    ``digest`` is of the page without what changes at each request.
    """

    start: bytes
    version: str
    until: bytes | None
    next_key: bytes | None
    next_version: str
    last_key: bytes | None
    digest: bytes

    @property
    def end(self) -> bytes | None:
        """The last key that was asked for; None for the end of all."""
        return self.until if self.next_key is None else self.next_key


def page_digest(body: bytes) -> bytes:
    """16 bytes of a page's body without its tokens, which differ at each request."""
    hashed = hashlib.sha256()
    rest = body
    for name in (b"NextContinuationToken", b"ContinuationToken"):
        before, opened, after = rest.partition(b"<%s>" % name)
        if opened:
            rest = before + after.partition(b"</%s>" % name)[2]
    hashed.update(rest)
    return hashed.digest()[:16]


class ListingSpool:
    """Pieces and bodies in ``workspace``, or in an unnamed file where that is None."""

    def __init__(self, workspace: Path | None, identity: ListingIdentity) -> None:
        # Several listings may share a workspace.
        name = hashlib.sha256(msgspec.msgpack.encode(identity)).hexdigest()[:16]
        self._path = None if workspace is None else workspace / f"{name}.listing"
        self._identity = identity
        self._file: IO[bytes] | None = None
        self._positions: list[tuple[PageCoverage, int, int]] = []
        self._lock = threading.Lock()
        self._compressor = threading.local()

    def coverages(self) -> list[PageCoverage]:
        """The pieces there are."""
        return [piece for piece, *_ in self._positions]

    def resume(self) -> None:
        """Take up what an earlier process left, if it is of this listing, young and sound."""
        if self._path is None or not self._path.is_file():
            return
        file = self._path.open("r+b")
        positions, end = self._read(file)
        if positions is None:
            file.close()
            self._path.unlink()
            return
        file.truncate(end)
        file.seek(end)
        self._file, self._positions = file, positions

    def _read(self, file: IO[bytes]) -> tuple[list[tuple[PageCoverage, int, int]] | None, int]:
        """Pieces with the place and length of their bodies, None for a useless file; its end."""
        positions: list[tuple[PageCoverage, int, int]] = []
        identity = piece = None
        end = 0
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, crc = _HEAD.unpack(head)
            if length > _MAX_RECORD_BYTES:
                return None, 0
            payload = file.read(length)
            if len(payload) < length:
                break
            if zlib.crc32(payload) != crc:
                return None, 0
            try:
                if identity is None:
                    identity = msgspec.msgpack.decode(payload, type=ListingIdentity)
                    if not self._fits(identity):
                        return None, 0
                else:
                    (coverage_length,) = _COVERAGE_LENGTH.unpack_from(payload)
                    body = _COVERAGE_LENGTH.size + coverage_length
                    piece = msgspec.msgpack.decode(
                        payload[_COVERAGE_LENGTH.size : body], type=PageCoverage
                    )
                    positions.append((piece, end + _HEAD.size + body, length - body))
            except (msgspec.MsgspecError, struct.error):
                return None, 0
            end += _HEAD.size + length
        return (None, 0) if identity is None else (positions, end)

    def _fits(self, identity: ListingIdentity) -> bool:
        age = time.time() - identity.started
        return (
            0 <= age < MAX_AGE_SECONDS
            and msgspec.structs.replace(identity, started=0.0) == self._identity
        )

    def compress(self, body: bytes) -> bytes:
        """A body as :meth:`append` takes it; any thread may do this work."""
        compressor = getattr(self._compressor, "zstd", None)
        if compressor is None:
            compressor = self._compressor.zstd = zstandard.ZstdCompressor(level=1)
        compressed: bytes = compressor.compress(body)
        return compressed

    def append(self, piece: PageCoverage, compress: bytes) -> None:
        """Keep a piece; after this it survives the end of the process.

        Raises OSError when the disk is full.
        """
        encoded = msgspec.msgpack.encode(piece)
        payload = _COVERAGE_LENGTH.pack(len(encoded)) + encoded + compress
        with self._lock:
            if self._file is None:
                self._file = self._create()
            at = self._file.seek(0, os.SEEK_END)
            self._write(payload)
            position = at + _HEAD.size + len(payload) - len(compress)
            self._positions.append((piece, position, len(compress)))

    def _create(self) -> IO[bytes]:
        # Closed by close(): it is read and written for as long as the listing lasts.
        file = tempfile.TemporaryFile() if self._path is None else self._path.open("w+b")  # noqa: SIM115
        self._file = file
        self._write(
            msgspec.msgpack.encode(msgspec.structs.replace(self._identity, started=time.time()))
        )
        return file

    def _write(self, payload: bytes) -> None:
        if self._file is not None:
            self._file.write(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
            self._file.flush()

    def bodies(self, coverages: list[PageCoverage]) -> Iterator[tuple[PageCoverage, bytes]]:
        """The pieces that are kept, of those asked for, with their bodies."""
        requested = set(map(id, coverages))
        for piece, position, length in list(self._positions):
            if id(piece) in requested and self._file is not None:
                with self._lock:
                    self._file.seek(position)
                    compress = self._file.read(length)
                yield (
                    piece,
                    zstandard.ZstdDecompressor().decompress(
                        compress, max_output_size=_MAX_PAGE_BYTES
                    ),
                )

    def delete(self) -> None:
        """Leave nothing on disk; what is open stays readable until :meth:`close`."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
