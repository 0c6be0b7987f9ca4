"""Storage of a volume's block digests between visits.

A memo consists of a JSON line, one byte per block (compressed with zlib), and the sha256 of each
known block, 32 bytes each in order of their numbers. While a volume is being read, digests are also
appended to a file in the visit's workspace, so that an interrupted visit can be resumed.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct, to_builtins
from msgspec.structs import replace

SIZE: Final = 32
UNKNOWN: Final = 0
KNOWN: Final = 1
"""Only used for comparison, and not in the file's record."""
RECORDED: Final = 2
CHANGED: Final = 3
"""Recorded because the block changed."""

_FORMAT: Final = 1
_ENTRY: Final = struct.Struct(">I32sI")


class BlockDigests:
    """The sha256 of each block of a volume, by the block's number, with a state per block.

    The state is whether the digest is unknown, is known, or is also in the mirrored record.
    """

    def __init__(self, count: int) -> None:
        self.states = bytearray(count)
        self._values = bytearray(count * SIZE)

    def __len__(self) -> int:
        return len(self.states)

    def get(self, number: int) -> bytes | None:
        """Return a block's digest (32 bytes); None if unknown."""
        if self.states[number] == UNKNOWN:
            return None
        return bytes(self._values[number * SIZE : number * SIZE + SIZE])

    def put(self, number: int, digest: bytes, state: int) -> None:
        """Set a block's digest and state."""
        self._values[number * SIZE : number * SIZE + SIZE] = digest
        self.states[number] = state

    def known(self) -> list[int]:
        """Return the numbers of the known blocks."""
        return [number for number, state in enumerate(self.states) if state]

    def dump(self) -> bytes:
        """Return the digests in the memo's format."""
        packed = zlib.compress(bytes(self.states))
        parts: list[bytes | bytearray] = [struct.pack(">I", len(packed)), packed]
        if UNKNOWN in self.states:
            parts += [self._values[n * SIZE : n * SIZE + SIZE] for n in self.known()]
        else:
            parts.append(self._values)
        return b"".join(parts)


def load_digests(count: int, stored: bytes) -> BlockDigests:
    """Decode the output of :meth:`BlockDigests.dump`.

    ``count`` is the number of blocks. Raises ValueError if ``stored`` is invalid.
    """
    made = BlockDigests(count)
    if len(stored) < 4:
        raise ValueError("too short")
    (length,) = struct.unpack_from(">I", stored)
    try:
        inflate = zlib.decompressobj()
        states = inflate.decompress(stored[4 : 4 + length], count + 1)
    except zlib.error as error:
        raise ValueError("damaged") from error
    made.states[:] = states
    values = stored[4 + length :]
    if len(states) != count or len(values) != SIZE * (count - states.count(UNKNOWN)):
        raise ValueError("of another volume")
    if UNKNOWN not in states:
        made._values[:] = values
    else:
        for at, number in enumerate(made.known()):
            made.put(number, values[at * SIZE : at * SIZE + SIZE], states[number])
    return made


class CheckProgress(Struct, frozen=True):
    """How far the repeated reading of a volume's blocks has come, kept from visit to visit.

    Attributes
    ----------
    shape
        A digest of the blocks and how they are read.
    metadata
        The digest of all documents.
    signal
        Upstream's value that changes if voxels may have been written.
    visit
        The number of visits.
    cursor
        The number of the next block in the rolling pass.
    began
        The start of the rolling pass (UTC date, ISO 8601).
    """

    shape: str
    metadata: str
    signal: str
    visit: int
    cursor: int
    began: str

    def advanced_by(self, count: int, blocks: int, day: str) -> CheckProgress:
        """Return the progress after a visit that checked ``count`` of ``blocks`` in the pass."""
        cursor = self.cursor + count
        if cursor < blocks:
            return replace(self, visit=self.visit + 1, cursor=cursor)
        return replace(self, visit=self.visit + 1, cursor=0, began=day)


def dump_memo(progress: CheckProgress, digests: BlockDigests) -> bytes:
    """Encode the digests of a volume's blocks and the progress of the check as a memo."""
    head = {"format": _FORMAT, "blocks": len(digests), **to_builtins(progress)}
    line = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
    return line + b"\n" + digests.dump()


def load_memo(
    memo: bytes | None, shape: str, count: int
) -> tuple[CheckProgress, BlockDigests] | None:
    """Decode the memo of a volume, as :func:`dump_memo` encodes it.

    Parameters
    ----------
    memo
        The memo; None at the first visit.
    shape
        The expected :attr:`CheckProgress.shape`.
    count
        The number of the volume's blocks.

    Returns
    -------
    tuple[CheckProgress, BlockDigests] | None
        The content; None without a memo, and for one that is invalid or of another shape or count.
    """
    head, newline, rest = (memo or b"").partition(b"\n")
    if not newline:
        return None
    try:
        found = json.loads(head)
        if (found.pop("format"), found.pop("blocks"), found["shape"]) != (_FORMAT, count, shape):
            return None
        return CheckProgress(**found), load_digests(count, rest)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class DigestLog:
    """A file of block digests in the order in which they were read, for interrupted visits.

    An entry consists of the block's number, its sha256, and the CRC-32 of both. A broken entry
    comes from a process that was killed; it and everything after it is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        """Return whether an interrupted visit left a log."""
        return self._path.is_file()

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Yield the valid entries, and truncate the file after them."""
        if not self.exists():
            return
        whole = 0
        with self._path.open("r+b") as file:
            while len(entry := file.read(_ENTRY.size)) == _ENTRY.size:
                number, digest, check = _ENTRY.unpack(entry)
                if zlib.crc32(entry[:-4]) != check:
                    break
                whole += _ENTRY.size
                yield number, digest
            file.truncate(whole)

    def add(self, number: int, digest: bytes) -> None:
        """Append a digest."""
        entry = _ENTRY.pack(number, digest, 0)[:-4]
        with self._path.open("ab", buffering=0) as file:
            file.write(entry + zlib.crc32(entry).to_bytes(4, "big"))
