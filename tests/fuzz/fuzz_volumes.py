"""Targets: encodings of voxels, metadata of volumes, memos of blocks."""

import io
import json
import zlib
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy
from fuzz_core import SEEDS, DisagreementError, check_agreement, fixed_seeds, target
from numcodecs import blosc

from neuromirror.model import NeuromirrorError
from neuromirror.sources.volumes.decode import decode_cutout
from neuromirror.sources.volumes.grid import Level, Volume, zarr_documents
from neuromirror.sources.volumes.urls import WrongVoxelsError
from neuromirror.volume.chunk_encodings import decode_n5_block
from neuromirror.volume.description import describe
from neuromirror.volume.errors import NotAVolumeError
from neuromirror.volume.geometry import METADATA, block_box, read_volume

_BOX = ((0, 4), (0, 3), (0, 2))
_CHUNK = (5, 4, 2)
_SHAPE = (2, 3, 4)
_TYPES = (None, "uint8", "uint16", "uint32", "uint64", "float32")


def _array(dtype: str, order: str = "C") -> Any:
    return numpy.arange(24, dtype=dtype).reshape(_SHAPE).copy(order=order)


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    numpy.save(file, array)
    return file.getvalue()


def _decoded(data: bytes, encoding: str) -> tuple[bytes, str | None, bytes]:
    """Decode what follows the first byte, which chooses the type of voxels and how pieces come."""
    choice = data[0] if data else 0
    dtype = _TYPES[choice % len(_TYPES)]
    body = data[1:]
    step = (1, 7, 100, 1 << 16)[choice // len(_TYPES) % 4]
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    found = b"".join(decode_cutout(pieces, encoding, _BOX, _CHUNK, dtype, where="x"))
    item, rest = divmod(len(found), 5 * 4 * 2)
    check_agreement(rest == 0 and item in (1, 2, 4, 8), "size", len(found))
    return found, dtype, body


def _padded(voxels: Any) -> bytes:
    """The chunk file of an array of the box."""
    made = numpy.zeros((2, 4, 5), voxels.dtype.newbyteorder("<"))
    made[:2, :3, :4] = voxels.reshape(_SHAPE)
    return made.tobytes()


def _frames() -> Sequence[bytes]:
    made = []
    for number, dtype in enumerate(_TYPES[1:5], 1):
        for shuffle in (blosc.NOSHUFFLE, blosc.SHUFFLE, blosc.BITSHUFFLE):
            for codec in (b"lz4", b"zstd", b"blosclz", b"zlib"):
                made.append(bytes([number + 18]) + blosc.compress(_array(dtype), codec, 5, shuffle))
    return made


@target("voxels-blosc", WrongVoxelsError, seeds=_frames, kind="1+bytes")
def voxels_blosc(data: bytes) -> None:
    """Voxels in blosc frames, compared with numcodecs."""
    found, dtype, body = _decoded(data, "blosc")
    # of a frame whose content is stored as it is, the library asks for its own codec's version
    content = body[16:] if body[2] & 2 else blosc.decompress(body)
    voxels = numpy.frombuffer(content, dtype or f"u{len(found) // 40}")
    check_agreement(found == _padded(voxels), "voxels")


def _arrays() -> Sequence[bytes]:
    made = []
    for number, dtype in enumerate(_TYPES[1:], 1):
        for order in "CF":
            made.append(bytes([number + 18]) + _npy(_array(dtype, order)))
    made.append(bytes([20]) + _npy(_array("uint16").astype(">u2")))
    made.append(bytes([20]) + _npy(_array("uint16").reshape((1, *_SHAPE))))
    return made


@target("voxels-npy", WrongVoxelsError, seeds=_arrays, kind="1+bytes")
def voxels_npy(data: bytes) -> None:
    """Voxels in ``.npy``, compared with NumPy."""
    body = data[1:]
    found, _, _ = _decoded(data[:1].ljust(1, b"\0") + zlib.compress(body, 0), "npygz")
    try:
        voxels = numpy.load(io.BytesIO(body), allow_pickle=False)
    except ValueError as error:
        if b"L" in body[:200]:  # numbers as Python 2 writes them, which this NumPy may refuse
            return
        raise DisagreementError("NumPy refuses it", str(error)) from error
    check_agreement(found == _padded(voxels), "voxels")


def _streams() -> Sequence[bytes]:
    return [array[:1] + zlib.compress(array[1:]) for array in _arrays()]


@target("voxels-npygz", WrongVoxelsError, seeds=_streams, kind="1+bytes")
def voxels_npygz(data: bytes) -> None:
    """Voxels in zlib streams of ``.npy``."""
    found, _, body = _decoded(data, "npygz")
    plain = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(body)
    voxels = numpy.load(io.BytesIO(plain), allow_pickle=False)
    check_agreement(found == _padded(voxels), "voxels")


_VOLUME = Volume(
    "boss",
    "api.example.org",
    "c/e/ch",
    "uint16",
    "nanometer",
    (
        Level("0", (0, 0, 1), (100, 90, 11), (4.0, 4.0, 40.0), (64, 64, 8)),
        Level("1", (0, 0, 1), (50, 45, 11), (8.0, 8.0, 40.0), (50, 45, 8)),
    ),
    times=(0, 1),
    time_step=1.0,
    time_unit="second",
    name="ch",
)


@cache
def _row() -> Any:
    named = {"name": "demo:x@1", "dataset_name": "demo:x", "source_uri": "https://x.example.org/"}
    return SimpleNamespace(
        **named, state="sha256:0", commit="0" * 40, local_id="x", form="files", exceptions=[]
    )


class _Documents:
    """The files of a version: some documents, and every folder."""

    def __init__(self, held: dict[str, bytes]) -> None:
        self._held = held

    def git_document(self, path: str) -> bytes | None:
        """Return a document."""
        return self._held.get(path)

    def has(self, path: str) -> bool:
        """Return whether a path exists."""
        return path in self._held or "." not in path


def _used(found: Any) -> None:
    """What pages do with a described volume."""
    for level in found.volume.levels:
        found.level(level.name)
        block_box(found.volume, f"{level.name}/c/0/0/0")
    check_agreement(found.volume.files >= 0 and found.volume.bytes >= 0, "sizes")


@target(
    "volume-zarr",
    NotAVolumeError,
    NeuromirrorError,
    seeds=lambda: [
        json.dumps(
            {one.path.decode(): json.loads(one.content) for one in zarr_documents(_VOLUME)}
        ).encode()
    ],
    kind="json",
)
def volume_zarr(data: bytes) -> None:
    """Zarr metadata of a mirrored volume, read back."""
    try:
        held = json.loads(data)
    except (ValueError, RecursionError):
        held = {METADATA: data, f"0/{METADATA}": data}
    if not isinstance(held, dict):
        return
    files = _Documents(
        {
            name: one if isinstance(one, bytes) else json.dumps(one).encode()
            for name, one in held.items()
        }
    )
    read_volume(files.git_document, "0", "x")
    _used(describe(files, _row()))  # type: ignore[arg-type]


@target(
    "volume-precomputed",
    NotAVolumeError,
    NeuromirrorError,
    seeds=fixed_seeds(json.dumps(SEEDS["layer"])),
    kind="json",
)
def volume_precomputed(data: bytes) -> None:
    """``info`` of a mirrored layer, read back."""
    _used(describe(_Documents({"info": data, ".boss/coordinate_frame.json": data}), _row()))  # type: ignore[arg-type]


_BUCKET = ".precomputed/encodings.json"
_STEPS = [{"type": "scale", "scale": [40, 4, 4]}, {"type": "translation", "translation": [1, 2, 3]}]
_MULTISCALE = {
    "axes": [{"name": one, "type": "space", "unit": "nanometer"} for one in "zyx"],
    "datasets": [{"path": "0", "coordinateTransformations": _STEPS}],
}
_ARRAY: dict[str, object] = {
    "zarr_format": 2,
    "shape": [8, 8, 8],
    "chunks": [4, 4, 4],
    "dtype": "<u2",
}
_ARRAY |= {"compressor": {"id": "zlib"}, "filters": None, "fill_value": 0, "order": "C"}
_N5: dict[str, object] = {"dimensions": [8, 8, 8], "blockSize": [4, 4, 4], "dataType": "uint16"}
_N5 |= {"compression": {"type": "gzip"}}
_COSEM = {"axes": [*"zyx"], "units": ["nm"] * 3, "scale": [40, 4, 4], "translate": [0, 0, 0]}


def _bucket_volumes() -> list[bytes]:
    documents: list[dict[str, object]] = [
        {".zattrs": {"multiscales": [_MULTISCALE | {"version": "0.4"}]}, "0/.zarray": _ARRAY},
        {
            "zarr.json": {"attributes": {"ome": {"version": "0.5", "multiscales": [_MULTISCALE]}}},
            "0/zarr.json": json.loads(zarr_documents(_VOLUME)[1].content),
        },
        {"attributes.json": _N5 | {"pixelResolution": {"unit": "nm", "dimensions": [4, 4, 40]}}},
        {
            "s0/attributes.json": _N5 | {"transform": _COSEM},
            "s1/attributes.json": _N5 | {"downsamplingFactors": [2, 2, 2]},
        },
    ]
    return [json.dumps(document).encode() for document in documents]


@target("volume-in-a-bucket", NotAVolumeError, NeuromirrorError, seeds=_bucket_volumes, kind="json")
def volume_in_a_bucket(data: bytes) -> None:
    """The metadata of an OME-Zarr or N5 volume, read back."""
    try:
        held = json.loads(data)
    except (ValueError, RecursionError):
        held = {}
    if isinstance(held, dict):
        documents = {name: json.dumps(one).encode() for name, one in held.items()}
        _used(describe(_Documents({_BUCKET: b"{}", **documents}), _row()))  # type: ignore[arg-type]


def _n5_blocks() -> list[bytes]:
    head, voxels = bytes((0, 0, 0, 3, *(0, 0, 0, 2) * 3)), bytes(range(16))
    lz4 = b"LZ4Block" + bytes((0x10, *(16, 0, 0, 0) * 2, *bytes(4))) + voxels
    packed = [voxels, zlib.compress(voxels), blosc.compress(voxels, b"lz4", 1), lz4]
    return [bytes((number,)) + head + one for number, one in enumerate(packed)]


@target("n5-block", ValueError, RuntimeError, seeds=_n5_blocks, kind="1+bytes")
def n5_block(data: bytes) -> None:
    """A block of N5: the voxels that its array states, or an error."""
    name = ("raw", "zlib", "blosc", "lz4")[data[0] % 4 if data else 0]
    found = decode_n5_block(data[1:], {"type": name}, (2, 2, 2), (4, 4, 4), "uint16")
    check_agreement(len(found) == 16, "bytes")
