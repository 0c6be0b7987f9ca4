"""What is remembered of a listing: its pages, and in which way they were taken."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BucketMemo:
    """The listing's own memo; whether versions were listed, and each object was asked about."""

    shape: str
    versions: bool
    head_each: bool
    pages: bytes

    def dump(self) -> bytes:
        """One line of words, then the pages."""
        return f"{self._head()}\n".encode() + self.pages

    def _head(self) -> str:
        listed = "versions" if self.versions else "objects"
        return f"{self.shape} {listed} {'each' if self.head_each else 'sample'}"


def load_memo(memo: bytes | None, shape: str) -> BucketMemo | None:
    """A memo of this shape; None for any other, and for what is none."""
    head, newline, pages = (memo or b"").partition(b"\n")
    if not newline:
        return None
    for versions in (False, True):
        for ask_each in (False, True):
            made = BucketMemo(shape, versions, ask_each, pages)
            if made.dump()[: len(head) + 1] == head + newline:
                return made
    return None
