"""Which datasets have some words: in what is said of them, or in paths of their files.

Every word must be found, each in the one or the other; those in paths must stand in one path. The
text of datasets is small and is asked word by word; of paths, full-text search tells blocks (see
:mod:`neuromirror.index.path_words`), and a look at the few paths of a block tells the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from neuromirror.index.errors import MalformedQuery
from neuromirror.index.path_words import SHIFT, SHORT, is_one, path_words
from neuromirror.index.reading import Reading

LONGEST = 500
"""Characters of a search at most."""
_WORDS = 40
BLOCKS = 400
"""Blocks of paths that are looked at for an answer, so that it comes in time."""
_MIXTURES = 8
"""Ways of being found partly by text and partly by paths that are looked into."""
_SCANNED = 20_000
"""Rows of files between the first and the last path of a block that are looked at."""

_LAST = re.compile(r"[0-9A-Za-z\x80-\U0010ffff]+\Z")
_NUMBERED = re.compile(r"([0-9A-Za-z\x80-\U0010ffff]+)-\Z")

_TEXT = """
SELECT t.rowid, m.name FROM dataset_text t JOIN datasets d ON d.id = t.rowid
JOIN mirrors m ON m.id = d.mirror WHERE dataset_text MATCH ? AND d.withheld = ''
"""
# a name or a title says more than an attribute, an attribute more than a license
_BEST_FIRST = (
    "ORDER BY d.within <> '', bm25(dataset_text, 10.0, 5.0, 1.0, 2.0, 3.0), m.name, d.local_id"
)
_BLOCKS = f"""
SELECT d.id, m.name, b.blocks FROM (
    SELECT v.dataset AS dataset, group_concat(p.rowid) AS blocks, max(p.rowid) AS last
    FROM path_text p CROSS JOIN versions v ON v.id = p.rowid >> {SHIFT}
    WHERE path_text MATCH ? GROUP BY v.dataset
) b JOIN datasets d ON d.id = b.dataset JOIN mirrors m ON m.id = d.mirror
WHERE d.withheld = '' ORDER BY b.last DESC
"""
_IN_BLOCK = """
SELECT path, until FROM (
    SELECT path, since, until FROM files WHERE dataset = ? AND path >= ? AND path <= ? LIMIT ?
) WHERE since = ?
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dataset that may be one: its id, its mirror's name, and words yet to be found in a path.

    ``blocks`` are those in which they all stand, with commas between: most are never looked at.
    """

    dataset: int
    mirror: str
    missing: tuple[str, ...]
    blocks: str


@dataclass(frozen=True, slots=True)
class PathMatch:
    """A path that has the words, ``version`` (its id) that brought it, and whether it is there yet.

    ``path`` is None where the index tells only that such paths are likely.
    """

    version: int
    path: str | None
    current: bool


class Matching(Reading):
    """Looks words up."""

    def _candidates(self, words: str) -> list[Candidate]:
        """Datasets by words, best first; raises :class:`MalformedQuery`."""
        asked = split_words(words)
        found: dict[int, int] = {}
        for place, word in enumerate(asked):
            for dataset, _ in self._rows(_TEXT, (text_query([word]),)):
                found[dataset] = found.get(dataset, 0) | 1 << place
        every = (1 << len(asked)) - 1
        candidates = [
            Candidate(dataset, mirror, (), "")
            for dataset, mirror in self._rows(_TEXT + _BEST_FIRST, (text_query(asked),))
        ]
        seen = {one.dataset for one in candidates}
        lacking = {every & ~had for had in found.values()} - {0}
        fewest = sorted(lacking, key=lambda mask: (mask.bit_count(), mask))[:_MIXTURES]
        for mask in [*fewest, every]:
            missing = tuple(word for place, word in enumerate(asked) if mask >> place & 1)
            query = path_query(missing)
            for dataset, mirror, blocks in self._rows(_BLOCKS, (query,)) if query else ():
                if dataset not in seen and (mask | found.get(dataset, 0)) == every:
                    seen.add(dataset)
                    candidates.append(Candidate(dataset, mirror, missing, blocks))
        return candidates

    def _dataset_ids(self, words: str, most: int) -> list[int]:
        """The datasets that have all words, by a look at so many blocks of paths at most."""
        found = []
        for one in self._candidates(words):
            match, looked = self._confirmed(one, most)
            most -= looked
            if match is not None or not one.missing:
                found.append(one.dataset)
        return found

    def _confirmed(self, candidate: Candidate, most: int) -> tuple[PathMatch | None, int]:
        """A path with the missing words, and how many blocks were looked at, ``most`` at most.

        None where no path has them.
        """
        unsure: PathMatch | None = None
        # the newest version's first
        blocks = sorted(map(int, filter(None, candidate.blocks.split(","))), reverse=True)
        for count, block in enumerate(blocks):
            if count >= most:
                return unsure or PathMatch(block >> SHIFT, None, False), count
            match = self._in_block(candidate, block)
            if match is not None and match.path is not None:
                return match, count + 1
            unsure = unsure or match
        return unsure, len(blocks)

    def _in_block(self, candidate: Candidate, block: int) -> PathMatch | None:
        row = self._row(
            "SELECT b.first, b.last, v.seq FROM path_blocks b JOIN versions v ON v.id = ? "
            "WHERE b.id = ?",
            (block >> SHIFT, block),
        )
        assert row is not None
        first, last, seq = row
        conditions, values, fits = path_conditions(candidate.missing, "path")
        given = (candidate.dataset, first, last, _SCANNED, seq, *values)
        for path, until in self._rows(_IN_BLOCK + conditions, given):
            if fits(path):
                return PathMatch(block >> SHIFT, path, until is None)
        looked = self._row(
            "SELECT count(*) FROM (SELECT 1 FROM files WHERE dataset = ? AND path >= ? "
            "AND path <= ? LIMIT ?)",
            (candidate.dataset, first, last, _SCANNED),
        )
        assert looked is not None
        return PathMatch(block >> SHIFT, None, False) if looked[0] == _SCANNED else None


def split_words(words: str) -> list[str]:
    """The words of a search, each once; raises :class:`MalformedQuery` for none or too many."""
    if len(words) > LONGEST:
        raise MalformedQuery(
            f"a search may have {LONGEST} characters, not {len(words)}: give the words that matter"
        )
    # what no text in the index can have is a space
    plain = words.encode("utf-8", "replace").decode().replace("\0", " ")
    found = [
        word for word in dict.fromkeys(plain.split()) if any(letter.isalnum() for letter in word)
    ]
    if not found:
        raise MalformedQuery(f"no words to search for: {words[:120]!r}")
    if len(found) > _WORDS:
        raise MalformedQuery(f"a search may have {_WORDS} words, not {len(found)}")
    return found


def text_query(words: Iterable[str]) -> str:
    """Words as full-text search takes them: each may be the beginning of one."""
    return " ".join('"{}"*'.format(word.replace('"', '""')) for word in words)


def path_query(words: Iterable[str]) -> str:
    """The blocks that may have a path with all the words, empty where none of them tells."""
    return " AND ".join(filter(None, map(_path_word, words)))


def _path_word(word: str) -> str:
    """What a block must have for one word; the end of it may be the beginning of a path's word."""
    ending = _LAST.search(word)
    last = ending.group().lower() if ending else ""
    before = word[: len(word) - len(last)] if ending else word
    terms = [f'"{one}"' for one in sorted(path_words(before)) if is_one(one)]
    if last.isdecimal() and len(last) < SHORT:
        if (numbered := _NUMBERED.search(before)) and is_one(numbered[1].lower()):
            # of a longer number that is not typed to its end, too
            terms.append(f'("{numbered[1].lower()}-{last}"* OR "{last}"*)')
    elif len(last) > 1 and is_one(last):
        terms.append(f'"{last}"*')
    return " AND ".join(terms)


def path_conditions(
    words: Sequence[str], column: str
) -> tuple[str, list[str], Callable[[str], bool]]:
    """That a path has all the words: as SQL that goes on, its values, and what is left to Python.

    SQLite knows the lower case of ASCII only.
    """
    plain = [word.lower() for word in words if word.isascii()]
    others = [word.casefold() for word in words if not word.isascii()]
    conditions = "".join(f" AND instr(lower({column}), ?)" for _ in plain)
    return conditions, plain, lambda path: all(word in path.casefold() for word in others)
