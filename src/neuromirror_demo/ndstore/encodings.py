"""The encodings of ndstore's cutouts (``webservices/ndwsrest.py`` of neurodata/ndstore)."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from neuromirror_demo.ndstore.records import NdstoreChannel
    from neuromirror_demo.volumes import Voxels

    Cut = tuple[NdstoreChannel, Voxels]


def npz(cuts: list[Cut]) -> bytes:
    """Return a zlib stream (not a zip file) of a ``.npy`` file of (channel, [time,] z, y, x)."""
    import numpy as np

    body = io.BytesIO()
    np.save(body, _stacked(cuts))
    return zlib.compress(body.getvalue())


def raw(cuts: list[Cut]) -> bytes:
    """Return the voxels of all channels in C order."""
    return _stacked(cuts).tobytes("C")


def zlib_compressed(cuts: list[Cut]) -> bytes:
    """Return :func:`raw` as a zlib stream."""
    return zlib.compress(raw(cuts))


def blosc(cuts: list[Cut]) -> bytes:
    """Encode as ``blosc.pack_array`` does: with a pickle, which clients must not load."""
    import blosc as library  # type: ignore[import-untyped]

    packed: bytes = library.pack_array(_stacked(cuts))
    return packed


def hdf5(cuts: list[Cut]) -> bytes:
    """Return HDF5: per channel a group with ``CUTOUT`` ([time,] z, y, x) and the type."""
    import h5py

    body = io.BytesIO()
    with h5py.File(body, "w") as file:
        for channel, voxels in cuts:
            group = file.create_group(channel.name)
            group.create_dataset("CUTOUT", data=voxels, compression="gzip")
            string_type = h5py.string_dtype()
            group.create_dataset("CHANNELTYPE", (1,), dtype=string_type, data=channel.kind)
            group.create_dataset("DATATYPE", (1,), dtype=string_type, data=channel.datatype)
    return body.getvalue()


def _stacked(cuts: list[Cut]) -> Voxels:
    import numpy as np

    return np.ascontiguousarray(np.stack([voxels for _, voxels in cuts]))


ENCODINGS: Final[Mapping[str, tuple[str, Callable[[list[Cut]], bytes]]]] = {
    "npz": ("product/npz", npz),
    "raw": ("product/raw", raw),
    "zip": ("product/zip", zlib_compressed),
    "blosc": ("product/blosc", blosc),
    "hdf5": ("product/hdf5", hdf5),
}
"""Content type and encoder by the name in the URL."""
