"""What a source of datasets must offer.

Sources are registered in the entry point group ``neuromirror.sources``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from neuromirror.model import (
    DatasetFacts,
    DatasetHint,
    DatasetRef,
    Document,
    FileRecord,
    Location,
    NamedException,
    VersionRef,
    WebRemote,
)
from neuromirror.net import Session

KnownLocation = Callable[[str], Location | None]
"""Gives the exact location last learnt for a plain URL, so that a source need not ask again."""


@dataclass(slots=True)
class Listing:
    """One reading of a version's files.

    ``entries`` may be read once, in any order upstream gives; it raises
    :class:`~neuromirror.sources.ListingNotProven` or a :class:`~neuromirror.net.NetError` when
    the listing cannot be trusted to be whole. After the last entry ``closing`` asks upstream for
    the version once more: the proof is that nothing moved meanwhile.
    """

    version: VersionRef
    facts: DatasetFacts
    documents: tuple[Document, ...]
    entries: Iterator[FileRecord | NamedException]
    closing: Callable[[], VersionRef] = field(repr=False)
    web_remotes: tuple[WebRemote, ...] = ()


class Source(Protocol):
    """One upstream archive, bound to a mirror's name and options."""

    Options: ClassVar[type[BaseModel]]
    """The pydantic model of the mirror file's ``[options]`` table."""

    mirror: str
    uri: str
    """Upstream's own URI, of which the mirror's super-dataset id is made."""

    def __init__(self, mirror: str, options: Any, session: Session) -> None: ...

    def dataset(self, local_id: str) -> DatasetRef:
        """The reference of a local id; no request is made; ValueError for a malformed id."""
        ...

    def datasets(self) -> Iterator[DatasetHint]:
        """All datasets of the archive, with the fewest requests."""
        ...

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        """One dataset's hint, asked for alone; raises :class:`DatasetNotFound`."""
        ...

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        """Published versions, oldest first, then what can only be observed (a draft)."""
        ...

    def listing(self, version: VersionRef, known: KnownLocation) -> Listing:
        """The files of a version."""
        ...
