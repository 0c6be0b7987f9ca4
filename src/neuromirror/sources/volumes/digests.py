"""What is known of a volume's blocks: their checksums, kept from one visit to the next.

A memo is a JSON line, a byte for each block (packed with zlib), and the sha256 of each block that
is known, 32 bytes each in order of their numbers. While a volume is read, checksums are also
appended to a file of the visit's workspace, so that a visit that was killed goes on.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

SIZE: Final = 32
UNKNOWN: Final = 0
KNOWN: Final = 1
"""For comparing alone: the file's record does not have it."""
RECORDED: Final = 2
CHANGED: Final = 3
"""Told because it was seen to change."""

_FORMAT: Final = 1
_ENTRY: Final = struct.Struct(">I32sI")


class BlockDigests:
    """The sha256 of the blocks of a volume, by number, and whether records tell them."""

    def __init__(self, count: int) -> None:
        self.states = bytearray(count)
        self._values = bytearray(count * SIZE)

    def __len__(self) -> int:
        return len(self.states)

    def get(self, number: int) -> bytes | None:
        """The digest of a block (32 bytes), None where it is unknown."""
        if self.states[number] == UNKNOWN:
            return None
        return bytes(self._values[number * SIZE : number * SIZE + SIZE])

    def put(self, number: int, digest: bytes, state: int) -> None:
        """Notes a block's digest in the place of what was known."""
        self._values[number * SIZE : number * SIZE + SIZE] = digest
        self.states[number] = state

    def known(self) -> list[int]:
        """The numbers of the blocks that are known."""
        return [number for number, state in enumerate(self.states) if state]

    def dump(self) -> bytes:
        """As the memo holds them."""
        packed = zlib.compress(bytes(self.states))
        parts: list[bytes | bytearray] = [struct.pack(">I", len(packed)), packed]
        if UNKNOWN in self.states:
            parts += [self._values[n * SIZE : n * SIZE + SIZE] for n in self.known()]
        else:
            parts.append(self._values)
        return b"".join(parts)


def load_digests(count: int, stored: bytes) -> BlockDigests:
    """What :meth:`BlockDigests.dump` gave; raises ValueError for anything else."""
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


@dataclass(frozen=True, slots=True)
class CheckProgress:
    """How far the checking of a volume has come.

    ``shape`` names the blocks and how they are read, ``metadata`` is the digest of all documents,
    ``signal`` upstream's word for when voxels may have been written. ``visit`` counts visits;
    ``cursor`` is the number of the block with which the rolling pass goes on that began on the day
    ``began`` (UTC, ISO 8601).
    """

    shape: str
    metadata: str
    signal: str
    visit: int
    cursor: int
    began: str

    def advanced_by(self, count: int, blocks: int, day: str) -> CheckProgress:
        """After another visit that read ``count`` blocks in turn, of so many."""
        cursor = self.cursor + count
        if cursor < blocks:
            return replace(self, visit=self.visit + 1, cursor=cursor)
        return replace(self, visit=self.visit + 1, cursor=0, began=day)


def dump_memo(course: CheckProgress, digests: BlockDigests) -> bytes:
    """A memo's bytes."""
    head = {"format": _FORMAT, "blocks": len(digests), **asdict(course)}
    line = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
    return line + b"\n" + digests.dump()


def load_memo(
    memo: bytes | None, shape: str, count: int
) -> tuple[CheckProgress, BlockDigests] | None:
    """A memo of a volume of this shape; None for any other, and for what is none."""
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
    """Digests of blocks in the order in which they were read, in a file that outlives a process.

    Each entry is the block's number, its sha256, and the CRC-32 of both; what follows a broken
    entry was written by a process that died, and is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        """Whether an earlier process left something."""
        return self._path.is_file()

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Yields the numbers and digests that are whole, and drops what comes after."""
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
        """Appends a digest."""
        entry = _ENTRY.pack(number, digest, 0)[:-4]
        with self._path.open("ab", buffering=0) as file:
            file.write(entry + zlib.crc32(entry).to_bytes(4, "big"))
