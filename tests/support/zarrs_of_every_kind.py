"""Dandisets with Zarrs of every kind, for the demo archive."""

import json
import struct
from collections.abc import Mapping
from functools import cache

from neuromirror_demo import Description
from neuromirror_demo.archive import Archive

MIB = 2**20
CHUNK = 4
"""Rows and columns of a chunk."""

ODD_PATHS = (
    "a #1 & b+c=d~e (f),g.txt",
    ".bidsignore",
    "derivatives/.cache/x.json",
    "Twins/Data.txt",
    "twins/data.txt",
    "twins/DATA.txt",
    "back`tick [1]^2_.txt",
    "two  blanks .txt",
    "-rf/--force.txt",
)
"""Asset paths that the archive allows and that cause problems for other programs."""

_NOTE = " Demo data: the images are made up."
_PEOPLE = (("Doe, Jane", "jane.doe@example.org"),)
_GRIDS = {2: ((12, 2), (3, 2), (1, 2)), 3: ((14, 2), (3, 2), (1, 2))}
"""Chunks of the three levels of an image, by the Zarr's format, for 40 entries."""


def add_zarrs(archive: Archive) -> dict[str, dict[str, str]]:
    """Add five dandisets with Zarrs; return dandiset, path and Zarr id of each by name.

    ``v2x40``, ``v3x40``: both formats, with this many entries;
    ``nested``: folders ``1/`` and ``10/`` at two depths; ``shared``: ``v2x40`` in another
    dandiset; ``parts``: entries uploaded in parts; ``pending``: never finalized; ``closed``:
    under embargo; ``odd``: odd names, in a dandiset with odd names; ``wrong``: the stated
    checksum is wrong.
    """
    made: dict[str, dict[str, str]] = {}

    def zarr(
        name: str,
        dandiset: str,
        entries: Mapping[str, bytes],
        *,
        part_sizes: Mapping[str, int] | None = None,
        finalize: bool = True,
    ) -> None:
        path = f"sub-{name}/sub-{name}_photo.ome.zarr"
        zarr_id = archive.add_zarr(
            dandiset, path, entries, part_sizes=part_sizes, finalize=finalize
        )
        made[name] = {"dandiset": dandiset, "path": path, "zarr": zarr_id}

    both = _dandiset(archive, "Images in both Zarr formats")
    for number, zarr_format in enumerate(_GRIDS):
        zarr(f"v{zarr_format}x40", both, image_entries(zarr_format, number + 1))
    zarr("nested", both, nested_entries())
    archive.add_file(both, "README.md", "# Images\n\nMade up.\n")

    care = _dandiset(archive, "Images that need care")
    path = "sub-shared/sub-shared_photo.ome.zarr"
    archive.share_zarr(care, path, made["v2x40"]["zarr"])
    made["shared"] = {"dandiset": care, "path": path, "zarr": made["v2x40"]["zarr"]}
    large = large_entries()
    in_parts = dict.fromkeys(large.keys() - {".zgroup"}, 5 * MIB)
    zarr("parts", care, large, part_sizes=in_parts)
    zarr("pending", care, image_entries(2, 11), finalize=False)
    archive.add_file(care, "notes.txt", "One upload was never finished.\n")

    closed = _dandiset(archive, "Images under embargo", embargoed=True)
    zarr("closed", closed, image_entries(3, 12))
    archive.add_file(closed, "notes.txt", "To be opened with the paper on images.\n")
    archive.change_zarr(closed, made["closed"]["path"], "0/c/0/0", bytes(4 * CHUNK * CHUNK))

    odd = _dandiset(archive, "Names that the archive allows")
    for path in ODD_PATHS:
        archive.add_file(odd, path, f"This is {path}\n")
    zarr("odd", odd, odd_entries())

    wrong = _dandiset(archive, "An image that is not what the archive says")
    zarr("wrong", wrong, image_entries(2, 13))
    archive.add_file(wrong, "notes.txt", "The stated checksum is wrong.\n")
    archive.misstate_zarr(wrong, made["wrong"]["path"])
    return made


@cache
def image_entries(zarr_format: int, seed: int = 1) -> dict[str, bytes]:
    """Return an OME-Zarr group with 40 entries; equal seeds give equal bytes.

    Its arrays ``0``, ``1`` and ``10`` have uint32 pixels, uncompressed, in chunks of 4 × 4; pixel
    (y, x) of ``0`` is :func:`pixel` (seed, 0, y, x).
    """
    levels = _GRIDS[zarr_format]
    image = {"multiscales": [_multiscale()]}
    about = image if zarr_format == 2 else {"ome": {"version": "0.5", **image}}
    entries = group_entries(zarr_format, about)
    for level, (name, grid) in enumerate(zip(("0", "1", "10"), levels, strict=True)):
        entries |= array_entries(zarr_format, name, grid, seed, level)
    return entries


def pixel(seed: int, level: int, y: int, x: int) -> int:
    """Return the value of a pixel of :func:`array_entries`."""
    return (seed << 24) + (level << 20) + (y << 10) + x


def group_entries(
    zarr_format: int, attributes: Mapping[str, object], at: str = ""
) -> dict[str, bytes]:
    """Return the documents of a group, at the root or at ``at`` (with a final slash)."""
    if zarr_format == 2:
        return {
            f"{at}.zgroup": _document({"zarr_format": 2}),
            f"{at}.zattrs": _document(attributes),
        }
    about = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return {f"{at}zarr.json": _document(about)}


def array_entries(
    zarr_format: int, name: str, grid: tuple[int, int], seed: int, level: int
) -> dict[str, bytes]:
    """Return an array of (rows, columns) chunks."""
    rows, columns = grid
    entries = _array_documents(
        zarr_format, name, (rows * CHUNK, columns * CHUNK), (CHUNK, CHUNK), "<u4", "uint32"
    )
    chunks = f"{name}/c" if zarr_format == 3 else name
    for row in range(rows):
        for column in range(columns):
            pixels = [
                pixel(seed, level, row * CHUNK + y, column * CHUNK + x)
                for y in range(CHUNK)
                for x in range(CHUNK)
            ]
            entries[f"{chunks}/{row}/{column}"] = struct.pack(f"<{len(pixels)}I", *pixels)
    return entries


@cache
def nested_entries() -> dict[str, bytes]:
    """Return groups ``1`` and ``10`` in each other, so that the prefix ``1`` matches both."""
    entries = group_entries(2, {})
    for seed, at in enumerate(("1/", "10/", "1/1/", "1/10/", "10/1/", "10/10/")):
        entries |= group_entries(2, {"group": at}, at)
        if at.count("/") == 2:
            entries |= array_entries(2, f"{at}data", (2, 11), 20 + seed, 0)
    return entries


@cache
def large_entries() -> dict[str, bytes]:
    """Return an array of 7 MiB in two chunks of 6 MiB, for uploads in parts of 5 MiB."""
    entries = group_entries(2, {})
    entries |= _array_documents(2, "0", (7 * MIB,), (6 * MIB,), "|u1", "uint8")
    for number, used in enumerate((6 * MIB, MIB)):
        block = bytes((value * 7 + number) % 256 for value in range(4099))
        entries[f"0/{number}"] = (block * (used // len(block) + 1))[:used].ljust(6 * MIB, b"\0")
    return entries


@cache
def odd_entries() -> dict[str, bytes]:
    """Return arrays with names that must be escaped, and two names that differ in case only."""
    entries = group_entries(2, {})
    for seed, name in enumerate(("a #1 & b+c=d~e (f),g", "Twin", "twin", "50% é")):
        entries |= array_entries(2, name, (2, 2), 30 + seed, 0)
    return entries


def _dandiset(archive: Archive, title: str, *, embargoed: bool = False) -> str:
    about = Description(
        f"{title} (demo)",
        f"{title}.{_NOTE}",
        keywords=("microscopy", "OME-Zarr", "demo"),
        contributors=_PEOPLE,
    )
    return archive.create_dandiset(about, embargoed=embargoed)


def _array_documents(
    zarr_format: int,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: str,
    data_type: str,
) -> dict[str, bytes]:
    if zarr_format == 2:
        about: dict[str, object] = {
            "zarr_format": 2,
            "shape": shape,
            "chunks": chunks,
            "dtype": dtype,
            "compressor": None,
            "fill_value": 0,
            "order": "C",
            "filters": None,
            "dimension_separator": "/",
        }
        return {f"{name}/.zarray": _document(about), f"{name}/.zattrs": _document({})}
    about = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
        "storage_transformers": [],
    }
    return {f"{name}/zarr.json": _document(about)}


def _multiscale() -> dict[str, object]:
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    return {
        "version": "0.4",
        "name": "demo",
        "axes": axes,
        "datasets": [
            {
                "path": name,
                "coordinateTransformations": [{"type": "scale", "scale": [scale, scale]}],
            }
            for name, scale in (("0", 1.0), ("1", 2.0), ("10", 1024.0))
        ],
    }


def _document(body: object) -> bytes:
    return json.dumps(body, indent=4).encode()
