"""The whole content of an index as text."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlite_utils import Database

from neuromirror.index import Index


def dump_index(index: Index | Path) -> list[str]:
    """Return every row of every table; equal indexes have equal dumps (I8).

    The internal tables of full-text search are omitted: they depend on the number of transactions.
    """
    path = index if isinstance(index, Path) else index.path
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    with closing(Database(connection, recursive_triggers=False)) as db:
        return [
            f"{table.name} {tuple(row.values())!r}"
            for table in sorted(db.tables, key=lambda table: table.name)
            if "_text_" not in table.name
            for row in table.rows_where(
                order_by=", ".join(f'"{column.name}"' for column in table.columns)
            )
        ]
