"""Write what searches for datasets read: attributes and the row of full-text search."""

from __future__ import annotations

import json
import sqlite3

from neuromirror.index.query_base import CURRENT


def write_attributes(
    connection: sqlite3.Connection, dataset: int, attributes: dict[str, list[str]]
) -> None:
    """Replace the dataset's attributes by those of its current version, if they differ."""
    rows = sorted({(name, value) for name, values in attributes.items() for value in values})
    known = connection.execute(
        "SELECT name, value FROM attributes WHERE dataset = ? ORDER BY name, value", (dataset,)
    ).fetchall()
    if rows == known:
        return
    connection.execute("DELETE FROM attributes WHERE dataset = ?", (dataset,))
    connection.executemany(
        # names are compared without case
        "INSERT INTO attributes (dataset, name, value, casefolded) VALUES (?,?,?,?) "
        "ON CONFLICT DO NOTHING",
        [(dataset, name, value, value.casefold()) for name, value in rows],
    )


def refresh_text(connection: sqlite3.Connection, dataset: int) -> None:
    """Update the dataset's row of full-text search, if it differs."""
    name, title, license_ = connection.execute(
        "SELECT m.name || ':' || d.local_id, d.title, coalesce(v.license, '[]') FROM datasets d "
        f"JOIN mirrors m ON m.id = d.mirror LEFT JOIN versions v ON v.id = {CURRENT} "
        "WHERE d.id = ?",
        (dataset,),
    ).fetchone()
    dois = connection.execute(
        "SELECT doi FROM versions WHERE dataset = ? AND doi IS NOT NULL GROUP BY doi "
        "ORDER BY min(seq)",
        (dataset,),
    )
    values = connection.execute(
        "SELECT value FROM attributes WHERE dataset = ? ORDER BY name, value", (dataset,)
    )
    row = (
        name,
        title,
        " ".join(json.loads(license_)),
        " ".join(doi for (doi,) in dois),
        " ".join(dict.fromkeys(value for (value,) in values)),
    )
    known = connection.execute(
        "SELECT name, title, license, doi, attributes FROM dataset_text WHERE rowid = ?", (dataset,)
    ).fetchone()
    if row == known:
        return
    if known is not None:
        connection.execute("DELETE FROM dataset_text WHERE rowid = ?", (dataset,))
    connection.execute(
        "INSERT INTO dataset_text (rowid, name, title, license, doi, attributes) "
        "VALUES (?,?,?,?,?,?)",
        (dataset, *row),
    )
