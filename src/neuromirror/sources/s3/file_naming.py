"""The mapping of objects to file paths, for sources whose paths differ from the keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import ClassVar, Final

from neuromirror.model import ExcludedEntry
from neuromirror.net import ContextThreadPool, ObjectRow

RequestHeaders = Callable[[ObjectRow], Mapping[str, str] | None]
"""Returns the headers of a row's object; None if the bucket refuses them.

Raises NetError, and UnreliableListingError if the object is no longer the listed one.
"""

PathOrException = bytes | ExcludedEntry
"""The path of a file, or the reason why an object has none."""


class FileNaming:
    """Assigns paths to the objects of one listing: their names, unless a subclass has other rules.

    Attributes
    ----------
    needs_headers
        Whether a path depends on more than the object's name.
    """

    needs_headers: ClassVar[bool] = False

    def prepare_rows(
        self,
        rows: Iterable[ObjectRow],
        request_headers: RequestHeaders,
        pool: ContextThreadPool,
    ) -> Iterable[ObjectRow]:
        """Yield the same rows, after requesting the headers that :meth:`file_path` depends on."""
        return rows

    def file_path(
        self, row: ObjectRow, name: bytes, request_headers: RequestHeaders, pool: ContextThreadPool
    ) -> PathOrException | Future[PathOrException]:
        """Return the path for an object whose key within the dataset is ``name``."""
        return name

    def object_names(self, file_path: bytes) -> Sequence[bytes]:
        """Return the names of the objects that can have this path."""
        return (file_path,)

    def is_file(self, name: bytes, headers: Mapping[str, str], file_path: bytes) -> bool:
        """Return whether an object with this name and these headers has this path."""
        return name == file_path


OBJECT_NAMING: Final = FileNaming()
