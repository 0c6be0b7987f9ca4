"""The kinds of files that have previews."""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class PreviewKind(Struct, frozen=True):
    """A kind of file.

    Attributes
    ----------
    name
        ``image``, ``hdf5``, ``pdf``, ``table``, ``text``, or ``zarr`` for a folder.
    max_whole_bytes
        Maximum size of a file that is read whole, and so verified.
    max_part_bytes
        Maximum number of bytes to read of a larger file, without verification; 0 if such a file
        has no preview.
    packages
        Optional packages that the preview needs.
    has_picture
        Whether the preview usually has a picture.
    """

    name: str
    max_whole_bytes: int
    max_part_bytes: int
    packages: tuple[str, ...] = ()
    has_picture: bool = False


_HDF5: Final = PreviewKind("hdf5", 16 << 20, 96 << 20, ("h5py", "numpy"), has_picture=True)
_IMAGE: Final = PreviewKind("image", 32 << 20, 0, ("PIL",), has_picture=True)
_PDF: Final = PreviewKind("pdf", 32 << 20, 0, ("PIL", "pypdfium2"), has_picture=True)
_ZARR: Final = PreviewKind("zarr", 0, 0, ("zarr", "numpy", "PIL"), has_picture=True)
_TABLE: Final = PreviewKind("table", 1 << 20, 1 << 18)
_TEXT: Final = PreviewKind("text", 1 << 20, 1 << 18)

_ENDINGS: Final = {
    **dict.fromkeys(("nwb", "h5", "hdf5"), _HDF5),
    **dict.fromkeys(("png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"), _IMAGE),
    "pdf": _PDF,
    **dict.fromkeys(("csv", "tsv"), _TABLE),
    **dict.fromkeys(
        ("txt", "md", "rst", "json", "jsonl", "yaml", "yml", "toml", "xml", "log", "bib"), _TEXT
    ),
    **dict.fromkeys(("py", "m", "r", "sh", "bval", "bvec"), _TEXT),
}


def preview_kind(path: str, size: int | None) -> PreviewKind | None:
    """Return the kind of preview that a file has.

    Parameters
    ----------
    path
        Path of the file.
    size
        Size in bytes; None if unknown, or for a folder.

    Returns
    -------
    PreviewKind | None
        The kind; None if the file has no preview.
    """
    name = path.rpartition("/")[2]
    if size is None and name.lower().endswith(".zarr"):
        return _ZARR
    stem, _, ending = name.rpartition(".")
    kind = _ENDINGS.get(ending.lower())
    if kind is None:
        return _TEXT if name.lower() in ("readme", "changes", "license") and size else None
    if not stem or not size or (size > kind.max_whole_bytes and not kind.max_part_bytes):
        return None
    return kind
