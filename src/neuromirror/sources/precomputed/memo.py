"""The part of a layer's memo in addition to the pages: encodings and links."""

from __future__ import annotations

from datetime import datetime

import msgspec

from neuromirror.model.struct_types import analysed_type


class LayerMemo(msgspec.Struct, frozen=True):
    """The memo of a layer: the data by which the next visit recognizes an unchanged layer.

    Attributes
    ----------
    shape
        A digest of the options for which it is valid.
    newest
        The time of the newest object; None without objects.
    mixed
        The folders whose chunks are stored with different content codings (``br``, ``gzip``).
    links
        The links of the dataset to viewers and data: (kind, URL) pairs.
    """

    shape: str
    newest: datetime | None
    mixed: tuple[str, ...]
    links: tuple[tuple[str, str], ...]

    def dump(self, pages: bytes) -> bytes:
        """Return a line of JSON, followed by the listing's memo."""
        return msgspec.json.encode(self) + b"\n" + pages


def load_layer_memo(memo: bytes | None, shape: str) -> tuple[LayerMemo | None, bytes | None]:
    """Return the layer's memo, and the memo of its bucket listing, from their common encoding.

    Returns (None, None) for an invalid memo, and for one with another ``shape``, written with other
    options.
    """
    head, newline, pages = (memo or b"").partition(b"\n")
    try:
        found = msgspec.json.decode(head, type=analysed_type(LayerMemo))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None, None
    return (found, pages) if newline and found.shape == shape else (None, None)
