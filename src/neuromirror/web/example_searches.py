"""Example searches of the front page."""

from __future__ import annotations

import time
from itertools import islice
from typing import Final

from neuromirror.index import Index

_EXAMPLES: Final = (
    *("hippocampus", "visual cortex", "electron microscopy", "mouse ecephys", "sleep", "behavior"),
    *("calcium imaging", "cortex", "mouse", "nwb"),
)
"""Example searches; the first ones with results are shown."""
_SHOWN_EXAMPLES: Final = 3
_EXAMPLES_SECONDS: Final = 3600.0


class ExampleSearches:
    """The example searches of the front page: those that have results in this store.

    They are checked once per hour.
    """

    def __init__(self) -> None:
        self._found: tuple[str, ...] = ()
        self._until = 0.0

    def read(self, index: Index) -> tuple[str, ...]:
        """Return up to three searches."""
        if time.monotonic() >= self._until:
            hits = (one for one in _EXAMPLES if _has_files(index, one))
            self._found = tuple(islice(hits, _SHOWN_EXAMPLES))
            self._until = time.monotonic() + (_EXAMPLES_SECONDS if self._found else 0.0)
        return self._found


def _has_files(index: Index, terms: str) -> bool:
    """Return whether the first result of a search has files."""
    found = index.find_datasets(terms, limit=1).rows
    return bool(found) and found[0].dataset.files > 0
