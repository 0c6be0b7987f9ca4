"""Queries on datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from neuromirror.index.errors import (
    UnknownAttributeError,
)
from neuromirror.index.query_base import (
    CURRENT,
    HAS_ROWS,
)
from neuromirror.index.rows import DatasetRow, Tombstone
from neuromirror.index.term_queries import MAX_BLOCKS
from neuromirror.index.version_queries import VersionQueries

_DATASETS = f"""
SELECT d.id, m.name, d.local_id, coalesce(d.source_uri, ''), coalesce(d.dataset_id, ''), d.title,
    c.license, c.doi, (SELECT count(*) FROM versions v WHERE v.dataset = d.id), c.label, n.label,
    CASE WHEN c.kind = 'published' THEN c.label END,
    nullif(c.time, ''), coalesce(c.files, 0), coalesce(c.bytes, 0), t.ended_at, t.status,
    d.last_full_visit,
    (SELECT count(*) FROM holds h WHERE h.dataset = d.id AND h.outcome IS NULL), d.within
FROM datasets d JOIN mirrors m ON m.id = d.mirror
LEFT JOIN versions n ON n.id = d.newest_version LEFT JOIN versions c ON c.id = {CURRENT}
LEFT JOIN visits t ON t.id = d.last_visit
"""


class DatasetQueries(VersionQueries):
    """Queries on datasets: by name, by mirror, and their subdatasets.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def datasets(
        self,
        mirror: str | None = None,
        *,
        where: Sequence[tuple[str, str]] = (),
        text: str | None = None,
        subdatasets: bool = True,
        after: str = "",
    ) -> Iterator[DatasetRow]:
        """Yield datasets, of one mirror or of all, sorted by name.

        Parameters
        ----------
        mirror : str, optional
            The mirror.
        where : sequence of (str, str)
            Names and values of attributes that the current version must all have, ignoring case; a
            value that ends with ``*`` is a prefix.
        text : str, optional
            Search terms, as in :meth:`SearchQueries.find_datasets`.
        subdatasets : bool
            Whether to include subdatasets.
        after : str
            Yield only datasets with a greater name.

        Raises
        ------
        UnknownMirrorError, UnknownAttributeError, MalformedQueryError
        """
        clauses = ["d.withdrawn = ''"]
        given: list[int | str] = []
        if mirror is not None:
            clauses.append("d.mirror = ?")
            given.append(self._mirror_number(mirror))
        if not subdatasets:
            clauses.append("d.within = ''")
        if after:
            mirror_name, _, local_id = after.partition(":")
            clauses.append("(m.name, d.local_id) > (?, ?)")
            given += [mirror_name, local_id]
        for name, value in where:
            clause, values = self._attribute_condition(name, value)
            clauses.append(clause)
            given.extend(values)
        if text is not None:
            clauses.append("d.id IN (SELECT value FROM json_each(?))")
            given.append(json.dumps(self._dataset_ids(text, MAX_BLOCKS)))
        return self._datasets(
            f"WHERE {' AND '.join(clauses)} ORDER BY m.name, d.local_id", tuple(given)
        )

    def _attribute_condition(self, name: str, value: str) -> tuple[str, tuple[Any, ...]]:
        """Return the SQL condition that a dataset has an attribute, and its parameters."""
        if self._row("SELECT 1 FROM attributes WHERE name = ? LIMIT 1", (name,)) is None:
            names = [row[0] for row in self._rows("SELECT DISTINCT name FROM attributes")]
            known = f"existing: {', '.join(names)}" if names else "no dataset has any yet"
            raise UnknownAttributeError(f"no dataset has an attribute {name!r}; {known}")
        folded = value.casefold()
        matches = "casefolded = ?"
        values: tuple[Any, ...] = (name, folded)
        if folded.endswith("*"):
            matches = "casefolded >= ? AND substr(casefolded, 1, ?) = ?"
            values = (name, folded[:-1], len(folded) - 1, folded[:-1])
        return f"d.id IN (SELECT dataset FROM attributes WHERE name = ? AND {matches})", values

    def dataset(self, name: str) -> DatasetRow:
        """Return a dataset.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.

        Returns
        -------
        DatasetRow
            The dataset.

        Raises
        ------
        UnknownMirrorError
            The index has no such mirror.
        UnknownDatasetError
            The index has no such dataset.
        """
        return next(self._datasets("WHERE d.id = ?", (self._dataset_number(name),)))

    def _datasets(self, clause: str, parameters: tuple[Any, ...]) -> Iterator[DatasetRow]:
        for row in self._rows(_DATASETS + clause, parameters):
            rest: tuple[Any, ...] = (tuple(json.loads(row[6] or "[]")), *row[7:])
            yield DatasetRow(*row[:6], *rest)

    def tombstones(self, mirror: str | None = None) -> list[Tombstone]:
        """Return the withdrawn datasets, by name, including their exclusive subdatasets.

        Parameters
        ----------
        mirror
            The name of a mirror; None for all.

        Returns
        -------
        list[Tombstone]
            The tombstones.
        """
        rows = self._rows(
            "SELECT m.name || ':' || d.local_id, d.withdrawn FROM datasets d "
            "JOIN mirrors m ON m.id = d.mirror "
            "WHERE d.withdrawn <> '' AND (? IS NULL OR m.name = ?) ORDER BY m.name, d.local_id",
            (mirror, mirror),
        )
        return [Tombstone(name, **json.loads(document)) for name, document in rows]

    def tombstone(self, name: str) -> Tombstone | None:
        """Return the tombstone of a withdrawn dataset; None for any other.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.

        Returns
        -------
        Tombstone | None
            The tombstone.
        """
        document = self._column_of("d.withdrawn", name)
        return Tombstone(name, **json.loads(document)) if document else None

    def has_only_version_ids(self, name: str) -> bool:
        """Return whether the index has nothing of a dataset but the ids of its versions."""
        return not self._column_of(HAS_ROWS, name)

    def exclusive_subdatasets(self, name: str) -> list[str]:
        """Return the local ids of subdatasets of any version that no other dataset ever had."""
        number = self._dataset_number(name)
        rows = self._rows(
            "SELECT p.local_id, max(p.dataset = ?1), max(p.dataset <> ?1) FROM subdatasets p "
            "JOIN datasets h ON h.id = p.dataset AND h.withdrawn = '' "
            "JOIN datasets d ON d.id = ?1 AND d.mirror = h.mirror "
            "GROUP BY p.local_id ORDER BY p.local_id",
            (number,),
        )
        return [local_id for local_id, own, others in rows if own and not others]

    def links(self, name: str) -> list[tuple[str, str]]:
        """Return (kind, URL) of the web pages of a dataset, sorted; empty if unknown.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.

        Returns
        -------
        list[tuple[str, str]]
            The links.
        """
        links = self._column_of("d.links", name)
        return [(kind, address) for kind, address in json.loads(links or "[]")]

    def _column_of(self, column: str, name: str) -> Any:
        """Return a value of a dataset, which may be withdrawn; None for an unknown dataset."""
        mirror, _, local_id = name.partition(":")
        row = self._row(
            f"SELECT {column} FROM datasets d JOIN mirrors m ON m.id = d.mirror "
            "WHERE m.name = ? AND d.local_id = ?",
            (mirror, local_id),
        )
        return None if row is None else row[0]

    def names_in_other_mirrors(self, mirror: str) -> dict[str, str]:
        """Return the names of datasets with versions in other mirrors, by source URI."""
        rows = self._rows(
            "SELECT d.source_uri, m.name || ':' || d.local_id FROM datasets d "
            "JOIN mirrors m ON m.id = d.mirror WHERE m.name <> ? AND d.newest_version IS NOT NULL",
            (mirror,),
        )
        return dict(rows)

    def local_ids_with_versions(self, mirror: str, dataset_ids: Sequence[str]) -> dict[str, str]:
        """Return the local id that has versions, by dataset id; the oldest if several have some."""
        rows = self._rows(
            "SELECT d.dataset_id, d.local_id FROM datasets d JOIN mirrors m ON m.id = d.mirror "
            "WHERE d.dataset_id IN (SELECT value FROM json_each(?)) AND m.name = ? "
            "AND d.newest_version IS NOT NULL ORDER BY d.id DESC",
            (json.dumps(list(dataset_ids)), mirror),
        )
        return dict(rows)

    def superdatasets(self, name: str) -> list[str]:
        """Return the names of the datasets whose newest version has this one as a subdataset.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.

        Returns
        -------
        list[str]
            The names.
        """
        rows = self._rows(
            "SELECT DISTINCT m.name || ':' || h.local_id FROM datasets d "
            "JOIN subdatasets p ON p.local_id = d.local_id AND p.until IS NULL "
            "JOIN datasets h ON h.id = p.dataset AND h.mirror = d.mirror "
            "JOIN mirrors m ON m.id = h.mirror "
            "WHERE d.id = ? ORDER BY 1",
            (self._dataset_number(name),),
        )
        return [holder for (holder,) in rows]
