"""Results of queries that are kept as long as the index does not change."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_ITEM_BYTES: Final = 100
_MAX_SIZE: Final = 20_000
"""Maximum size of all results with their keys: numbers of items, each of about 100 bytes."""


class ResultCache:
    """Results of one read-only connection, until another connection commits a change.

    The connection must see changes of other connections, or be replaced when the file changes.

    Parameters
    ----------
    connection
        The connection, which does not write itself.
    max_size
        Maximum size of all results together.
    """

    def __init__(self, connection: sqlite3.Connection, max_size: int = _MAX_SIZE) -> None:
        self._connection, self._max_size = connection, max_size
        self._version: int | None = None
        self._results: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.size = 0

    def recall(self, key: Hashable, read: Callable[[], _T], size: Callable[[_T], int]) -> _T:
        """Return the result with a key; ``read`` reads it, ``size`` returns its size."""
        # differs as soon as another connection has committed; the results below are then outdated
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._results.clear()
            self.size = 0
        if key in self._results:
            self._results.move_to_end(key)
            known: _T = self._results[key][0]
            return known
        found = read()
        added = size(found) + 1 + len(repr(key)) // _ITEM_BYTES
        if added <= self._max_size:
            self._results[key] = found, added
            self.size += added
        while self.size > self._max_size:
            self.size -= self._results.popitem(last=False)[1][1]
        return found
