"""Initial contents of the demo buckets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from neuromirror_demo.recordings import (
    TRACES,
    compressed_recording,
    document,
    drift_map,
    image3,
    spike_times,
    spikeinterface_folder,
)
from neuromirror_demo.sidecars import AssetDescription
from neuromirror_demo.templates import read_data

if TYPE_CHECKING:
    from neuromirror_demo.demo_buckets import DemoBuckets

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
