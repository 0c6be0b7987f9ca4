"""What is remembered of a layer beside its listing: how it was named, and where it is shown."""

from __future__ import annotations

from datetime import datetime

import msgspec


class LayerMemo(msgspec.Struct, frozen=True):
    """What one visit leaves to the next; ``shape`` names the options under which it holds.

    ``newest`` is the time of the newest object; ``mixed`` names the folders whose objects were
    found to be stored in more than one encoding; ``links`` are the facts' own.
    """

    shape: str
    newest: datetime | None
    mixed: tuple[str, ...]
    links: tuple[tuple[str, str], ...]

    def dump(self, pages: bytes) -> bytes:
        """One line of JSON, then the listing's own memo."""
        return msgspec.json.encode(self) + b"\n" + pages


def load_layer_memo(memo: bytes | None, shape: str) -> tuple[LayerMemo | None, bytes | None]:
    """What was remembered under this shape, and the listing's own memo; else None and None."""
    head, newline, pages = (memo or b"").partition(b"\n")
    try:
        found = msgspec.json.decode(head, type=LayerMemo)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None, None
    return (found, pages) if newline and found.shape == shape else (None, None)
