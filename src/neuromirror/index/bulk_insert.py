"""Insert many rows per statement."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

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
