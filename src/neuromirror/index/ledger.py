"""The ledger: which contents each vault has, when that was checked and how, and what is to be kept.

The file is beside the index. What it states about a vault can be restored from the vault itself
(``neuromirror vault check``); wishes and events are only here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, Self

from neuromirror.index.database_file import DatabaseFile, DatabaseFormat, OpenDatabase
from neuromirror.index.ledger_rows import (
    HASH_METHODS,
    CheckMethod,
    CopyState,
    LedgerCopy,
    LedgerVault,
    Stored,
)
from neuromirror.index.ledger_tables import (
    LEDGER_TABLES,
    EventTable,
    WishTable,
    key_chunks,
    vault_id,
)

APPLICATION_ID = 0x6E6D6C67  # "nmlg"
SCHEMA = 1
_CHUNK: Final = 20_000
"""Copies that are returned at a time."""

_FORMAT: Final = DatabaseFormat(
    kind="ledger",
    application_id=APPLICATION_ID,
    schema=SCHEMA,
    tables=LEDGER_TABLES,
    synchronous="FULL",
    replacement="move it away and run 'neuromirror vault check' for each vault to create a new one",
)

_HASHED = ", ".join(f"'{method}'" for method in HASH_METHODS)


class Ledger(OpenDatabase):
    """The copies, wishes and events of a store or a user. Each method is one transaction.

    Several threads and processes may use the file.

    Attributes
    ----------
    path
        The file.
    clock
        Returns the time in POSIX seconds.
    wishes
        The content to keep in each vault.
    events
        What happened.
    """

    def __init__(self, file: DatabaseFile, clock: Callable[[], float]) -> None:
        super().__init__(file)
        self.clock = clock
        self.wishes = WishTable(self._file, clock)
        self.events = EventTable(self._file)

    @classmethod
    def open(cls, path: Path, clock: Callable[[], float] = time.time) -> Self:
        """Open the file, or create it.

        Parameters
        ----------
        path
            The file of the ledger; its folder must exist.
        clock
            Returns the time in POSIX seconds.

        Returns
        -------
        Self
            The ledger; close it after use.

        Raises
        ------
        IndexUnusableError
            The file is not a ledger or has another schema version.
        """
        return cls(DatabaseFile.open(path, _FORMAT), clock)

    def add_vault(self, uuid: str, name: str, kind: str) -> None:
        """Record a vault, or its new name.

        Parameters
        ----------
        uuid, name, kind
            The vault.
        """
        with self._file.writing() as db:
            db.execute(
                "INSERT INTO vaults (uuid, name, kind) VALUES (?, ?, ?) "
                "ON CONFLICT (uuid) DO UPDATE SET name = excluded.name, kind = excluded.kind",
                (uuid, name, kind),
            )

    def vaults(self) -> list[LedgerVault]:
        """Return the vaults with their totals, by name.

        Returns
        -------
        list[LedgerVault]
            The vaults.
        """
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
        """Return the keys of which a vault has no copy that counts, in order.

        Parameters
        ----------
        vault
            The UUID of the vault.
        keys
            Annex keys.

        Returns
        -------
        list[str]
            The keys without a copy.
        """
        present: set[str] = set()
        with self._file.reading() as db:
            for chunk in key_chunks(keys):
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
        """Record contents that a vault confirmed to have.

        Parameters
        ----------
        vault
            The UUID of the vault, which is recorded.
        stored
            The contents. For one that is recorded, the time of the check is updated. A damaged
            copy counts again only if its bytes were hashed.
        """
        now = self.clock()
        with self._file.writing() as db:
            number = vault_id(db, vault)
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
        """Change the state of recorded copies after a check.

        Parameters
        ----------
        vault
            The UUID of the vault.
        keys
            The annex keys of the copies.
        state
            The state that was found.
        method
            How it was found.
        """
        now = self.clock()
        with self._file.writing() as db:
            number = vault_id(db, vault)
            db.executemany(
                f"UPDATE copies SET hashed = iif(?1 IN ({_HASHED}), ?2, hashed), checked = ?2, "
                "method = ?1, state = ?3 WHERE vault = ?4 AND key = ?5",
                ((method, now, state, number, key) for key in keys),
            )

    def forget(self, vault: str, keys: Iterable[str]) -> None:
        """Remove the records of copies that were removed on request.

        Parameters
        ----------
        vault
            The UUID of the vault.
        keys
            Annex keys.
        """
        with self._file.writing() as db:
            number = vault_id(db, vault)
            db.executemany(
                "DELETE FROM copies WHERE vault = ? AND key = ?", ((number, key) for key in keys)
            )

    def finish_listing(self, vault: str, before: float) -> list[str]:
        """Record that all keys of a vault were listed; return the keys that it lost.

        Parameters
        ----------
        vault
            The UUID of the vault.
        before
            When the listing started, in POSIX seconds. Copies whose last check is older are not in
            the vault any more.

        Returns
        -------
        list[str]
            The annex keys of the copies that became ``missing``.
        """
        now = self.clock()
        with self._file.writing() as db:
            number = vault_id(db, vault)
            lost = [
                key
                for (key,) in db.execute(
                    "UPDATE copies SET state = 'missing', checked = ?, method = 'listing' "
                    "WHERE vault = ? AND checked < ? AND state <> 'missing' RETURNING key",
                    (now, number, before),
                )
            ]
            db.execute("UPDATE vaults SET checked = ? WHERE id = ?", (now, number))
        return lost

    def copies(
        self, keys: Sequence[str], *, all_states: bool = False
    ) -> dict[str, list[LedgerCopy]]:
        """Return the copies of contents.

        Parameters
        ----------
        keys
            Annex keys.
        all_states
            Whether to return also damaged and missing copies.

        Returns
        -------
        dict[str, list[LedgerCopy]]
            The copies by key, without keys that have none.
        """
        found: dict[str, list[LedgerCopy]] = {}
        with self._file.reading() as db:
            for chunk in key_chunks(keys):
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
        """Return copies of a vault, sorted by key, for reading it in parts.

        Parameters
        ----------
        vault
            The UUID of the vault.
        after
            The last key of the part before; empty for the first part.
        state
            The state of the copies; None for all.

        Returns
        -------
        list[LedgerCopy]
            The copies; none at the end.
        """
        return self._select(
            "c.key > ? AND (? IS NULL OR c.state = ?) ORDER BY c.key LIMIT ?",
            (vault, after, state, state, _CHUNK),
        )

    def least_recently(
        self, check: Literal["checked", "hashed"], vault: str, limit: int, *, offset: int = 0
    ) -> list[LedgerCopy]:
        """Return the present copies of a vault that were not checked for the longest time.

        Parameters
        ----------
        check
            ``checked`` for checks of any kind, ``hashed`` for those that hashed all bytes.
        vault
            The UUID of the vault.
        limit
            Maximum number of copies.
        offset
            Number of copies to skip.

        Returns
        -------
        list[LedgerCopy]
            The copies, the one with the oldest check first.
        """
        return self._select(
            f"c.state = 'present' ORDER BY c.{check}, c.key LIMIT ? OFFSET ?",
            (vault, limit, offset),
        )

    def _select(self, condition: str, parameters: tuple[object, ...]) -> list[LedgerCopy]:
        """Return copies of the vault that the first parameter names."""
        with self._file.reading() as db:
            rows = db.execute(
                f"SELECT {_COPY} FROM vaults v JOIN copies c ON c.vault = v.id "
                f"WHERE v.uuid = ? AND {condition}",
                parameters,
            ).fetchall()
        return [LedgerCopy(*row) for row in rows]


_COPY = "v.uuid, c.key, c.size, c.kept, c.checked, c.hashed, c.method, c.state"
