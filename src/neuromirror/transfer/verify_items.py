"""The items that a verification passes from its readers to its checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from msgspec import Struct

from neuromirror.annex import VaultAddress
from neuromirror.transfer.findings import Finding
from neuromirror.transfer.outcomes import Status
from neuromirror.transfer.verified_repository import (
    ObjectDamagedError,
    VerifiedEntry,
    VerifiedRepository,
)


class MultipartEtag(NamedTuple):
    """A multipart ETag that the archive states: ``<md5>-<parts>``, and the part size in bytes."""

    etag: str
    part_size: int


class PinnedFile(NamedTuple):
    """A file to be checked at its URLs: git path, annex key, and URLs, the most exact first.

    ``web_urls`` are the URLs that need no special remote; they are known for files of a manifest.
    ``parts`` is an ETag that the archive states beside the checksum in the key. ``copies`` are URLs
    in vaults, which are requested only if none of ``urls`` returns the file.
    """

    path: bytes
    key: str
    urls: tuple[str, ...]
    web_urls: tuple[str, ...] = ()
    parts: MultipartEtag | None = None
    copies: tuple[str, ...] = ()


Item = Finding | PinnedFile
"""A finished finding, or a file whose URLs are still to be checked."""


class InspectedEntry(Struct, frozen=True):
    """An entry of a commit, its annex key (None unless it is an annexed file), and its items."""

    entry: VerifiedEntry
    key: str | None
    items: tuple[Item, ...] = ()


def unreadable_entry(entry: VerifiedEntry, path: str, error: ObjectDamagedError) -> InspectedEntry:
    """Return the entry with an error as its only finding, because its git object cannot be read.

    ``path`` is the path in the outermost dataset.
    """
    finding = Finding(status="error", path=path, kind="document", message=str(error))
    return InspectedEntry(entry, None, (finding,))


def select_all(path: bytes) -> bool:
    """Return True for every path: the selection of a whole dataset."""
    return True


class VerifyScope(Struct, frozen=True):
    """The part of a dataset to verify; paths are relative to the outermost dataset.

    Attributes
    ----------
    is_selected
        Whether a file is to be verified.
    reaches
        Whether a subdataset may contain selected files.
    missing_status
        Status of content and subdatasets that are not on this machine.
    vaults
        Vaults that may have copies, in addition to those that a clone knows.
    """

    is_selected: Callable[[bytes], bool] = select_all
    reaches: Callable[[bytes], bool] = select_all
    missing_status: Status = "impossible"
    vaults: tuple[VaultAddress, ...] = ()

    def copies(self, key: str) -> tuple[str, ...]:
        """Return the URLs at which the vaults may have a content."""
        return tuple(one.copy_url(key) for one in self.vaults if one.is_web)


class EntryInspector(Protocol):
    """A strategy for inspecting the entries of a commit: in a work tree, or by URL."""

    def inspect(
        self, clone: VerifiedRepository, below: bytes, entries: Iterable[VerifiedEntry]
    ) -> Iterator[InspectedEntry]:
        """Yield the result for each entry, in order; ``below`` is the folder of the clone."""
        ...
