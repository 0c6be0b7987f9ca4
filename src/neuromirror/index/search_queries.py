"""Search by terms: datasets, and files of a version."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from neuromirror.index.dataset_queries import DatasetQueries
from neuromirror.index.file_queries import FILE_COLUMNS, FileQueries, file_row
from neuromirror.index.path_terms import BLOCK_SHIFT, is_single_token, path_terms, split_blocks
from neuromirror.index.rows import DatasetRow, FileRow, VersionRow
from neuromirror.index.term_queries import (
    MAX_BLOCKS,
    Candidate,
    PathMatch,
    path_conditions,
    split_terms,
)

_MAX_LISTED = 200
_MAX_COUNTED_TERMS = 8
_MIN_SIMILARITY = 0.75
_MAX_KNOWN_TEXTS = 5000
_TERMS_PER_QUERY = 50
_FIELDS = ("name", "title", "license", "doi")


@dataclass(frozen=True, slots=True)
class FoundDataset:
    """A dataset that matches all terms of a search.

    Attributes
    ----------
    dataset
        The dataset.
    matched
        Names and values of its metadata that match a term.
    version
        The label of a version with a path that matches; None without such terms.
    path
        That path; None if the limit was reached.
    in_paths
        The terms that match in a path only.
    """

    dataset: DatasetRow
    matched: tuple[tuple[str, str], ...]
    version: str | None
    path: str | None
    in_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundDatasets:
    """A page of search results.

    Attributes
    ----------
    rows
        The results of the page.
    mirrors
        The number of results by mirror.
    total
        The number of results of the requested mirrors.
    exact
        Whether the numbers are exact; otherwise they may be slightly too high.
    next
        The start of the next page; None at the end.
    """

    rows: tuple[FoundDataset, ...]
    mirrors: dict[str, int]
    total: int
    exact: bool
    next: int | None


@dataclass(frozen=True, slots=True)
class MatchingFiles:
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


def _batches(terms: Sequence[str]) -> Iterator[Sequence[str]]:
    return (
        terms[start : start + _TERMS_PER_QUERY] for start in range(0, len(terms), _TERMS_PER_QUERY)
    )


class SearchQueries(DatasetQueries, FileQueries):
    """Queries by search terms."""

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
        self, text: str, mirror: str | None = None, *, start: int = 0, limit: int = 50
    ) -> FoundDatasets:
        """Return the datasets that match all terms, best first.

        Terms match in name, title, license, DOIs and attributes, then in the paths of all versions,
        each as a prefix of a word.

        Parameters
        ----------
        text : str
            The search terms.
        mirror : str, optional
            Only datasets of this mirror.
        start : int
            The ``next`` of the previous page.
        limit : int
            The length of a page.

        Raises
        ------
        MalformedQueryError, UnknownMirrorError
        """
        if mirror is not None:
            self._mirror_number(mirror)
        candidates = self._candidates(text)
        mirrors = Counter(one.mirror for one in candidates)
        chosen = [one for one in candidates if mirror in (None, one.mirror)]
        page = chosen[start : start + limit]
        budget = MAX_BLOCKS
        matches: dict[int, PathMatch | None] = {}
        for one in page:
            if one.missing:
                match, scanned = self._find_path(one, budget)
                budget -= scanned
                if match is None:
                    continue
                matches[one.dataset] = match
            else:
                matches[one.dataset] = None
        rows = {row.id: row for row in self._datasets_by_id(list(matches))}
        terms = split_terms(text)
        return FoundDatasets(
            rows=tuple(
                self._found_dataset(rows[one.dataset], terms, one.missing, matches[one.dataset])
                for one in page
                if one.dataset in matches
            ),
            mirrors=dict(sorted(mirrors.items())),
            total=len(chosen),
            exact=all(map(_is_sure, candidates)),
            next=start + limit if len(chosen) > start + limit else None,
        )

    def _datasets_by_id(self, datasets: list[int]) -> Iterator[DatasetRow]:
        marks = ",".join("?" * len(datasets))
        return self._datasets(f"WHERE d.id IN ({marks})", tuple(datasets))

    def _found_dataset(
        self, row: DatasetRow, terms: list[str], missing: tuple[str, ...], match: PathMatch | None
    ) -> FoundDataset:
        text = self._row(
            "SELECT name, title, license, doi FROM dataset_text WHERE rowid = ?", (row.id,)
        )
        assert text is not None
        values = self._rows(
            "SELECT name, value FROM attributes WHERE dataset = ? ORDER BY name, value", (row.id,)
        )
        fields = [*zip(_FIELDS, text, strict=True), *values]
        term_tokens = list(map(_tokens, terms))
        matched = tuple(
            (name, value)
            for name, value in fields
            if (tokens := _tokens(value)) and any(_has_sequence(tokens, w) for w in term_tokens)
        )
        if match is None:
            return FoundDataset(row, matched, None, None)
        label = row.newest if match.current else self._label(match.version)
        return FoundDataset(row, matched, label, match.path, missing)

    def _label(self, version: int) -> str:
        row = self._row("SELECT label FROM versions WHERE id = ?", (version,))
        assert row is not None
        return str(row[0])

    def count_terms(self, text: str) -> dict[str, int]:
        """Return the approximate number of datasets that match each term alone.

        Parameters
        ----------
        text
            The search terms, as for :meth:`search`.

        Returns
        -------
        dict[str, int]
            The number by term.
        """
        return {
            term: len(self._candidates(term)) for term in split_terms(text)[:_MAX_COUNTED_TERMS]
        }

    def suggest_terms(self, counts: Mapping[str, int]) -> str:
        """Return the terms with misspelled ones replaced by similar words of names and attributes.

        Parameters
        ----------
        counts : mapping of str to int
            The result of :meth:`count_terms`; terms with 0 datasets are replaced.

        Returns
        -------
        str
            The terms, separated by spaces; empty if nothing was replaced.
        """
        known: set[str] = set()
        if 0 in counts.values():
            rows = self._rows(
                "SELECT t.name || ' ' || t.title || ' ' || t.attributes FROM dataset_text t "
                "JOIN datasets d ON d.id = t.rowid "
                "WHERE d.withdrawn = '' AND d.within = '' LIMIT ?",
                (_MAX_KNOWN_TEXTS,),
            )
            known = {token for (text,) in rows for token in _tokens(text)}
        found = []
        for term, count in counts.items():
            self.raise_if_stopped()
            # typing errors are rare in the first letter, and comparing with all takes too long
            near = [one for one in known if one[:1] == term[:1].casefold()] if not count else []
            close = difflib.get_close_matches(term.casefold(), sorted(near), 1, _MIN_SIMILARITY)
            found += close or [term]
        return " ".join(found) if found != list(counts) else ""

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
    missing = candidate.missing
    return not missing or (len(missing) == 1 and path_terms(missing[0]) == {missing[0].lower()})


def _tokens(text: str) -> list[str]:
    """Return the words of a text as full-text search splits it."""
    if not text.isascii():
        apart = unicodedata.normalize("NFD", text)
        text = "".join(sign for sign in apart if not unicodedata.combining(sign))
    return re.findall(r"[^\W_]+", text.casefold())


def _has_sequence(tokens: list[str], sequence: list[str]) -> bool:
    """Return whether the tokens contain a sequence, its last token as a prefix."""
    if not sequence:
        return False
    return any(
        tokens[start : start + len(sequence) - 1] == sequence[:-1]
        and tokens[start + len(sequence) - 1].startswith(sequence[-1])
        for start in range(len(tokens) - len(sequence) + 1)
    )
