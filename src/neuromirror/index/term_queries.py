"""Datasets that match search terms in their metadata or in paths of their files.

Every term must match in one or the other; those in paths must match in one path. Metadata is small
and queried term by term. For paths, full-text search returns blocks (see
:mod:`neuromirror.index.path_terms`), and the few paths of a block are then compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from neuromirror.index.errors import MalformedQueryError
from neuromirror.index.path_terms import BLOCK_SHIFT, MIN_DIGITS, is_single_token, path_terms
from neuromirror.index.query_base import QueryBase

MAX_QUERY_LENGTH = 500
"""Maximum number of characters of a search."""
_MAX_TERMS = 40
MAX_BLOCKS = 400
"""Maximum number of path blocks read for a result, which limits its time."""
_MAX_COMBINATIONS = 8
"""Maximum number of combinations of terms in metadata and terms in paths."""
_MAX_SCANNED_ROWS = 20_000
"""Maximum number of rows of files read between the first and last path of a block."""

_LAST_TOKEN = re.compile(r"[0-9A-Za-z\x80-\U0010ffff]+\Z")
_NUMBERED = re.compile(r"([0-9A-Za-z\x80-\U0010ffff]+)-\Z")

_TEXT = """
SELECT t.rowid, m.name FROM dataset_text t JOIN datasets d ON d.id = t.rowid
JOIN mirrors m ON m.id = d.mirror WHERE dataset_text MATCH ? AND d.withdrawn = ''
"""
# a match in name or title ranks above one in an attribute, that above one in a license
_BEST_FIRST = (
    "ORDER BY d.within <> '', bm25(dataset_text, 10.0, 5.0, 1.0, 2.0, 3.0), m.name, d.local_id"
)
_BLOCKS = f"""
SELECT d.id, m.name, b.blocks FROM (
    SELECT v.dataset AS dataset, group_concat(p.rowid) AS blocks, max(p.rowid) AS last
    FROM path_text p CROSS JOIN versions v ON v.id = p.rowid >> {BLOCK_SHIFT}
    WHERE path_text MATCH ? GROUP BY v.dataset
) b JOIN datasets d ON d.id = b.dataset JOIN mirrors m ON m.id = d.mirror
WHERE d.withdrawn = '' ORDER BY b.last DESC
"""
_IN_BLOCK = """
SELECT path, until FROM (
    SELECT path, since, until FROM files WHERE dataset = ? AND path >= ? AND path <= ? LIMIT ?
) WHERE since = ?
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dataset that may match: its id, the name of its mirror, and the terms to find in a path.

    ``blocks`` are the ids of blocks that contain all of these, separated by commas; most are never
    read.
    """

    dataset: int
    mirror: str
    missing: tuple[str, ...]
    blocks: str


@dataclass(frozen=True, slots=True)
class PathMatch:
    """A path that matches, the version (its id) that added it, and whether it is still present.

    ``path`` is None if the limit was reached and a match is only likely.
    """

    version: int
    path: str | None
    current: bool


class TermQueries(QueryBase):
    """Looks up search terms."""

    def _candidates(self, text: str) -> list[Candidate]:
        """Return datasets that may match, best first; raises :class:`MalformedQueryError`."""
        terms = split_terms(text)
        found: dict[int, int] = {}
        for position, term in enumerate(terms):
            for dataset, _ in self._rows(_TEXT, (text_query([term]),)):
                found[dataset] = found.get(dataset, 0) | 1 << position
        every = (1 << len(terms)) - 1
        candidates = [
            Candidate(dataset, mirror, (), "")
            for dataset, mirror in self._rows(_TEXT + _BEST_FIRST, (text_query(terms),))
        ]
        seen = {one.dataset for one in candidates}
        lacking = {every & ~had for had in found.values()} - {0}
        fewest = sorted(lacking, key=lambda mask: (mask.bit_count(), mask))[:_MAX_COMBINATIONS]
        for mask in [*fewest, every]:
            missing = tuple(term for position, term in enumerate(terms) if mask >> position & 1)
            query = path_query(missing)
            for dataset, mirror, blocks in self._rows(_BLOCKS, (query,)) if query else ():
                if dataset not in seen and (mask | found.get(dataset, 0)) == every:
                    seen.add(dataset)
                    candidates.append(Candidate(dataset, mirror, missing, blocks))
        return candidates

    def _dataset_ids(self, text: str, max_blocks: int) -> list[int]:
        """Return the datasets that match; read at most ``max_blocks`` blocks of paths."""
        found = []
        for one in self._candidates(text):
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
        conditions, values, fits = path_conditions(candidate.missing, "path")
        given = (candidate.dataset, first, last, _MAX_SCANNED_ROWS, seq, *values)
        for path, until in self._rows(_IN_BLOCK + conditions, given):
            if fits(path):
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


def split_terms(text: str) -> list[str]:
    """Return the distinct terms of a search.

    Raises :class:`MalformedQueryError` without a term or with too many.
    """
    if len(text) > MAX_QUERY_LENGTH:
        raise MalformedQueryError(
            f"the search has {len(text)} characters, at most {MAX_QUERY_LENGTH} are allowed; "
            "use fewer terms"
        )
    # characters that no text in the index can contain count as spaces
    plain = text.encode("utf-8", "replace").decode().replace("\0", " ")
    found = [
        term for term in dict.fromkeys(plain.split()) if any(letter.isalnum() for letter in term)
    ]
    if not found:
        raise MalformedQueryError(f"{text[:120]!r} has no search terms")
    if len(found) > _MAX_TERMS:
        raise MalformedQueryError(
            f"the search has {len(found)} terms, at most {_MAX_TERMS} are allowed"
        )
    return found


def text_query(terms: Iterable[str]) -> str:
    """Return a full-text query for terms, each as a prefix."""
    return " ".join('"{}"*'.format(term.replace('"', '""')) for term in terms)


def path_query(terms: Iterable[str]) -> str:
    """Return a full-text query for blocks that may match; empty if no term restricts them."""
    return " AND ".join(filter(None, map(_path_term_query, terms)))


def _path_term_query(term: str) -> str:
    """Return the query for one term, whose end may be a prefix of a path's term."""
    ending = _LAST_TOKEN.search(term)
    last = ending.group().lower() if ending else ""
    before = term[: len(term) - len(last)] if ending else term
    terms = [f'"{one}"' for one in sorted(path_terms(before)) if is_single_token(one)]
    if last.isdecimal() and len(last) < MIN_DIGITS:
        if (numbered := _NUMBERED.search(before)) and is_single_token(numbered[1].lower()):
            # also the prefix of a longer number
            terms.append(f'("{numbered[1].lower()}-{last}"* OR "{last}"*)')
    elif len(last) > 1 and is_single_token(last):
        terms.append(f'"{last}"*')
    return " AND ".join(terms)


def path_conditions(
    terms: Sequence[str], column: str
) -> tuple[str, list[str], Callable[[str], bool]]:
    """Return conditions that a path contains all terms: SQL, its values, a Python predicate.

    The predicate is for terms that are not ASCII, because SQLite's lower() is.
    """
    plain = [term.lower() for term in terms if term.isascii()]
    others = [term.casefold() for term in terms if not term.isascii()]
    conditions = "".join(f" AND instr(lower({column}), ?)" for _ in plain)
    return conditions, plain, lambda path: all(term in path.casefold() for term in others)
