"""The ledger: which contents each vault has, when that was checked and how, and what is to be kept.

The file is beside the index. What it states about a vault can be restored from the vault itself
(``neuromirror vault check``); wishes are only here.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, Self

from msgspec import Struct

from neuromirror.index.connection import DatabaseFile, DatabaseFormat, OpenDatabase

CheckMethod = Literal["full-read", "s3-sha256", "s3-etag", "size", "head", "listing"]
"""How a copy was checked last.

``full-read``: all bytes were hashed here. ``s3-…``: S3 computed this checksum of the bytes that it
stored, and it equals that of the bytes. ``size``: only the size was compared, because the key has
no checksum. ``head`` and ``listing``: the vault states the size.
"""

HASH_METHODS: Final = ("full-read", "size", "s3-sha256", "s3-etag")
"""Checks that read all bytes; ``size`` is that of a key without a checksum."""

CopyState = Literal["present", "damaged", "missing"]
"""``damaged``: the bytes are wrong. ``missing``: the vault does not have it any more."""


class Stored(Struct, frozen=True):
    """A content that a vault has, verified.

    Attributes
    ----------
    key
        Its annex key.
    size
        Its size in bytes.
    method
        How it was verified.
    """

    key: str
    size: int
    method: CheckMethod


class LedgerCopy(Struct, frozen=True):
    """A copy: one content in one vault.

    Attributes
    ----------
    vault
        The UUID of the vault.
    key
        The annex key.
    size
        Size in bytes.
    kept, checked
        When it was stored and when it was checked last, in POSIX seconds.
    hashed
        When all its bytes were hashed last, in POSIX seconds; 0 for never.
    method
        How it was checked last.
    state
        Whether the vault has it; only ``present`` copies count.
    """

    vault: str
    key: str
    size: int
    kept: float
    checked: float
    hashed: float
    method: CheckMethod
    state: CopyState


class LedgerVault(Struct, frozen=True):
    """A vault and the totals of its copies.

    Attributes
    ----------
    uuid, name, kind
        The vault.
    checked
        When all its keys were listed last, in POSIX seconds; None for never.
    copies, bytes
        Number and size of its present copies.
    damaged, missing
        Number of copies that were found damaged or missing and are not repaired.
    oldest_check
        When the present copy that was not checked for the longest time was checked; None without
        copies.
    oldest_read
        When all bytes of the present copy that was not hashed for the longest time were hashed.
    """

    uuid: str
    name: str
    kind: str
    checked: float | None
    copies: int
    bytes: int
    damaged: int
    missing: int
    oldest_check: float | None
    oldest_read: float | None


class Wish(Struct, frozen=True):
    """Content to keep in a vault.

    Attributes
    ----------
    id
        Its number; 0 for one that is not recorded.
    kind
        ``version``, ``lock``, or the kind of a policy.
    what
        The name of the version, the path of the lock file, or the name of the policy.
    vault
        The UUID of the vault.
    globs
        Globs that select files; empty for all.
    since
        When it was recorded first, in POSIX seconds.
    """

    kind: str
    what: str
    vault: str
    globs: tuple[str, ...] = ()
    since: float = 0.0
    id: int = 0


_TABLES: Final = """
CREATE TABLE IF NOT EXISTS vaults (
    id INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    checked REAL  -- the last time that the whole vault was listed
) STRICT;

CREATE TABLE IF NOT EXISTS copies (
    vault INTEGER NOT NULL REFERENCES vaults,
    key TEXT NOT NULL,
    size INTEGER NOT NULL,
    kept REAL NOT NULL,
    checked REAL NOT NULL,
    hashed REAL NOT NULL,  -- the last time that all its bytes were hashed; 0: never
    method TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (vault, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS copies_key ON copies (key);
CREATE INDEX IF NOT EXISTS copies_checked ON copies (vault, checked);
CREATE INDEX IF NOT EXISTS copies_hashed ON copies (vault, hashed);
CREATE INDEX IF NOT EXISTS copies_lost ON copies (vault, state) WHERE state <> 'present';

CREATE TABLE IF NOT EXISTS wishes (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    what TEXT NOT NULL,
    vault INTEGER NOT NULL REFERENCES vaults,
    globs TEXT NOT NULL,
    since REAL NOT NULL,
    UNIQUE (kind, what, vault, globs)
) STRICT;

CREATE TABLE IF NOT EXISTS wish_keys (
    wish INTEGER NOT NULL REFERENCES wishes ON DELETE CASCADE,
    key TEXT NOT NULL,
    size INTEGER,
    PRIMARY KEY (wish, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS wish_keys_key ON wish_keys (key);

"""

APPLICATION_ID = 0x6E6D6C67  # "nmlg"
SCHEMA = 1
_CHUNK: Final = 20_000
"""Copies that are returned, and keys that are looked up, by one statement."""

_FORMAT: Final = DatabaseFormat(
    kind="ledger",
    application_id=APPLICATION_ID,
    schema=SCHEMA,
    tables=_TABLES,
    synchronous="FULL",
    replacement="move it away and run 'neuromirror vault check' for each vault to create a new one",
)

_HASHED = ", ".join(f"'{method}'" for method in HASH_METHODS)
_COPY = "v.uuid, c.key, c.size, c.kept, c.checked, c.hashed, c.method, c.state"


class Ledger(OpenDatabase):
    """The copies and wishes of a store or a user. Each method is one transaction.

    Several threads and processes may use the file.

    Attributes
    ----------
    path
        The file.
    clock
        Returns the time in POSIX seconds.
    wishes
        The content to keep in each vault.
    """

    def __init__(self, file: DatabaseFile, clock: Callable[[], float]) -> None:
        super().__init__(file)
        self.clock = clock
        self.wishes = WishTable(self._file, clock)

    @classmethod
    def open(cls, path: Path, clock: Callable[[], float] = time.time) -> Self:
        """Open the file, or create it.

        Raises
        ------
        IndexUnusableError
            The file is not a ledger or has another schema version.
        """
        return cls(DatabaseFile.open(path, _FORMAT), clock)

    def add_vault(self, uuid: str, name: str, kind: str) -> None:
        """Record a vault, or its new name."""
        with self._file.writing() as db:
            db.execute(
                "INSERT INTO vaults (uuid, name, kind) VALUES (?, ?, ?) "
                "ON CONFLICT (uuid) DO UPDATE SET name = excluded.name, kind = excluded.kind",
                (uuid, name, kind),
            )

    def vaults(self) -> list[LedgerVault]:
        """Return the vaults with their totals, by name."""
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT v.uuid, v.name, v.kind, v.checked, "
                "coalesce(sum(c.state = 'present'), 0), "
                "coalesce(sum(c.size) FILTER (WHERE c.state = 'present'), 0), "
                "coalesce(sum(c.state = 'damaged'), 0), coalesce(sum(c.state = 'missing'), 0), "
                "min(c.checked) FILTER (WHERE c.state = 'present'), "
                "min(c.hashed) FILTER (WHERE c.state = 'present') "
                "FROM vaults v LEFT JOIN copies c ON c.vault = v.id GROUP BY v.id ORDER BY v.name"
            ).fetchall()
        return [LedgerVault(*row) for row in rows]

    def missing(self, vault: str, keys: Sequence[str]) -> list[str]:
        """Return the keys of which a vault has no copy that counts, in order."""
        present: set[str] = set()
        with self._file.reading() as db:
            for chunk in _key_chunks(keys):
                present.update(
                    key
                    for (key,) in db.execute(
                        "SELECT c.key FROM json_each(?) k CROSS JOIN vaults v "
                        "JOIN copies c ON c.vault = v.id AND c.key = k.value "
                        "WHERE v.uuid = ? AND c.state = 'present'",
                        (chunk, vault),
                    )
                )
        return [key for key in keys if key not in present]

    def record(self, vault: str, stored: Iterable[Stored]) -> None:
        """Record contents that a vault confirmed to have."""
        now = self.clock()
        with self._file.writing() as db:
            number = _vault_id(db, vault)
            db.executemany(
                "INSERT INTO copies (vault, key, size, kept, checked, hashed, method, state) "
                f"VALUES (:vault, :key, :size, :now, :now, iif(:method IN ({_HASHED}), :now, 0), "
                ":method, 'present') ON CONFLICT (vault, key) DO UPDATE SET "
                "size = iif(excluded.size, excluded.size, size), "
                "kept = iif(state = 'present', kept, excluded.kept), checked = excluded.checked, "
                "hashed = max(hashed, excluded.hashed), method = excluded.method, "
                "state = iif(state = 'damaged' AND NOT excluded.hashed, state, 'present')",
                (
                    {
                        **{"vault": number, "key": one.key, "size": one.size},
                        **{"now": now, "method": one.method},
                    }
                    for one in stored
                ),
            )

    def mark(self, vault: str, keys: Iterable[str], state: CopyState, method: CheckMethod) -> None:
        """Change the state of recorded copies after a check."""
        now = self.clock()
        with self._file.writing() as db:
            number = _vault_id(db, vault)
            db.executemany(
                f"UPDATE copies SET hashed = iif(?1 IN ({_HASHED}), ?2, hashed), checked = ?2, "
                "method = ?1, state = ?3 WHERE vault = ?4 AND key = ?5",
                ((method, now, state, number, key) for key in keys),
            )

    def forget(self, vault: str, keys: Iterable[str]) -> None:
        """Remove the records of copies that were removed on request."""
        with self._file.writing() as db:
            number = _vault_id(db, vault)
            db.executemany(
                "DELETE FROM copies WHERE vault = ? AND key = ?", ((number, key) for key in keys)
            )

    def finish_listing(self, vault: str, before: float) -> None:
        """Record that all keys of a vault were listed, and which of its copies it lost."""
        now = self.clock()
        with self._file.writing() as db:
            number = _vault_id(db, vault)
            db.execute(
                "UPDATE copies SET state = 'missing', checked = ?, method = 'listing' "
                "WHERE vault = ? AND checked < ? AND state <> 'missing'",
                (now, number, before),
            )
            db.execute("UPDATE vaults SET checked = ? WHERE id = ?", (now, number))

    def copies(
        self, keys: Sequence[str], *, all_states: bool = False
    ) -> dict[str, list[LedgerCopy]]:
        """Return the copies of contents."""
        found: dict[str, list[LedgerCopy]] = {}
        with self._file.reading() as db:
            for chunk in _key_chunks(keys):
                for row in db.execute(
                    f"SELECT {_COPY} FROM json_each(?) k JOIN copies c ON c.key = k.value "
                    "JOIN vaults v ON v.id = c.vault WHERE ? OR c.state = 'present'",
                    (chunk, all_states),
                ):
                    copy = LedgerCopy(*row)
                    found.setdefault(copy.key, []).append(copy)
        return found

    def copies_in(
        self, vault: str, *, after: str = "", state: CopyState | None = None
    ) -> list[LedgerCopy]:
        """Return copies of a vault, sorted by key, for reading it in parts."""
        return self._select(
            "c.key > ? AND (? IS NULL OR c.state = ?) ORDER BY c.key LIMIT ?",
            (vault, after, state, state, _CHUNK),
        )

    def least_recently_read(self, vault: str, limit: int, *, offset: int = 0) -> list[LedgerCopy]:
        """Return the present copies of a vault that were not read for the longest time."""
        condition = "c.state = 'present' ORDER BY c.hashed, c.key LIMIT ? OFFSET ?"
        return self._select(condition, (vault, limit, offset))

    def _select(self, condition: str, parameters: tuple[object, ...]) -> list[LedgerCopy]:
        """Return copies of the vault that the first parameter names."""
        with self._file.reading() as db:
            rows = db.execute(
                f"SELECT {_COPY} FROM vaults v JOIN copies c ON c.vault = v.id "
                f"WHERE v.uuid = ? AND {condition}",
                parameters,
            ).fetchall()
        return [LedgerCopy(*row) for row in rows]


class WishTable:
    """The wishes of a ledger. Each method is one transaction."""

    def __init__(self, file: DatabaseFile, clock: Callable[[], float]) -> None:
        self._file = file
        self._clock = clock

    def put(
        self, wish: Wish, contents: Iterable[tuple[str, int | None]], *, extend: bool = False
    ) -> int:
        """Record a wish and replace its contents."""
        globs = json.dumps(wish.globs)
        with self._file.writing() as db:
            vault = _vault_id(db, wish.vault)
            db.execute(
                "INSERT OR IGNORE INTO wishes (kind, what, vault, globs, since) "
                "VALUES (?, ?, ?, ?, ?)",
                (wish.kind, wish.what, vault, globs, wish.since or self._clock()),
            )
            (number,) = db.execute(
                "SELECT id FROM wishes WHERE kind = ? AND what = ? AND vault = ? AND globs = ?",
                (wish.kind, wish.what, vault, globs),
            ).fetchone()
            if not extend:
                db.execute("DELETE FROM wish_keys WHERE wish = ?", (number,))
            db.executemany(
                "INSERT OR IGNORE INTO wish_keys VALUES (?, ?, ?)",
                ((number, key, size) for key, size in contents),
            )
        return int(number)

    def all(self, vault: str | None = None) -> list[Wish]:
        """Return the wishes, oldest first."""
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT w.kind, w.what, v.uuid, w.globs, w.since, w.id FROM wishes w "
                "JOIN vaults v ON v.id = w.vault WHERE ? IS NULL OR v.uuid = ? ORDER BY w.id",
                (vault, vault),
            ).fetchall()
        return [
            Wish(kind, what, uuid, tuple(json.loads(globs)), since, number)
            for kind, what, uuid, globs, since, number in rows
        ]

    def remove(self, number: int) -> None:
        """Remove a wish; its copies stay."""
        with self._file.writing() as db:
            db.execute("DELETE FROM wishes WHERE id = ?", (number,))

    def needed(
        self, keys: Sequence[str], vault: str | None = None, without: Collection[int] = ()
    ) -> set[str]:
        """Return the keys that a wish names."""
        found: set[str] = set()
        with self._file.reading() as db:
            for chunk in _key_chunks(keys):
                found.update(
                    key
                    for (key,) in db.execute(
                        "SELECT DISTINCT n.key FROM json_each(?1) k "
                        "JOIN wish_keys n ON n.key = k.value JOIN wishes w ON w.id = n.wish "
                        "JOIN vaults v ON v.id = w.vault WHERE (?2 IS NULL OR v.uuid = ?2) "
                        "AND w.id NOT IN (SELECT value FROM json_each(?3))",
                        (chunk, vault, json.dumps(list(without))),
                    )
                )
        return found


def _key_chunks(keys: Sequence[str]) -> Iterator[str]:
    """Yield the keys as JSON arrays, for one statement each."""
    for start in range(0, len(keys), _CHUNK):
        yield json.dumps(keys[start : start + _CHUNK])


def _vault_id(db: sqlite3.Connection, uuid: str) -> int:
    """Return the number of a recorded vault; raises LookupError for another."""
    found = db.execute("SELECT id FROM vaults WHERE uuid = ?", (uuid,)).fetchone()
    if found is None:
        raise LookupError(f"no vault {uuid} in the ledger; record it with add_vault")
    return int(found[0])
