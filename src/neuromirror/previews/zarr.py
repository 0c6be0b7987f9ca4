"""Previews of Zarrs: their arrays, and the middle slice of a coarse level of an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from neuromirror.previews.images import draw_plane
from neuromirror.previews.shapes import Picture, Preview, Table
from neuromirror.volume.read_only_store import Content, ReadOnlyStore, byte_bounds

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import ByteRequest

    from neuromirror.volume import VersionFiles

_MAX_ARRAYS: Final = 40
_MAX_DEPTH: Final = 3
_MAX_CHUNK_BYTES: Final = 16 << 20
"""Maximum size of a file of a Zarr."""
_MAX_CHUNKS: Final = 64
"""Maximum number of chunks of a slice."""
_MAX_SLICE_BYTES: Final = 64 << 20
"""Maximum size of these chunks, uncompressed."""
_MIN_SIDE: Final = 64
"""A slice is made of the coarsest level with at least this width or height in pixels."""


class _FilesStore(ReadOnlyStore):
    """The files below a folder of a version as a Zarr store; each chunk is verified."""

    def __init__(self, files: VersionFiles, folder: str) -> None:
        super().__init__()
        self._files, self._folder = files, folder

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def _read(self, key: str, byte_range: ByteRequest | None) -> Content | None:
        path = self._path(key)
        found: Content | None = self._files.git_document(path)
        if found is None:
            whole = self._files.read_object(path, _MAX_CHUNK_BYTES)
            found = None if whole is None else memoryview(whole)
        if found is None or byte_range is None:
            return found
        start, stop = byte_bounds(byte_range, len(found))
        return found[start:stop]

    def _has(self, key: str) -> bool:
        return self._files.has(self._path(key))

    def entries(self, folder: str) -> Iterable[tuple[str, bool]]:
        """Return the names in a folder, each with whether it is a folder."""
        return self._files.entries(self._path(folder))

    _entries = entries

    def _path(self, key: str) -> str:
        return "/".join(filter(None, (self._folder, key)))


def preview_zarr(files: VersionFiles, folder: str) -> Preview:
    """Preview a Zarr: the shapes of its arrays, and for an image (OME-Zarr) a slice.

    Parameters
    ----------
    files
        The files of the version.
    folder
        The folder of the Zarr; empty for the top.

    Returns
    -------
    Preview
        The preview.

    Raises
    ------
    Exception
        zarr-python cannot read the Zarr, or a file is unavailable.
    """
    import zarr

    store = _FilesStore(files, folder)
    opened = zarr.open(store, mode="r")
    if isinstance(opened, zarr.Array):
        return _preview([("", opened)], {}, opened)
    attributes = dict(opened.attrs)
    levels = list(_levels(opened, attributes))
    arrays = levels or [
        (path, one) for path, one in _arrays(store, opened, "", _MAX_DEPTH) if one.ndim > 0
    ]
    return _preview(arrays, attributes, _coarse(array for _, array in levels))


def _preview(
    arrays: Iterable[tuple[str, zarr.Array[Any]]], attributes: Mapping[str, Any], shown: Any
) -> Preview:
    found = list(islice(arrays, _MAX_ARRAYS))
    facts = []
    if name := _multiscale(attributes).get("name"):
        facts.append(("Name", str(name)[:200]))
    if axes := _axes(attributes):
        facts.append(("Axes", ", ".join(axes)))
    rows = [[path or "(top)", *_describe(array)] for path, array in found]
    tables = [Table("Arrays", ["Path", "Shape", "Chunks", "Type"], rows)] if rows else []
    notes = [f"The first {_MAX_ARRAYS} arrays are listed."] if len(found) == _MAX_ARRAYS else []
    picture = None if shown is None else _slice(shown)
    return Preview("zarr", facts=facts, tables=tables, picture=picture, notes=notes)


def _describe(array: zarr.Array[Any]) -> list[str]:
    def sizes(values: Iterable[int]) -> str:
        return " × ".join(str(value) for value in values) or "scalar"

    return [sizes(array.shape), sizes(array.chunks), str(array.dtype)]


def _arrays(
    store: _FilesStore, group: zarr.Group, within: str, depth: int
) -> Iterator[tuple[str, zarr.Array[Any]]]:
    """Yield the arrays of a group with their paths."""
    import zarr

    # Group.members reads the metadata of all of them, which may be thousands
    folders = (name for name, is_folder in store.entries(within.rstrip("/")) if is_folder)
    for name in islice(folders, _MAX_ARRAYS):
        try:
            member = group[name]
        except KeyError:
            continue
        path = f"{within}{name}"
        if isinstance(member, zarr.Array):
            yield path, member
        elif depth:
            yield from _arrays(store, member, f"{path}/", depth - 1)


def _multiscale(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first image of OME-Zarr's metadata (0.5, or 0.4 and older); empty without."""
    within = attributes.get("ome", attributes)
    found = within.get("multiscales") if isinstance(within, Mapping) else None
    first = found[0] if isinstance(found, list) and found else {}
    return first if isinstance(first, Mapping) else {}


def _axes(attributes: Mapping[str, Any]) -> list[str]:
    axes = _multiscale(attributes).get("axes") or []
    return [str(axis.get("name") if isinstance(axis, Mapping) else axis)[:20] for axis in axes[:8]]


def _levels(
    group: zarr.Group, attributes: Mapping[str, Any]
) -> Iterator[tuple[str, zarr.Array[Any]]]:
    """Yield the levels of an image, the finest first."""
    import zarr

    for one in (_multiscale(attributes).get("datasets") or [])[:_MAX_ARRAYS]:
        path = str(one.get("path", ""))
        level = group.get(path)
        if isinstance(level, zarr.Array):
            yield path, level


def _coarse(levels: Iterable[zarr.Array[Any]]) -> zarr.Array[Any] | None:
    """Return the coarsest level that is not tiny; of tiny ones the finest."""
    found = [level for level in levels if level.ndim >= 2]
    large = [one for one in found if max(one.shape[-2:]) >= _MIN_SIDE]
    return large[-1] if large else found[0] if found else None


def _slice(array: zarr.Array[Any]) -> Picture | None:
    """Return the middle slice along all but the last two axes; None if it has too many chunks."""
    import numpy as np

    if array.ndim < 2 or array.dtype.kind not in "biuf" or not all(array.shape):
        return None
    height, width = array.shape[-2:]
    chunks = math.prod(
        math.ceil(size / chunk)
        for size, chunk in zip((height, width), array.chunks[-2:], strict=True)
    )
    if chunks > _MAX_CHUNKS or chunks * math.prod(array.chunks) * array.dtype.itemsize > (
        _MAX_SLICE_BYTES
    ):
        return None
    middle = tuple(size // 2 for size in array.shape[:-2])
    plane = np.asarray(array[middle])
    where = f", at {', '.join(map(str, middle))}" if middle else ""
    return draw_plane(plane, f"Middle slice, {width} × {height} pixels{where}")
