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
from itertools import count, groupby, islice
from operator import itemgetter
from unicodedata import ucd_3_2_0

PATHS = 500
"""Paths of a block. To change it is to change the schema: the blocks are rows."""
SHIFT = 20
"""A block's number is its version's id, shifted by so many bits, and its place among them."""
SHORT = 4
"""Digits from which on a number is a word of its own."""

_SIGNS = bytes(sign for sign in range(128) if not chr(sign).isalnum())
_APART = bytes.maketrans(_SIGNS, b" " * len(_SIGNS))
_JOINED = bytes.maketrans(_SIGNS.replace(b"-", b""), b" " * (len(_SIGNS) - 1))


def path_words(text: str) -> set[str]:
    """The distinct words of paths, in lower case; paths may stand one a line."""
    pieces = set(text.lower().encode().translate(_JOINED).split())
    words = {
        word
        for word in map(bytes.decode, set(b" ".join(pieces).translate(_APART).split()))
        if len(word) >= (SHORT if word.isdecimal() else 2)
    }
    for piece in pieces:
        rest, _, number = piece.rpartition(b"-")
        if number.isdigit() and len(number) < SHORT:
            numbered = rest.rpartition(b"-")[2]
            if numbered:
                words.add(f"{numbered.decode()}-{number.decode()}")
    return words


def is_one(word: str) -> bool:
    """Whether SQLite takes this as one word, too: it may know no letters of later Unicodes.

    Where words alone are indexed it refuses a question for two in a row.
    """
    return all(one.isascii() or ucd_3_2_0.category(one)[0] in "LN" for one in word)


@dataclass(frozen=True, slots=True)
class Block:
    """Some hundred paths that a version brought, sorted, and their words."""

    id: int
    paths: Sequence[str]

    @property
    def words(self) -> list[str]:
        """Sorted, since the order of a set is another one in each process."""
        return sorted(path_words("\n".join(self.paths)))


def blocks_of(version: int, paths: Iterable[str]) -> Iterator[Block]:
    """The blocks of the paths that a version, by its id, brought; the paths come sorted."""
    left = iter(paths)
    for place in count(version << SHIFT):
        some = list(islice(left, PATHS))
        if not some:
            return
        yield Block(place, some)


class PathWordWriter:
    """Takes the paths that a version brings, sorted; lives for one transaction."""

    def __init__(self, connection: sqlite3.Connection, version: int) -> None:
        self._db = connection
        self._next = version << SHIFT
        self._paths: list[str] = []

    def take(self, paths: Iterable[str]) -> None:
        """Further paths of the version."""
        self._paths.extend(paths)
        while len(self._paths) >= PATHS:
            self._write(self._paths[:PATHS])
            del self._paths[:PATHS]

    def close(self) -> None:
        """All paths were taken."""
        if self._paths:
            self._write(self._paths)

    def _write(self, paths: list[str]) -> None:
        _write(self._db, Block(self._next, paths))
        self._next += 1


def _write(connection: sqlite3.Connection, block: Block) -> None:
    connection.execute(
        "INSERT INTO path_blocks VALUES (?,?,?)", (block.id, block.paths[0], block.paths[-1])
    )
    connection.execute(
        "INSERT INTO path_text (rowid, words) VALUES (?,?)", (block.id, " ".join(block.words))
    )


def fill(connection: sqlite3.Connection) -> None:
    """Write the blocks of an index that has none yet, as recording its versions does."""
    datasets = connection.execute("SELECT id FROM datasets WHERE within = ''").fetchall()
    for dataset in datasets:
        rows = connection.execute(
            "SELECT v.id, f.path FROM files f JOIN versions v "
            "ON v.dataset = f.dataset AND v.seq = f.since "
            "WHERE f.dataset = ? ORDER BY f.since, f.path",
            dataset,
        )
        for version, brought in groupby(rows, key=itemgetter(0)):
            for block in blocks_of(version, map(itemgetter(1), brought)):
                _write(connection, block)
