"""The messages between a catalogue and its preview process, and the form of the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec
from msgspec import Struct

FORMAT: Final = "1"
"""Part of the names in the cache: increment it when the same bytes give another preview."""


class PreviewTask(msgspec.Struct, frozen=True):
    """The file to preview.

    Attributes
    ----------
    repository
        Path of the bare repository.
    commit, annex_commit
        Commit ids of the version and of its git-annex branch, in hex.
    version
        Name of the version.
    host
        Host of the version's source.
    path
        Path of the file in the version.
    size
        Size in bytes; None if unknown.
    seconds
        Time limit in seconds.
    folder
        The folder of the Zarr in the version; empty for a file, or if the version is the Zarr.
    """

    repository: str
    commit: str
    annex_commit: str
    version: str
    host: str
    path: str
    size: int | None
    seconds: float
    folder: str = ""


class Table(msgspec.Struct, frozen=True):
    """A table of text.

    Attributes
    ----------
    caption
        A title for the rows.
    columns
        Headings.
    rows
        Cells, as many per row as there are headings.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]


class Picture(msgspec.Struct, frozen=True):
    """An image.

    Attributes
    ----------
    media_type
        ``image/png`` or ``image/svg+xml``.
    data
        The bytes of the image file; base64 in JSON.
    width, height
        Size in pixels.
    description
        Text for those who do not see the image.
    """

    media_type: Literal["image/png", "image/svg+xml"]
    data: bytes
    width: int
    height: int
    description: str


class Preview(msgspec.Struct, frozen=True, tag="preview"):
    """The preview of a file.

    Attributes
    ----------
    kind
        As in :class:`~neuromirror.previews.shapes.PreviewKind`.
    facts
        Names and values.
    tables
        Tables.
    text
        The beginning of a text file.
    picture
        An image of the content.
    notes
        Sentences about the parts of the file that the preview omits.
    verified
        Whether the bytes had the checksum of the version.
    """

    kind: str
    facts: list[tuple[str, str]] = []
    tables: list[Table] = []
    text: str = ""
    picture: Picture | None = None
    notes: list[str] = []
    verified: bool = False


class PreviewFailure(msgspec.Struct, frozen=True, tag="failure"):
    """The reason why there is no preview.

    Attributes
    ----------
    reason
        ``unavailable``: the archive does not return the bytes now; ``changed``: it returns other
        bytes than those of the version; ``refused``: it requires a token; ``unreadable``: the
        content does not have the form that its name states; ``too-large``: a preview needs more
        bytes, time or memory than allowed.
    """

    reason: Literal["unavailable", "changed", "refused", "unreadable", "too-large"]


_decode: Callable[[bytes], Preview | PreviewFailure] = msgspec.json.Decoder(
    Preview | PreviewFailure
).decode


def decode_outcome(data: bytes) -> Preview | PreviewFailure:
    """Decode what a preview process printed, or a file of the cache.

    Parameters
    ----------
    data
        JSON in UTF-8.

    Returns
    -------
    Preview | PreviewFailure
        The outcome.

    Raises
    ------
    msgspec.DecodeError
        It has another form.
    """
    return _decode(data)


# --- the kinds of files that have previews


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
