"""Comparison of two versions, for the page and the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.index import Index, VersionRow
from neuromirror.model import LinePair
from neuromirror.store import Store

if TYPE_CHECKING:
    from neuromirror.lab import ChangeCounts
    from neuromirror.lab.diff import DiffSide, FileChange

T = TypeVar("T")
_CHECK_INTERVAL = 500
"""Items between two checks for cancellation."""


class VersionComparison(Struct, frozen=True):
    """A page of the changes between two versions.

    Attributes
    ----------
    counts
        Numbers of changes by kind.
    changes
        The changes of the page.
    total
        The number of all changes.
    folders
        Numbers of changes by kind, for each folder directly below the compared one; files of that
        folder itself are counted with an empty name.
    """

    counts: ChangeCounts
    changes: list[FileChange]
    total: int
    folders: Mapping[str, Counter[str]]


def split_version_name(text: str) -> tuple[str, str]:
    """Split ``<dataset>@<label>`` into dataset and label; the label is empty if it is missing.

    An id may contain an ``@``, a label may not.
    """
    name, at, label = text.rpartition("@")
    return (name, label) if at else (text, "")


def resolve_name(index: Index, name: str) -> VersionRow:
    """Return the version ``<dataset>@<label>``, or the latest one of ``<dataset>``.

    Raises as :meth:`Index.resolve` does.
    """
    dataset, label = split_version_name(name)
    return index.resolve(dataset, label or "latest")


def compare_versions(
    store: Store,
    index: Index,
    old: VersionRow,
    new: VersionRow,
    offset: int,
    limit: int,
    under: str = "",
) -> VersionComparison:
    """Compare two versions and return up to ``limit`` changes from ``offset`` on.

    Only the changes in the folder ``under`` are counted, by their new path.

    Raises as :func:`neuromirror.lab.diff` does, and QueryStoppedError.
    """
    from neuromirror.lab import ChangeCounts, diff
    from neuromirror.lab.diff import version_side

    counts, changes, number = ChangeCounts(), [], 0
    folders: dict[str, Counter[str]] = {}
    prefix = f"{under}/" if under else ""
    before, after = (_stoppable(version_side(store, index, row), index) for row in (old, new))
    within = (
        change
        for change in _until_stopped(diff(before, after, Path(gettempdir())), index)
        if change.path.startswith(prefix)
    )
    for number, change in enumerate(within, 1):
        counts.add(change)
        folder = change.path[len(prefix) :].rpartition("/")[0].partition("/")[0]
        folders.setdefault(folder, Counter())[change.kind] += 1
        if offset < number <= offset + limit:
            changes.append(change)
    return VersionComparison(counts, changes, number, folders)


def _stoppable(side: DiffSide, index: Index) -> DiffSide:
    def since(commit: str) -> Iterator[LinePair] | None:
        pairs = side.changes_since(commit)
        return None if pairs is None else _until_stopped(pairs, index)

    return replace(side, lines=lambda: _until_stopped(side.lines(), index), changes_since=since)


def _until_stopped(items: Iterable[T], index: Index) -> Iterator[T]:
    """Yield the items; raise QueryStoppedError when the query is cancelled."""
    for number, item in enumerate(items):
        if number % _CHECK_INTERVAL == 0:
            index.raise_if_stopped()
        yield item
