"""What pages and API look up in the index and the store: contents, citations, differences."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.annex import allow_command, host_without_port
from neuromirror.index import FileRow, FoundFile, Index, VersionRow
from neuromirror.lab import CitationCollection, CitedWork, cite, read_work, state_of_version
from neuromirror.lab.cite.works import NotCitableError
from neuromirror.model import LinePair, NeuromirrorError
from neuromirror.net import is_local_name
from neuromirror.store import Store
from neuromirror.web.async_index import RecentResults

if TYPE_CHECKING:
    from neuromirror.lab import ChangeCounts
    from neuromirror.lab.diff import DiffSide, FileChange


def other_occurrences(
    index: Index, row: VersionRow, file: FileRow, limit: int
) -> tuple[list[FoundFile], bool]:
    """Return where the content of a file also occurs: at other paths, and in other datasets.

    Other versions with the file at the same path of the same dataset are left out.

    Parameters
    ----------
    index
        The index.
    row, file
        The version and the file.
    limit
        The maximum number of occurrences.

    Returns
    -------
    tuple[list[FoundFile], bool]
        The occurrences, and whether there are more.
    """
    # occurrences at the same dataset and path are its history
    others = (
        one
        for one in index.files.find(file.key)
        if (one.dataset, one.path) != (row.dataset_name, file.path)
    )
    found = list(islice(others, limit + 1))
    return found[:limit], len(found) > limit


def allow_command_for(index: Index, versions: Iterable[VersionRow]) -> str:
    """Return the command that allows the addresses of some versions' files.

    Parameters
    ----------
    index
        The index.
    versions
        The versions; a file of each stands for the others.

    Returns
    -------
    str
        One line for a shell; empty if all files are at public addresses.
    """
    hosts = {_host(url) for version in versions for url in index.locations.sample_urls(version)}
    private = sorted(host for host in hosts if is_local_name(host_without_port(host)))
    return allow_command(private) if private else ""


def _host(url: str) -> str:
    """Return the host of a URL; empty if the URL is malformed."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


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
            hits = (example for example in _EXAMPLES if _has_files(index, example))
            self._found = tuple(islice(hits, _SHOWN_EXAMPLES))
            self._until = time.monotonic() + (_EXAMPLES_SECONDS if self._found else 0.0)
        return self._found


def _has_files(index: Index, terms: str) -> bool:
    """Return whether the first result of a search has files."""
    found = index.search.datasets(terms, limit=1).rows
    return bool(found) and found[0].dataset.files > 0


FORMATS = ("text", "bibtex", "csl", "cff")


class CitationData(Struct, frozen=True):
    """The citations of a version in all formats, and the metadata for its page.

    Attributes
    ----------
    formats
        The citation by name of the format.
    people
        The names of the authors.
    work
        The whole metadata.
    """

    formats: dict[str, str]
    people: tuple[str, ...]
    work: CitedWork


_CITATIONS: Final[RecentResults[str, CitationData]] = RecentResults(500)
"""Citations by commit, on which they depend only."""


def read_citation(store: Store, row: VersionRow) -> CitationData | None:
    """Return the citations of a version; None if git cannot read its commit."""
    citation = _CITATIONS.get(row.commit)
    if citation is None:
        try:
            citation = _read_citation(store, row)
        except (NeuromirrorError, OSError):
            return None  # the page is useful without citations
        _CITATIONS.put(row.commit, citation)
    return citation


def require_citation(store: Store, row: VersionRow) -> CitationData:
    """Return the citations of a version.

    Raises
    ------
    NotCitableError
        If the commit cannot be read.
    """
    citation = read_citation(store, row)
    if citation is None:
        raise NotCitableError(
            f"the commit of {row.name} cannot be read, so that it cannot be cited"
        )
    return citation


def _read_citation(store: Store, row: VersionRow) -> CitationData:
    work = read_work(state_of_version(store, row))
    collection = CitationCollection((work,))
    return CitationData(
        {form: "".join(cite(collection, form)) for form in FORMATS},
        tuple(author.full_name for author in work.authors),
        work,
    )


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

    Raises as ``index.versions.resolve`` does.
    """
    dataset, label = split_version_name(name)
    return index.versions.resolve(dataset, label or "latest")


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
            index.reader.raise_if_stopped()
        yield item
