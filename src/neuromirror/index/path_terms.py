"""The words of paths, by which datasets are found that have such files.

Each version has the paths that it brought in blocks of some hundred, and of each block the
distinct words are in full-text search, nothing else: the search tells the few blocks in which all
words stand, and the rows of ``files`` between a block's first and last path tell the rest. It
costs about ten bytes a file. Words are what stands between ``/ _ - .`` and other signs, whatever
its case, and a short number together with what it numbers (``sub-01``); single letters and short
numbers alone are left out, as everything has them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from unicodedata import ucd_3_2_0

PATHS_PER_BLOCK = 500
"""Paths of a block. To change it is to change the schema: the blocks are rows."""
BLOCK_SHIFT = 20
"""A block's number is its version's id, shifted by so many bits, and its place among them."""
MIN_DIGITS = 4
"""Digits from which on a number is a word of its own."""

_SEPARATORS = bytes(sign for sign in range(128) if not chr(sign).isalnum())
_SPLIT_ALL = bytes.maketrans(_SEPARATORS, b" " * len(_SEPARATORS))
_KEEP_HYPHENS = bytes.maketrans(_SEPARATORS.replace(b"-", b""), b" " * (len(_SEPARATORS) - 1))


def path_terms(text: str) -> set[str]:
    """The distinct words of paths, in lower case; paths may stand one a line."""
    pieces = set(text.lower().encode().translate(_KEEP_HYPHENS).split())
    terms = {
        term
        for term in map(bytes.decode, set(b" ".join(pieces).translate(_SPLIT_ALL).split()))
        if len(term) >= (MIN_DIGITS if term.isdecimal() else 2)
    }
    for piece in pieces:
        rest, _, number = piece.rpartition(b"-")
        if number.isdigit() and len(number) < MIN_DIGITS:
            numbered = rest.rpartition(b"-")[2]
            if numbered:
                terms.add(f"{numbered.decode()}-{number.decode()}")
    return terms


def is_single_token(term: str) -> bool:
    """Whether SQLite takes this as one word, too: it may know no letters of later Unicodes.

    Where words alone are indexed it refuses a question for two in a row.
    """
    return all(one.isascii() or ucd_3_2_0.category(one)[0] in "LN" for one in term)


@dataclass(frozen=True, slots=True)
class PathBlock:
    """Some hundred paths that a version brought, sorted, and their words."""

    id: int
    paths: Sequence[str]

    @property
    def terms(self) -> list[str]:
        """Sorted, since the order of a set is another one in each process."""
        return sorted(path_terms("\n".join(self.paths)))


def split_blocks(version: int, paths: Iterable[str]) -> Iterator[PathBlock]:
    """The blocks of the paths that a version, by its id, brought; the paths come sorted."""
    left = iter(paths)
    for number in count(version << BLOCK_SHIFT):
        some = list(islice(left, PATHS_PER_BLOCK))
        if not some:
            return
        yield PathBlock(number, some)


class PathTermWriter:
    """Takes the paths that a version brings, sorted; lives for one transaction."""

    def __init__(self, connection: sqlite3.Connection, version: int) -> None:
        self._db = connection
        self._next = version << BLOCK_SHIFT
        self._paths: list[str] = []

    def add(self, paths: Iterable[str]) -> None:
        """Further paths of the version."""
        self._paths.extend(paths)
        while len(self._paths) >= PATHS_PER_BLOCK:
            self._write(self._paths[:PATHS_PER_BLOCK])
            del self._paths[:PATHS_PER_BLOCK]

    def close(self) -> None:
        """All paths were taken."""
        if self._paths:
            self._write(self._paths)

    def _write(self, paths: list[str]) -> None:
        _write_block(self._db, PathBlock(self._next, paths))
        self._next += 1


def _write_block(connection: sqlite3.Connection, block: PathBlock) -> None:
    connection.execute(
        "INSERT INTO path_blocks VALUES (?,?,?)", (block.id, block.paths[0], block.paths[-1])
    )
    connection.execute(
        "INSERT INTO path_text (rowid, terms) VALUES (?,?)", (block.id, " ".join(block.terms))
    )
