"""Queries on datasets, and on versions by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from neuromirror.index.errors import (
    AmbiguousNameError,
    UnknownAttributeError,
    UnknownVersionError,
)
from neuromirror.index.query_base import (
    CURRENT,
    HAS_ROWS,
    VERSION_COLUMNS,
    VERSION_TABLES,
    version_row,
)
from neuromirror.index.rows import DatasetRow, SubdatasetRow, Tombstone, VersionRow
from neuromirror.index.term_queries import MAX_BLOCKS, TermQueries
from neuromirror.model import parse_time_label

_COMMIT = re.compile(r"[0-9a-f]{7,64}\Z")
_STATE = re.compile(r"state:(?:sha256:)?([0-9a-f]{7,64})\Z")

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

_SUBDATASETS = """
SELECT p.path, p.source_path, m.name || ':' || p.local_id, p.dataset_id,
    (SELECT v.label FROM versions v JOIN datasets e ON e.id = v.dataset
     WHERE e.mirror = d.mirror AND e.local_id = p.local_id AND v.commit_id = p.commit_id),
    p.commit_id, p.state, p.files, p.bytes, p.since
FROM subdatasets p JOIN datasets d ON d.id = p.dataset JOIN mirrors m ON m.id = d.mirror
WHERE p.dataset = ? AND p.since <= ? AND (p.until IS NULL OR p.until > ?) ORDER BY p.path
"""


class DatasetQueries(TermQueries):
    """Queries on datasets and versions."""

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
        """Return a dataset; raises :class:`UnknownMirrorError` or :class:`UnknownDatasetError`."""
        return next(self._datasets("WHERE d.id = ?", (self._dataset_number(name),)))

    def _datasets(self, clause: str, parameters: tuple[Any, ...]) -> Iterator[DatasetRow]:
        for row in self._rows(_DATASETS + clause, parameters):
            rest: tuple[Any, ...] = (tuple(json.loads(row[6] or "[]")), *row[7:])
            yield DatasetRow(*row[:6], *rest)

    def tombstones(self, mirror: str | None = None) -> list[Tombstone]:
        """Return the withdrawn datasets, by name, including their exclusive subdatasets."""
        rows = self._rows(
            "SELECT m.name || ':' || d.local_id, d.withdrawn FROM datasets d "
            "JOIN mirrors m ON m.id = d.mirror "
            "WHERE d.withdrawn <> '' AND (? IS NULL OR m.name = ?) ORDER BY m.name, d.local_id",
            (mirror, mirror),
        )
        return [Tombstone(name, **json.loads(document)) for name, document in rows]

    def tombstone(self, name: str) -> Tombstone | None:
        """Return the tombstone of a withdrawn dataset; None for any other."""
        mirror, _, local_id = name.partition(":")
        row = self._row(
            "SELECT d.withdrawn FROM datasets d JOIN mirrors m ON m.id = d.mirror "
            "WHERE m.name = ? AND d.local_id = ?",
            (mirror, local_id),
        )
        return Tombstone(name, **json.loads(row[0])) if row and row[0] else None

    def has_only_version_ids(self, name: str) -> bool:
        """Return whether the index has nothing of a dataset but the ids of its versions."""
        mirror, _, local_id = name.partition(":")
        row = self._row(
            f"SELECT {HAS_ROWS} FROM datasets d JOIN mirrors m ON m.id = d.mirror "
            "WHERE m.name = ? AND d.local_id = ?",
            (mirror, local_id),
        )
        return row is None or not row[0]

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

    def versions(self, name: str, after: int = 0, limit: int | None = None) -> Iterator[VersionRow]:
        """Yield the versions of a dataset in the order in which they were recorded.

        ``after`` is the ordinal of the last version of the previous page.
        """
        return self._versions(
            "WHERE v.dataset = ? AND v.seq > ? ORDER BY v.seq LIMIT ?",
            (self._dataset_number(name), after, -1 if limit is None else limit),
        )

    def last_version(self, name: str, kind: str | None = None) -> VersionRow | None:
        """Return the version recorded last, of one kind (published | observed) or of any.

        None without versions, or the dataset is unknown.
        """
        return self._last(name, "AND (? IS NULL OR v.kind = ?)", (kind, kind))

    def published_version(self, name: str, upstream: str) -> VersionRow | None:
        """Return the published version with upstream's label, or None."""
        return self._last(name, "AND v.kind = 'published' AND v.upstream = ?", (upstream,))

    def exceptions(self, version: VersionRow) -> list[dict[str, Any]]:
        """Return the exceptions of a version, as in the journal."""
        row = self._row("SELECT exceptions FROM versions WHERE id = ?", (version.id,))
        found: list[dict[str, Any]] = json.loads(row[0]) if row else []
        return found

    def inline_components(self, version: VersionRow) -> list[dict[str, Any]]:
        """Return the components of a version stored as folders of files, as in the journal."""
        row = self._row("SELECT inline_components FROM versions WHERE id = ?", (version.id,))
        found: list[dict[str, Any]] = json.loads(row[0]) if row else []
        return found

    def attributes(self, version: VersionRow) -> dict[str, list[str]]:
        """Return the attributes of a version, values by name, both sorted."""
        row = self._row("SELECT attributes FROM versions WHERE id = ?", (version.id,))
        found: dict[str, list[str]] = json.loads(row[0]) if row else {}
        return found

    def links(self, name: str) -> list[tuple[str, str]]:
        """Return (kind, URL) of the web pages of a dataset, sorted; empty if unknown."""
        mirror, _, local_id = name.partition(":")
        row = self._row(
            "SELECT d.links FROM datasets d JOIN mirrors m ON m.id = d.mirror "
            "WHERE m.name = ? AND d.local_id = ?",
            (mirror, local_id),
        )
        return [(kind, address) for kind, address in json.loads(row[0])] if row else []

    def subdatasets(self, version: VersionRow) -> Iterator[SubdatasetRow]:
        """Yield the subdatasets in a version's tree, by path."""
        for path, source_path, *rest in self._rows(
            _SUBDATASETS, (version.dataset, version.seq, version.seq)
        ):
            yield SubdatasetRow(path, path.encode() if source_path is None else source_path, *rest)

    def names_in_other_mirrors(self, mirror: str) -> dict[str, str]:
        """Return the names of datasets with versions in other mirrors, by source URI."""
        rows = self._rows(
            "SELECT d.source_uri, m.name || ':' || d.local_id FROM datasets d "
            "JOIN mirrors m ON m.id = d.mirror WHERE m.name <> ? AND d.newest_version IS NOT NULL",
            (mirror,),
        )
        return dict(rows)

    def superdatasets(self, name: str) -> list[str]:
        """Return the names of the datasets whose newest version has this one as a subdataset."""
        rows = self._rows(
            "SELECT DISTINCT m.name || ':' || h.local_id FROM datasets d "
            "JOIN subdatasets p ON p.local_id = d.local_id AND p.until IS NULL "
            "JOIN datasets h ON h.id = p.dataset AND h.mirror = d.mirror "
            "JOIN mirrors m ON m.id = h.mirror "
            "WHERE d.id = ? ORDER BY 1",
            (self._dataset_number(name),),
        )
        return [holder for (holder,) in rows]

    def resolve(self, name: str, label: str = "latest") -> VersionRow:
        """Return the version that a label stands for.

        Parameters
        ----------
        name : str
            The dataset.
        label : str
            A version's label, ``latest`` (the newest published, else the newest observed),
            ``draft`` (as last observed), at least 7 digits of a commit id, or ``state:<7 or more
            digits of the state digest>``. A state without an upstream time also has the time at
            which this store observed it as a label: ``2026-11-22T072636Z``.

        Raises
        ------
        UnknownMirrorError, UnknownDatasetError, UnknownVersionError, AmbiguousNameError
        """
        dataset = self._dataset_number(name)
        found = (
            self._by_label(dataset, label)
            or self._observed_at(dataset, label)
            or self._by_digest(name, dataset, label.lower())
        )
        if found is None:
            raise UnknownVersionError(
                f"{name} has no version {label!r}; {self._describe_newest(dataset)}"
            )
        return found

    def _by_label(self, dataset: int, label: str) -> VersionRow | None:
        if label == "latest":
            order = "ORDER BY v.kind = 'published' DESC, v.seq DESC LIMIT 1"
            return next(self._versions(f"WHERE v.dataset = ? {order}", (dataset,)), None)
        condition = "upstream = ? AND v.kind = 'observed'" if label == "draft" else "label = ?"
        return next(
            self._versions(
                f"WHERE v.dataset = ? AND v.{condition} ORDER BY v.seq DESC LIMIT 1",
                (dataset, label),
            ),
            None,
        )

    def _observed_at(self, dataset: int, label: str) -> VersionRow | None:
        """Return the state without an upstream time that was observed at the time in a label."""
        moment = parse_time_label(label)
        if moment is None:
            return None
        rows = self._versions(
            "WHERE v.dataset = ? AND v.recorded_at = ? AND v.time = '' ORDER BY v.seq DESC LIMIT 1",
            (dataset, moment.isoformat(timespec="seconds")),
        )
        return next(rows, None)

    def _by_digest(self, name: str, dataset: int, label: str) -> VersionRow | None:
        if _COMMIT.match(label):
            column, low = "commit_id", label
        elif form := _STATE.match(label):
            column, low = "state", f"sha256:{form[1]}"
        else:
            return None
        # "g" sorts after all hex digits; of versions with one state, prefer the newest published
        found = list(
            self._versions(
                f"WHERE v.dataset = ? AND v.{column} >= ? AND v.{column} < ? "
                "ORDER BY v.kind = 'published' DESC, v.seq DESC",
                (dataset, low, f"{low}g"),
            )
        )
        values = sorted({row.commit if column == "commit_id" else row.state for row in found})
        if len(values) > 1:
            raise AmbiguousNameError(
                f"{label!r} matches {len(values)} versions of {name}: {', '.join(values[:5])}"
                f"{', …' if len(values) > 5 else ''}; give more digits"
            )
        return found[0] if found else None

    def _describe_newest(self, dataset: int) -> str:
        found = [
            row[0]
            for row in self._rows(
                "SELECT label FROM versions WHERE dataset = ? ORDER BY seq DESC LIMIT 5", (dataset,)
            )
        ]
        return f"the newest are {', '.join(found)}" if found else "it has no version yet"

    def _last(self, name: str, clause: str, parameters: tuple[Any, ...]) -> VersionRow | None:
        mirror, _, local_id = name.partition(":")
        return next(
            self._versions(
                f"WHERE m.name = ? AND d.local_id = ? {clause} ORDER BY v.seq DESC LIMIT 1",
                (mirror, local_id, *parameters),
            ),
            None,
        )

    def _versions(self, clause: str, parameters: tuple[Any, ...]) -> Iterator[VersionRow]:
        sql = f"SELECT {VERSION_COLUMNS} FROM {VERSION_TABLES} {clause}"
        return map(version_row, self._rows(sql, parameters))
