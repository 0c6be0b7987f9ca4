"""Find chunks in the shards of Neuroglancer's format ``neuroglancer_uint64_sharded_v1``."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from neuromirror.sources.volumes.urls import Triple
from neuromirror.volume.chunk_encodings import unpack

ReadRange = Callable[[str, int, int], bytes | None]
"""Return bytes of an object by path, start and stop; None if the version lacks the object."""

ShardSpan = tuple[str, int, int]
"""The path of a shard, and start and stop of a part of it."""

_MAX_INDEX: Final = 1 << 26
"""Maximum size of a minishard index in bytes."""
_CACHED_INDEXES: Final = 64
_CODINGS: Final = {"raw": "", "gzip": "gzip"}
_BITS: Final = 64


class Sharding(Struct, frozen=True):
    """How the chunks of a scale are distributed over shards.

    Attributes
    ----------
    preshift_bits, minishard_bits, shard_bits
        As in the ``info`` file.
    index_coding, data_coding
        Content codings of a minishard index and of a chunk, ``gzip`` or empty.
    """

    preshift_bits: int
    minishard_bits: int
    shard_bits: int
    index_coding: str = ""
    data_coding: str = ""


def parse_sharding(given: Mapping[str, Any]) -> Sharding:
    """Return the sharding of a scale; raise ValueError if it is invalid or not supported.

    The only supported hash is ``identity``; murmurhash3 is used for meshes and skeletons.
    """
    kind, hashing = given.get("@type"), given.get("hash")
    if kind != "neuroglancer_uint64_sharded_v1" or hashing != "identity":
        raise ValueError(f"sharding {str(kind)[:40]!r} with the hash {str(hashing)[:40]!r}")
    bits = [given.get(f"{name}_bits", 0) for name in ("preshift", "minishard", "shard")]
    if not all(isinstance(one, int) and 0 <= one <= _BITS for one in bits) or bits[1] > 24:
        raise ValueError("invalid numbers of bits")
    codings = [given.get(f"{name}_encoding", "raw") for name in ("minishard_index", "data")]
    if not all(one in _CODINGS for one in codings):
        raise ValueError(f"the encodings {codings}")
    return Sharding(*bits, *(_CODINGS[one] for one in codings))


def chunk_number(position: Triple, grid: Triple) -> int:
    """Return the compressed Morton code of a chunk: the interleaved bits of x, y and z."""
    code = at = 0
    for bit in range(max(grid).bit_length()):
        for one, size in zip(position, grid, strict=True):
            if 1 << bit < size:
                code |= (one >> bit & 1) << at
                at += 1
    return code


class ShardReader:
    """Reads chunks out of the shards of a scale. Thread-safe.

    Parameters
    ----------
    folder
        The folder of the scale.
    sharding
        The sharding of the scale.
    read
        Reads ranges of objects.
    """

    def __init__(self, folder: str, sharding: Sharding, read: ReadRange) -> None:
        self._folder = folder
        self._sharding = sharding
        self._read = read
        self._indexes: OrderedDict[tuple[str, int], dict[int, tuple[int, int]]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, number: int) -> ShardSpan | None:
        """Return where a chunk is stored; None if it is missing.

        Raises ValueError for a damaged index.
        """
        sharding = self._sharding
        hashed = number >> sharding.preshift_bits
        minishard = hashed & (1 << sharding.minishard_bits) - 1
        shard = hashed >> sharding.minishard_bits & (1 << sharding.shard_bits) - 1
        digits = -(-sharding.shard_bits // 4)
        path = f"{self._folder}/{shard:0{digits}x}.shard"
        span = self._index(path, minishard).get(number)
        return None if span is None else (path, *span)

    def read(self, span: ShardSpan) -> bytes | None:
        """Return a part of a shard, such as a chunk with its coding; None without the shard.

        Raises ValueError if the shard ends before it.
        """
        path, start, stop = span
        content = self._read(path, start, stop)
        if content is not None and len(content) != stop - start:
            raise ValueError(f"the shard ends before byte {stop}, which its index names")
        return content

    def _index(self, path: str, minishard: int) -> dict[int, tuple[int, int]]:
        with self._lock:
            if (kept := self._indexes.get((path, minishard))) is not None:
                self._indexes.move_to_end((path, minishard))
                return kept
        made = self._read_index(path, minishard)
        with self._lock:
            self._indexes[path, minishard] = made
            while len(self._indexes) > _CACHED_INDEXES:
                self._indexes.popitem(last=False)
        return made

    def _read_index(self, path: str, minishard: int) -> dict[int, tuple[int, int]]:
        """Return start and stop of the chunks of a minishard, by number."""
        head = self.read((path, 16 * minishard, 16 * minishard + 16))
        if head is None:
            return {}
        base = 16 << self._sharding.minishard_bits
        start, stop = (int.from_bytes(one, "little") for one in (head[:8], head[8:]))
        if start == stop:
            return {}
        if not 0 <= stop - start <= _MAX_INDEX:
            raise ValueError(f"a minishard index of {stop - start} bytes")
        content = self.read((path, base + start, base + stop))
        assert content is not None
        table = unpack(content, self._sharding.index_coding, _MAX_INDEX)
        count, rest = divmod(len(table), 24)
        if rest or len(table) > _MAX_INDEX:
            raise ValueError("a minishard index of a wrong size")
        numbers = memoryview(table).cast("Q")
        made: dict[int, tuple[int, int]] = {}
        chunk, end = 0, base
        for at in range(count):
            chunk = (chunk + numbers[at]) & (1 << _BITS) - 1
            first = end + numbers[count + at]
            end = first + numbers[2 * count + at]
            made[chunk] = first, end
        return made
