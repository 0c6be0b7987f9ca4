"""Initial contents of the demo buckets: recordings and precomputed layers."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from neuromirror_demo import volumes
from neuromirror_demo.bucket_state import AssetDescription
from neuromirror_demo.records import filled, read_data
from neuromirror_demo.volumes import (
    FIRST_CELL,
    HALVING,
    XYZ,
    EncodedObject,
    LayerScale,
    Point,
    layer_objects,
    meshes,
    n5_objects,
    ome_zarr_objects,
)

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from neuromirror_demo.demo_server import DemoBuckets

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
        ".zattrs": document(read_data("bucket_zarrs")["recording"]),
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
    values = {"shape": shape, "chunks": chunks, "dtype": dtype, "fill": fill}
    made: dict[str, object] = filled(read_data("bucket_zarrs")["array2"], values)
    return made


@cache
def image3() -> dict[str, bytes]:
    """Return a small OME-Zarr 0.5 (Zarr format 3, no compression): two levels of a gradient.

    Level 0 has 2 × 32 × 32 pixels, level 1 2 × 16 × 16, both uint16 in chunks of 1 × 16 × 16.
    """
    import numpy

    ramp = numpy.arange(2 * 32 * 32, dtype="uint32") * 13 % 50_000
    full = ramp.astype("<u2").reshape(2, 32, 32)
    entries = {"zarr.json": document(read_data("bucket_zarrs")["image3"])}
    for level, image in enumerate((full, full[:, ::2, ::2])):
        entries.update({f"{level}/{name}": data for name, data in _array3(image).items()})
    return entries


def _array3(image: numpy.ndarray[tuple[int, ...], numpy.dtype[Any]]) -> Mapping[str, bytes]:
    depth, height, width = image.shape
    about = filled(read_data("bucket_zarrs")["array3"], {"shape": [depth, height, width]})
    entries = {"zarr.json": document(about)}
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


MIB = 1024**2

RAW = "ecephys_625749_2022-08-03_15-15-06"
"""A raw recording of 2022, with a SpikeInterface folder whose samples were uploaded in parts."""

RAW_2025 = "746346_2025-06-05_09-41-17"
"""A raw recording of 2025: its name has no platform."""

SORTED_0 = f"{RAW}_sorted_2022-11-18_02-27-40"
"""Derived from RAW; schema 0.3 records this in ``input_data``."""

SORTED_1 = f"{RAW}_sorted-ks25_2024-02-11_20-05-33"
"""Derived from RAW; schema 1.x records this in ``input_data_name``."""

SORTED_2 = f"{RAW_2025}_sorted_2025-06-07_23-12-09"
"""Derived from RAW_2025; schema 2.x records this in ``source_data``."""

BEHAVIOR = "behavior_717121_2024-06-15_10-00-58"
"""A behavior session."""

PROCESSED = f"{BEHAVIOR}_processed_2024-06-16_08-30-00"
"""Derived from BEHAVIOR; only its name records this."""

FUSION = "exaSPIM_653158_2023-06-01_20-41-38_fusion_2023-08-24"
"""An image with an invalid name: a date without a time."""

HCR = "HCR_BL6-000_2023-06-1_00-00-00_fused_2023-08-02_10-11-12"
"""A date whose day has one digit."""

CCF = "ecephys_1234_ccf"
"""No date and no documents."""

ASSETS = (RAW, RAW_2025, SORTED_0, SORTED_1, SORTED_2, BEHAVIOR, PROCESSED, FUSION, HCR, CCF)
"""Every asset of the open-data bucket."""

SESSIONS = tuple(
    f"ephys-compression/{probe}/{session}"
    for probe, session in (
        ("aind-np1", "625749_2022-08-03_15-15-06_ProbeA"),
        ("aind-np2", "595262_2022-02-21_15-18-07_ProbeA"),
        ("ibl-np1", "CSHZAD026_2020-09-04_probe00"),
    )
)
"""Every session of the benchmark bucket, at depth 3."""

MEAREC = "ephys-compression/mearec"
"""A dataset of the benchmark bucket at depth 2."""

HOSTILE_KEYS = tuple(
    sorted(
        [
            *(b"both", b"both/child", b".git/config", b"sub/.GIT/config", b"a//b", b"a/b"),
            *(b"up/../x", b"up/./y", b"x/.gitmodules", b".gitattributes", b".datalad/config"),
            *(b"n" * 300, b"deep/" + b"m" * 300 + b"/x", b"tab\there", b"new\nline", b"bell\x07"),
            *(b"marker/", b"folder/", b"folder/file", b"full/", b"a space", b" edge ", b"ha#sh"),
            *(b"plus+plus", b"per%cent", b"%41", b"A", b"%2F", b"quest?ion=1&2", b"semi;colon"),
            *("caf\u00e9".encode(), "cafe\u0301".encode(), b"Case", b"case", b"CASE/x"),
            *(b"back\\slash", b"/leading", b"dot.", b"...", b"~tilde*(star)", b"<&>'\""),
            *("\u65e5\u672c\u8a9e/\U0001f9e0.nwb".encode(), b"colon:name", b"-dash", b"git~1"),
        ]
    )
)
"""The keys of the hostile bucket that are UTF-8; ``full/`` has content, ``marker/`` has none."""

NOT_UTF8 = b"latin\xe91"
"""Another key of that bucket; AWS rejects it, other S3 servers accept it."""


def fill_open_data(demo: DemoBuckets) -> None:
    """Create the assets of the open-data bucket, with the same operations that tests use."""
    _raw(demo)
    _raw_2025(demo)
    _sorted(demo)
    _behavior(demo)
    _images(demo)
    demo.put(f"{CCF}/ccf_coordinates.csv", b"channel,ap,dv,ml\n0,5400,2100,1200\n")
    demo.put(f"{CCF}/notes.txt", b"Registered by hand.\n")


def _about(name: str) -> AssetDescription:
    """Return the description of an asset."""
    return msgspec.convert({"name": name, **read_data("assets")[name]}, AssetDescription)


def _raw(demo: DemoBuckets) -> None:
    demo.put_tree(f"{RAW}/si_folder", spikeinterface_folder(10, 1), {TRACES: 8 * MIB})
    stream = "experiment1_Record Node 104#Neuropix-PXI-100.ProbeA-AP.zarr"
    demo.put_tree(f"{RAW}/ecephys_compressed/{stream}", compressed_recording(3000, 2))
    settings = b'<?xml version="1.0" encoding="UTF-8"?>\n<SETTINGS><INFO/></SETTINGS>\n'
    demo.put(f"{RAW}/ecephys_clipped/Record Node 104/settings.xml", settings)
    demo.put(f"{RAW}/ecephys_clipped/", b"")
    demo.describe(_about(RAW))


def _raw_2025(demo: DemoBuckets) -> None:
    # The part size exceeds the file size: one part, whose size cannot be derived from the ETag.
    folder = spikeinterface_folder(1, 3)
    demo.put_tree(f"{RAW_2025}/ecephys/si_folder", folder, {TRACES: 50 * MIB})
    name = f"{RAW_2025}/ecephys/ecephys_compressed/experiment1.zarr"
    demo.put_tree(name, compressed_recording(900, 4))
    demo.put(f"{RAW_2025}/behavior/Licks.csv", _table(40), checksum="SHA256")
    demo.describe(_about(RAW_2025))


def _sorted(demo: DemoBuckets) -> None:
    for name in (SORTED_0, SORTED_1, SORTED_2):
        units = document({"units": [0, 1, 2], "sorter": "demo"})
        demo.put(f"{name}/curated/experiment1_recording1/units.json", units)
        spikes = bytes(range(256)) * 16
        demo.put(f"{name}/spikesorted/experiment1_recording1/spikes.npy", spikes)
        demo.put(f"{name}/drift_maps/ProbeA.png", drift_map())
        demo.put(f"{name}/output", b"nextflow log\n")
        demo.describe(_about(name))


def _behavior(demo: DemoBuckets) -> None:
    demo.put(f"{BEHAVIOR}/behavior/raw.harp/Lickometer.bin", bytes(range(200)) * 30)
    demo.put(f"{BEHAVIOR}/behavior/trials.csv", _table(200))
    # Uploaded in parts of 5 MiB, with checksums of the parts.
    video = bytes(range(251)) * (6 * MIB // 251)
    demo.put(
        f"{BEHAVIOR}/behavior-videos/Face Camera.mp4",
        video,
        part_size=5 * MIB,
        checksum="SHA256",
        content_type="video/mp4",
    )
    demo.describe(_about(BEHAVIOR))
    demo.put(f"{PROCESSED}/nwb/{BEHAVIOR}.nwb.zarr/.zgroup", document({"zarr_format": 2}))
    demo.put(
        f"{PROCESSED}/nwb/{BEHAVIOR}.nwb.zarr/.zattrs", document({".specloc": "specifications"})
    )
    demo.put(f"{PROCESSED}/performance.csv", _table(20))
    demo.describe(_about(PROCESSED))


def _images(demo: DemoBuckets) -> None:
    demo.put_tree(f"{FUSION}/fused.zarr", image3())
    demo.describe(_about(FUSION), docdb=False)
    demo.put(f"{HCR}/image_tile_fusing/tile.ome.tif", b"II*\x00" + bytes(500))
    demo.put(f"{HCR}/data_description.json", b'{"name": "HCR_BL6-000", "subject_id": null')


def fill_benchmark(demo: DemoBuckets) -> None:
    """Create the versioned bucket: sessions, overwritten objects, deleted objects."""
    bucket = demo.benchmark
    demo.put("README.md", b"# Benchmarks (demo)\n", bucket=bucket)
    for number, session in enumerate(SESSIONS):
        seconds = 7 if number == 0 else 0.2
        parts = {TRACES: 5 * MIB} if number == 0 else {}
        folder = spikeinterface_folder(seconds, 10 + number)
        demo.put_tree(session, folder, parts, bucket=bucket)
    demo.put(f"{MEAREC}/mearec_NP1.h5", spike_times(3000), bucket=bucket)
    demo.put(f"{MEAREC}/mearec_NP2.h5", spike_times(2000), bucket=bucket)
    # The history: an earlier take of the samples, deleted notes, a file that was deleted and
    # restored.
    second = SESSIONS[1]
    demo.put(f"{second}/notes.txt", b"Probe moved at 12:30.\n", bucket=bucket)
    demo.put(f"{second}/provenance.json", document({"take": 2}), bucket=bucket)
    demo.delete_object(f"{second}/notes.txt", bucket=bucket)
    demo.delete_object(f"{MEAREC}/mearec_NP2.h5", bucket=bucket)
    demo.put(f"{MEAREC}/mearec_NP2.h5", spike_times(2500), bucket=bucket)


def fill_hostile(demo: DemoBuckets) -> None:
    """Create the bucket of hostile keys; the content of each object is its key."""
    for key in (*HOSTILE_KEYS, NOT_UTF8):
        empty = key in {b"marker/", b"folder/"}
        demo.put(key, b"" if empty else key, bucket=demo.hostile)


def _table(rows: int) -> bytes:
    lines = [f"{row},{row * 37 % 101 / 10},{row % 2}" for row in range(rows)]
    return "\n".join(["trial,time,rewarded", *lines, ""]).encode()


EM: Final = "demo_cortex/sections/em"
"""uint8 images, three anisotropic scales, stored as brotli; an empty corner has no objects."""

CELLS: Final = "demo_cortex/sections/cells"
"""uint64 labels of EM, two scales, and meshes; stored as gzip, except lists of meshes."""

GCAMP: Final = "demo_activity/calcium/gcamp"
"""uint16 images, two isotropic scales, in shards."""

LAYERS: Final = (GCAMP, CELLS, EM)
"""Every precomputed layer, in the order of the bucket."""

FUSED: Final = "demo_activity/calcium/fused.zarr"
"""The images of GCAMP as an OME-Zarr."""

STACK: Final = "demo_activity/calcium/stack.n5"
"""The images of GCAMP as an N5 volume."""

POINTS: Final = "demo_cortex/sections/points"
"""A layer of annotations, which is not a volume."""

DRAFT: Final = "demo_cortex/drafts/em"
"""Chunks whose ``info`` was never written."""

_SIZE: Final[XYZ] = (150, 130, 40)
_START: Final[XYZ] = (0, 0, 12)
_VOXEL: Final[XYZ] = (4, 4, 40)


@cache
def layer_scales(layer: str) -> list[LayerScale]:
    """Return the voxels of a layer at every scale, finest first."""
    if layer in (GCAMP, FUSED, STACK):
        first = LayerScale(volumes.activity(_SIZE, 1)[0], (0, 0, 0), (1500, 1500, 1500))
        return _pyramid(first, 2, HALVING["isotropic"])
    if layer == CELLS:
        first = LayerScale(volumes.cells(_SIZE), _START, _VOXEL)
        return _pyramid(first, 2, HALVING["anisotropic"], labels=True)
    tissue = volumes.tissue(_SIZE).copy()
    tissue[:16, :64, :64] = 0
    return _pyramid(LayerScale(tissue, _START, _VOXEL), 3, HALVING["anisotropic"])


def _pyramid(
    first: LayerScale, count: int, factor: XYZ, *, labels: bool = False
) -> list[LayerScale]:
    made = [first]
    while len(made) < count:
        last = made[-1]
        x, y, z = (start // by for start, by in zip(last.start, factor, strict=True))
        width, height, depth = (size * by for size, by in zip(last.voxel, factor, strict=True))
        voxels = volumes.coarser(last.voxels, last.start, factor, labels=labels)
        made.append(LayerScale(voxels, (x, y, z), (width, height, depth)))
    return made


def fill_precomputed(demo: DemoBuckets) -> None:
    """Create the layers, and the objects beside them."""
    bucket = demo.precomputed
    demo.put("README.md", b"# Volumes (demo)\n", bucket=bucket)
    for folder, objects in _layers(bucket).items():
        for name in sorted(objects):
            stored = objects[name]
            demo.put(f"{folder}/{name}", stored.data, bucket=bucket, encoding=stored.encoding)
    points = {"@type": "neuroglancer_annotations_v1", "annotation_type": "POINT"}
    demo.put(f"{POINTS}/info", json.dumps(points).encode(), bucket=bucket)
    demo.put(f"{POINTS}/spatial0/0_0_0", bytes(8), bucket=bucket)
    demo.put(f"{DRAFT}/4_4_40/0-64_0-64_0-16", bytes(64), bucket=bucket)


@cache
def _layers(bucket: str) -> Mapping[str, Mapping[str, EncodedObject]]:
    """Return the objects of each layer, by name."""
    cells = layer_objects(
        layer_scales(CELLS),
        kind="segmentation",
        encoding="gzip",
        about={
            "description": "Cells (demo)",
            "sources": [f"precomputed://s3://{bucket}/{EM}", "gs://elsewhere/em"],
        },
        more={"mesh": "mesh"},
    )
    cells |= {f"mesh/{name}": one for name, one in meshes(_BOXES).items()}
    glow, tissue = {"description": "Glow (demo)"}, {"description": "Tissue (demo)"}
    return {
        GCAMP: layer_objects(layer_scales(GCAMP), sharded=True, about=glow),
        CELLS: cells,
        EM: layer_objects(layer_scales(EM), encoding="br", about=tissue),
        FUSED: ome_zarr_objects(layer_scales(FUSED)),
        STACK: n5_objects(layer_scales(STACK)),
    }


_BOXES: Final[Mapping[int, tuple[Point, Point]]] = {
    FIRST_CELL + number: ((100.0 * number, 0.0, 480.0), (100.0 * number + 90.0, 80.0, 900.0))
    for number in range(4)
}
