"""Contents and their digests: claims about the same bytes are only ever added."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence

import msgspec
from msgspec.structs import astuple

from neuromirror.index.bulk_insert import insert_rows
from neuromirror.index.urls import key_hash
from neuromirror.model import ContentsDigested, Digest, RecordLine

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
                bytes.fromhex(one.sha256),
                one.piece_size,
                bytes.fromhex(one.root),
                key_hash(one.key),
                one.key,
            )
            for one in entry.contents
        ),
    )
