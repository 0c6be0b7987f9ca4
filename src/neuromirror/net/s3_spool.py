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
OLDEST: Final = 24 * 3600.0
"""Seconds after which what was listed is listed again."""

_HEAD: Final = struct.Struct("<II")
_DESCRIBED: Final = struct.Struct("<I")
_MOST: Final = 64 * 2**20
_PAGE_MOST: Final = 2**25


class Listed(msgspec.Struct, frozen=True, array_like=True):
    """What a spool is a listing of; with another of these it is of no use."""

    uri: str
    prefix: bytes
    versions: bool
    page_size: int
    format: int = FORMAT
    began: float = 0.0


class Piece(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one page is good for: the keys greater than ``start`` and not greater than ``until``.

    ``until`` None stands for the end. ``following`` is the key (and ``version``, of a versions
    listing, the version) after which the next page of the same range begins, None where this one
    is its last; ``reach`` the last key of the page, None where the page is the last of all.
    ``digest`` is of the page without what changes at each request.
    """

    start: bytes
    version: str
    until: bytes | None
    following: bytes | None
    following_version: str
    reach: bytes | None
    digest: bytes

    @property
    def end(self) -> bytes | None:
        """The last key that was asked for; None for the end of all."""
        return self.until if self.following is None else self.following


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


class Spool:
    """Pieces and bodies in ``workspace``, or in an unnamed file where that is None."""

    def __init__(self, workspace: Path | None, listed: Listed) -> None:
        # Several listings may share a workspace.
        name = hashlib.sha256(msgspec.msgpack.encode(listed)).hexdigest()[:16]
        self._path = None if workspace is None else workspace / f"{name}.listing"
        self._listed = listed
        self._file: IO[bytes] | None = None
        self._places: list[tuple[Piece, int, int]] = []
        self._lock = threading.Lock()
        self._packer = threading.local()

    def pieces(self) -> list[Piece]:
        """The pieces there are."""
        return [piece for piece, *_ in self._places]

    def resume(self) -> None:
        """Take up what an earlier process left, if it is of this listing, young and sound."""
        if self._path is None or not self._path.is_file():
            return
        opened = self._path.open("r+b")
        places, end = self._read(opened)
        if places is None:
            opened.close()
            self._path.unlink()
            return
        opened.truncate(end)
        opened.seek(end)
        self._file, self._places = opened, places

    def _read(self, opened: IO[bytes]) -> tuple[list[tuple[Piece, int, int]] | None, int]:
        """Pieces with the place and length of their bodies, None for a useless file; its end."""
        places: list[tuple[Piece, int, int]] = []
        of = piece = None
        end = 0
        while len(head := opened.read(_HEAD.size)) == _HEAD.size:
            length, crc = _HEAD.unpack(head)
            if length > _MOST:
                return None, 0
            payload = opened.read(length)
            if len(payload) < length:
                break
            if zlib.crc32(payload) != crc:
                return None, 0
            try:
                if of is None:
                    of = msgspec.msgpack.decode(payload, type=Listed)
                    if not self._fits(of):
                        return None, 0
                else:
                    (described,) = _DESCRIBED.unpack_from(payload)
                    body = _DESCRIBED.size + described
                    piece = msgspec.msgpack.decode(payload[_DESCRIBED.size : body], type=Piece)
                    places.append((piece, end + _HEAD.size + body, length - body))
            except (msgspec.MsgspecError, struct.error):
                return None, 0
            end += _HEAD.size + length
        return (None, 0) if of is None else (places, end)

    def _fits(self, of: Listed) -> bool:
        age = time.time() - of.began
        return 0 <= age < OLDEST and msgspec.structs.replace(of, began=0.0) == self._listed

    def packed(self, body: bytes) -> bytes:
        """A body as :meth:`append` takes it; any thread may do this work."""
        packer = getattr(self._packer, "zstd", None)
        if packer is None:
            packer = self._packer.zstd = zstandard.ZstdCompressor(level=1)
        done: bytes = packer.compress(body)
        return done

    def append(self, piece: Piece, packed: bytes) -> None:
        """Keep a piece; after this it survives the end of the process.

        Raises OSError when the disk is full.
        """
        described = msgspec.msgpack.encode(piece)
        payload = _DESCRIBED.pack(len(described)) + described + packed
        with self._lock:
            if self._file is None:
                self._file = self._begin()
            at = self._file.seek(0, os.SEEK_END)
            self._write(payload)
            place = at + _HEAD.size + len(payload) - len(packed)
            self._places.append((piece, place, len(packed)))

    def _begin(self) -> IO[bytes]:
        # Closed by close(): it is read and written for as long as the listing lasts.
        opened = tempfile.TemporaryFile() if self._path is None else self._path.open("w+b")  # noqa: SIM115
        self._file = opened
        self._write(
            msgspec.msgpack.encode(msgspec.structs.replace(self._listed, began=time.time()))
        )
        return opened

    def _write(self, payload: bytes) -> None:
        if self._file is not None:
            self._file.write(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
            self._file.flush()

    def bodies(self, pieces: list[Piece]) -> Iterator[tuple[Piece, bytes]]:
        """The pieces that are kept, of those asked for, with their bodies."""
        wanted = set(map(id, pieces))
        for piece, place, length in list(self._places):
            if id(piece) in wanted and self._file is not None:
                with self._lock:
                    self._file.seek(place)
                    packed = self._file.read(length)
                yield (
                    piece,
                    zstandard.ZstdDecompressor().decompress(packed, max_output_size=_PAGE_MOST),
                )

    def forget(self) -> None:
        """Leave nothing on disk; what is open stays readable until :meth:`close`."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
