"""Initial contents of the demo archive."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from neuromirror_demo.archive import Archive
from neuromirror_demo.records import Description

if TYPE_CHECKING:
    import numpy

_PEOPLE = (("Doe, Jane", "jane.doe@example.org"), ("Roe, Richard", "richard.roe@example.org"))
_NOTE = " Demo data: the signals are made up, no animal was recorded."

SHARED = "sub-101/sub-101_ses-01_ecephys.nwb"
"""The path of the file that is in 000001, 000002 and 000003, as one blob."""

LATE = "sub-401/sub-401_ses-02_ecephys.nwb"
"""The file of 000004 without a sha256 in the archive."""

ZARR = "sub-501/sub-501_sample-a_stain-DAPI.ome.zarr"
"""The Zarr of 000005."""


def fill(archive: Archive) -> None:
    """Create the eight dandisets, with the same operations that tests use."""
    _add_draft_only(archive)
    _add_published_twice(archive)
    _add_sharing(archive)
    _add_late_digest(archive)
    _add_with_zarr(archive)
    _add_embargoed(archive)
    archive.create_dandiset(
        Description("Two-photon imaging of visual cortex: upload pending (demo)", _NOTE.strip())
    )
    _add_changing(archive)


def zarr_entries() -> dict[str, bytes]:
    """Return a small OME-Zarr 0.4 (Zarr format 2, no compression): two levels of a gradient.

    Level 0 has 96 × 16 pixels, level 1 48 × 8, both uint16 in chunks of 8 × 8. Because rows 10 and
    11 exist, the prefix ``0/1`` matches more than row 1.
    """
    import numpy

    full = (numpy.arange(96 * 16, dtype="uint32") * 7 % 60_000).astype("<u2").reshape(96, 16)
    entries = {
        ".zgroup": _document({"zarr_format": 2}),
        ".zattrs": _document(
            {
                "multiscales": [
                    {
                        "version": "0.4",
                        "name": "demo",
                        "axes": [
                            {"name": "y", "type": "space", "unit": "micrometer"},
                            {"name": "x", "type": "space", "unit": "micrometer"},
                        ],
                        "datasets": [_level(0), _level(1)],
                    }
                ]
            }
        ),
    }
    for level, image in enumerate((full, full[::2, ::2])):
        entries.update(_array(str(level), image))
    return entries


def _add_draft_only(archive: Archive) -> None:
    dandiset = archive.create_dandiset(
        Description(
            "Hippocampal CA1 activity on a linear track (demo)",
            "Four-channel recordings from dorsal CA1 while a mouse runs a linear track." + _NOTE,
            keywords=("hippocampus", "place cells", "demo"),
            contributors=_PEOPLE,
        )
    )
    archive.add_file(dandiset, SHARED)
    archive.add_file(dandiset, "sub-101/sub-101_ses-02_ecephys.nwb")
    archive.add_file(dandiset, "sub-102/sub-102_ses-01_behavior.nwb")
    archive.add_file(dandiset, "README.md", "# Linear track\n\nDemo data.\n")


def _add_published_twice(archive: Archive) -> None:
    dandiset = archive.create_dandiset(
        Description(
            "Sharp-wave ripples during rest and sleep (demo)",
            "Extracellular recordings during rest, released in two versions." + _NOTE,
            keywords=("hippocampus", "sharp-wave ripples", "sleep", "demo"),
            contributors=_PEOPLE,
        )
    )
    archive.add_file(dandiset, SHARED)
    archive.add_file(dandiset, "sub-201/sub-201_ses-01_ecephys.nwb")
    archive.add_file(dandiset, "sub-201/sub-201_ses-02_ecephys.nwb")
    archive.add_file(dandiset, "sub-202/sub-202_ses-01_behavior.nwb")
    archive.add_file(dandiset, "dataset notes.txt", "Sampled at 1 kHz.\n")
    archive.publish(dandiset)
    archive.change_file(dandiset, "sub-201/sub-201_ses-02_ecephys.nwb")
    archive.add_file(dandiset, "sub-203/sub-203_ses-01_ecephys.nwb")
    archive.remove_file(dandiset, "sub-202/sub-202_ses-01_behavior.nwb")
    archive.publish(dandiset)
    archive.add_file(dandiset, "sub-204/sub-204_ses-01_behavior.nwb")


def _add_sharing(archive: Archive) -> None:
    dandiset = archive.create_dandiset(
        Description(
            "Benchmark sessions for spike sorting (demo)",
            "Sessions taken from other dandisets, for comparing spike sorters." + _NOTE,
            license="spdx:CC0-1.0",
            keywords=("spike sorting", "benchmark", "demo"),
            contributors=_PEOPLE[1:],
        )
    )
    shared = archive.dandisets["000001"].draft.assets[SHARED].blob
    assert shared is not None
    archive.add_file(dandiset, "reference/sub-101_ses-01_ecephys.nwb", shared.data)
    archive.add_file(dandiset, "sub-301/sub-301_ses-01_ecephys.nwb")


def _add_late_digest(archive: Archive) -> None:
    dandiset = archive.create_dandiset(
        Description(
            "Running speed and cortical potentials (demo)",
            "A draft to which files were uploaded a moment ago." + _NOTE,
            keywords=("locomotion", "demo"),
            contributors=_PEOPLE[:1],
        )
    )
    archive.add_file(dandiset, "sub-401/sub-401_ses-01_ecephys.nwb")
    archive.add_file(dandiset, LATE, sha256_known=False)
    archive.add_file(dandiset, "sub-402/sub-402_ses-01_behavior.nwb")


def _add_with_zarr(archive: Archive) -> None:
    dandiset = archive.create_dandiset(
        Description(
            "Light-sheet microscopy of a cleared hemisphere (demo)",
            "One small OME-Zarr image beside the physiology of the same subject." + _NOTE,
            keywords=("microscopy", "OME-Zarr", "demo"),
            contributors=_PEOPLE,
        )
    )
    archive.add_file(dandiset, "sub-501/sub-501_ses-01_ecephys.nwb")
    archive.add_zarr(dandiset, ZARR, zarr_entries())
    archive.add_file(dandiset, "dataset_description.json", '{"Name": "demo"}\n')


def _add_embargoed(archive: Archive) -> None:
    dandiset = archive.create_dandiset(
        Description(
            "Unpublished recordings under embargo (demo)",
            "To be opened with the paper." + _NOTE,
            contributors=_PEOPLE[:1],
        ),
        embargoed=True,
    )
    archive.add_file(dandiset, "sub-601/sub-601_ses-01_ecephys.nwb")
    archive.add_file(dandiset, "notes.txt", "Not yet public.\n")


def _add_changing(archive: Archive) -> None:
    dandiset = archive.create_dandiset(
        Description(
            "A study in progress (demo)",
            "A dandiset that goes on changing and being published while you watch." + _NOTE,
            keywords=("living", "demo"),
            contributors=_PEOPLE,
        )
    )
    archive.add_file(dandiset, "sub-801/sub-801_ses-01_ecephys.nwb")
    archive.add_file(dandiset, "sub-801/sub-801_ses-02_behavior.nwb")
    archive.add_file(dandiset, "notes.txt", "First week.\n")
    archive.publish(dandiset)


def _document(body: object) -> bytes:
    return json.dumps(body, indent=4).encode()


def _level(number: int) -> dict[str, object]:
    scale = float(2**number)
    transformation = {"type": "scale", "scale": [scale, scale]}
    return {"path": str(number), "coordinateTransformations": [transformation]}


def _array(
    name: str, image: numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.uint16]]
) -> dict[str, bytes]:
    height, width = image.shape
    entries = {
        f"{name}/.zarray": _document(
            {
                "zarr_format": 2,
                "shape": [height, width],
                "chunks": [8, 8],
                "dtype": "<u2",
                "compressor": None,
                "fill_value": 0,
                "order": "C",
                "filters": None,
                "dimension_separator": "/",
            }
        ),
        f"{name}/.zattrs": _document({}),
    }
    for y in range(height // 8):
        for x in range(width // 8):
            chunk = image[8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            entries[f"{name}/{y}/{x}"] = chunk.tobytes()
    return entries
