"""The texts of a dataset's metadata in which a search found its terms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from neuromirror.index.dataset_text import TEXT_COLUMNS
from neuromirror.index.query_base import QueryBase
from neuromirror.index.search_terms import SearchTerm
from neuromirror.index.term_queries import Candidate, TermMatches

_OPEN, _CLOSE = "\x02", "\x03"
_MARK = re.compile(f"[{_OPEN}{_CLOSE}]")
_TOKEN = re.compile(r"[^\W_]+")
_LONG = frozenset({"description", "readme"})
_MAX_SNIPPET = 240
_BEFORE_MATCH = 60
_MAX_VALUES = 4
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


class MatchQueries(QueryBase):
    """Queries for the texts of a dataset's metadata in which a search found its terms.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

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
        columns = self._row(_HIGHLIGHTED, (query, dataset)) or self._marked_prefixes(
            dataset, [token.casefold() for term, _ in found for token in term.tokens]
        )
        seen: dict[str, MatchedText] = {}
        for one in self._texts(dataset, columns):
            seen.setdefault(one.value, one)
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
                    for row in self._rows(
                        "SELECT name FROM attributes WHERE dataset = ? ORDER BY name, value",
                        (dataset,),
                    )
                ]
            marked = [one for one in zip(names, lines, strict=False) if _OPEN in one[1]]
            for field, line in marked[:_MAX_VALUES]:
                found = _matched_text(field, line)
                yield _without_name(found) if name == "attributes" else found

    def _marked_prefixes(self, dataset: int, tokens: Sequence[str]) -> tuple[str, ...]:
        """Return a dataset's texts, and mark the words that start with any of ``tokens``."""
        row = self._row(
            f"SELECT {', '.join(TEXT_COLUMNS)} FROM dataset_text WHERE rowid = ?", (dataset,)
        )
        assert row is not None

        def mark(match: re.Match[str]) -> str:
            starts = match[0].casefold().startswith(tuple(tokens))
            return f"{_OPEN}{match[0]}{_CLOSE}" if starts else match[0]

        return tuple(_TOKEN.sub(mark, text) for text in row)


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
