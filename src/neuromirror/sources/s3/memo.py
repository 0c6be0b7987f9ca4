"""The memo of a bucket's listing: its pages, and how they were read."""

from __future__ import annotations

from msgspec import Struct


class BucketMemo(Struct, frozen=True):
    """The memo of a listing: the data by which the next visit recognizes an unchanged listing.

    Attributes
    ----------
    shape
        A digest of the options on which the records depend.
    versions
        Whether object versions were listed.
    head_each
        Whether every object was requested.
    pages
        The memo of the pages.
    """

    shape: str
    versions: bool
    head_each: bool
    pages: bytes

    def dump(self) -> bytes:
        """Return one line of text, followed by the pages."""
        return f"{self._head()}\n".encode() + self.pages

    def _head(self) -> str:
        listed = "versions" if self.versions else "objects"
        return f"{self.shape} {listed} {'each' if self.head_each else 'sample'}"


def load_memo(memo: bytes | None, shape: str) -> BucketMemo | None:
    """Decode a memo; None if it is invalid or has another ``shape``.

    The shape differs if the memo was written with other options.
    """
    head, newline, pages = (memo or b"").partition(b"\n")
    if not newline:
        return None
    for versions in (False, True):
        for head_each in (False, True):
            made = BucketMemo(shape, versions, head_each, pages)
            if made.dump()[: len(head) + 1] == head + newline:
                return made
    return None
