"""The messages between a catalogue and its preview process, and the form of the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

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
        As in :class:`~neuromirror.previews.kinds.PreviewKind`.
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
