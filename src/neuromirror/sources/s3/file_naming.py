"""What the objects of a dataset are called in git, where a source names them anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import ClassVar, Final, Protocol

from neuromirror.model import ExcludedEntry
from neuromirror.net import ContextThreadPool, ObjectRow

RequestHeaders = Callable[[ObjectRow], Mapping[str, str] | None]
"""Gives the headers of the very object of a row; None where nobody may ask.

Raises a NetError, and UnreliableListingError for an object that is no longer the one that was
listed.
"""

PathOrException = bytes | ExcludedEntry
"""The path of a file, or why an object can have none."""


class FileNaming(Protocol):
    """Gives the files of one listing their paths.

    ``needs_headers`` says that the name of an object alone does not tell that of its file.
    """

    needs_headers: ClassVar[bool]

    def prepare_rows(
        self,
        prepare_rows: Iterable[ObjectRow],
        request_headers: RequestHeaders,
        pool: ContextThreadPool,
    ) -> Iterable[ObjectRow]:
        """The same rows, after as many of them were asked about as it takes."""
        ...

    def file_path(
        self, row: ObjectRow, name: bytes, request_headers: RequestHeaders, pool: ContextThreadPool
    ) -> PathOrException | Future[PathOrException]:
        """The path of the file that an object is, whose name in the dataset is ``name``."""
        ...

    def object_names(self, file_path: bytes) -> Sequence[bytes]:
        """The names of the objects of which each may be the file at a path."""
        ...

    def is_file(self, name: bytes, headers: Mapping[str, str], file_path: bytes) -> bool:
        """Whether an object of this name, with these headers, is the file at a path."""
        ...


class _ObjectNaming:
    """Every file is called as its object is."""

    needs_headers: ClassVar[bool] = False

    def prepare_rows(
        self,
        prepare_rows: Iterable[ObjectRow],
        request_headers: RequestHeaders,
        pool: ContextThreadPool,
    ) -> Iterable[ObjectRow]:
        return prepare_rows

    def file_path(
        self, row: ObjectRow, name: bytes, request_headers: RequestHeaders, pool: ContextThreadPool
    ) -> bytes:
        return name

    def object_names(self, file_path: bytes) -> Sequence[bytes]:
        return (file_path,)

    def is_file(self, name: bytes, headers: Mapping[str, str], file_path: bytes) -> bool:
        return name == file_path


OBJECT_NAMING: Final[FileNaming] = _ObjectNaming()
