"""Datasets that match search terms in their metadata or in paths of their files.

Every term must match in one or the other; those in paths must match in one path. Metadata is small
and queried term by term. For paths, full-text search returns blocks (see
:mod:`neuromirror.index.path_terms`), and the few paths of a block are then compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from msgspec import Struct, field

from neuromirror.index.path_terms import BLOCK_SHIFT
from neuromirror.index.query_base import QueryBase
from neuromirror.index.search_terms import SearchTerm, parse_terms

MAX_BLOCKS = 400
"""Maximum number of path blocks read for a result, which limits its time."""
_MAX_COMBINATIONS = 8
"""Maximum number of combinations of terms in metadata and terms in paths."""
_MAX_SCANNED_ROWS = 20_000
"""Maximum number of rows of files read between the first and last path of a block."""

_TEXT = "SELECT rowid FROM dataset_text WHERE dataset_text MATCH ?"
_TOKENS = "SELECT rowid FROM dataset_text_tokens WHERE dataset_text_tokens MATCH ?"
# name and title rank above keywords, these above people, then description and the rest
_WEIGHTS = "10.0, 10.0, 6.0, 5.0, 5.0, 5.0, 3.0, 4.0, 3.0, 2.0, 2.0, 1.0, 1.5, 0.5, 0.5, 1.0"
_BEST_FIRST = f"""
SELECT t.rowid FROM dataset_text t JOIN listed_datasets l ON l.dataset = t.rowid
JOIN datasets d ON d.id = t.rowid JOIN mirrors m ON m.id = d.mirror
WHERE dataset_text MATCH ?
ORDER BY l.is_subdataset, bm25(dataset_text, {_WEIGHTS}), m.name, d.local_id
"""
_BLOCKS = f"""
SELECT d.id, b.blocks FROM (
    SELECT v.dataset AS dataset, group_concat(p.rowid) AS blocks, max(p.rowid) AS last
    FROM path_text p CROSS JOIN versions v ON v.id = p.rowid >> {BLOCK_SHIFT}
    WHERE path_text MATCH ? GROUP BY v.dataset
) b JOIN datasets d ON d.id = b.dataset
WHERE d.withdrawn = '' ORDER BY b.last DESC
"""
_IN_BLOCK = """
SELECT path, until FROM (
    SELECT path, since, until FROM files WHERE dataset = ? AND path >= ? AND path <= ? LIMIT ?
) WHERE since = ?
"""


class Candidate(Struct, frozen=True):
    """A dataset that may match a search.

    Attributes
    ----------
    dataset
        The row id of the dataset.
    missing
        The terms that its metadata lack; the dataset matches if a path contains them.
    blocks
        Ids of the path blocks (:class:`PathBlock`) that have these terms, separated by commas.
    """

    dataset: int
    missing: tuple[SearchTerm, ...] = ()
    blocks: str = ""

    def words_in(self, path: str | None) -> tuple[str, ...]:
        """Return the words of the missing terms, as a path has them; None is an unknown path."""
        return tuple(
            word
            for term in self.missing
            for word in (term.tokens if path is None else term.words_in(path))
        )


class TermMatches(Struct):
    """The datasets whose metadata match one term.

    Attributes
    ----------
    stems
        Datasets with the term or a synonym.
    prefixes
        Datasets with a word that starts with the term.
    """

    stems: set[int] = field(default_factory=set)
    prefixes: set[int] = field(default_factory=set)

    def __contains__(self, dataset: int) -> bool:
        return dataset in self.stems or dataset in self.prefixes


class PathMatch(Struct, frozen=True):
    """A path of a dataset that contains the terms that its metadata lack.

    Attributes
    ----------
    version
        The row id of the version that added the path.
    path
        The path; None if the search reached its limit, so that a match is only likely.
    current
        Whether the current version still has the path.
    """

    version: int
    path: str | None
    current: bool


class TermQueries(QueryBase):
    """Queries for datasets whose metadata or paths contain search terms.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def _term_matches(self, term: SearchTerm) -> TermMatches:
        """Return the datasets whose metadata match a term."""
        stems = {row[0] for row in self._all(_TEXT, (term.stem_query(),))}
        tokens = term.token_query()
        prefixes = (
            self._all(_TOKENS, (tokens,)) if tokens else self._all(_TEXT, (term.prefix_query(),))
        )
        return TermMatches(stems, {row[0] for row in prefixes})

    def _candidates(
        self, terms: Sequence[SearchTerm], matches: Sequence[TermMatches]
    ) -> list[Candidate]:
        """Return datasets that may match all terms, best first."""
        every = (1 << len(terms)) - 1
        found: dict[int, int] = {}
        for position, one in enumerate(matches):
            for dataset in chain(one.stems, one.prefixes - one.stems):
                found[dataset] = found.get(dataset, 0) | 1 << position
        complete = {dataset for dataset, mask in found.items() if mask == every}
        candidates = [Candidate(dataset) for dataset in self._ranked(terms, complete)]
        lacking = {every & ~mask for mask in found.values()} - {0}
        fewest = sorted(lacking, key=lambda mask: (mask.bit_count(), mask))[:_MAX_COMBINATIONS]
        seen = complete
        for mask in [*fewest, every]:
            missing = tuple(term for position, term in enumerate(terms) if mask >> position & 1)
            query = " AND ".join(filter(None, (term.path_query() for term in missing)))
            for dataset, blocks in self._all(_BLOCKS, (query,)) if query else ():
                if dataset not in seen and (mask | found.get(dataset, 0)) == every:
                    seen.add(dataset)
                    candidates.append(Candidate(dataset, missing, blocks))
        return candidates

    def _ranked(self, terms: Sequence[SearchTerm], datasets: set[int]) -> list[int]:
        """Return datasets by rank; those that match only by the start of a word come last."""
        if not datasets:
            return []
        query = " OR ".join(f"{term.stem_query()} OR {term.prefix_query()}" for term in terms)
        ranked = [row[0] for row in self._all(_BEST_FIRST, (query,)) if row[0] in datasets]
        return ranked + sorted(datasets.difference(ranked))

    def _dataset_ids(self, text: str, max_blocks: int) -> list[int]:
        """Return the datasets that match; read at most ``max_blocks`` blocks of paths."""
        terms = parse_terms(text)
        found = []
        for one in self._candidates(terms, list(map(self._term_matches, terms))):
            match, scanned = self._find_path(one, max_blocks)
            max_blocks -= scanned
            if match is not None or not one.missing:
                found.append(one.dataset)
        return found

    def _find_path(self, candidate: Candidate, max_blocks: int) -> tuple[PathMatch | None, int]:
        """Return a path with the missing terms, and the number of blocks read.

        None if no path matches.
        """
        unsure: PathMatch | None = None
        # newest version first
        blocks = sorted(map(int, filter(None, candidate.blocks.split(","))), reverse=True)
        for count, block in enumerate(blocks):
            if count >= max_blocks:
                return unsure or PathMatch(block >> BLOCK_SHIFT, None, False), count
            match = self._find_path_in_block(candidate, block)
            if match is not None and match.path is not None:
                return match, count + 1
            unsure = unsure or match
        return unsure, len(blocks)

    def _find_path_in_block(self, candidate: Candidate, block: int) -> PathMatch | None:
        row = self._row(
            "SELECT b.first, b.last, v.seq FROM path_blocks b JOIN versions v ON v.id = ? "
            "WHERE b.id = ?",
            (block >> BLOCK_SHIFT, block),
        )
        assert row is not None
        first, last, seq = row
        conditions = [term.path_condition("path") for term in candidate.missing]
        select = _IN_BLOCK + "".join(condition for condition, _ in conditions)
        values = [value for _, some in conditions for value in some]
        given = (candidate.dataset, first, last, _MAX_SCANNED_ROWS, seq, *values)
        for path, until in self._rows(select, given):
            if all(term.words_in(path) for term in candidate.missing):
                return PathMatch(block >> BLOCK_SHIFT, path, until is None)
        scanned = self._row(
            "SELECT count(*) FROM (SELECT 1 FROM files WHERE dataset = ? AND path >= ? "
            "AND path <= ? LIMIT ?)",
            (candidate.dataset, first, last, _MAX_SCANNED_ROWS),
        )
        assert scanned is not None
        return (
            PathMatch(block >> BLOCK_SHIFT, None, False)
            if scanned[0] == _MAX_SCANNED_ROWS
            else None
        )
