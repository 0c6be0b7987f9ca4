"""Write the tables for dataset searches: attributes, full text, facets and sort keys.

All of it depends on the current version of a dataset: its row, its attributes, and the documents of
the archive in its commit. An entry of the journal marks the dataset as stale; after the last entry,
:func:`refresh_text` writes each stale dataset once.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from msgspec import Struct

from neuromirror.index.data_types import data_types
from neuromirror.index.facet_values import facet_values
from neuromirror.index.query_base import CURRENT
from neuromirror.model import ArchiveMetadata, read_archive_metadata
from neuromirror.model.records import is_volume

TEXT_COLUMNS: Final = (
    *("name", "title", "keywords", "species", "anatomy", "techniques", "variables", "people"),
    *("institutions", "funders", "attributes", "other", "description", "readme", "license", "doi"),
)
"""The columns of full-text search; those with several values have one per line."""
_INSERT_TEXT: Final = (
    f"INSERT INTO dataset_text (rowid, {', '.join(TEXT_COLUMNS)}) "
    f"VALUES (?{',?' * len(TEXT_COLUMNS)})"
)


class DescribingDocuments(Protocol):
    """The part of a store that returns the archive's documents about a version."""

    def describing_documents(self, dataset_id: str, commit: str) -> Mapping[str, bytes]:
        """Return the archive's documents about a version.

        Parameters
        ----------
        dataset_id, commit
            The dataset, and the commit of the version in hex.

        Returns
        -------
        mapping
            Contents by path; empty if the store does not have the commit.
        """
        ...


class _Current(Struct, frozen=True):
    """The data of a dataset and its current version for the search tables."""

    name: str
    mirror: str
    title: str
    source_uri: str
    links: list[tuple[str, str]]
    within: str
    version: dict[str, Any] | None
    attributes: list[tuple[str, str]]
    data_types: list[str]
    dois: list[str]


def write_attributes(
    connection: sqlite3.Connection, dataset: int, attributes: dict[str, list[str]]
) -> None:
    """Replace the attributes of a dataset if they differ from the recorded ones.

    Parameters
    ----------
    connection
        The connection; the caller has opened a transaction.
    dataset
        The row id of the dataset.
    attributes
        The values of the current version's attributes, by name.
    """
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


def mark_stale(connection: sqlite3.Connection, dataset: int) -> None:
    """Record that the search text of a dataset must be written again by :func:`refresh_text`.

    ``dataset`` is the row id of the dataset.
    """
    connection.execute(
        "INSERT INTO stale_text VALUES (?) ON CONFLICT DO NOTHING",
        (dataset,),
    )


def stale_datasets(connection: sqlite3.Connection) -> list[int]:
    """Return the row ids of the datasets whose search text must be written again."""
    return [row[0] for row in connection.execute("SELECT dataset FROM stale_text ORDER BY dataset")]


def read_documents(
    connection: sqlite3.Connection, dataset: int, documents: DescribingDocuments
) -> ArchiveMetadata:
    """Return the metadata that the archive's documents about a dataset's current version contain.

    The result is empty for a dataset without a version, for a withdrawn one and for a component.

    Parameters
    ----------
    connection
        The connection.
    dataset
        The row id of the dataset.
    documents
        Returns the documents of a version.
    """
    row = connection.execute(
        "SELECT d.dataset_id, v.commit_id FROM datasets d "
        f"JOIN versions v ON v.id = {CURRENT} WHERE d.id = ? AND d.withdrawn = '' "
        "AND d.within = ''",
        (dataset,),
    ).fetchone()
    if row is None or not row[0]:
        return ArchiveMetadata()
    return read_archive_metadata(documents.describing_documents(*row))


def refresh_text(connection: sqlite3.Connection, dataset: int, found: ArchiveMetadata) -> None:
    """Write the rows by which searches find a dataset; delete them if it is withdrawn.

    The dataset is no longer stale afterwards (:func:`mark_stale`).

    Parameters
    ----------
    connection
        The connection; the caller has opened a transaction.
    dataset
        The row id of the dataset.
    found
        The result of :func:`read_documents`.
    """
    current = _read_current(connection, dataset)
    _write_text(connection, dataset, None if current is None else _text_row(current, found))
    _write_facets(connection, dataset, set() if current is None else _facets(current, found))
    if current is None:
        connection.execute("DELETE FROM listed_datasets WHERE dataset = ?", (dataset,))
    else:
        version = current.version or {}
        connection.execute(
            "INSERT OR REPLACE INTO listed_datasets VALUES (?,?,?,?,?)",
            (
                dataset,
                int(bool(current.within)),
                version.get("time") or version.get("recorded_at") or "",
                version.get("bytes") or 0,
                current.title.casefold(),
            ),
        )
    connection.execute("DELETE FROM stale_text WHERE dataset = ?", (dataset,))


def _facets(current: _Current, found: ArchiveMetadata) -> set[tuple[str, str]]:
    values = facet_values(
        mirror=current.mirror,
        version=current.version or {},
        attributes=current.attributes,
        metadata=found,
        data_types=current.data_types,
        volume=is_volume(current.source_uri, current.links),
    )
    return {(facet, value) for facet, some in values.items() for value in some}


def _write_facets(
    connection: sqlite3.Connection, dataset: int, facets: set[tuple[str, str]]
) -> None:
    """Replace the facet values of a dataset; most versions do not change them."""
    known = set(connection.execute("SELECT facet, value FROM facets WHERE dataset = ?", (dataset,)))
    connection.executemany(
        "DELETE FROM facets WHERE facet = ? AND value = ? AND dataset = ?",
        [(*one, dataset) for one in sorted(known - facets)],
    )
    connection.executemany(
        "INSERT INTO facets VALUES (?,?,?)", [(*one, dataset) for one in sorted(facets - known)]
    )


def _read_current(connection: sqlite3.Connection, dataset: int) -> _Current | None:
    """Return a dataset with its current version; None if it is withdrawn."""
    row = connection.execute(
        "SELECT m.name || ':' || d.local_id, m.name, d.title, "
        "coalesce(d.source_uri, ''), d.links, d.within, v.kind, v.upstream, v.time, v.recorded_at, "
        "v.bytes, v.license FROM datasets d JOIN mirrors m ON m.id = d.mirror "
        f"LEFT JOIN versions v ON v.id = {CURRENT} "
        "WHERE d.id = ? AND d.withdrawn = ''",
        (dataset,),
    ).fetchone()
    if row is None:
        return None
    kind, upstream, time, recorded_at, size, license_ = row[6:]
    version = None
    if kind is not None:
        version = {
            **{"kind": kind, "upstream": upstream, "time": time, "recorded_at": recorded_at},
            **{"bytes": size, "license": json.loads(license_)},
        }
    name, mirror, title, source_uri, links, within = row[:6]
    return _Current(
        name=name,
        mirror=mirror,
        title=title,
        source_uri=source_uri,
        links=[(kind, url) for kind, url in json.loads(links)],
        within=within,
        version=version,
        attributes=_pairs(connection, "SELECT name, value FROM attributes", dataset),
        data_types=_data_types(connection, dataset),
        dois=[
            doi
            for (doi,) in connection.execute(
                "SELECT doi FROM versions WHERE dataset = ? AND doi IS NOT NULL GROUP BY doi "
                "ORDER BY min(seq)",
                (dataset,),
            )
        ],
    )


def _pairs(connection: sqlite3.Connection, select: str, dataset: int) -> list[tuple[str, str]]:
    return connection.execute(f"{select} WHERE dataset = ? ORDER BY 1, 2", (dataset,)).fetchall()


def _data_types(connection: sqlite3.Connection, dataset: int) -> list[str]:
    """Return the kinds of files of all versions, and of subdatasets, which are arrays."""
    own = connection.execute("SELECT type FROM data_types WHERE dataset = ?", (dataset,))
    paths = connection.execute("SELECT path || '/' FROM subdatasets WHERE dataset = ?", (dataset,))
    return sorted({name for (name,) in own} | data_types(path for (path,) in paths))


def _text_row(current: _Current, found: ArchiveMetadata) -> tuple[str, ...]:
    values = {name: _lines(values) for name, values in found.values.items()}
    texts = {
        **values,
        "name": current.name,
        "title": current.title,
        # each with its name, as pages show it
        "attributes": "\n".join(f"{name} {value}" for name, value in current.attributes),
        "other": _lines([*found.values.get("other", ()), *_kinds(current)]),
        "description": found.description,
        "readme": found.readme,
        "license": _lines((current.version or {}).get("license", ())),
        "doi": _lines(current.dois),
    }
    # these characters mark matches
    return tuple(texts.get(column, "").translate({2: " ", 3: " "}) for column in TEXT_COLUMNS)


def _kinds(current: _Current) -> list[str]:
    """Return what a dataset is, in words that no metadata contain."""
    scheme = current.source_uri.partition("://")[0]
    kinds = ["DANDI dandiset"] if "/dandisets/" in current.source_uri else [scheme]
    if is_volume(current.source_uri, current.links):
        kinds.append("volume")
    return kinds


def _lines(values: Iterable[str]) -> str:
    return "\n".join(dict.fromkeys(values))


def _write_text(connection: sqlite3.Connection, dataset: int, row: tuple[str, ...] | None) -> None:
    """Write the full-text row of a dataset if it has changed; None removes it."""
    known = connection.execute(
        f"SELECT {', '.join(TEXT_COLUMNS)} FROM dataset_text WHERE rowid = ?", (dataset,)
    ).fetchone()
    if row == known:
        return
    if known is not None:
        # a table without content needs the old text to delete a row
        connection.execute(
            "INSERT INTO dataset_text_tokens (dataset_text_tokens, rowid, tokens) "
            "VALUES ('delete', ?, ?)",
            (dataset, _tokens(known)),
        )
        connection.execute("DELETE FROM dataset_text WHERE rowid = ?", (dataset,))
    if row is not None:
        connection.execute(_INSERT_TEXT, (dataset, *row))
        connection.execute(
            "INSERT INTO dataset_text_tokens (rowid, tokens) VALUES (?, ?)", (dataset, _tokens(row))
        )


def _tokens(row: tuple[str, ...]) -> str:
    return "\n".join(row)
