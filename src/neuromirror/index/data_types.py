"""Determine the kinds of files from the ends of their names."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

_BY_SUFFIX: Final[Mapping[str, str]] = {
    **{"nwb": "NWB", "nii": "NIfTI", "zarr": "Zarr", "n5": "N5", "mefd": "MEF3"},
    **{"ome.zarr": "OME-Zarr", "ome.tif": "OME-TIFF", "ome.tiff": "OME-TIFF"},
    **dict.fromkeys(("tif", "tiff", "btf"), "TIFF"),
    **dict.fromkeys(("h5", "hdf5", "hdf"), "HDF5"),
    **dict.fromkeys(("mp4", "avi", "mkv", "mov", "wmv"), "video"),
    **dict.fromkeys(("png", "jpg", "jpeg", "jp2", "bmp", "gif"), "image"),
    **dict.fromkeys(("csv", "tsv", "parquet", "feather", "xlsx"), "table"),
    **dict.fromkeys(("npy", "npz"), "NumPy"),
    **dict.fromkeys(("edf", "bdf", "vhdr", "fif"), "EEG"),
    **dict.fromkeys(("obj", "ply", "stl", "vtk"), "mesh"),
    **{"mat": "MATLAB", "czi": "CZI", "nd2": "ND2", "ims": "Imaris"},
    **{"wav": "audio", "pdf": "PDF", "swc": "neuron tracing"},
}
_COMPRESSED: Final = ("gz", "zst", "bz2", "xz")
_FOLDERS: Final = (("ome.zarr", ".ome.zarr/"), ("zarr", ".zarr/"), ("n5", ".n5/"))


def data_types(paths: Iterable[str]) -> set[str]:
    """Return the kinds of data that paths have by their suffixes, such as ``NWB`` for ``.nwb``.

    A path below a folder such as ``x.zarr/`` has the kind of that folder.
    """
    lowered = [path.lower() for path in paths]
    # thousands of names have only a few distinct ends
    ends = {path.rpartition("/")[2].partition(".")[2] for path in lowered}
    joined = "\n".join(lowered)
    for suffix, folder in _FOLDERS:
        if folder in joined:
            ends.add(suffix)
            joined = joined.replace(folder, "/")
    return {_BY_SUFFIX[suffix] for suffix in _suffixes(ends) if suffix in _BY_SUFFIX}


def _suffixes(ends: Iterable[str]) -> Iterator[str]:
    for end in ends:
        parts = [part for part in end.split(".") if part not in _COMPRESSED]
        if not parts:
            continue
        pair = ".".join(parts[-2:])
        yield pair if pair in _BY_SUFFIX else parts[-1]


def add_data_types(connection: sqlite3.Connection, version: int, found: Iterable[str]) -> None:
    """Record for a version's dataset the kinds of data ``found``; known kinds are not repeated.

    ``version`` is the row id of the version.
    """
    connection.executemany(
        "INSERT INTO data_types (dataset, type) SELECT dataset, ? FROM versions WHERE id = ? "
        "ON CONFLICT DO NOTHING",
        [(name, version) for name in sorted(found)],
    )
