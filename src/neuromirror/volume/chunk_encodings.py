"""Find and decode the chunks of Neuroglancer's "Precomputed: volume".

Decode the chunks of Neuroglancer's "Precomputed: volume" to voxels.

Every function returns the voxels in the order x, y, z (x fastest), little-endian, which are the
bytes of an array in C order with the axes z, y, x. Damaged input raises ValueError.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from neuromirror.sources.volumes.content_codings import unpack
from neuromirror.sources.volumes.urls import Triple

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_OVERHEAD: Final = 1 << 16
"""Bytes by which an encoded chunk may exceed its voxels."""

_MAX_BLOCK: Final = 1 << 16
"""Voxels of a block of a compressed segmentation; usually 8 × 8 × 8."""
_MAX_PADDED: Final = 1 << 28
"""Maximum size in bytes of a chunk that is extended to whole blocks."""


def decode_voxels(
    content: bytes, encoding: str, shape: Triple, dtype: str, block: Triple | None = None
) -> bytes:
    """Return the voxels of a chunk with one channel.

    Parameters
    ----------
    content
        The chunk.
    encoding
        One of :data:`ENCODINGS`.
    shape
        The number of voxels along x, y, z.
    dtype
        The name of the NumPy type.
    block
        The size of a block along x, y, z, of a compressed segmentation.

    Returns
    -------
    bytes
        The voxels, x fastest.

    Raises
    ------
    ValueError
        The content is damaged, or of another shape or type.
    ImportError
        A package is not installed.
    """
    import numpy

    kind = numpy.dtype(dtype).newbyteorder("<")
    size = math.prod(shape) * kind.itemsize
    found = ENCODINGS[encoding](content, shape, kind, block)
    if len(found) != size:
        raise ValueError(f"{len(found)} bytes of voxels, not {size}")
    return found


def _raw(content: bytes, shape: Triple, dtype: Any, block: Triple | None) -> bytes:
    return content


def _image(content: bytes, shape: Triple, dtype: Any, block: Triple | None) -> bytes:
    """Decode a JPEG or PNG image, whose rows are the voxels in order, with any row length."""
    import numpy
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            if math.prod(image.size) != math.prod(shape):
                raise ValueError(f"an image of {image.size} pixels")
            pixels = numpy.asarray(image)
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    if pixels.ndim != 2 or pixels.dtype.itemsize > dtype.itemsize or pixels.dtype.kind == "b":
        raise ValueError(f"pixels of {pixels.dtype}, not {dtype}")
    return pixels.astype(dtype).tobytes()


def _segmentation(content: bytes, shape: Triple, dtype: Any, block: Triple | None) -> bytes:
    """Decode the format "compressed_segmentation" of uint32 or uint64 labels."""
    import numpy

    if block is None or not 0 < math.prod(block) <= _MAX_BLOCK or dtype.itemsize not in (4, 8):
        raise ValueError("invalid block size or data type")
    integers = numpy.frombuffer(content[: len(content) // 4 * 4], "<u4")
    if len(integers) < 1 or not 1 <= integers[0] <= len(integers):
        raise ValueError("the offset of the channel is outside of the chunk")
    integers = integers[int(integers[0]) :]
    grid = [-(-size // one) for size, one in zip(shape, block, strict=True)]
    headers = integers[: 2 * math.prod(grid)].reshape(-1, 2)
    if len(headers) != math.prod(grid):
        raise ValueError("truncated headers of blocks")
    if math.prod(grid) * math.prod(block) * dtype.itemsize > _MAX_PADDED:
        raise ValueError(f"blocks of {block} voxels are too large for a chunk of {shape}")
    made = numpy.empty(
        [one * count for one, count in zip(block[::-1], grid[::-1], strict=True)], dtype
    )
    for number, (first, values) in enumerate(headers.tolist()):
        x, y, z = number % grid[0], number // grid[0] % grid[1], number // (grid[0] * grid[1])
        labels = _block_labels(
            integers, first & 0xFFFFFF, first >> 24, values, math.prod(block), dtype
        )
        made[
            z * block[2] : (z + 1) * block[2],
            y * block[1] : (y + 1) * block[1],
            x * block[0] : (x + 1) * block[0],
        ] = labels.reshape(block[::-1])
    return made[: shape[2], : shape[1], : shape[0]].tobytes()


def _block_labels(
    integers: NDArray[Any], table: int, bits: int, values: int, voxels: int, dtype: Any
) -> NDArray[Any]:
    import numpy

    if bits not in (0, 1, 2, 4, 8, 16, 32):
        raise ValueError(f"{bits} bits per value")
    count = -(-voxels * bits // 32)
    packed = integers[values : values + count]
    if len(packed) != count:
        raise ValueError("truncated values of a block")
    if bits == 0:
        indices = numpy.zeros(voxels, "<u4")
    else:
        shifts = numpy.arange(0, 32, bits, dtype="<u4")
        mask = numpy.uint32((1 << bits) - 1)
        indices = (packed[:, None] >> shifts & mask).reshape(-1)[:voxels]
    length = (int(indices.max()) + 1) * dtype.itemsize // 4
    labels = integers[table : table + length]
    if len(labels) != length:
        raise ValueError("truncated labels of a block")
    made: NDArray[Any] = labels.view(dtype)[indices]
    return made


ENCODINGS: Final[Mapping[str, Callable[[bytes, Triple, Any, Triple | None], bytes]]] = {
    "raw": _raw,
    "jpeg": _image,
    "png": _image,
    "compressed_segmentation": _segmentation,
}
"""The supported encodings by name."""


# --- blocks of N5


N5_COMPRESSIONS: Final = ("raw", "gzip", "zlib", "bzip2", "xz", "zstd", "blosc", "lz4")
"""The supported compressions by name."""

_N5_HEADER: Final = bytes((0, 0, 0, 3))
"""The default mode, and three axes."""
_LZ4_BLOCK: Final = struct.Struct("<8sBIII")
_LZ4_RAW: Final = 0x10
_LZ4_PACKED: Final = 0x20


def decode_n5_block(
    content: bytes, compression: Mapping[str, Any], shape: Triple, chunk: Triple, dtype: str
) -> bytes:
    """Return the voxels of a block of N5 with the sides ``shape`` (x, y, z).

    A block at the end of an array has these sides, or up to those of ``chunk``.

    Raises
    ------
    ValueError, RuntimeError
        The content is damaged, of another form, or has fewer voxels.
    ImportError
        A package is not installed.
    """
    import numpy

    if content[:4] != _N5_HEADER or len(content) < 16:
        raise ValueError(f"a block of another mode or number of axes ({content[:4].hex()})")
    sides = struct.unpack_from(">3I", content, 4)
    if any(not least <= one <= most for least, one, most in zip(shape, sides, chunk, strict=True)):
        raise ValueError(f"a block of {sides} voxels, not {shape}")
    kind = numpy.dtype(dtype).newbyteorder(">")
    size = math.prod(sides) * kind.itemsize
    voxels = _unpack_n5(content[16:], compression, size)
    if len(voxels) != size:
        raise ValueError(f"{len(voxels)} bytes of voxels, not {size}")
    x, y, z = shape
    made = numpy.frombuffer(voxels, kind).reshape(sides[::-1])[:z, :y, :x]
    return made.astype(kind.newbyteorder("<")).tobytes()


def _unpack_n5(content: bytes, compression: Mapping[str, Any], size: int) -> bytes:
    """Undo a compression; the result may have one byte more than ``size`` if it is larger."""
    name = compression["type"]
    if name == "blosc":
        from numcodecs import blosc  # type: ignore[import-untyped,unused-ignore]

        if int.from_bytes(content[4:8], "little") != size:
            raise ValueError("a blosc frame of another size")
        return bytes(blosc.decompress(content))
    if name == "lz4":
        return b"".join(_lz4_blocks(content, size))
    if name == "gzip" and compression.get("useZlib"):
        name = "zlib"
    return unpack(content, "" if name == "raw" else name, size)


def _lz4_blocks(content: bytes, size: int) -> Iterator[bytes]:
    """Yield the content of the blocks of lz4-java's ``LZ4BlockOutputStream``."""
    from numcodecs import lz4  # type: ignore[import-untyped,unused-ignore]

    at = 0
    while size and len(content) - at >= _LZ4_BLOCK.size:
        magic, token, packed, plain, _ = _LZ4_BLOCK.unpack_from(content, at)
        at += _LZ4_BLOCK.size
        if magic != b"LZ4Block" or plain > size or token & 0xF0 not in (_LZ4_RAW, _LZ4_PACKED):
            raise ValueError("a malformed block of lz4")
        part = content[at : at + packed]
        if token & 0xF0 == _LZ4_PACKED:
            part = bytes(lz4.decompress(plain.to_bytes(4, "little") + part))
        yield part
        at, size = at + packed, size - plain


# --- chunks of Zarr, which zarr-python decodes


_ZARR_COMPRESSIONS: Final = {
    **{"gzip": "gzip", "zlib": "zlib", "zstd": "zstd", "bz2": "bzip2", "lzma": "xz"},
    **{"blosc": "blosc", "lz4": "lz4"},
}
_CRC: Final = "crc32c"
_RESIZING: Final = ("fixedscaleoffset", "astype", "packbits")
_SAME_SIZE: Final = (
    *("bytes", "transpose", _CRC, "crc32", "adler32", "fletcher32", "jenkins_lookup3"),
    *("delta", "shuffle", "quantize", "bitround"),
)
_CHECKSUMS: Final = 64
"""Bytes that checksums may add to a chunk."""


class ZarrCompression(Struct, frozen=True):
    """The compression of the chunks of an array, and what its other codecs may change.

    ``coding`` is empty without one. ``has_crc`` is whether a CRC follows it, and ``ratio`` by how
    much what it unpacks to may exceed the voxels.
    """

    coding: str = ""
    has_crc: bool = False
    ratio: int = 1

    def check_size(self, content: bytes | mmap.mmap, voxel_bytes: int) -> None:
        """Raise ValueError if a chunk expands to more bytes than its voxels have.

        zarr-python has no limit. A stream that does not state its size is decompressed for this.
        """
        most, stored = self.ratio * voxel_bytes + _CHECKSUMS, memoryview(content)
        if self.has_crc:
            stored = stored[:-4]
        size = len(stored)
        if self.coding == "blosc":
            size = int.from_bytes(stored[4:8], "little")
        elif self.coding == "lz4":
            size = int.from_bytes(stored[:4], "little")
        elif self.coding:
            if self.coding == "zstd":
                import zstandard

                try:
                    size = zstandard.frame_content_size(stored)
                except zstandard.ZstdError as error:
                    raise ValueError(str(error)) from error
            if self.coding != "zstd" or size < 0:
                size = len(unpack(stored, self.coding, most))
        if size > most:
            raise ValueError(f"it expands to more than the {voxel_bytes} bytes of its voxels")


def parse_zarr_codecs(array: Mapping[str, Any]) -> ZarrCompression:
    """Return the compression in the metadata of an array; raise ValueError if it is not known."""
    codecs = array.get("codecs")
    if codecs is None:
        codecs = [*(array.get("filters") or ()), array["compressor"]]
    names = [
        str(codec.get("id") or codec.get("name")).removeprefix("numcodecs.")
        for codec in codecs
        if codec is not None
    ]
    if names[-1:] == ["sharding_indexed"]:  # of a shard, only parts are read
        return parse_zarr_codecs(codecs[-1]["configuration"])
    compressions = [at for at, name in enumerate(names) if name in _ZARR_COMPRESSIONS]
    known = {*_ZARR_COMPRESSIONS, *_RESIZING, *_SAME_SIZE}
    after = names[compressions[0] + 1 :] if compressions else []
    if not known.issuperset(names) or after not in ([], [_CRC]):
        raise ValueError(f"the codecs {', '.join(names)[:200]}")
    coding = _ZARR_COMPRESSIONS[names[compressions[0]]] if compressions else ""
    return ZarrCompression(coding, bool(after), 1 if {*_RESIZING}.isdisjoint(names) else 8)


ReadRange = Callable[[str, int, int], bytes | None]
"""Return bytes of an object by path, start and stop; None if the version lacks the object."""

ShardSpan = tuple[str, int, int]
"""The path of a shard, and start and stop of a part of it."""

_MAX_INDEX: Final = 1 << 26
"""Maximum size of a minishard index in bytes."""
_ENTRY_BYTES: Final = 24
_CACHED_INDEXES: Final = 64
_CACHED_BYTES: Final = 32 << 20
"""Maximum number, and maximum size in bytes, of the indexes that are kept in memory."""
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
    if not all(isinstance(bit, int) and 0 <= bit <= _BITS for bit in bits) or bits[1] > 24:
        raise ValueError("invalid numbers of bits")
    codings = [given.get(f"{name}_encoding", "raw") for name in ("minishard_index", "data")]
    if not all(coding in _CODINGS for coding in codings):
        raise ValueError(f"the encodings {codings}")
    return Sharding(*bits, *(_CODINGS[coding] for coding in codings))


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
    grid
        The number of chunks along x, y, z.
    """

    def __init__(self, folder: str, sharding: Sharding, read: ReadRange, grid: Triple) -> None:
        self._folder = folder
        self._sharding = sharding
        self._read = read
        self._indexes: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        # the bits of a number that do not determine the minishard
        bits = sum((size - 1).bit_length() for size in grid)
        hashed = max(0, bits - sharding.preshift_bits)
        bits -= min(hashed, sharding.minishard_bits + sharding.shard_bits)
        self._max_entries = min(1 << bits, _MAX_INDEX // _ENTRY_BYTES)

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
        numbers, starts, stops = self._index(path, minishard)
        (found,) = (numbers == number).nonzero()
        return (path, int(starts[found[-1]]), int(stops[found[-1]])) if len(found) else None

    def read(self, span: ShardSpan) -> bytes | None:
        """Return a part of a shard, such as a chunk with its coding; None without the shard.

        Raises ValueError if the shard ends before it.
        """
        path, start, stop = span
        content = self._read(path, start, stop)
        if content is not None and len(content) != stop - start:
            raise ValueError(f"the shard ends before byte {stop}, which its index names")
        return content

    def _index(self, path: str, minishard: int) -> NDArray[Any]:
        with self._lock:
            if (kept := self._indexes.get((path, minishard))) is not None:
                self._indexes.move_to_end((path, minishard))
                return kept
        made = self._read_index(path, minishard)
        with self._lock:
            if (path, minishard) not in self._indexes:
                self._held += made.nbytes
            self._indexes[path, minishard] = made
            while self._held > _CACHED_BYTES or len(self._indexes) > _CACHED_INDEXES:
                self._held -= self._indexes.popitem(last=False)[1].nbytes
        return made

    def _read_index(self, path: str, minishard: int) -> NDArray[Any]:
        """Return the numbers of the chunks of a minishard, their starts and their stops."""
        import numpy

        none = numpy.zeros((3, 0), "<u8")
        head = self.read((path, 16 * minishard, 16 * minishard + 16))
        if head is None:
            return none
        base = 16 << self._sharding.minishard_bits
        start, stop = (int.from_bytes(one, "little") for one in (head[:8], head[8:]))
        if start == stop:
            return none
        if not 0 <= stop - start <= _MAX_INDEX:
            raise ValueError(f"a minishard index of {stop - start} bytes")
        content = self.read((path, base + start, base + stop))
        assert content is not None
        most = self._max_entries * _ENTRY_BYTES
        table = unpack(content, self._sharding.index_coding, most)
        if len(table) > most:
            raise ValueError(f"a minishard index of more than {self._max_entries} entries")
        if len(table) % _ENTRY_BYTES:
            raise ValueError("a minishard index of a wrong size")
        numbers, gaps, sizes = numpy.frombuffer(table, "<u8").reshape(3, -1)
        stops = (gaps + sizes).cumsum(dtype="<u8") + numpy.uint64(base)
        return numpy.stack([numbers.cumsum(dtype="<u8"), stops - sizes, stops])
