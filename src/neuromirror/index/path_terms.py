"""Terms of paths, which find datasets by the names of their files.

The paths that a version added are split into blocks of some hundred, and the full-text table holds
the distinct terms of each block, nothing else: a search returns the few blocks that contain all
terms, and the rows of ``files`` between a block's first and last path are then compared. This costs
about ten bytes per file. Terms are separated by ``/ _ - .`` and other punctuation and are compared
without case; a short number is a term together with the word before it (``sub-01``). Single letters
and short numbers alone are omitted, because almost every path has them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from unicodedata import ucd_3_2_0

from msgspec import Struct

from neuromirror.index.dataset_text import add_data_types, data_types

PATHS_PER_BLOCK = 500
"""Paths per block. Blocks are rows, so changing it changes the schema."""
BLOCK_SHIFT = 20
"""Bits by which a version's id is shifted in the ids of its blocks; the rest is the position."""
MIN_DIGITS = 4
"""Number of digits from which a number is a term of its own."""

_SEPARATORS = bytes(sign for sign in range(128) if not chr(sign).isalnum())
_SPLIT_ALL = bytes.maketrans(_SEPARATORS, b" " * len(_SEPARATORS))
_KEEP_HYPHENS = bytes.maketrans(_SEPARATORS.replace(b"-", b""), b" " * (len(_SEPARATORS) - 1))


def path_terms(text: str) -> set[str]:
    """Return the words and numbers in paths by which searches find files, in lower case.

    A number that is too short to be useful is combined with the word before it: ``sub-01``.

    Parameters
    ----------
    text
        One path, or several separated by newlines.
    """
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
    """Return whether SQLite's full-text tokenizer does not split a term.

    It may split terms with characters newer than Unicode 3.2. The table of path terms cannot be
    queried for a term of several tokens, because it stores no positions.
    """
    return all(one.isascii() or ucd_3_2_0.category(one)[0] in "LN" for one in term)


class PathBlock(Struct, frozen=True):
    """A few hundred consecutive paths that a version added, whose terms are indexed as one unit.

    Attributes
    ----------
    id
        The row id of the block.
    paths
        The paths, sorted.
    """

    id: int
    paths: Sequence[str]

    @property
    def terms(self) -> list[str]:
        """The terms, sorted, because the order of a set differs between processes."""
        return sorted(path_terms("\n".join(self.paths)))


def split_blocks(version: int, paths: Iterable[str]) -> Iterator[PathBlock]:
    """Divide the paths that a version added into blocks.

    Parameters
    ----------
    version
        The row id of the version, which determines the ids of the blocks.
    paths
        The added paths, sorted.
    """
    left = iter(paths)
    for number in count(version << BLOCK_SHIFT):
        some = list(islice(left, PATHS_PER_BLOCK))
        if not some:
            return
        yield PathBlock(number, some)


class PathTermWriter:
    """Writes the search terms and kinds of the paths that one version adds.

    For use within one transaction, which the caller opens.
    """

    def __init__(self, connection: sqlite3.Connection, version: int) -> None:
        self._db = connection
        self._version = version
        self._next = version << BLOCK_SHIFT
        self._paths: list[str] = []
        self._data_types: set[str] = set()

    def add(self, paths: Iterable[str]) -> None:
        """Add further paths of the version; all paths must be sorted."""
        self._paths.extend(paths)
        while len(self._paths) >= PATHS_PER_BLOCK:
            self._write(self._paths[:PATHS_PER_BLOCK])
            del self._paths[:PATHS_PER_BLOCK]

    def close(self) -> None:
        """Write the last block and the kinds of the files."""
        if self._paths:
            self._write(self._paths)
        add_data_types(self._db, self._version, self._data_types)

    def _write(self, paths: list[str]) -> None:
        _write_block(self._db, PathBlock(self._next, paths))
        self._data_types |= data_types(paths)
        self._next += 1


def _write_block(connection: sqlite3.Connection, block: PathBlock) -> None:
    connection.execute(
        "INSERT INTO path_blocks VALUES (?,?,?)", (block.id, block.paths[0], block.paths[-1])
    )
    connection.execute(
        "INSERT INTO path_text (rowid, terms) VALUES (?,?)", (block.id, " ".join(block.terms))
    )
