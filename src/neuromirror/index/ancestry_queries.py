"""Queries on derivation: which version was derived from which.

Upstream names an input without its version. The name stands for the dataset of the same mirror
whose local id, or its last component, is the name; otherwise of any mirror; otherwise for the only
dataset whose name differs in the platform alone, which AIND's naming scheme of 2025 dropped
(``ecephys_600000_<time>``, ``600000_<time>``).

The input is pinned to the newest version of that dataset when the derived version was created, by
version time (or time of observation where upstream has no time). If the oldest version is younger
than that, because its time is that of a later edit, the input is pinned to the oldest. Each query
resolves names again, because an input may be mirrored later than its derivative.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from neuromirror.index.dataset_queries import DatasetQueries
from neuromirror.index.rows import EdgeRow, RelatedVersion, VersionRow
from neuromirror.index.schema import LAST_COMPONENT

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


class AncestryQueries(DatasetQueries):
    """Queries on derivation: the inputs of a version, and the versions derived from it.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def ancestry(self, name: str, label: str = "latest") -> tuple[list[EdgeRow], list[EdgeRow]]:
        """Return the inputs of a version, and the versions derived from it.

        Parameters
        ----------
        name
            The name of the dataset.
        label
            A label, as for :meth:`resolve`.

        Returns
        -------
        tuple[list[EdgeRow], list[EdgeRow]]
            The inputs, and the derived versions.
        """
        version = self._read_version(self.resolve(name, label).id)
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
        row = self._row(
            "SELECT v.id, v.dataset, d.mirror, d.local_id, v.label, "
            "coalesce(nullif(v.time, ''), v.recorded_at) FROM versions v "
            "JOIN datasets d ON d.id = v.dataset WHERE v.id = ?",
            (version,),
        )
        assert row is not None
        return _Version(*row)

    def _inputs(self, version: _Version) -> list[_Edge]:
        edges = []
        names = self._all("SELECT name FROM inputs WHERE version = ? ORDER BY name", (version.id,))
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
        for name, number, label, time, dataset, mirror, full in self._all(
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
        row = self._row(_INPUT, (tail, plain, dataset, mirror))
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
            for number, full, tail in self._rows(
                _OTHER_SCHEME, (_escape_like(core), dataset, mirror)
            )
            if _without_platform(tail) == core
        ]
        return found[0] if len(found) == 1 else None

    def _version_at(self, dataset: int, time: str) -> _Version | None:
        found = self._row(
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
    version: _Version,
    edges: Callable[[_Version], list[_Edge]],
    depth: int,
    visited: set[int],
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
