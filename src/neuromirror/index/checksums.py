"""What a person may type to find a file by its bytes, and the look-ups it stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from neuromirror.index.errors import MalformedQuery
from neuromirror.index.urls import key_hash

_SHA256 = re.compile(r"[0-9a-f]{8,64}\Z")
_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_ETAG = re.compile(r"([0-9a-f]{32})(?:-([1-9][0-9]{0,9}))?(?:-([1-9][0-9]{0,14}))?\Z")
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(?:-[a-zA-Z][0-9]+)*--.+\Z")

_FORMS = (
    "sha256:<hex> (at least its first 8 digits), md5:<hex>, etag:<md5>-<parts>, these without the "
    "word before the colon, or a git-annex key"
)


@dataclass(frozen=True, slots=True)
class Lookup:
    """SQL that gives the ids of contents, with its parameters."""

    sql: str
    parameters: tuple[object, ...]


def parse_query(query: str) -> list[Lookup]:
    """The look-ups of a checksum or key; raises :class:`MalformedQuery`."""
    text = query.strip().strip('"')
    if _KEY.match(text):
        return [
            Lookup("SELECT id FROM contents WHERE key_hash = ? AND key = ?", (key_hash(text), text))
        ]
    word, colon, value = text.lower().rpartition(":")
    if not colon:
        if re.fullmatch(r"[0-9a-f]{64}", value):
            return _sha256(value)
        if _MD5.match(value):
            return [*_md5(value), *_etag(value, None, None)]
        if (form := _ETAG.match(value)) and form[2]:
            return _etag(form[1], form[2], form[3])
    elif word == "sha256" and _SHA256.match(value):
        return _sha256(value)
    elif word == "md5" and _MD5.match(value):
        return _md5(value)
    elif word == "etag" and (form := _ETAG.match(value)):
        return _etag(form[1], form[2], form[3])
    raise MalformedQuery(f"not a checksum: {query[:120]!r}; give {_FORMS}")


def is_checksum(words: str) -> bool:
    """Whether somebody gave a checksum or a key, and not words to search for."""
    try:
        parse_query(words)
    except MalformedQuery:
        return False
    return True


def _sha256(value: str) -> list[Lookup]:
    low, high = bytes.fromhex(value.ljust(64, "0")), bytes.fromhex(value.ljust(64, "f"))
    return [
        *_in_contents("sha256", low, high),
        Lookup(
            "SELECT content FROM other_digests WHERE value BETWEEN ? AND ? "
            "AND algorithm = 'sha256'",
            (value, value.ljust(64, "f")),
        ),
    ]


def _md5(value: str) -> list[Lookup]:
    digest = bytes.fromhex(value)
    return [
        *_in_contents("md5", digest, digest),
        Lookup("SELECT content FROM other_digests WHERE value = ? AND algorithm = 'md5'", (value,)),
    ]


def _etag(value: str, parts: str | None, part_size: str | None) -> list[Lookup]:
    digest = bytes.fromhex(value)
    first = ""
    given: list[object] = []
    if parts is None:
        # "." sorts next after "-": all numbers of parts
        other = "SELECT content FROM other_digests WHERE value >= ? AND value < ?"
        other_given: list[object] = [f"{value}-", f"{value}."]
    else:
        first += " AND parts = ?"
        given.append(int(parts))
        other = "SELECT content FROM other_digests WHERE value = ?"
        other_given = [f"{value}-{parts}"]
    if part_size is not None:
        first += " AND part_size = ?"
        given.append(int(part_size))
        other += " AND part_size = ?"
        other_given.append(int(part_size))
    return [
        *(
            Lookup(found.sql + first, (*found.parameters, *given))
            for found in _in_contents("etag", digest, digest)
        ),
        Lookup(f"{other} AND algorithm = 'etag'", tuple(other_given)),
    ]


def _in_contents(column: str, low: bytes, high: bytes) -> list[Lookup]:
    """The contents whose digest lies in a range: keys named by it, and the others."""
    head = f"substr({column}, 1, 8)"
    given = (low[:8], high[:8], low, high)
    return [
        Lookup(
            f"SELECT id FROM contents WHERE key_hash BETWEEN ? AND ? AND {column} BETWEEN ? AND ?",
            given,
        ),
        Lookup(
            f"SELECT id FROM contents WHERE {head} <> key_hash AND {head} BETWEEN ? AND ? "
            f"AND {column} BETWEEN ? AND ?",
            given,
        ),
    ]
