"""Decoding of ndstore's HDF5 files, which have a dataset ``CUTOUT`` in a channel's group.

The file is spooled to disk and read a few planes at a time. Format: neurodata/ndstore,
docs/sphinx/api/data_api.rst.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

from neuromirror.model import ConfigurationError
from neuromirror.sources.volumes.errors import WrongVoxelsError
from neuromirror.sources.volumes.urls import ITEM_SIZES
from neuromirror.sources.volumes.voxel_checks import check_dtype, check_shape

_NAME: Final = "CUTOUT"
_SPARE: Final = 1 << 20
"""Bytes that a file may have in addition to its uncompressed voxels."""
_PIECE: Final = 1 << 22
_TILE: Final = 1 << 28
"""Maximum bytes of an HDF5 chunk, which the library decompresses as a whole."""
_DAMAGED: Final = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)
"""The exceptions of h5py for malformed files."""


@contextmanager
def hdf5_voxels(
    body: Iterable[bytes], shape: tuple[int, ...], dtype: str | None, where: str
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the type of a file's voxels, and an iterator of their bytes (C order, little-endian).

    Parameters
    ----------
    body
        The file, in pieces.
    shape
        The expected shape (z, y, x), without axes of length one before it.
    dtype
        The expected type; None for any unsigned integer type.
    where
        The origin of the body, for messages.

    Raises
    ------
    WrongVoxelsError
        If the file is malformed or has other voxels.
    ConfigurationError
        If h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigurationError(
            f"{where}: HDF5 is read with h5py, which is not installed; install neuromirror[volumes]"
        ) from error
    most = _SPARE + 2 * math.prod(shape) * (8 if dtype is None else ITEM_SIZES[dtype])
    with tempfile.TemporaryFile() as spool:
        _spool(body, spool, most, where)
        try:
            file = h5py.File(spool, "r")
            found = _cutout(file, where)
        except _DAMAGED as error:
            raise _damaged(where, error) from error
        with file:
            dtype = check_dtype(found.dtype.name, dtype, where)
            check_shape(found.shape, shape, where)
            yield dtype, _planes(found, shape, where)


def _damaged(where: str, error: Exception) -> WrongVoxelsError:
    return WrongVoxelsError(
        f"{where} returned no HDF5 file, or a damaged one: {error}; try again",
        transient=True,
    )


def _spool(body: Iterable[bytes], spool: IO[bytes], most: int, where: str) -> None:
    size = 0
    for piece in body:
        size += len(piece)
        if size > most:
            raise WrongVoxelsError(f"{where} returned more bytes than any file of its voxels has")
        spool.write(piece)
    spool.flush()


def _cutout(file: Any, where: str) -> Any:
    """Return the dataset of that name; links to other files are not followed."""
    import h5py

    found: list[Any] = []

    def collect(name: str | bytes, one: Any) -> None:  # bytes where it is not UTF-8
        if isinstance(name, bytes):
            return
        if isinstance(one, h5py.Dataset) and name.rpartition("/")[2] == _NAME:
            found.append(one)

    file.visititems(collect)
    if len(found) != 1:
        raise WrongVoxelsError(
            f"{where} returned an HDF5 file with {len(found)} datasets {_NAME}, not one"
        )
    one = found[0]
    tile = math.prod(one.chunks or ()) * one.dtype.itemsize
    if one.is_virtual or one.external or tile > _TILE:
        raise WrongVoxelsError(
            f"{where} returned an HDF5 file whose {_NAME} is virtual, external or in huge chunks"
        )
    return one


def _planes(found: Any, shape: tuple[int, ...], where: str) -> Iterator[bytes]:
    deep, high, wide = shape
    little = found.dtype.newbyteorder("<")
    tile = 1 if found.chunks is None else found.chunks[-3]
    step = max(tile, _PIECE // (high * wide * found.dtype.itemsize), 1)
    first = (0,) * (len(found.shape) - 3)
    for z in range(0, deep, step):
        try:
            planes = found[(*first, slice(z, z + step))]
        except _DAMAGED as error:
            raise _damaged(where, error) from error
        yield planes.astype(little, copy=False).tobytes()
