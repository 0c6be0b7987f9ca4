"""Initial contents of the demo archive."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from neuromirror_demo.archive import Archive
from neuromirror_demo.records import Description, read_data

if TYPE_CHECKING:
    import numpy

SHARED = "sub-101/sub-101_ses-01_ecephys.nwb"
"""The path of the file that is in 000001, 000002 and 000003, as one blob."""

LATE = "sub-401/sub-401_ses-02_ecephys.nwb"
"""The file of 000004 without a sha256 in the archive."""

ZARR = "sub-501/sub-501_sample-a_stain-DAPI.ome.zarr"
"""The Zarr of 000005."""


def fill(archive: Archive) -> None:
    """Create the eight dandisets, with the same operations that tests use."""
    for one in read_data("dandisets"):
        contributors = tuple((name, email) for name, email in one["contributors"])
        about = Description(
            one["title"], one["text"], one["license"], tuple(one["keywords"]), contributors
        )
        dandiset = archive.create_dandiset(about, embargoed=one["embargoed"])
        for step in one["steps"]:
            ((verb, given),) = step.items()
            if given.get("content") == "$shared":
                shared = archive.dandisets["000001"].draft.assets[SHARED].blob
                assert shared is not None
                given = {**given, "content": shared.data}
            if verb == "add_zarr":
                given = {**given, "entries": zarr_entries()}
            getattr(archive, verb)(dandiset, **given)


def zarr_entries() -> dict[str, bytes]:
    """Return a small OME-Zarr 0.4 (Zarr format 2, no compression): two levels of a gradient.

    Level 0 has 96 × 16 pixels, level 1 48 × 8, both uint16 in chunks of 8 × 8. Because rows 10 and
    11 exist, the prefix ``0/1`` matches more than row 1.
    """
    import numpy

    full = (numpy.arange(96 * 16, dtype="uint32") * 7 % 60_000).astype("<u2").reshape(96, 16)
    documents = read_data("zarr")
    entries = {name: _document(documents[name]) for name in (".zgroup", ".zattrs")}
    for level, image in enumerate((full, full[::2, ::2])):
        entries.update(_array(str(level), image))
    return entries


def _array(
    name: str, image: numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.uint16]]
) -> dict[str, bytes]:
    height, width = image.shape
    entries = {
        f"{name}/.zarray": _document({**read_data("zarr")[".zarray"], "shape": [height, width]}),
        f"{name}/.zattrs": _document({}),
    }
    for y in range(height // 8):
        for x in range(width // 8):
            chunk = image[8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            entries[f"{name}/{y}/{x}"] = chunk.tobytes()
    return entries


def _document(body: object) -> bytes:
    return json.dumps(body, indent=4).encode()
