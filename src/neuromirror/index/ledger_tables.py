"""The wishes and events of a ledger."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from neuromirror.index.database_file import DatabaseFile
from neuromirror.index.ledger_rows import LedgerEvent, Wish
from neuromirror.model.display import escape_surrogates

LEDGER_TABLES: Final = """
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

CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    kind TEXT NOT NULL,
    vault TEXT,
    key TEXT,
    dataset TEXT,
    message TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_time ON events (time);

-- Contents whose missing copies were announced and are still missing.
CREATE TABLE IF NOT EXISTS announcements (
    policy TEXT NOT NULL,
    key TEXT NOT NULL,
    time REAL NOT NULL,
    PRIMARY KEY (policy, key)
) STRICT, WITHOUT ROWID;
"""

_CHUNK: Final = 20_000
"""Keys per statement."""


class WishTable:
    """The wishes of a ledger. Each method is one transaction."""

    def __init__(self, file: DatabaseFile, clock: Callable[[], float]) -> None:
        self._file = file
        self._clock = clock

    def put(
        self, wish: Wish, contents: Iterable[tuple[str, int | None]], *, extend: bool = False
    ) -> int:
        """Record a wish and replace its contents.

        Parameters
        ----------
        wish
            The wish; ``id`` is ignored.
        contents
            Annex keys and sizes (None if unknown) of the contents.
        extend
            Whether to keep the contents that it had before.

        Returns
        -------
        int
            The number of the wish.
        """
        globs = json.dumps(wish.globs)
        with self._file.writing() as db:
            vault = vault_id(db, wish.vault)
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
        """Return the wishes, oldest first.

        Parameters
        ----------
        vault
            The UUID of a vault; None for all.

        Returns
        -------
        list[Wish]
            The wishes.
        """
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
        """Remove a wish; its copies stay.

        Parameters
        ----------
        number
            The number of the wish.
        """
        with self._file.writing() as db:
            db.execute("DELETE FROM wishes WHERE id = ?", (number,))

    def needed(
        self, keys: Sequence[str], vault: str | None = None, without: Collection[int] = ()
    ) -> set[str]:
        """Return the keys that a wish names.

        Parameters
        ----------
        keys
            Annex keys.
        vault
            The UUID of a vault, for its wishes only; None for the wishes of all.
        without
            Numbers of wishes that do not count.

        Returns
        -------
        set[str]
            Those of the keys that are to be kept.
        """
        found: set[str] = set()
        with self._file.reading() as db:
            for chunk in key_chunks(keys):
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


class EventTable:
    """The events of a ledger. Each method is one transaction."""

    def __init__(self, file: DatabaseFile) -> None:
        self._file = file

    def add(self, events: Iterable[LedgerEvent]) -> None:
        """Record events.

        Parameters
        ----------
        events
            The events.
        """
        with self._file.writing() as db:
            db.executemany(
                "INSERT INTO events (time, kind, vault, key, dataset, message) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (e.time, e.kind, e.vault, e.key, e.dataset, escape_surrogates(e.message))
                    for e in events
                ),
            )

    def latest(self, limit: int, since: float = 0.0) -> list[LedgerEvent]:
        """Return the newest events, newest first.

        Parameters
        ----------
        limit
            Maximum number of events.
        since
            POSIX seconds of the oldest event.

        Returns
        -------
        list[LedgerEvent]
            The events.
        """
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT time, kind, message, vault, key, dataset FROM events WHERE time >= ? "
                "ORDER BY id DESC LIMIT ?",
                (since, limit),
            ).fetchall()
        return [LedgerEvent(*row) for row in rows]

    def announce(self, policy: str, keys: Collection[str], time: float) -> list[str]:
        """Record which contents of a policy lack copies that have to be announced.

        Parameters
        ----------
        policy
            The name of the policy.
        keys
            All annex keys with such copies; what was announced of other contents is over.
        time
            POSIX seconds.

        Returns
        -------
        list[str]
            Those of the keys that were not announced before.
        """
        with self._file.writing() as db:
            known = {
                key
                for (key,) in db.execute(
                    "SELECT key FROM announcements WHERE policy = ?", (policy,)
                )
            }
            db.executemany(
                "DELETE FROM announcements WHERE policy = ? AND key = ?",
                ((policy, key) for key in known.difference(keys)),
            )
            new = [key for key in dict.fromkeys(keys) if key not in known]
            db.executemany(
                "INSERT INTO announcements VALUES (?, ?, ?)", ((policy, key, time) for key in new)
            )
        return new

    def announced(self) -> dict[str, int]:
        """Return the number of contents with announced missing copies, by name of the policy."""
        with self._file.reading() as db:
            return dict(
                db.execute("SELECT policy, count(*) FROM announcements GROUP BY policy").fetchall()
            )


def key_chunks(keys: Sequence[str]) -> Iterator[str]:
    """Yield the keys as JSON arrays, for one statement each."""
    for start in range(0, len(keys), _CHUNK):
        yield json.dumps(keys[start : start + _CHUNK])


def vault_id(db: sqlite3.Connection, uuid: str) -> int:
    """Return the number of a recorded vault; raises LookupError for another."""
    found = db.execute("SELECT id FROM vaults WHERE uuid = ?", (uuid,)).fetchone()
    if found is None:
        raise LookupError(f"no vault {uuid} in the ledger; record it with add_vault")
    return int(found[0])
