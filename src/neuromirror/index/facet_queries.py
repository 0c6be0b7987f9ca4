"""Facets of a search: the datasets with each value, and their number."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from neuromirror.index.errors import MalformedQueryError
from neuromirror.index.facet_values import FACETS, SIZES, canonical_value
from neuromirror.index.query_base import QueryBase

_MAX_VALUES = 500
"""Maximum number of values of a facet in a result."""
_SIZE_ORDER = {name: position for position, (name, _) in enumerate(SIZES)}


class FacetCount(Struct, frozen=True):
    """A value of a facet.

    Attributes
    ----------
    value
        The value.
    count
        The number of results with this value, under the selected values of the other facets.
    is_selected
        Whether the search requires it.
    """

    value: str
    count: int
    is_selected: bool


class FacetQueries(QueryBase):
    """Queries that select datasets by facets and count them per value.

    A base class of :class:`~neuromirror.index.Index`, which has the connection.
    """

    def _check_filters(self, filters: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Return the facets that have selected values; raise for unknown facets and archives."""
        for name in filters:
            if name not in FACETS:
                near = difflib.get_close_matches(name, FACETS, 1)
                meant = f"; did you mean {near[0]!r}?" if near else f"; use {', '.join(FACETS)}"
                raise MalformedQueryError(f"there is no facet {name!r}{meant}")
        for archive in filters.get("archive", ()):
            self._mirror_number(archive)
        return {
            name: tuple(dict.fromkeys(canonical_value(name, value) for value in values))
            for name, values in filters.items()
            if values
        }

    def _selected(self, filters: Mapping[str, Sequence[str]]) -> dict[str, set[int]]:
        """Return the datasets that have one of the selected values, by facet."""
        return {
            name: {
                row[0]
                for row in self._all(
                    "SELECT dataset FROM facets WHERE facet = ? "
                    "AND value IN (SELECT value FROM json_each(?))",
                    (name, json.dumps(list(values))),
                )
            }
            for name, values in filters.items()
        }

    def _facet_values(self, datasets: Sequence[int]) -> dict[int, dict[str, list[str]]]:
        """Return the values of some datasets by facet, each in the order of its name."""
        found: dict[int, dict[str, list[str]]] = {dataset: {} for dataset in datasets}
        rows = self._all(
            "SELECT dataset, facet, value FROM facets "
            "WHERE dataset IN (SELECT value FROM json_each(?)) ORDER BY facet, value",
            (json.dumps(list(datasets)),),
        )
        for dataset, facet, value in rows:
            found[dataset].setdefault(facet, []).append(value)
        return found

    def _facet_counts(
        self,
        datasets: Sequence[int],
        filters: Mapping[str, Sequence[str]],
        selected: Mapping[str, Collection[int]],
    ) -> dict[str, tuple[FacetCount, ...]]:
        """Count the values of each facet among results, under the selections of the others."""
        common = [one for one in datasets if all(one in some for some in selected.values())]
        counts = self._count_values(common, "")
        for name in filters:
            others = [some for facet, some in selected.items() if facet != name]
            among = [one for one in datasets if all(one in some for some in others)]
            counts[name] = self._count_values(among, name).get(name, {})
        return {name: _facet(name, counts.get(name, {}), filters.get(name, ())) for name in FACETS}

    def _count_values(self, datasets: Sequence[int], facet: str) -> dict[str, dict[str, int]]:
        """Return the number of datasets by facet and value, of one facet or of all."""
        found: dict[str, dict[str, int]] = {}
        rows = self._all(
            "SELECT facet, value, count(*) FROM facets WHERE (?1 = '' OR facet = ?1) "
            "AND dataset IN (SELECT value FROM json_each(?2)) GROUP BY facet, value",
            (facet, json.dumps(datasets)),
        )
        for name, value, count in rows:
            found.setdefault(name, {})[value] = count
        return found

    def archive_topics(self) -> dict[str, dict[str, list[str]]]:
        """Return the values of the datasets of each archive, the most frequent first.

        Returns
        -------
        dict[str, dict[str, list[str]]]
            The values by facet (``data_type``, ``technique``, ``species``, ``volume``), by mirror.
        """
        found: dict[str, dict[str, list[str]]] = {}
        rows = self._all(
            "SELECT m.name, f.facet, f.value FROM facets f JOIN datasets d ON d.id = f.dataset "
            "JOIN mirrors m ON m.id = d.mirror "
            "WHERE f.facet IN ('data_type', 'technique', 'species', 'volume') "
            "GROUP BY m.name, f.facet, f.value ORDER BY count(*) DESC, f.value",
            (),
        )
        for mirror, facet, value in rows:
            found.setdefault(mirror, {}).setdefault(facet, []).append(value)
        return found


def _facet(name: str, counts: Mapping[str, int], selected: Sequence[str]) -> tuple[FacetCount, ...]:
    """Return the values of a facet: sizes and years in order, others by count."""
    found = {**dict.fromkeys(selected, 0), **counts}
    if name == "size":
        ordered = sorted(found, key=lambda value: _SIZE_ORDER.get(value, len(_SIZE_ORDER)))
    elif name == "year":
        ordered = sorted(found, reverse=True)
    else:
        ordered = sorted(found, key=lambda value: (-found[value], value.casefold()))
    return tuple(
        FacetCount(value, found[value], value in selected) for value in ordered[:_MAX_VALUES]
    )
