"""Parse the text of a search into terms, and find the datasets that match them.

All terms must match. A term is a word, several words in double quotes, or successive words that
are one name in :mod:`neuromirror.index.dataset_text`. Words match by their stem or as a prefix; a
phrase in quotes matches by the stems of its words in order. No character has a meaning in a
full-text query: each word is quoted.

Datasets that match search terms in their metadata or in paths of their files.

Every term must match in one or the other; those in paths must match in one path. Metadata is small
and queried term by term. For paths, full-text search returns blocks (see
:mod:`neuromirror.index.dataset_text`), and the few paths of a block are then compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from msgspec import Struct, field

from neuromirror.index.connection import MalformedQueryError
from neuromirror.index.dataset_text import (
    BLOCK_SHIFT,
    MAX_TOKENS,
    MIN_DIGITS,
    is_single_token,
    path_terms,
    synonyms_of,
    tokens_of,
)
from neuromirror.index.reader import Queries

MAX_QUERY_LENGTH = 500
"""Maximum number of characters of a search."""
_MAX_TERMS = 40
_TERM = re.compile(r'"([^"]*)"|(\S+)')
# the complement: a range up to U+10FFFF takes milliseconds to compile
_TOKEN = r"[^\x00-/:-@\[-`{-\x7f]+"
"""Letters and digits of ASCII, and all other characters beyond ASCII."""
_LAST_TOKEN = re.compile(rf"{_TOKEN}\Z")
_NUMBERED = re.compile(rf"({_TOKEN})-\Z")


class SearchTerm(Struct, frozen=True):
    """A term of a search.

    Attributes
    ----------
    text
        The term as typed, without quotes.
    tokens
        The texts that a path must contain: the typed words, or the phrase.
    is_phrase
        Whether the term was in quotes.
    synonyms
        Other names of the same species or technique; in paths, those of one word match whole words.
    """

    text: str
    tokens: tuple[str, ...]
    is_phrase: bool = False
    synonyms: tuple[str, ...] = ()

    def stem_query(self) -> str:
        """Return a query for the stems of the words, or of a synonym."""
        own = " AND ".join(map(_quoted, self.tokens))
        others = [_quoted(synonym) for synonym in self.synonyms]
        return f"({' OR '.join([f'({own})', *others])})"

    def prefix_query(self) -> str:
        """Return a query for the words as prefixes of stems; that of a phrase has no prefix."""
        mark = "" if self.is_phrase else "*"
        return f"({' AND '.join(_quoted(token) + mark for token in self.tokens)})"

    def token_query(self) -> str:
        """Return a query of a table of single words; empty if a word has several tokens."""
        if self.is_phrase or not all(map(_is_one_token, self.tokens)):
            return ""
        return " AND ".join(_quoted(token) + "*" for token in self.tokens)

    def path_query(self) -> str:
        """Return a query of the table of path terms; empty if every block may match."""
        own = path_query(self.tokens)
        others = self.path_synonyms() if own else ()
        return f"({' OR '.join([f'({own})', *map(_quoted, others)])})" if others else own

    def path_synonyms(self) -> list[str]:
        """Return the synonyms of one word, which are compared with whole words of a path."""
        return [synonym for synonym in self.synonyms if path_terms(synonym) == {synonym}]

    def words_in(self, path: str) -> tuple[str, ...]:
        """Return the words of the term, or the synonym, that a path contains; empty if none."""
        folded = path.casefold()
        if all(token.casefold() in folded for token in self.tokens):
            return self.tokens
        words = path_terms(path)
        return next(((one,) for one in self.path_synonyms() if one in words), ())

    def path_condition(self, column: str) -> tuple[str, list[str]]:
        """Return an ``AND`` condition that selects at least the paths of :meth:`words_in`.

        Parameters
        ----------
        column
            The SQL expression of the path.

        Returns
        -------
        tuple[str, list[str]]
            The condition, and the values of its parameters.
        """
        own, values, _ = path_conditions(self.tokens, column)
        others = self.path_synonyms()
        either = "".join(f" OR instr(lower({column}), ?)" for _ in others)
        return f" AND ((1{own}){either})", [*values, *others]

    def __str__(self) -> str:
        """Return the term as it is typed."""
        return f'"{self.text}"' if self.is_phrase else self.text


def _is_one_token(token: str) -> bool:
    return tokens_of(token) == (token.casefold(),) and is_single_token(token)


def _quoted(text: str) -> str:
    return '"{}"'.format(text.replace('"', '""'))


def split_terms(text: str) -> list[str]:
    """Return the words and phrases of a search as the user typed them, each once, without quotes.

    Raises :class:`MalformedQueryError` without a term or with too many.
    """
    return [term for term, _ in _split(text)]


def _split(text: str) -> list[tuple[str, bool]]:
    """Return terms, and whether they are phrases."""
    if len(text) > MAX_QUERY_LENGTH:
        raise MalformedQueryError(
            f"the search has {len(text)} characters, at most {MAX_QUERY_LENGTH} are allowed; "
            "use fewer terms"
        )
    # characters that no text in the index can contain count as spaces
    plain = text.encode("utf-8", "replace").decode().replace("\0", " ")
    found: dict[str, bool] = {}
    for match in _TERM.finditer(plain):
        phrase = " ".join((match[1] or "").split())
        term = phrase or match[2] or ""
        if term == "AND":  # all terms must match
            continue
        if any(letter.isalnum() for letter in term):
            found.setdefault(term, " " in phrase)
    if not found:
        raise MalformedQueryError(f"{text[:120]!r} has no search terms")
    if len(found) > _MAX_TERMS:
        raise MalformedQueryError(
            f"the search has {len(found)} terms, at most {_MAX_TERMS} are allowed"
        )
    return list(found.items())


def parse_terms(text: str) -> list[SearchTerm]:
    """Return the terms of a search, with their synonyms.

    Raises :class:`MalformedQueryError` without a term or with too many.
    """
    return list(_join_names(_split(text)))


def _join_names(terms: Sequence[tuple[str, bool]]) -> Iterator[SearchTerm]:
    """Yield terms; successive words that are one name with synonyms are one term."""
    start = 0
    while start < len(terms):
        text, is_phrase = terms[start]
        if is_phrase:
            yield SearchTerm(text, (text,), True, synonyms_of(tokens_of(text)))
            start += 1
            continue
        for length in range(min(MAX_TOKENS, len(terms) - start), 0, -1):
            some = terms[start : start + length]
            joined = " ".join(token for token, _ in some)
            synonyms = synonyms_of(tokens_of(joined))
            if length == 1 or (synonyms and not any(phrase for _, phrase in some)):
                yield SearchTerm(joined, tuple(token for token, _ in some), False, synonyms)
                start += length
                break


def path_query(terms: Iterable[str]) -> str:
    """Return the FTS5 query for the blocks of paths that may contain all terms.

    The blocks are those of :class:`~neuromirror.index.dataset_text.PathBlock`. The result is empty
    if no term is suitable for a full-text query: every block may match.
    """
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
    """Return conditions that are true for a path that contains all terms.

    SQL alone is not sufficient: SQLite's lower() changes ASCII letters only.

    Parameters
    ----------
    terms
        The terms.
    column
        The SQL expression of the path.

    Returns
    -------
    tuple[str, list[str], Callable[[str], bool]]
        ``AND`` conditions for a WHERE clause, the values of their parameters, and a predicate that
        the paths of the selected rows must fulfil too.
    """
    plain = [term.lower() for term in terms if term.isascii()]
    others = [term.casefold() for term in terms if not term.isascii()]
    conditions = "".join(f" AND instr(lower({column}), ?)" for _ in plain)
    return conditions, plain, lambda path: all(term in path.casefold() for term in others)


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


class TermQueries(Queries):
    """Queries for datasets whose metadata or paths contain search terms."""

    def term_matches(self, term: SearchTerm) -> TermMatches:
        """Return the datasets whose metadata match a term."""
        stems = {row[0] for row in self._db.all(_TEXT, (term.stem_query(),))}
        tokens = term.token_query()
        prefixes = (
            self._db.all(_TOKENS, (tokens,))
            if tokens
            else self._db.all(_TEXT, (term.prefix_query(),))
        )
        return TermMatches(stems, {row[0] for row in prefixes})

    def candidates(
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
            for dataset, blocks in self._db.all(_BLOCKS, (query,)) if query else ():
                if dataset not in seen and (mask | found.get(dataset, 0)) == every:
                    seen.add(dataset)
                    candidates.append(Candidate(dataset, missing, blocks))
        return candidates

    def _ranked(self, terms: Sequence[SearchTerm], datasets: set[int]) -> list[int]:
        """Return datasets by rank; those that match only by the start of a word come last."""
        if not datasets:
            return []
        query = " OR ".join(f"{term.stem_query()} OR {term.prefix_query()}" for term in terms)
        ranked = [row[0] for row in self._db.all(_BEST_FIRST, (query,)) if row[0] in datasets]
        return ranked + sorted(datasets.difference(ranked))

    def dataset_ids(self, text: str, max_blocks: int) -> list[int]:
        """Return the datasets that match; read at most ``max_blocks`` blocks of paths."""
        terms = parse_terms(text)
        found = []
        for candidate in self.candidates(terms, list(map(self.term_matches, terms))):
            match, scanned = self.find_path(candidate, max_blocks)
            max_blocks -= scanned
            if match is not None or not candidate.missing:
                found.append(candidate.dataset)
        return found

    def find_path(self, candidate: Candidate, max_blocks: int) -> tuple[PathMatch | None, int]:
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
        row = self._db.row(
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
        for path, until in self._db.rows(select, given):
            if all(term.words_in(path) for term in candidate.missing):
                return PathMatch(block >> BLOCK_SHIFT, path, until is None)
        scanned = self._db.row(
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
