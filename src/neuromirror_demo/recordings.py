"""Small recordings and images in real formats: SpikeInterface folders and Zarrs."""

from __future__ import annotations

import io
import json
import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

from neuromirror_demo.templates import read_data

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy
    from numpy.typing import NDArray

SAMPLING_RATE = 30_000.0
"""Samples per second of every recording."""

CHANNELS = 16
"""Channels of every recording."""

TRACES = "traces_cached_seg0.raw"
"""The file of a SpikeInterface folder with the samples."""

_GAIN = 2.34375


def document(body: object) -> bytes:
    """Return JSON in the style of these folders."""
    return json.dumps(body, indent=4).encode()


@cache
def traces(samples: int, seed: int) -> bytes:
    """Return noise with a spike every 10 ms: little-endian int16, ``samples`` × 16."""
    import numpy

    hashes = numpy.arange(samples * CHANNELS, dtype=numpy.uint64) + numpy.uint64(seed << 32)
    # A hash of the position; numpy's own generators may change between releases.
    hashes = (hashes ^ (hashes >> numpy.uint64(15))) * numpy.uint64(0x9E3779B97F4A7C15)
    noise = ((hashes >> numpy.uint64(58)).astype("<i2") - 32).reshape(samples, CHANNELS)
    every = int(SAMPLING_RATE / 100)
    for number, start in enumerate(range(every // 2, samples - 3, every)):
        noise[start : start + 3, (number * 7 + seed) % CHANNELS] -= numpy.array(
            [60, 140, 40], "<i2"
        )
    return noise.tobytes()


@cache
def spikeinterface_folder(seconds: float, seed: int) -> dict[str, bytes]:
    """Return the files that SpikeInterface's ``recording.save(format="binary")`` writes, by path.

    The samples are in ``traces_cached_seg0.raw``: int16, C order, ``seconds`` × 30,000 by 16.
    """
    import numpy

    documents = {name: document(body) for name, body in read_data("spikeinterface").items()}
    return {
        **documents,
        "properties/gain_to_uV.npy": _npy(numpy.full(CHANNELS, _GAIN)),
        "properties/group.npy": _npy(numpy.zeros(CHANNELS, "<i8")),
        "properties/offset_to_uV.npy": _npy(numpy.zeros(CHANNELS)),
        TRACES: traces(int(seconds * SAMPLING_RATE), seed),
    }


def _npy(values: NDArray[Any]) -> bytes:
    import numpy

    stream = io.BytesIO()
    numpy.save(stream, values)
    return stream.getvalue()


@cache
def compressed_recording(samples: int, seed: int) -> dict[str, bytes]:
    """Return a recording in SpikeInterface's Zarr format 2: a group with a chunked array.

    ``traces_seg0`` is ``samples`` × 16 in chunks of 300 × 16, each compressed with zlib.
    """
    import numpy

    data = numpy.frombuffer(traces(samples, seed), "<i2").reshape(samples, CHANNELS)
    names = numpy.array([f"AP{number}" for number in range(CHANNELS)], "<U4")
    entries = {
        ".zgroup": document({"zarr_format": 2}),
        ".zattrs": document(
            {
                "sampling_frequency": SAMPLING_RATE,
                "num_segments": 1,
                "annotations": {"is_filtered": False},
            }
        ),
        "channel_ids/.zarray": document(_array2([CHANNELS], [CHANNELS], "<U4", "")),
        "channel_ids/0": zlib.compress(names.tobytes(), 6),
        "traces_seg0/.zarray": document(_array2(list(data.shape), [300, CHANNELS], "<i2", 0)),
    }
    for number, start in enumerate(range(0, samples, 300)):
        chunk = numpy.zeros((300, CHANNELS), "<i2")
        part = data[start : start + 300]
        chunk[: len(part)] = part
        entries[f"traces_seg0/{number}.0"] = zlib.compress(chunk.tobytes(), 6)
    consolidated = {
        name: json.loads(text)
        for name, text in entries.items()
        if name.rpartition("/")[2].startswith(".z")
    }
    metadata = {"metadata": consolidated, "zarr_consolidated_format": 1}
    entries[".zmetadata"] = document(metadata)
    return entries


def _array2(shape: list[int], chunks: list[int], dtype: str, fill: object) -> dict[str, object]:
    return {
        "zarr_format": 2,
        "shape": shape,
        "chunks": chunks,
        "dtype": dtype,
        "compressor": {"id": "zlib", "level": 6},
        "fill_value": fill,
        "order": "C",
        "filters": None,
    }


@cache
def image3() -> dict[str, bytes]:
    """Return a small OME-Zarr 0.5 (Zarr format 3, no compression): two levels of a gradient.

    Level 0 has 2 × 32 × 32 pixels, level 1 2 × 16 × 16, both uint16 in chunks of 1 × 16 × 16.
    """
    import numpy

    ramp = numpy.arange(2 * 32 * 32, dtype="uint32") * 13 % 50_000
    full = ramp.astype("<u2").reshape(2, 32, 32)
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    levels = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0, 0.5 * 2**level, 0.5 * 2**level]}
            ],
        }
        for level in range(2)
    ]
    ome = {"version": "0.5", "multiscales": [{"name": "demo", "axes": axes, "datasets": levels}]}
    entries = {
        "zarr.json": document({"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}})
    }
    for level, image in enumerate((full, full[:, ::2, ::2])):
        entries.update({f"{level}/{name}": data for name, data in _array3(image).items()})
    return entries


def _array3(image: numpy.ndarray[tuple[int, ...], numpy.dtype[Any]]) -> Mapping[str, bytes]:
    depth, height, width = image.shape
    entries = {
        "zarr.json": document(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": [depth, height, width],
                "data_type": "uint16",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 16, 16]}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": 0,
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                "attributes": {},
            }
        )
    }
    for z in range(depth):
        for y in range(height // 16):
            for x in range(width // 16):
                chunk = image[z, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
                entries[f"c/{z}/{y}/{x}"] = chunk.tobytes()
    return entries


@cache
def drift_map(width: int = 96, height: int = 64) -> bytes:
    """Return a PNG of a drift over time, uncompressed, so that its bytes are always the same."""
    rows = (
        b"\0" + bytes(255 - 6 * abs((y + x // 16) % height - height // 2) for x in range(width))
        for y in range(height)
    )
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(rows), 0)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@cache
def spike_times(count: int) -> bytes:
    """Return an HDF5 file with the times of some spikes, in samples."""
    import h5py
    import numpy

    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        file.create_dataset("spike_times", data=numpy.arange(count, dtype="int32") * 37)
    return made.getvalue()
