"""Queries on versions: by name, and what a version has besides its files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from neuromirror.index.errors import AmbiguousNameError, UnknownVersionError
from neuromirror.index.query_base import VERSION_COLUMNS, VERSION_TABLES, version_row
from neuromirror.index.rows import SubdatasetRow, VersionRow
from neuromirror.index.term_queries import TermQueries
from neuromirror.model import parse_time_label

_COMMIT = re.compile(r"[0-9a-f]{7,64}\Z")
_STATE = re.compile(r"state:(?:sha256:)?([0-9a-f]{7,64})\Z")

_SUBDATASETS = """
SELECT p.path, p.source_path, m.name || ':' || p.local_id, p.dataset_id,
    (SELECT v.label FROM versions v JOIN datasets e ON e.id = v.dataset
     WHERE e.mirror = d.mirror AND e.local_id = p.local_id AND v.commit_id = p.commit_id),
    p.commit_id, p.state, p.files, p.bytes, p.since
FROM subdatasets p JOIN datasets d ON d.id = p.dataset JOIN mirrors m ON m.id = d.mirror
WHERE p.dataset = ? AND p.since <= ? AND (p.until IS NULL OR p.until > ?) ORDER BY p.path
"""


class VersionQueries(TermQueries):
    """Queries on versions: by name, and the exceptions, subdatasets and counts of a version.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def versions(self, name: str, after: int = 0, limit: int | None = None) -> Iterator[VersionRow]:
        """Yield the versions of a dataset in the order in which they were recorded.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.
        after
            The ordinal of the last version of the previous page.
        limit
            The length of a page; None for all.

        Returns
        -------
        Iterator[VersionRow]
            A version.
        """
        return self._versions(
            "WHERE v.dataset = ? AND v.seq > ? ORDER BY v.seq LIMIT ?",
            (self._dataset_number(name), after, -1 if limit is None else limit),
        )

    def last_version(self, name: str, kind: str | None = None) -> VersionRow | None:
        """Return the version recorded last, of one kind or of any.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.
        kind
            ``published`` or ``observed``; None for any.

        Returns
        -------
        VersionRow | None
            The version; None without versions, or if the dataset is unknown.
        """
        return self._last(name, "AND (? IS NULL OR v.kind = ?)", (kind, kind))

    def published_version(self, name: str, upstream: str) -> VersionRow | None:
        """Return the published version with upstream's label, or None.

        Parameters
        ----------
        name
            ``<mirror>:<local id>``.
        upstream
            Upstream's label of the version.

        Returns
        -------
        VersionRow | None
            The version.
        """
        return self._last(name, "AND v.kind = 'published' AND v.upstream = ?", (upstream,))

    def exceptions(self, version: VersionRow) -> list[dict[str, Any]]:
        """Return the exceptions of a version, as in the journal.

        Parameters
        ----------
        version
            The version.

        Returns
        -------
        list[dict[str, Any]]
            One object per item that upstream lists and that is not mirrored.
        """
        return list(self._json_column("exceptions", version))

    def inline_components(self, version: VersionRow) -> list[dict[str, Any]]:
        """Return the components of a version stored as folders of files, as in the journal.

        Parameters
        ----------
        version
            The version.

        Returns
        -------
        list[dict[str, Any]]
            One object per component.
        """
        return list(self._json_column("inline_components", version))

    def attributes(self, version: VersionRow) -> dict[str, list[str]]:
        """Return the attributes of a version, values by name, both sorted.

        Parameters
        ----------
        version
            The version.

        Returns
        -------
        dict[str, list[str]]
            Values by name.
        """
        return dict(self._json_column("attributes", version))

    def _json_column(self, column: str, version: VersionRow) -> Any:
        """Return a list or object of a version; empty if the version is not in the index."""
        row = self._row(f"SELECT {column} FROM versions WHERE id = ?", (version.id,))
        return json.loads(row[0]) if row else ()

    def subdatasets(self, version: VersionRow) -> Iterator[SubdatasetRow]:
        """Yield the subdatasets in a version's tree, by path.

        Parameters
        ----------
        version
            The version.

        Yields
        ------
        SubdatasetRow
            A subdataset.
        """
        for path, source_path, *rest in self._rows(
            _SUBDATASETS, (version.dataset, version.seq, version.seq)
        ):
            yield SubdatasetRow(path, path.encode() if source_path is None else source_path, *rest)

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
        if len(found) == 1:
            return f"its only version is {found[0]}"
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
