"""Parse checksums and annex keys that users search for."""

from __future__ import annotations

import re

from msgspec import Struct

from neuromirror.index.contents import key_hash
from neuromirror.index.errors import MalformedQueryError

_SHA256 = re.compile(r"[0-9a-f]{8,64}\Z")
_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_ETAG = re.compile(r"([0-9a-f]{32})(?:-([1-9][0-9]{0,9}))?(?:-([1-9][0-9]{0,14}))?\Z")
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(?:-[a-zA-Z][0-9]+)*--.+\Z")

_ROOT = re.compile(r"[0-9a-f]{64}\Z")

_ACCEPTED_FORMS = (
    "sha256:<hex> (at least its first 8 digits), md5:<hex> (all 32 digits), etag:<md5>-<parts>, "
    "btv2:<hex> (the root of the file's block digests), "
    "the bare digits of one of these, or a git-annex key"
)


class ContentLookup(Struct, frozen=True):
    """An SQL statement that selects ids of contents, with the values of its parameters."""

    sql: str
    parameters: tuple[object, ...]


def parse_checksum(query: str) -> list[ContentLookup]:
    """Return the SQL lookups that together find the contents with a checksum or an annex key.

    Several lookups are returned if the text has several meanings: 32 hexadecimal digits are an MD5
    or an ETag.

    Parameters
    ----------
    query
        The text from the user: an annex key, a digest in hex, or ``<algorithm>:<digest>``.

    Returns
    -------
    list[ContentLookup]
        The statements to execute; the result is the union of their rows.

    Raises
    ------
    MalformedQueryError
        The text is neither a checksum nor a key.
    """
    text = query.strip().strip('"')
    if _KEY.match(text):
        return [
            ContentLookup(
                "SELECT id FROM contents WHERE key_hash = ? AND key = ?", (key_hash(text), text)
            )
        ]
    algorithm, colon, value = text.lower().rpartition(":")
    if not colon:
        if re.fullmatch(r"[0-9a-f]{64}", value):
            return _sha256_lookups(value)
        if _MD5.match(value):
            return [*_md5_lookups(value), *_etag_lookups(value, None, None)]
        if (form := _ETAG.match(value)) and form[2]:
            return _etag_lookups(form[1], form[2], form[3])
    elif algorithm == "sha256" and _SHA256.match(value):
        return _sha256_lookups(value)
    elif algorithm == "md5" and _MD5.match(value):
        return _md5_lookups(value)
    elif algorithm == "etag" and (form := _ETAG.match(value)):
        return _etag_lookups(form[1], form[2], form[3])
    elif algorithm == "btv2" and _ROOT.match(value):
        sql = "SELECT content FROM block_digests WHERE root = ?"
        return [ContentLookup(sql, (bytes.fromhex(value),))]
    raise MalformedQueryError(f"{query[:120]!r} is not a checksum; enter {_ACCEPTED_FORMS}")


def is_checksum(text: str) -> bool:
    """Return whether a text is a checksum or an annex key.

    Parameters
    ----------
    text
        The text.

    Returns
    -------
    bool
        Whether the text can be looked up with :func:`parse_checksum`.
    """
    try:
        parse_checksum(text)
    except MalformedQueryError:
        return False
    return True


def _sha256_lookups(value: str) -> list[ContentLookup]:
    low, high = bytes.fromhex(value.ljust(64, "0")), bytes.fromhex(value.ljust(64, "f"))
    return [
        *_range_lookups("sha256", low, high),
        ContentLookup(
            "SELECT content FROM other_digests WHERE value BETWEEN ? AND ? "
            "AND algorithm = 'sha256'",
            (value, value.ljust(64, "f")),
        ),
        ContentLookup(
            "SELECT content FROM block_digests WHERE sha256 BETWEEN ? AND ?", (low, high)
        ),
    ]


def _md5_lookups(value: str) -> list[ContentLookup]:
    digest = bytes.fromhex(value)
    return [
        *_range_lookups("md5", digest, digest),
        ContentLookup(
            "SELECT content FROM other_digests WHERE value = ? AND algorithm = 'md5'", (value,)
        ),
    ]


def _etag_lookups(value: str, parts: str | None, part_size: str | None) -> list[ContentLookup]:
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
            ContentLookup(found.sql + first, (*found.parameters, *given))
            for found in _range_lookups("etag", digest, digest)
        ),
        ContentLookup(f"{other} AND algorithm = 'etag'", tuple(other_given)),
    ]


def _range_lookups(column: str, low: bytes, high: bytes) -> list[ContentLookup]:
    """Return lookups of contents by a range of digests, with and without it in the key."""
    head = f"substr({column}, 1, 8)"
    given = (low[:8], high[:8], low, high)
    return [
        ContentLookup(
            f"SELECT id FROM contents WHERE key_hash BETWEEN ? AND ? AND {column} BETWEEN ? AND ?",
            given,
        ),
        ContentLookup(
            f"SELECT id FROM contents WHERE {head} <> key_hash AND {head} BETWEEN ? AND ? "
            f"AND {column} BETWEEN ? AND ?",
            given,
        ),
    ]
