"""Search by terms and facets: datasets, and files of a version."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.index.connection import MalformedQueryError
from neuromirror.index.dataset_text import (
    BLOCK_SHIFT,
    FACETS,
    SIZES,
    TEXT_COLUMNS,
    canonical_value,
    is_single_token,
    path_terms,
    split_blocks,
)
from neuromirror.index.datasets import DatasetQueries
from neuromirror.index.files import FILE_COLUMNS, FileQueries, file_row
from neuromirror.index.reader import Queries, Reader
from neuromirror.index.rows import DatasetRow, FileRow, VersionRow
from neuromirror.index.search_terms import (
    MAX_BLOCKS,
    Candidate,
    PathMatch,
    SearchTerm,
    TermMatches,
    TermQueries,
    parse_terms,
    path_conditions,
    split_terms,
)

_OPEN, _CLOSE = "\x02", "\x03"
_MARK = re.compile(f"[{_OPEN}{_CLOSE}]")
_TOKEN = re.compile(r"[^\W_]+")
_LONG = frozenset({"description", "readme"})
_MAX_SNIPPET = 240
_BEFORE_MATCH = 60
_MAX_SNIPPETS = 4
"""Maximum number of values of one field."""
_HIGHLIGHTS = ", ".join(
    f"highlight(dataset_text, {column}, char(2), char(3))" for column in range(len(TEXT_COLUMNS))
)
_HIGHLIGHTED = f"SELECT {_HIGHLIGHTS} FROM dataset_text WHERE dataset_text MATCH ? AND rowid = ?"


class MatchedText(Struct, frozen=True):
    """A text of the metadata that matches a term.

    Attributes
    ----------
    field
        ``title``, ``keywords``, …, or the name of an attribute.
    value
        The text; for a long text, the part around the first match.
    spans
        Start and end of each match, in characters.
    """

    field: str
    value: str
    spans: tuple[tuple[int, int], ...]


def _without_name(found: MatchedText) -> MatchedText:
    """Return the value of an attribute, whose line starts with its name."""
    start = len(found.field) + 1
    spans = tuple((begin - start, end - start) for begin, end in found.spans if begin >= start)
    return MatchedText(found.field, found.value[start:], spans)


def _snippet(name: str, text: str) -> MatchedText:
    """Return the part of a long text around its first match."""
    first = text.index(_OPEN)
    start = 0
    if first > _BEFORE_MATCH:
        start = text.find(" ", first - _BEFORE_MATCH, first) + 1 or first
    part, length = text[start:], 0
    for position, sign in enumerate(part):
        length += sign not in (_OPEN, _CLOSE)
        if length > _MAX_SNIPPET and sign == " ":
            part = f"{part[:position]} …"
            break
    return _matched_text(name, f"… {part}" if start else part)


def _matched_text(name: str, marked: str) -> MatchedText:
    spans: list[tuple[int, int]] = []
    value, begin = "", 0
    for number, piece in enumerate(_MARK.split(marked)):
        begin = len(value)
        value += piece
        if number % 2:
            spans.append((begin, len(value)))
    return MatchedText(name, value, tuple(spans))


_MAX_VALUES = 500
"""Maximum number of values of a facet in a result."""
_SIZE_ORDER = {name: position for position, (name, _) in enumerate(SIZES)}


class FacetCount(Struct, frozen=True):
    """A value of a facet.

    Attributes
    ----------
    value
        The value.
    count
        The number of results with this value, under the selected values of the other facets.
    is_selected
        Whether the search requires it.
    """

    value: str
    count: int
    is_selected: bool


def _facet(name: str, counts: Mapping[str, int], selected: Sequence[str]) -> tuple[FacetCount, ...]:
    """Return the values of a facet: sizes and years in order, others by count."""
    found = {**dict.fromkeys(selected, 0), **counts}
    if name == "size":
        ordered = sorted(found, key=lambda value: _SIZE_ORDER.get(value, len(_SIZE_ORDER)))
    elif name == "year":
        ordered = sorted(found, reverse=True)
    else:
        ordered = sorted(found, key=lambda value: (-found[value], value.casefold()))
    return tuple(
        FacetCount(value, found[value], value in selected) for value in ordered[:_MAX_VALUES]
    )


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
    return matched + sum(1 + len(candidate.blocks) // 100 for candidate in search.candidates)


def _batches(terms: Sequence[str]) -> Iterator[Sequence[str]]:
    return (
        terms[start : start + _TERMS_PER_QUERY] for start in range(0, len(terms), _TERMS_PER_QUERY)
    )


class SearchQueries(Queries):
    """Queries by search terms and facets: for datasets, and for files of a version."""

    def __init__(
        self, db: Reader, terms: TermQueries, datasets: DatasetQueries, files: FileQueries
    ) -> None:
        super().__init__(db)
        self._terms = terms
        self._datasets = datasets
        self._files = files

    def path_terms_agree(self, version: VersionRow) -> bool:
        """Return whether the path terms of a version are those of the files it added."""
        row = self._db.row(
            "SELECT v.id, d.within FROM versions v JOIN datasets d ON d.id = v.dataset "
            "WHERE v.dataset = ? AND v.seq = ?",
            (version.dataset, version.seq),
        )
        assert row is not None
        number, within = int(row[0]), row[1]
        blocks = self._db.rows(
            "SELECT id, first, last FROM path_blocks WHERE id >= ? AND id < ? ORDER BY id",
            (number << BLOCK_SHIFT, (number + 1) << BLOCK_SHIFT),
        )
        paths = (
            path
            for (path,) in self._db.rows(
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
            self._db.row(
                "SELECT 1 FROM path_text WHERE path_text MATCH ? AND rowid = ?",
                (" ".join(f'"{term}"' for term in some), block),
            )
            for some in _batches([term for term in terms if is_single_token(term)])
        )

    def datasets(
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
        search = self._db.cached(("search", text), lambda: self._search(text), _size)
        selected = self._selected(checked)
        chosen = self._sorted(
            [
                candidate
                for candidate in search.candidates
                if all(candidate.dataset in some for some in selected.values())
            ],
            sort or ("relevance" if search.terms else "newest"),
        )
        page = chosen[start : start + limit]
        return FoundDatasets(
            rows=tuple(self._found_datasets(search, page)),
            facets=self._db.cached(
                # not the text: the index may have changed since the search
                ("facets", search.token, tuple(checked.items())),
                lambda: self._facet_counts(
                    [candidate.dataset for candidate in search.candidates], checked, selected
                ),
                lambda counts: sum(map(len, counts.values())),
            ),
            total=len(chosen),
            exact=all(map(_is_sure, search.candidates)),
            next=start + limit if len(chosen) > start + limit else None,
        )

    def _search(self, text: str) -> _Search:
        if not text.strip():
            rows = self._db.all("SELECT dataset FROM listed_datasets WHERE NOT is_subdataset")
            return _Search((), (), [Candidate(dataset) for (dataset,) in rows])
        terms = parse_terms(text)
        matches = list(map(self._terms.term_matches, terms))
        return _Search(terms, matches, self._terms.candidates(terms, matches))

    def _sorted(self, candidates: list[Candidate], sort: str) -> list[Candidate]:
        order = _ORDERS.get(sort)
        if order is None:
            return candidates
        positions = self._db.cached(
            ("order", sort),
            lambda: {
                dataset: position
                for position, (dataset,) in enumerate(
                    self._db.all(f"SELECT dataset FROM listed_datasets ORDER BY {order}")
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
                match, scanned = self._terms.find_path(one, budget)
                budget -= scanned
                if match is None:
                    continue
                paths[one.dataset] = match
            else:
                paths[one.dataset] = None
        marks = ",".join("?" * len(paths))
        rows = {
            row.id: row for row in self._datasets.where(f"WHERE d.id IN ({marks})", tuple(paths))
        }
        values = self._facet_values(list(paths))
        for one in page:
            if one.dataset in paths:
                matched = self._matched_texts(one, search.terms, search.matches)
                found = self._found_dataset(rows[one.dataset], matched, one, paths[one.dataset])
                yield replace(found, values=values[one.dataset])

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
        row = self._db.row("SELECT label FROM versions WHERE id = ?", (version,))
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
        return len(self._terms.candidates([term], [self._terms.term_matches(term)]))

    def all_datasets(self, text: str) -> Iterator[DatasetRow]:
        """Yield all results of :meth:`datasets`, best first.

        Parameters
        ----------
        text
            The search terms, as for :meth:`datasets`.

        Returns
        -------
        Iterator[DatasetRow]
            A dataset.
        """
        found = self.datasets(text)
        return self._search_pages(text, found)

    def _search_pages(self, text: str, found: FoundDatasets) -> Iterator[DatasetRow]:
        while True:
            yield from (row.dataset for row in found.rows)
            if found.next is None:
                return
            found = self.datasets(text, start=found.next)

    def files(
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
        self._files.of(version, limit=0)
        conditions, values, fits = path_conditions(split_terms(text), "f.path")
        end = self._db.row(
            "SELECT path FROM files WHERE dataset = ? AND path > ? ORDER BY path, since "
            "LIMIT 1 OFFSET ?",
            (version.dataset, start, scanned),
        )
        rows = self._db.rows(
            f"SELECT {FILE_COLUMNS} FROM files f CROSS JOIN contents c ON c.id = f.content "
            "WHERE f.dataset = ? AND f.path >= ? AND f.since <= ? "
            f"AND (f.until IS NULL OR f.until > ?) {'AND f.path < ?' if end else ''}{conditions} "
            "ORDER BY f.path",
            (version.dataset, start, version.seq, version.seq, *(end or ()), *values),
        )
        claimants = self._db.claimants()
        found: list[FileRow] = []
        for row in rows:
            file = file_row(row, claimants)
            if not fits(file.path):
                continue
            if len(found) == _MAX_LISTED:
                return MatchingFiles(tuple(found), file.path, True)
            found.append(file)
        return MatchingFiles(tuple(found), str(end[0]) if end else "", end is None)

    def _matched_texts(
        self, candidate: Candidate, terms: Sequence[SearchTerm], matches: Sequence[TermMatches]
    ) -> tuple[MatchedText, ...]:
        """Return the texts that match, each value once."""
        dataset = candidate.dataset
        found = [(term, one) for term, one in zip(terms, matches, strict=True) if dataset in one]
        if not found:
            return ()
        query = " OR ".join(
            term.stem_query() if dataset in one.stems else term.prefix_query()
            for term, one in found
        )
        columns = self._db.row(_HIGHLIGHTED, (query, dataset)) or self._marked_prefixes(
            dataset, [token.casefold() for term, _ in found for token in term.tokens]
        )
        seen: dict[str, MatchedText] = {}
        for text in self._texts(dataset, columns):
            seen.setdefault(text.value, text)
        return tuple(seen.values())

    def _texts(self, dataset: int, columns: Sequence[str]) -> Iterator[MatchedText]:
        for name, text in zip(TEXT_COLUMNS, columns, strict=True):
            if _OPEN not in text:
                continue
            if name in _LONG:
                yield _snippet(name, text)
                continue
            lines = text.split("\n")
            names = [name] * len(lines)
            if name == "attributes":
                names = [
                    row[0]
                    for row in self._db.rows(
                        "SELECT name FROM attributes WHERE dataset = ? ORDER BY name, value",
                        (dataset,),
                    )
                ]
            marked = [one for one in zip(names, lines, strict=False) if _OPEN in one[1]]
            for column, line in marked[:_MAX_SNIPPETS]:
                found = _matched_text(column, line)
                yield _without_name(found) if name == "attributes" else found

    def _marked_prefixes(self, dataset: int, tokens: Sequence[str]) -> tuple[str, ...]:
        """Return a dataset's texts, and mark the words that start with any of ``tokens``."""
        row = self._db.row(
            f"SELECT {', '.join(TEXT_COLUMNS)} FROM dataset_text WHERE rowid = ?", (dataset,)
        )
        assert row is not None

        def mark(match: re.Match[str]) -> str:
            starts = match[0].casefold().startswith(tuple(tokens))
            return f"{_OPEN}{match[0]}{_CLOSE}" if starts else match[0]

        return tuple(_TOKEN.sub(mark, text) for text in row)

    def _check_filters(self, filters: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Return the facets that have selected values; raise for unknown facets and archives."""
        for name in filters:
            if name not in FACETS:
                near = difflib.get_close_matches(name, FACETS, 1)
                meant = f"; did you mean {near[0]!r}?" if near else f"; use {', '.join(FACETS)}"
                raise MalformedQueryError(f"there is no facet {name!r}{meant}")
        for archive in filters.get("archive", ()):
            self._db.mirror_number(archive)
        return {
            name: tuple(dict.fromkeys(canonical_value(name, value) for value in values))
            for name, values in filters.items()
            if values
        }

    def _selected(self, filters: Mapping[str, Sequence[str]]) -> dict[str, set[int]]:
        """Return the datasets that have one of the selected values, by facet."""
        return {
            name: {
                row[0]
                for row in self._db.all(
                    "SELECT dataset FROM facets WHERE facet = ? "
                    "AND value IN (SELECT value FROM json_each(?))",
                    (name, json.dumps(list(values))),
                )
            }
            for name, values in filters.items()
        }

    def _facet_values(self, datasets: Sequence[int]) -> dict[int, dict[str, list[str]]]:
        """Return the values of some datasets by facet, each in the order of its name."""
        found: dict[int, dict[str, list[str]]] = {dataset: {} for dataset in datasets}
        rows = self._db.all(
            "SELECT dataset, facet, value FROM facets "
            "WHERE dataset IN (SELECT value FROM json_each(?)) ORDER BY facet, value",
            (json.dumps(list(datasets)),),
        )
        for dataset, facet, value in rows:
            found[dataset].setdefault(facet, []).append(value)
        return found

    def _facet_counts(
        self,
        datasets: Sequence[int],
        filters: Mapping[str, Sequence[str]],
        selected: Mapping[str, Collection[int]],
    ) -> dict[str, tuple[FacetCount, ...]]:
        """Count the values of each facet among results, under the selections of the others."""
        common = [one for one in datasets if all(one in some for some in selected.values())]
        counts = self._count_values(common, "")
        for name in filters:
            others = [some for facet, some in selected.items() if facet != name]
            among = [dataset for dataset in datasets if all(dataset in some for some in others)]
            counts[name] = self._count_values(among, name).get(name, {})
        return {name: _facet(name, counts.get(name, {}), filters.get(name, ())) for name in FACETS}

    def _count_values(self, datasets: Sequence[int], facet: str) -> dict[str, dict[str, int]]:
        """Return the number of datasets by facet and value, of one facet or of all."""
        found: dict[str, dict[str, int]] = {}
        rows = self._db.all(
            "SELECT facet, value, count(*) FROM facets WHERE (?1 = '' OR facet = ?1) "
            "AND dataset IN (SELECT value FROM json_each(?2)) GROUP BY facet, value",
            (facet, json.dumps(datasets)),
        )
        for name, value, count in rows:
            found.setdefault(name, {})[value] = count
        return found

    def archive_topics(self) -> dict[str, dict[str, list[str]]]:
        """Return the values of the datasets of each archive, the most frequent first.

        Returns
        -------
        dict[str, dict[str, list[str]]]
            The values by facet (``data_type``, ``technique``, ``species``, ``volume``), by mirror.
        """
        found: dict[str, dict[str, list[str]]] = {}
        rows = self._db.all(
            "SELECT m.name, f.facet, f.value FROM facets f JOIN datasets d ON d.id = f.dataset "
            "JOIN mirrors m ON m.id = d.mirror "
            "WHERE f.facet IN ('data_type', 'technique', 'species', 'volume') "
            "GROUP BY m.name, f.facet, f.value ORDER BY count(*) DESC, f.value",
            (),
        )
        for mirror, facet, value in rows:
            found.setdefault(mirror, {}).setdefault(facet, []).append(value)
        return found


def _is_sure(candidate: Candidate) -> bool:
    """Return whether a candidate needs no comparison with paths."""
    if len(candidate.missing) != 1:
        return not candidate.missing
    tokens = candidate.missing[0].tokens
    return len(tokens) == 1 and path_terms(tokens[0]) == {tokens[0].lower()}
