"""Parse the text of a search into terms, and terms into full-text queries.

All terms must match. A term is a word, several words in double quotes, or successive words that
are one name in :mod:`neuromirror.index.dataset_text`. Words match by their stem or as a prefix; a
phrase in quotes matches by the stems of its words in order. No character has a meaning in a
full-text query: each word is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from neuromirror.index.dataset_text import MAX_TOKENS, synonyms_of, tokens_of
from neuromirror.index.errors import MalformedQueryError
from neuromirror.index.path_terms import MIN_DIGITS, is_single_token, path_terms

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
        others = [_quoted(one) for one in self.synonyms]
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
        return [one for one in self.synonyms if path_terms(one) == {one}]

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

    The blocks are those of :class:`~neuromirror.index.path_terms.PathBlock`. The result is empty if
    no term is suitable for a full-text query: every block may match.
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
