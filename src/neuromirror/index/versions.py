"""Versions: by name, label and digest; their contents, and from which others they derive."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from neuromirror.index.connection import AmbiguousNameError, UnknownVersionError
from neuromirror.index.reader import VERSION_COLUMNS, VERSION_TABLES, Queries, Reader, version_row
from neuromirror.index.rows import EdgeRow, RelatedVersion, SubdatasetRow, VersionRow
from neuromirror.index.schema import LAST_COMPONENT
from neuromirror.model import parse_time_label

_COMMIT_LABEL = re.compile(r"[0-9a-f]{7,64}\Z")


_STATE_LABEL = re.compile(r"state:(?:sha256:)?([0-9a-f]{7,64})\Z")


_SUBDATASETS = """
SELECT p.path, p.source_path, m.name || ':' || p.local_id, p.dataset_id,
    (SELECT v.label FROM versions v JOIN datasets e ON e.id = v.dataset
     WHERE e.mirror = d.mirror AND e.local_id = p.local_id AND v.commit_id = p.commit_id),
    p.commit_id, p.state, p.files, p.bytes, p.since
FROM subdatasets p JOIN datasets d ON d.id = p.dataset JOIN mirrors m ON m.id = d.mirror
WHERE p.dataset = ? AND p.since <= ? AND (p.until IS NULL OR p.until > ?) ORDER BY p.path
"""


class VersionQueries(Queries):
    """Versions of datasets."""

    def of(self, name: str, after: int = 0, limit: int | None = None) -> Iterator[VersionRow]:
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
            (self._db.dataset_number(name), after, -1 if limit is None else limit),
        )

    def last(self, name: str, kind: str | None = None) -> VersionRow | None:
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
        return self._last_where(name, "AND (? IS NULL OR v.kind = ?)", (kind, kind))

    def published(self, name: str, upstream: str) -> VersionRow | None:
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
        return self._last_where(name, "AND v.kind = 'published' AND v.upstream = ?", (upstream,))

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
        row = self._db.row(f"SELECT {column} FROM versions WHERE id = ?", (version.id,))
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
        for path, source_path, *rest in self._db.rows(
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
        dataset = self._db.dataset_number(name)
        found = (
            self._by_label(dataset, label)
            or self.observed_at(dataset, label)
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

    def observed_at(self, dataset: int, label: str) -> VersionRow | None:
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
        if _COMMIT_LABEL.match(label):
            column, low = "commit_id", label
        elif form := _STATE_LABEL.match(label):
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
            for row in self._db.rows(
                "SELECT label FROM versions WHERE dataset = ? ORDER BY seq DESC LIMIT 5", (dataset,)
            )
        ]
        if len(found) == 1:
            return f"its only version is {found[0]}"
        return f"the newest are {', '.join(found)}" if found else "it has no version yet"

    def _last_where(self, name: str, clause: str, parameters: tuple[Any, ...]) -> VersionRow | None:
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
        return map(version_row, self._db.rows(sql, parameters))

    def recent(
        self, limit: int, dataset: str | None = None, *, mirror: str | None = None
    ) -> list[VersionRow]:
        """Return the versions recorded last, newest first.

        They are those of one dataset, of one mirror, or of all mirrors. Without ``dataset``,
        versions of subdatasets are omitted.

        Parameters
        ----------
        limit
            Maximum number of versions.
        dataset
            The name of a dataset.
        mirror
            The name of a mirror.

        Returns
        -------
        list[VersionRow]
            The versions.
        """
        condition, given = "d.within = ''", []
        if dataset is not None:
            condition, given = "v.dataset = ?", [self._db.dataset_number(dataset)]
        if mirror is not None:
            condition += " AND d.mirror = ?"
            given.append(self._db.mirror_number(mirror))
        rows = self._db.rows(
            f"SELECT {VERSION_COLUMNS} FROM {VERSION_TABLES} WHERE d.withdrawn = '' "
            f"AND {condition} ORDER BY v.id DESC LIMIT ?",
            (*given, limit),
        )
        return list(map(version_row, rows))

    def change_counts(self, dataset: str) -> dict[int, tuple[int, int, int]]:
        """Return the number of files added, removed and changed by each version, by ordinal.

        Each version is compared with the version recorded before it. Versions without changes are
        omitted.
        """
        number = self._db.dataset_number(dataset)
        found = self._db.cached(("changes", number), lambda: self._count_changes(number), len)
        return dict(found)

    def _count_changes(self, number: int) -> dict[int, tuple[int, int, int]]:
        added, removed, changed = (
            dict(self._db.all(sql, (number,)))
            for sql in (
                "SELECT since, count(*) FROM files WHERE dataset = ? GROUP BY since",
                "SELECT until, count(*) FROM files WHERE dataset = ? AND until IS NOT NULL "
                "GROUP BY until",
                "SELECT a.since, count(*) FROM files a JOIN files b ON b.dataset = a.dataset "
                "AND b.path = a.path AND b.until = a.since WHERE a.dataset = ? GROUP BY a.since",
            )
        )
        return {
            seq: (
                added.get(seq, 0) - changed.get(seq, 0),
                removed.get(seq, 0) - changed.get(seq, 0),
                changed.get(seq, 0),
            )
            for seq in {*added, *removed}
        }


DEFAULT_DEPTH = 5
"""Generations followed in each direction."""


_INPUT = f"""
SELECT d.id, m.name || ':' || d.local_id FROM datasets d JOIN mirrors m ON m.id = d.mirror
WHERE {LAST_COMPONENT.format("d.local_id")} = ?1 AND (d.local_id = ?2 OR ?1 = ?2)
    AND d.id <> ?3 AND d.within = '' AND d.withdrawn = ''
ORDER BY d.mirror <> ?4, d.local_id <> ?2, m.name, d.local_id LIMIT 1
"""


_PLATFORM = re.compile(
    r"[A-Za-z][A-Za-z0-9-]*_(?=[A-Za-z0-9.-]+_\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}(?:_|\Z))",
    re.ASCII,
)
"""The platform before subject and time in the name of an AIND asset."""


_OTHER_SCHEME = f"""
SELECT d.id, m.name || ':' || d.local_id, {LAST_COMPONENT.format("d.local_id")}
FROM datasets d JOIN mirrors m ON m.id = d.mirror
WHERE d.local_id LIKE '%' || ?1 ESCAPE '=' AND d.id <> ?2 AND d.within = '' AND d.withdrawn = ''
ORDER BY d.mirror <> ?3, d.id
"""


_EXACT_NAME = "i.name IN (?1, ?1 || '/', ?2, ?2 || '/')"


_SIMILAR_NAME = f"({_EXACT_NAME} OR i.name LIKE '%' || ?4 ESCAPE '=')"


_DERIVED = """
SELECT i.name, v.id, v.label, coalesce(nullif(v.time, ''), v.recorded_at), d.id, d.mirror,
    m.name || ':' || d.local_id
FROM inputs i JOIN versions v ON v.id = i.version JOIN datasets d ON d.id = v.dataset
JOIN mirrors m ON m.id = d.mirror
WHERE {} AND d.id <> ?3 AND d.withdrawn = ''
ORDER BY m.name, d.local_id, v.seq DESC, i.name
"""


class _Version(NamedTuple):
    """The columns of a version that these queries need; ``mirror`` is the mirror's row id."""

    id: int
    dataset: int
    mirror: int
    local_id: str
    label: str
    time: str


class _Edge(NamedTuple):
    """An edge and the version at its other end (None if it is not in the index)."""

    row: EdgeRow
    version: _Version | None


class AncestryQueries(Queries):
    """Derivation: the inputs of a version, and the versions derived from it."""

    def __init__(self, db: Reader, versions: VersionQueries) -> None:
        super().__init__(db)
        self._versions = versions

    def of(self, name: str, label: str = "latest") -> tuple[list[EdgeRow], list[EdgeRow]]:
        """Return the inputs of a version, and the versions derived from it.

        Parameters
        ----------
        name
            The name of the dataset.
        label
            A label, as for :meth:`VersionQueries.resolve`.

        Returns
        -------
        tuple[list[EdgeRow], list[EdgeRow]]
            The inputs, and the derived versions.
        """
        version = self._read_version(self._versions.resolve(name, label).id)
        derived = [
            edge.row
            for edge in self._derived_versions(version)
            if edge.row.own_label == version.label
        ]
        return [edge.row for edge in self._inputs(version)], derived

    def ancestors(
        self, version: VersionRow, depth: int = DEFAULT_DEPTH
    ) -> tuple[RelatedVersion, ...]:
        """Return the inputs of a version, recursively up to ``depth`` generations.

        Parameters
        ----------
        version
            The version.
        depth
            Maximum number of generations.

        Returns
        -------
        tuple[RelatedVersion, ...]
            The inputs, with their own inputs.
        """
        start = self._read_version(version.id)
        return _follow_edges(start, self._inputs, depth, {start.dataset})

    def descendants(
        self, version: VersionRow, depth: int = DEFAULT_DEPTH
    ) -> tuple[RelatedVersion, ...]:
        """Return the datasets derived from a version's dataset, recursively.

        Each derived dataset appears once, with its newest version derived from this version; if
        none is, with the newest one derived from another version (see ``own_label``).

        Parameters
        ----------
        version
            The version.
        depth
            Maximum number of generations.

        Returns
        -------
        tuple[RelatedVersion, ...]
            The derived datasets, with theirs.
        """
        start = self._read_version(version.id)
        return _follow_edges(start, self._derived_datasets, depth, {start.dataset})

    def _read_version(self, version: int) -> _Version:
        row = self._db.row(
            "SELECT v.id, v.dataset, d.mirror, d.local_id, v.label, "
            "coalesce(nullif(v.time, ''), v.recorded_at) FROM versions v "
            "JOIN datasets d ON d.id = v.dataset WHERE v.id = ?",
            (version,),
        )
        assert row is not None
        return _Version(*row)

    def _inputs(self, version: _Version) -> list[_Edge]:
        edges = []
        names = self._db.all(
            "SELECT name FROM inputs WHERE version = ? ORDER BY name", (version.id,)
        )
        for (name,) in names:
            target = self._input_dataset(name, version.dataset, version.mirror)
            pinned = None if target is None else self._version_at(target[0], version.time)
            dataset = None if target is None else target[1]
            label = None if pinned is None else pinned.label
            edges.append(_Edge(EdgeRow(name, dataset, label, version.label), pinned))
        return edges

    def _derived_versions(self, version: _Version) -> list[_Edge]:
        """Return all versions derived from any version of the dataset, newest first per dataset."""
        tail = version.local_id.rpartition("/")[2]
        core = _without_platform(tail)
        named, like = (_EXACT_NAME, ()) if core is None else (_SIMILAR_NAME, (_escape_like(core),))
        edges = []
        targets: dict[tuple[str, int], bool] = {}
        for name, number, label, time, dataset, mirror, full in self._db.all(
            _DERIVED.format(named), (version.local_id, tail, version.dataset, *like)
        ):
            if (name, dataset) not in targets:
                target = self._input_dataset(name, dataset, mirror)
                targets[name, dataset] = target is not None and target[0] == version.dataset
            if targets[name, dataset]:
                pinned = self._version_at(version.dataset, time)
                assert pinned is not None
                row = EdgeRow(name, full, label, pinned.label)
                edges.append(_Edge(row, self._read_version(number)))
        return edges

    def _derived_datasets(self, version: _Version) -> list[_Edge]:
        chosen: dict[str | None, _Edge] = {}
        for edge in self._derived_versions(version):
            known = chosen.get(edge.row.dataset)
            if known is None or (version.label == edge.row.own_label != known.row.own_label):
                chosen[edge.row.dataset] = edge
        return list(chosen.values())

    def _input_dataset(self, name: str, dataset: int, mirror: int) -> tuple[int, str] | None:
        """Return the dataset that another dataset names as its input."""
        plain = name.rstrip("/")
        tail = plain.rpartition("/")[2]
        row = self._db.row(_INPUT, (tail, plain, dataset, mirror))
        return (
            self._input_by_other_scheme(tail, dataset, mirror) if row is None else (row[0], row[1])
        )

    def _input_by_other_scheme(
        self, name: str, dataset: int, mirror: int
    ) -> tuple[int, str] | None:
        """Return the only dataset whose name differs in the platform alone."""
        core = _without_platform(name)
        if core is None:
            return None
        found = [
            (number, full)
            for number, full, tail in self._db.rows(
                _OTHER_SCHEME, (_escape_like(core), dataset, mirror)
            )
            if _without_platform(tail) == core
        ]
        return found[0] if len(found) == 1 else None

    def _version_at(self, dataset: int, time: str) -> _Version | None:
        found = self._db.row(
            "SELECT id FROM (SELECT id, seq, coalesce(nullif(time, ''), recorded_at) AS time "
            "FROM versions WHERE dataset = ?1) ORDER BY "
            "CASE WHEN time <= ?2 THEN time END DESC, time, "
            "CASE WHEN time <= ?2 THEN -seq ELSE seq END LIMIT 1",
            (dataset, time),
        )
        return None if found is None else self._read_version(found[0])


def _without_platform(name: str) -> str | None:
    """Return the name of an AIND asset without its platform; None for other names."""
    found = _PLATFORM.match(name)
    core = name[found.end() :] if found else name
    return core if found or _PLATFORM.match(f"x_{name}") else None


def _escape_like(text: str) -> str:
    """Escape a text for a LIKE pattern whose escape character is ``=``."""
    return re.sub(r"[=%_]", r"=\g<0>", text)


def _follow_edges(
    version: _Version, edges: Callable[[_Version], list[_Edge]], depth: int, visited: set[int]
) -> tuple[RelatedVersion, ...]:
    """Return the edges of a version, each with the edges of the version at its other end.

    Datasets in ``visited`` are not followed again; the recursion stops at ``depth``.
    """
    found = edges(version)
    fresh = []
    for edge in found:
        is_new = edge.version is not None and edge.version.dataset not in visited
        if edge.version is not None:
            visited.add(edge.version.dataset)
        fresh.append(is_new)
    relatives = []
    for edge, is_new in zip(found, fresh, strict=True):
        more: tuple[RelatedVersion, ...] = ()
        cut, row = False, edge.row
        if edge.version is not None:
            if is_new and depth > 1:
                more = _follow_edges(edge.version, edges, depth - 1, visited)
            else:
                cut = bool(edges(edge.version))
        relatives.append(RelatedVersion(row.name, row.dataset, row.label, row.own_label, more, cut))
    return tuple(relatives)
