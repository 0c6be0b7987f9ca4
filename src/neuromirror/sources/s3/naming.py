"""What the objects of a dataset are called in git, where a source names them anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import ClassVar, Final, Protocol

from neuromirror.model import NamedException
from neuromirror.net import CountedPool, ObjectRow

Ask = Callable[[ObjectRow], Mapping[str, str] | None]
"""Gives the headers of the very object of a row; None where nobody may ask.

Raises a NetError, and ListingNotProven for an object that is no longer the one that was listed.
"""

Named = bytes | NamedException
"""The path of a file, or why an object can have none."""


class Naming(Protocol):
    """Gives the files of one listing their paths.

    ``by_headers`` says that the name of an object alone does not tell that of its file.
    """

    by_headers: ClassVar[bool]

    def rows(self, rows: Iterable[ObjectRow], ask: Ask, pool: CountedPool) -> Iterable[ObjectRow]:
        """The same rows, after as many of them were asked about as it takes."""
        ...

    def path(
        self, row: ObjectRow, name: bytes, ask: Ask, pool: CountedPool
    ) -> Named | Future[Named]:
        """The path of the file that an object is, whose name in the dataset is ``name``."""
        ...

    def objects(self, path: bytes) -> Sequence[bytes]:
        """The names of the objects of which each may be the file at a path."""
        ...

    def is_file(self, name: bytes, headers: Mapping[str, str], path: bytes) -> bool:
        """Whether an object of this name, with these headers, is the file at a path."""
        ...


class _AsListed:
    """Every file is called as its object is."""

    by_headers: ClassVar[bool] = False

    def rows(self, rows: Iterable[ObjectRow], ask: Ask, pool: CountedPool) -> Iterable[ObjectRow]:
        return rows

    def path(self, row: ObjectRow, name: bytes, ask: Ask, pool: CountedPool) -> bytes:
        return name

    def objects(self, path: bytes) -> Sequence[bytes]:
        return (path,)

    def is_file(self, name: bytes, headers: Mapping[str, str], path: bytes) -> bool:
        return name == path


AS_LISTED: Final[Naming] = _AsListed()
