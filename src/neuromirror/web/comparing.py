"""Two versions compared, for the page and for the API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from neuromirror.index import Index, VersionRow
from neuromirror.model import LinePair
from neuromirror.store import Store
from neuromirror.web import shapes
from neuromirror.web.records import told_change

if TYPE_CHECKING:
    from neuromirror.lab import Counts
    from neuromirror.lab.diff import Side

T = TypeVar("T")
_BETWEEN = 500
"""Items between two looks at whether to stop."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Some of what became of one version in another; ``all`` counts the rest too."""

    counts: Counts
    changes: list[shapes.Change]
    all: int


def named_version(text: str) -> tuple[str, str]:
    """Dataset and label of ``<dataset>@<label>``; without a label that is empty.

    An id upstream may have an ``@``, a label has none.
    """
    name, at, label = text.rpartition("@")
    return (name, label) if at else (text, "")


def compared(
    store: Store, index: Index, old: VersionRow, new: VersionRow, first: int, most: int
) -> Compared:
    """What differs, of which ``most`` things are told, from the one with the number ``first`` on.

    Raises as :func:`neuromirror.lab.diff` does, and QueryStopped.
    """
    from neuromirror.lab import Counts, diff
    from neuromirror.lab.diff import version_side

    counts, changes, place = Counts(), [], 0
    with TemporaryDirectory(prefix="neuromirror-") as scratch:
        before, after = (_stoppable(version_side(store, index, row), index) for row in (old, new))
        for place, change in enumerate(_heeding(diff(before, after, Path(scratch)), index), 1):
            counts.add(change)
            if first < place <= first + most:
                changes.append(told_change(change))
    return Compared(counts, changes, place)


def _stoppable(side: Side, index: Index) -> Side:
    def since(commit: str) -> Iterator[LinePair] | None:
        pairs = side.since(commit)
        return None if pairs is None else _heeding(pairs, index)

    return replace(side, lines=lambda: _heeding(side.lines(), index), since=since)


def _heeding(items: Iterable[T], index: Index) -> Iterator[T]:
    """The items, until the work is to stop."""
    for place, item in enumerate(items):
        if place % _BETWEEN == 0:
            index.check_stop()
        yield item
