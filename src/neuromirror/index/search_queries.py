"""Search by terms and facets: datasets, and files of a version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.index.dataset_queries import DatasetQueries
from neuromirror.index.errors import MalformedQueryError
from neuromirror.index.facet_queries import FacetCount, FacetQueries
from neuromirror.index.file_queries import FILE_COLUMNS, FileQueries, file_row
from neuromirror.index.match_texts import MatchedText, MatchQueries
from neuromirror.index.path_terms import BLOCK_SHIFT, is_single_token, path_terms, split_blocks
from neuromirror.index.rows import DatasetRow, FileRow, VersionRow
from neuromirror.index.search_terms import (
    SearchTerm,
    parse_terms,
    path_conditions,
    split_terms,
)
from neuromirror.index.term_queries import MAX_BLOCKS, Candidate, PathMatch, TermMatches

SORTS: Final = ("relevance", "newest", "size", "title")
"""The orders of results; the default without terms is ``newest``."""
_ORDERS: Final = {
    "newest": "is_subdataset, time DESC, dataset DESC",
    "size": "is_subdataset, bytes DESC, dataset",
    "title": "is_subdataset, title, dataset",
}
_MAX_LISTED = 200
_MAX_COUNTED_TERMS = 8
_TERMS_PER_QUERY = 50


class FoundDataset(Struct, frozen=True):
    """A dataset that matches all terms of a search.

    Attributes
    ----------
    dataset
        The dataset.
    matched
        The texts of its metadata that match a term, with the positions of the matches.
    version
        The label of a version with a path that contains the terms of ``in_paths``; None if
        ``in_paths`` is empty.
    path
        That path; None if the search for it reached its limit.
    in_paths
        The terms that match in a path only, or the synonyms that the path contains instead.
    values
        The values of the dataset by facet (:data:`FACETS`).
    """

    dataset: DatasetRow
    matched: tuple[MatchedText, ...]
    version: str | None
    path: str | None
    in_paths: tuple[str, ...] = ()
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)


class FoundDatasets(Struct, frozen=True):
    """A page of search results.

    Attributes
    ----------
    rows
        The results of the page.
    facets
        The values of each facet with the number of results, by name of the facet.
    total
        The number of results.
    exact
        Whether the numbers are exact; otherwise they may be slightly too high.
    next
        The start of the next page; None at the end.
    """

    rows: tuple[FoundDataset, ...]
    facets: dict[str, tuple[FacetCount, ...]]
    total: int
    exact: bool
    next: int | None


class _Search(Struct, frozen=True):
    """Terms, and the datasets that may match them."""

    terms: Sequence[SearchTerm]
    matches: Sequence[TermMatches]
    candidates: Sequence[Candidate]
    token: object = field(default_factory=object)
    """In the keys of cached results that were made of the candidates."""


class MatchingFiles(Struct, frozen=True):
    """Files of a version whose paths match.

    Attributes
    ----------
    files
        The files, by path.
    next
        The start of the next page; '' at the end.
    is_complete
        False if the search stopped at its limit and may find more from ``next`` on.
    """

    files: tuple[FileRow, ...]
    next: str
    is_complete: bool


def _size(search: _Search) -> int:
    """Return the approximate number of items of a search, for the cache."""
    matched = sum(len(one.stems) + len(one.prefixes) for one in search.matches)
    return matched + sum(1 + len(one.blocks) // 100 for one in search.candidates)


def _batches(terms: Sequence[str]) -> Iterator[Sequence[str]]:
    return (
        terms[start : start + _TERMS_PER_QUERY] for start in range(0, len(terms), _TERMS_PER_QUERY)
    )


class SearchQueries(MatchQueries, FacetQueries, DatasetQueries, FileQueries):
    """Queries by search terms and facets: for datasets, and for files of a version.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def path_terms_agree(self, version: VersionRow) -> bool:
        """Return whether the path terms of a version are those of the files it added."""
        row = self._row(
            "SELECT v.id, d.within FROM versions v JOIN datasets d ON d.id = v.dataset "
            "WHERE v.dataset = ? AND v.seq = ?",
            (version.dataset, version.seq),
        )
        assert row is not None
        number, within = int(row[0]), row[1]
        blocks = self._rows(
            "SELECT id, first, last FROM path_blocks WHERE id >= ? AND id < ? ORDER BY id",
            (number << BLOCK_SHIFT, (number + 1) << BLOCK_SHIFT),
        )
        paths = (
            path
            for (path,) in self._rows(
                "SELECT path FROM files WHERE dataset = ? AND since = ? ORDER BY path",
                (version.dataset, version.seq),
            )
        )
        expected = () if within else split_blocks(number, paths)
        return all(
            block is not None
            and found is not None
            and (block.id, block.paths[0], block.paths[-1]) == found
            and self._has_terms(block.id, block.terms)
            for block, found in zip_longest(expected, blocks)
        )

    def _has_terms(self, block: int, terms: Sequence[str]) -> bool:
        """Return whether a block has the terms that SQLite can be queried for."""
        return all(
            self._row(
                "SELECT 1 FROM path_text WHERE path_text MATCH ? AND rowid = ?",
                (" ".join(f'"{term}"' for term in some), block),
            )
            for some in _batches([term for term in terms if is_single_token(term)])
        )

    def find_datasets(
        self,
        text: str = "",
        *,
        filters: Mapping[str, Sequence[str]] | None = None,
        sort: str = "",
        start: int = 0,
        limit: int = 50,
    ) -> FoundDatasets:
        """Return the datasets that match all terms and the selected values of each facet.

        Terms match in metadata by their stem, by a synonym or as the start of a word, then in the
        paths of all versions, where synonyms match whole words. Without terms, all datasets match,
        except subdatasets.

        Parameters
        ----------
        text : str
            The search terms; words in double quotes are a phrase.
        filters : mapping of str to sequence of str
            Values by facet (:data:`FACETS`); a result must have one value of each facet.
        sort : str
            One of :data:`SORTS`; by default ``relevance``, without terms ``newest``.
        start : int
            The ``next`` of the previous page.
        limit : int
            The length of a page.

        Raises
        ------
        MalformedQueryError, UnknownMirrorError
        """
        if sort and sort not in SORTS:
            raise MalformedQueryError(f"there is no order {sort!r}; use {', '.join(SORTS)}")
        checked = self._check_filters(filters or {})
        search = self._cached(("search", text), lambda: self._search(text), _size)
        selected = self._selected(checked)
        chosen = self._sorted(
            [
                one
                for one in search.candidates
                if all(one.dataset in some for some in selected.values())
            ],
            sort or ("relevance" if search.terms else "newest"),
        )
        page = chosen[start : start + limit]
        return FoundDatasets(
            rows=tuple(self._found_datasets(search, page)),
            facets=self._cached(
                # not the text: the index may have changed since the search
                ("facets", search.token, tuple(checked.items())),
                lambda: self._facet_counts(
                    [one.dataset for one in search.candidates], checked, selected
                ),
                lambda counts: sum(map(len, counts.values())),
            ),
            total=len(chosen),
            exact=all(map(_is_sure, search.candidates)),
            next=start + limit if len(chosen) > start + limit else None,
        )

    def _search(self, text: str) -> _Search:
        if not text.strip():
            rows = self._all("SELECT dataset FROM listed_datasets WHERE NOT is_subdataset")
            return _Search((), (), [Candidate(dataset) for (dataset,) in rows])
        terms = parse_terms(text)
        matches = list(map(self._term_matches, terms))
        return _Search(terms, matches, self._candidates(terms, matches))

    def _sorted(self, candidates: list[Candidate], sort: str) -> list[Candidate]:
        order = _ORDERS.get(sort)
        if order is None:
            return candidates
        positions = self._cached(
            ("order", sort),
            lambda: {
                dataset: position
                for position, (dataset,) in enumerate(
                    self._all(f"SELECT dataset FROM listed_datasets ORDER BY {order}")
                )
            },
            len,
        )
        return sorted(candidates, key=lambda one: positions.get(one.dataset, len(positions)))

    def _found_datasets(self, search: _Search, page: Sequence[Candidate]) -> Iterator[FoundDataset]:
        """Yield the results of a page; candidates without a matching path are skipped."""
        budget = MAX_BLOCKS
        paths: dict[int, PathMatch | None] = {}
        for one in page:
            if one.missing:
                match, scanned = self._find_path(one, budget)
                budget -= scanned
                if match is None:
                    continue
                paths[one.dataset] = match
            else:
                paths[one.dataset] = None
        rows = {row.id: row for row in self._datasets_by_id(list(paths))}
        values = self._facet_values(list(paths))
        for one in page:
            if one.dataset in paths:
                matched = self._matched_texts(one, search.terms, search.matches)
                found = self._found_dataset(rows[one.dataset], matched, one, paths[one.dataset])
                yield replace(found, values=values[one.dataset])

    def _datasets_by_id(self, datasets: list[int]) -> Iterator[DatasetRow]:
        marks = ",".join("?" * len(datasets))
        return self._datasets(f"WHERE d.id IN ({marks})", tuple(datasets))

    def _found_dataset(
        self,
        row: DatasetRow,
        matched: tuple[MatchedText, ...],
        candidate: Candidate,
        match: PathMatch | None,
    ) -> FoundDataset:
        if match is None:
            return FoundDataset(row, matched, None, None)
        label = row.newest if match.current else self._label(match.version)
        return FoundDataset(row, matched, label, match.path, candidate.words_in(match.path))

    def _label(self, version: int) -> str:
        row = self._row("SELECT label FROM versions WHERE id = ?", (version,))
        assert row is not None
        return str(row[0])

    def count_terms(self, text: str) -> dict[str, int]:
        """Return the approximate number of datasets that match each term alone.

        A name of several words that no dataset has, such as ``calcium imaging``, counts as its
        words.

        Parameters
        ----------
        text
            The search terms, as for :meth:`search`.

        Returns
        -------
        dict[str, int]
            The number by term.
        """
        counts: dict[str, int] = {}
        for term in parse_terms(text)[:_MAX_COUNTED_TERMS]:
            count = self._count_term(term)
            if count or term.is_phrase or len(term.tokens) == 1:
                counts[str(term)] = count
            else:
                counts |= {
                    token: self._count_term(SearchTerm(token, (token,))) for token in term.tokens
                }
        return counts

    def _count_term(self, term: SearchTerm) -> int:
        return len(self._candidates([term], [self._term_matches(term)]))

    def search(self, text: str) -> Iterator[DatasetRow]:
        """Yield all results of :meth:`find_datasets`, best first.

        Parameters
        ----------
        text
            The search terms, as for :meth:`find_datasets`.

        Returns
        -------
        Iterator[DatasetRow]
            A dataset.
        """
        found = self.find_datasets(text)
        return self._search_pages(text, found)

    def _search_pages(self, text: str, found: FoundDatasets) -> Iterator[DatasetRow]:
        while True:
            yield from (one.dataset for one in found.rows)
            if found.next is None:
                return
            found = self.find_datasets(text, start=found.next)

    def matching_files(
        self, version: VersionRow, text: str, start: str = "", scanned: int = 200_000
    ) -> MatchingFiles:
        """Return the files of a version whose path contains all terms, ignoring the case of ASCII.

        Parameters
        ----------
        version : VersionRow
            The version.
        text : str
            The terms; each may be any part of a path.
        start : str
            The ``next`` of the previous page.
        scanned : int
            The maximum number of rows read, including those of other versions.

        Raises
        ------
        MalformedQueryError, FilesNotIndexedError
        """
        self.files(version, limit=0)
        conditions, values, fits = path_conditions(split_terms(text), "f.path")
        end = self._row(
            "SELECT path FROM files WHERE dataset = ? AND path > ? ORDER BY path, since "
            "LIMIT 1 OFFSET ?",
            (version.dataset, start, scanned),
        )
        rows = self._rows(
            f"SELECT {FILE_COLUMNS} FROM files f CROSS JOIN contents c ON c.id = f.content "
            "WHERE f.dataset = ? AND f.path >= ? AND f.since <= ? "
            f"AND (f.until IS NULL OR f.until > ?) {'AND f.path < ?' if end else ''}{conditions} "
            "ORDER BY f.path",
            (version.dataset, start, version.seq, version.seq, *(end or ()), *values),
        )
        claimants = self._claimants()
        found: list[FileRow] = []
        for row in rows:
            file = file_row(row, claimants)
            if not fits(file.path):
                continue
            if len(found) == _MAX_LISTED:
                return MatchingFiles(tuple(found), file.path, True)
            found.append(file)
        return MatchingFiles(tuple(found), str(end[0]) if end else "", end is None)


def _is_sure(candidate: Candidate) -> bool:
    """Return whether a candidate needs no comparison with paths."""
    if len(candidate.missing) != 1:
        return not candidate.missing
    tokens = candidate.missing[0].tokens
    return len(tokens) == 1 and path_terms(tokens[0]) == {tokens[0].lower()}
