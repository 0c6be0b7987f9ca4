"""Two versions compared, for the page and for the API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from neuromirror.index import Index, VersionRow
from neuromirror.store import Store
from neuromirror.web import shapes
from neuromirror.web.records import told_change

if TYPE_CHECKING:
    from neuromirror.lab import Counts


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

    Raises as :func:`neuromirror.lab.diff` does.
    """
    from neuromirror.lab import Counts, diff
    from neuromirror.lab.diff import version_side

    counts, changes, place = Counts(), [], 0
    with TemporaryDirectory(prefix="neuromirror-") as scratch:
        before, after = (version_side(store, index, row) for row in (old, new))
        for place, change in enumerate(diff(before, after, Path(scratch)), 1):
            counts.add(change)
            if first < place <= first + most:
                changes.append(told_change(change))
    return Compared(counts, changes, place)
