"""Contents, their checksums, keys and locations in the index."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from neuromirror.index.connection import MalformedQueryError
from neuromirror.model import ContentsDigested, Digest, Location, RecordLine
from neuromirror.model.records import plain_url

_ROWS = 500
"""Rows per statement. One row per statement takes half as long again, and releases the lock of
Python's interpreter for each."""


def insert_rows(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows into a table, in their order, many per SQL statement.

    Parameters
    ----------
    connection : sqlite3.Connection
        The connection; the caller has opened a transaction.
    into : str
        The table and its columns, as after ``INSERT INTO``.
    rows : sequence of tuple
        One value per column each.
    """
    whole = len(rows) - len(rows) % _ROWS
    if rows:
        one = f"({','.join('?' * len(rows[0]))})"
    if whole:
        many = f"INSERT INTO {into} VALUES {','.join([one] * _ROWS)}"
        for start in range(0, whole, _ROWS):
            connection.execute(many, list(chain.from_iterable(rows[start : start + _ROWS])))
    if whole < len(rows):
        connection.executemany(f"INSERT INTO {into} VALUES {one}", rows[whole:])


def short_hash(value: str | bytes) -> int:
    """Return the hash by which a URL is looked up: blake2b-64 as a signed integer for SQLite."""
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big", signed=True)


def key_hash(key: str) -> bytes:
    """Return the eight bytes by which an annex key is looked up.

    They are the first bytes of the digest in the key, so that a lookup by digest finds the key too.
    For a key without a digest they are those of a blake2b of the key.
    """
    try:
        head = bytes.fromhex(key.partition("--")[2][:16])
        if len(head) == 8:
            return head
    except ValueError:
        pass
    return blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()


CHECKED_BITS = {"sha256": 1, "md5": 2, "etag": 4}
"""Bits of ``contents.checked``: the digest was computed here."""

MULTIPART_ETAG = re.compile(r"([0-9a-f]{32})-([1-9][0-9]{0,9})\Z")
_HEX = {"sha256": re.compile(r"[0-9a-f]{64}\Z"), "md5": re.compile(r"[0-9a-f]{32}\Z")}

_COLUMNS = (
    "id, key, key_hash, size, sha256, md5, etag, parts, part_size, checked, "
    "sha256_by, md5_by, etag_by"
)


class _Content(msgspec.Struct, gc=False):
    """A row of ``contents``, in the order of its columns."""

    id: int
    key: str
    key_hash: bytes
    size: int | None
    sha256: bytes | None = None
    md5: bytes | None = None
    etag: bytes | None = None
    parts: int | None = None
    part_size: int | None = None
    checked: int = 0
    sha256_by: int | None = None
    md5_by: int | None = None
    etag_by: int | None = None


_OtherDigest = tuple[int, str, str, int, int, int]


class ContentWriter:
    """Looks up the contents of files by key, and adds missing contents and digests to the tables.

    For use within one transaction, which the caller opens.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        (self._last,) = connection.execute("SELECT coalesce(max(id), 0) FROM contents").fetchone()
        self._claimants = {
            name: number for number, name in connection.execute("SELECT id, name FROM claimants")
        }
        self.added_count = 0
        """Number of contents added."""

    def resolve(self, files: Sequence[RecordLine]) -> tuple[list[int], int]:
        """Return the content id of each file, and the lowest id of those added by this call."""
        first_new = number = self._last + 1
        hashes = [key_hash(record.key) for record in files]
        known = self._read_known(hashes)
        fresh: list[_Content] = []
        changed: dict[int, _Content] = {}
        others: list[_OtherDigest] = []
        ids = []
        for record, hashed in zip(files, hashes, strict=True):
            content = known.get(record.key)
            if content is None:
                content = self._new_content(number, record, hashed, others)
                known[record.key] = content
                fresh.append(content)
                number += 1
            elif self._merge(content, record, others) and content.id < first_new:
                changed[content.id] = content
            ids.append(content.id)
        self._last = number - 1
        self._write(fresh, changed, others)
        self.added_count += len(fresh)
        return ids, first_new

    def _new_content(
        self, number: int, record: RecordLine, hashed: bytes, others: list[_OtherDigest]
    ) -> _Content:
        """Return the row of a content that is not in the index yet."""
        content = _Content(number, record.key, hashed, record.size)
        if len(record.digests) == 1:
            # most files have one digest; merging it into an empty row takes twice as long
            (digest,) = record.digests
            form = _HEX.get(digest.algorithm)
            if form is not None and form.match(digest.value):
                value, claimant = bytes.fromhex(digest.value), self._claimant(digest.claimed_by)
                if digest.algorithm == "sha256":
                    content.sha256, content.sha256_by = value, claimant
                else:
                    content.md5, content.md5_by = value, claimant
                if digest.checked:
                    content.checked = CHECKED_BITS[digest.algorithm]
                return content
        for digest in record.digests:
            self._merge_digest(content, digest, record.part_size, others)
        return content

    def _read_known(self, hashes: list[bytes]) -> dict[str, _Content]:
        marks = ",".join("?" * len(hashes))
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM contents WHERE key_hash IN ({marks})", hashes
        )
        return {row[1]: _Content(*row) for row in found}

    def _write(
        self, fresh: list[_Content], changed: dict[int, _Content], others: list[_OtherDigest]
    ) -> None:
        insert_rows(self._db, f"contents ({_COLUMNS})", list(map(astuple, fresh)))
        self._db.executemany(
            "UPDATE contents SET size=?, sha256=?, md5=?, etag=?, parts=?, part_size=?, checked=?, "
            "sha256_by=?, md5_by=?, etag_by=? WHERE id=?",
            ((*astuple(content)[3:], content.id) for content in changed.values()),
        )
        self._db.executemany(
            "INSERT INTO other_digests VALUES (?,?,?,?,?,?) ON CONFLICT DO UPDATE "
            "SET checked = 1, claimant = excluded.claimant WHERE excluded.checked > checked",
            others,
        )

    def _merge(self, content: _Content, record: RecordLine, others: list[_OtherDigest]) -> bool:
        """Add what the record states to the row; return whether the row must be written."""
        grew = False
        if content.size is None and record.size is not None:
            content.size = record.size
            grew = True
        for digest in record.digests:
            grew |= self._merge_digest(content, digest, record.part_size, others)
        return grew

    def _merge_digest(
        self, content: _Content, digest: Digest, part_size: int | None, others: list[_OtherDigest]
    ) -> bool:
        if digest.algorithm == "etag":
            return self._merge_etag(content, digest, part_size, others)
        form = _HEX.get(digest.algorithm)
        if form is None or not form.match(digest.value):
            others.append(self._other_digest(content, digest, None))
            return False
        is_sha256 = digest.algorithm == "sha256"
        value = bytes.fromhex(digest.value)
        known = content.sha256 if is_sha256 else content.md5
        bit = CHECKED_BITS[digest.algorithm]
        if known == value and (content.checked & bit or not digest.checked):
            return False
        if known is not None and known != value:
            if content.checked & bit or not digest.checked:
                others.append(self._other_digest(content, digest, None))
                return False
            by = content.sha256_by if is_sha256 else content.md5_by
            assert by is not None
            others.append((content.id, digest.algorithm, known.hex(), 0, by, 0))
        claimant = self._claimant(digest.claimed_by)
        if is_sha256:
            content.sha256, content.sha256_by = value, claimant
        else:
            content.md5, content.md5_by = value, claimant
        if digest.checked:
            content.checked |= bit
        return True

    def _merge_etag(
        self, content: _Content, digest: Digest, part_size: int | None, others: list[_OtherDigest]
    ) -> bool:
        form = MULTIPART_ETAG.match(digest.value)
        if form is None:
            others.append(self._other_digest(content, digest, part_size))
            return False
        value, parts = bytes.fromhex(form[1]), int(form[2])
        bit = CHECKED_BITS["etag"]
        same = (content.etag, content.parts) == (value, parts) and (
            part_size is None or content.part_size in (None, part_size)
        )
        upgrade = digest.checked and not content.checked & bit
        if same and not upgrade and (part_size is None or content.part_size is not None):
            return False
        if content.etag is not None and not same:
            if not upgrade:
                others.append(self._other_digest(content, digest, part_size))
                return False
            assert content.etag_by is not None
            old = f"{content.etag.hex()}-{content.parts}"
            others.append((content.id, "etag", old, content.part_size or 0, content.etag_by, 0))
        if same and part_size is None:
            part_size = content.part_size
        if upgrade or not same:
            content.etag_by = self._claimant(digest.claimed_by)
        content.etag, content.parts, content.part_size = value, parts, part_size
        if digest.checked:
            content.checked |= bit
        return True

    def _other_digest(
        self, content: _Content, digest: Digest, part_size: int | None
    ) -> _OtherDigest:
        claimant = self._claimant(digest.claimed_by)
        checked = int(digest.checked)
        return (content.id, digest.algorithm, digest.value, part_size or 0, claimant, checked)

    def _claimant(self, name: str) -> int:
        number = self._claimants.get(name)
        if number is None:
            number = len(self._claimants) + 1
            self._db.execute("INSERT INTO claimants VALUES (?, ?)", (number, name))
            self._claimants[name] = number
        return number


def record_block_digests(connection: sqlite3.Connection, entry: ContentsDigested) -> None:
    """Record the block digests of contents; those of contents in no dataset are left out."""
    connection.executemany(
        "INSERT INTO block_digests SELECT id, ?, ?, ? FROM contents WHERE key_hash = ? AND key = ? "
        "ON CONFLICT DO UPDATE SET sha256 = excluded.sha256, piece_size = excluded.piece_size, "
        "root = excluded.root",
        (
            (
                bytes.fromhex(content.sha256),
                content.piece_size,
                bytes.fromhex(content.root),
                key_hash(content.key),
                content.key,
            )
            for content in entry.contents
        ),
    )


_PendingLocation = tuple[Location, int, bool]
"""A location, the hash of its plain URL, whether a changed file has it."""

_RELEARN = "UPDATE locations SET last_version = max(last_version, ?) WHERE id = ?"
_LOCATION_COLUMNS = "locations (content, rank, url, kind, version_id, url_hash, last_version)"

EXACT, OBJECT, ADDRESS = 0, 1, 2
"""Ranks: an exact object version, an object that may be overwritten, another URL."""


def rank(location: Location) -> int:
    """Return the preference of a location; a lower number is better.

    An object version is best, then an object without a version, then any other URL.
    """
    if location.kind not in ("s3", "s3-private"):
        return ADDRESS
    return OBJECT if location.version_id is None else EXACT


class LocationWriter:
    """Adds the locations of the files of one version to the tables.

    For use within one transaction, which the caller opens.

    Parameters
    ----------
    connection
        The connection.
    version
        The id of the version.
    is_renewal
        Whether the version is in the index already, so that its own locations become the last ones.
    """

    def __init__(
        self, connection: sqlite3.Connection, version: int, *, is_renewal: bool = False
    ) -> None:
        self._db = connection
        self._version = version
        self._is_renewal = is_renewal

    def add(self, files: Iterable[tuple[int, bool, bool, Sequence[Location]]]) -> None:
        """Add the locations of files.

        An item is (content id, whether the content is new, whether the file changed, locations).

        A location of a changed file gets this version as its last one, so that after a roll-back
        upstream the exact object version of a plain URL is again the one that is served.
        """
        # in order of appearance, whatever the batch size: it determines the row ids (I8)
        pending: dict[tuple[int, str], _PendingLocation] = {}
        hashes: list[int] = []
        for content, fresh, changed, locations in files:
            for location in locations:
                at = (content, location.url)
                before = pending.get(at)
                if before is None:
                    plain = short_hash(plain_url(location.url))
                    pending[at] = (location, plain, changed)
                    if not fresh:
                        hashes.append(plain)
                elif changed and not before[2]:
                    pending[at] = (before[0], before[1], True)
        known = self._read_known(hashes)
        version = self._version
        new: list[tuple[int, int, str, str, str | None, int, int]] = []
        relearned: list[tuple[int, int]] = []
        for at, (location, plain, changed) in pending.items():
            found = known.get(at)
            if found is None:
                version_id = _explicit_version_id(location)
                new.append(
                    (at[0], rank(location), at[1], location.kind, version_id, plain, version)
                )
            elif changed and (found[1] != version or self._is_renewal):
                relearned.append((version, found[0]))
        self._db.executemany(_RELEARN, relearned)
        if self._is_renewal:
            self._db.executemany(
                "UPDATE locations SET id = (SELECT max(id) + 1 FROM locations) WHERE id = ?",
                [(number,) for _, number in relearned],
            )
        insert_rows(self._db, _LOCATION_COLUMNS, new)

    def add_new(self, contents: Sequence[int], records: Sequence[RecordLine]) -> None:
        """Add the locations of files whose contents are all new and distinct."""
        version = self._version
        new = []
        for content, record in zip(contents, records, strict=True):
            locations: Iterable[Location] = record.locations
            if len(record.locations) > 1:
                once: dict[str, Location] = {}
                for location in record.locations:
                    once.setdefault(location.url, location)
                locations = once.values()
            for location in locations:
                plain = short_hash(plain_url(location.url))
                version_id = _explicit_version_id(location)
                new.append(
                    (
                        content,
                        rank(location),
                        location.url,
                        location.kind,
                        version_id,
                        plain,
                        version,
                    )
                )
        insert_rows(self._db, _LOCATION_COLUMNS, new)

    def _read_known(self, hashes: list[int]) -> dict[tuple[int, str], tuple[int, int]]:
        """Return (row id, last version) of the locations that exist, by content and URL."""
        found: dict[tuple[int, str], tuple[int, int]] = {}
        # by URL, not by content: one content may have very many locations
        for start in range(0, len(hashes), 10_000):
            some = hashes[start : start + 10_000]
            marks = ",".join("?" * len(some))
            for row in self._db.execute(
                f"SELECT content, url, id, last_version FROM locations WHERE url_hash IN ({marks})",
                some,
            ):
                found[row[:2]] = row[2:]
        return found


def _explicit_version_id(location: Location) -> str | None:
    """Return the version id if it must be stored: most URLs contain it."""
    if location.version_id is None or location.url.endswith(f"versionId={location.version_id}"):
        return None
    return location.version_id


_SHA256 = re.compile(r"[0-9a-f]{8,64}\Z")
MD5 = re.compile(r"[0-9a-f]{32}\Z")
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
        if MD5.match(value):
            return [*_md5_lookups(value), *_etag_lookups(value, None, None)]
        if (form := _ETAG.match(value)) and form[2]:
            return _etag_lookups(form[1], form[2], form[3])
    elif algorithm == "sha256" and _SHA256.match(value):
        return _sha256_lookups(value)
    elif algorithm == "md5" and MD5.match(value):
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
