"""The received pages of a listing on disk, from which an interrupted listing resumes.

The file is a sequence of records: length and CRC-32 (little-endian, 4 bytes each), the page's
coverage (MessagePack, preceded by its length) and its body (zstd). A record is written in one
append, so an interrupted process leaves at most one incomplete record at the end, which is
dropped.
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

from neuromirror.model.validation import analysed_type

FORMAT: Final = 1
MAX_AGE_SECONDS: Final = 24 * 3600.0
"""Age at which stored pages expire, in seconds."""

_HEAD: Final = struct.Struct("<II")
_COVERAGE_LENGTH: Final = struct.Struct("<I")
_MAX_RECORD_BYTES: Final = 64 * 2**20
_MAX_PAGE_BYTES: Final = 2**25


class ListingIdentity(msgspec.Struct, frozen=True, array_like=True):
    """The properties of a listing that must be equal to resume it from the pages in a spool.

    Attributes
    ----------
    uri, prefix, versions, page_size
        The bucket, the prefix, whether object versions are listed, and the rows per page.
    format
        The version of the file's format.
    started
        The start of the listing, in POSIX seconds; it may differ.
    """

    uri: str
    prefix: bytes
    versions: bool
    page_size: int
    format: int = FORMAT
    started: float = 0.0


class PageCoverage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The keys that one page covers.

    Attributes
    ----------
    start, version
        The key (and, in a listing of versions, the version id) after which the page starts.
    until
        The last key of the range; None for an open range.
    next_key, next_version
        Where the next page of the range starts; ``next_key`` is None after the last page.
    last_key
        The last key of the page; None for the last page of the listing.
    digest
        The digest of the page; see :func:`page_digest`.
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
        """The last key that the page covers; None for the end of the listing."""
        return self.until if self.next_key is None else self.next_key


def page_digest(body: bytes) -> bytes:
    """Return a 16-byte digest of a page's body without its tokens, which change per request."""
    hashed = hashlib.sha256()
    rest = body
    for name in (b"NextContinuationToken", b"ContinuationToken"):
        before, opened, after = rest.partition(b"<%s>" % name)
        if opened:
            rest = before + after.partition(b"</%s>" % name)[2]
    hashed.update(rest)
    return hashed.digest()[:16]


class ListingSpool:
    """The received pages of a listing, with the keys that each covers, in a file.

    Parameters
    ----------
    workspace
        The directory of the file; None for a temporary file.
    identity
        Identifies the listing; pages of another one are discarded.
    """

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
        """Return the coverage of each stored page."""
        return [piece for piece, *_ in self._positions]

    def resume(self) -> None:
        """Load the pages of an earlier process if they are of this listing, recent and intact."""
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
        """Return the coverages with offset and length of each body, and the end of the last record.

        The coverages are None if the file is unusable.
        """
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
                    identity = msgspec.msgpack.decode(payload, type=analysed_type(ListingIdentity))
                    if not self._fits(identity):
                        return None, 0
                else:
                    (coverage_length,) = _COVERAGE_LENGTH.unpack_from(payload)
                    body = _COVERAGE_LENGTH.size + coverage_length
                    piece = msgspec.msgpack.decode(
                        payload[_COVERAGE_LENGTH.size : body], type=analysed_type(PageCoverage)
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
        """Compress a body for :meth:`append`. Thread-safe."""
        compressor = getattr(self._compressor, "zstd", None)
        if compressor is None:
            compressor = self._compressor.zstd = zstandard.ZstdCompressor(level=1)
        compressed: bytes = compressor.compress(body)
        return compressed

    def append(self, piece: PageCoverage, compressed: bytes) -> None:
        """Store a page so that it survives the end of the process.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        encoded = msgspec.msgpack.encode(piece)
        payload = _COVERAGE_LENGTH.pack(len(encoded)) + encoded + compressed
        with self._lock:
            if self._file is None:
                self._file = self._create()
            at = self._file.seek(0, os.SEEK_END)
            self._write(payload)
            position = at + _HEAD.size + len(payload) - len(compressed)
            self._positions.append((piece, position, len(compressed)))

    def _create(self) -> IO[bytes]:
        # Closed by close(), since it is used until the listing is finished.
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
        """Yield the stored pages among ``coverages``, with their bodies."""
        requested = set(map(id, coverages))
        for piece, position, length in list(self._positions):
            if id(piece) in requested and self._file is not None:
                with self._lock:
                    self._file.seek(position)
                    compressed = self._file.read(length)
                yield (
                    piece,
                    zstandard.ZstdDecompressor().decompress(
                        compressed, max_output_size=_MAX_PAGE_BYTES
                    ),
                )

    def delete(self) -> None:
        """Delete the file. An open one stays readable until :meth:`close`."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
