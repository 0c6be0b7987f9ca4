"""Locations of contents, and the results of probing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from neuromirror.index.contents import EXACT, short_hash
from neuromirror.index.reader import CONTENT_COLUMNS, CONTENT_WIDTH, Queries, digests
from neuromirror.index.rows import (
    DueLocation,
    FailingHost,
    FailureRow,
    LocationRow,
    ProbeSummary,
    VersionRow,
)
from neuromirror.model import Location
from neuromirror.model.records import plain_url, url_version_id

_MAX_LOCATIONS = 5


_MAX_SAMPLED = 20
"""Maximum number of files whose URLs stand for those of a version."""


# A URL that may be overwritten is omitted once it has had other bytes. Of an object's versions with
# the same bytes, the last one comes first: upstream deletes earlier ones first.
_LOCATIONS = """
SELECT l.url, l.kind, l.version_id, l.probed_at, l.probe_result FROM locations l
WHERE l.content = ? AND (l.rank = ? OR NOT EXISTS (
    SELECT 1 FROM locations o WHERE o.url_hash = l.url_hash AND o.url = l.url
    AND o.content <> l.content AND o.last_version > l.last_version))
ORDER BY l.rank, EXISTS (SELECT 1 FROM locations n WHERE n.url_hash = l.url_hash
    AND n.content = l.content AND n.rank = l.rank
    AND (n.last_version, n.id) > (l.last_version, l.id)), l.id LIMIT ?
"""


# A URL that has had other bytes since is not current, unless it names the object version. An object
# version is not current after a later one with the same bytes.
_IS_CURRENT = f"""
NOT EXISTS (SELECT 1 FROM locations o WHERE o.url_hash = l.url_hash AND CASE l.rank
    WHEN {EXACT} THEN o.rank = {EXACT} AND o.content = l.content
        AND (o.last_version, o.id) > (l.last_version, l.id)
    ELSE o.url = l.url AND o.content <> l.content AND o.last_version > l.last_version END)
"""


_DUE = f"""
SELECT {CONTENT_COLUMNS}, l.url, m.name || ':' || d.local_id,
    coalesce((SELECT f.path FROM files f WHERE f.content = c.id LIMIT 1), ''),
    l.probed_at, l.probe_result,
    (SELECT count(*) FROM locations o WHERE o.content = l.content) = 1
FROM {{locations}}
CROSS JOIN versions v ON v.id = l.last_version
CROSS JOIN datasets d ON d.id = v.dataset
CROSS JOIN mirrors m ON m.id = d.mirror CROSS JOIN contents c ON c.id = l.content
WHERE {{condition}} AND d.withdrawn = '' AND {_IS_CURRENT}
"""


_OF_MIRROR = """
(SELECT DISTINCT f.content FROM datasets x CROSS JOIN files f ON f.dataset = x.id
 WHERE x.mirror = ?) mine
CROSS JOIN locations l ON l.content = mine.content
"""


_SMALL_SHARE = 16
"""A mirror with fewer files than this share of all locations is queried file by file."""


_OF_DATASET = """
(SELECT DISTINCT content FROM files WHERE dataset = ?) mine
CROSS JOIN locations l ON l.content = mine.content
"""


class LocationQueries(Queries):
    """Locations: of contents, due for a probe, failing."""

    def of(self, content: int, limit: int = _MAX_LOCATIONS) -> list[LocationRow]:
        """Return the best locations of a content (``FileRow.content``), most exact first.

        Parameters
        ----------
        content
            The id of the content, ``FileRow.content``.
        limit
            Maximum number of locations.

        Returns
        -------
        list[LocationRow]
            The locations.
        """
        rows = self._db.rows(_LOCATIONS, (content, EXACT, limit))
        return [_location_row(row) for row in rows]

    def sample_urls(self, version: VersionRow) -> list[str]:
        """Return the URLs of a few files of a version, each once.

        Parameters
        ----------
        version
            The version.
        """
        rows = self._db.rows(
            "SELECT DISTINCT l.url FROM (SELECT content FROM files WHERE dataset = ? "
            "AND since <= ? AND (until IS NULL OR until > ?) LIMIT ?) f "
            "CROSS JOIN locations l ON l.content = f.content",
            (version.dataset, version.seq, version.seq, _MAX_SAMPLED),
        )
        return [url for (url,) in rows]

    def of_url(self, url: str) -> list[LocationRow]:
        """Return the rows of a URL, one per content that it had."""
        rows = self._db.rows(
            "SELECT url, kind, version_id, probed_at, probe_result FROM locations "
            "WHERE url_hash = ? AND url = ? ORDER BY id",
            (short_hash(plain_url(url)), url),
        )
        return [_location_row(row) for row in rows]

    def known(self, urls: Sequence[str]) -> list[Location | None]:
        """Return the object version last seen at each URL without version, or None."""
        plain = [plain_url(url) for url in urls]
        last: dict[str, tuple[int, int, str, str | None]] = {}
        for some in batches(list(map(short_hash, plain))):
            for url, version_id, last_version, number in self._db.all(
                "SELECT url, version_id, last_version, id FROM locations "
                f"WHERE url_hash IN ({placeholders(some)}) AND rank = {EXACT}",
                some,
            ):
                address = plain_url(url)
                before = last.get(address)
                if before is None or before < (last_version, number):
                    last[address] = (last_version, number, url, version_id)
        # this rank has objects only
        return [
            None if row is None else Location(row[2], "s3", row[3] or url_version_id(row[2]))
            for row in map(last.get, plain)
        ]

    def due(
        self, limit: int, before: str, *, mirror: str | None = None, dataset: str | None = None
    ) -> list[DueLocation]:
        """Return locations that were never probed, then those probed longest ago.

        Parameters
        ----------
        limit : int
            The maximum number of locations.
        before : str
            Omit those probed at this time (as in journal entries) or later.
        mirror, dataset : str, optional
            Return only locations of one mirror, or of files that one dataset has or had.

        Raises
        ------
        UnknownMirrorError, UnknownDatasetError
        """
        found: list[DueLocation] = []
        claimants = self._db.claimants()
        # two queries, so that each reads the index from its start
        for condition, given in (("l.probed_at IS NULL", ()), ("l.probed_at < ?", (before,))):
            for row in self._due_rows(condition, given, limit - len(found), mirror, dataset):
                found.append(_due_location(row, digests(row, claimants)))
            if len(found) >= limit:
                break
        return found

    def _due_rows(
        self,
        condition: str,
        given: Sequence[str],
        limit: int,
        mirror: str | None,
        dataset: str | None,
    ) -> Iterator[tuple[Any, ...]]:
        order = "ORDER BY l.probed_at, l.id LIMIT ?"
        if dataset is not None:
            sql = _DUE.format(locations=_OF_DATASET, condition=condition)
            return self._db.rows(sql + order, (self._db.dataset_number(dataset), *given, limit))
        sql = _DUE.format(locations="locations l INDEXED BY locations_probed", condition=condition)
        if mirror is None:
            return self._db.rows(sql + order, (*given, limit))
        number = self._db.mirror_number(mirror)
        if self._is_small(number):
            # the index would pass all locations of the larger mirrors
            sql = _DUE.format(locations=_OF_MIRROR, condition=condition)
            return self._db.rows(sql + order, (number, *given, limit))
        return self._db.rows(f"{sql} AND d.mirror = ? {order}", (*given, number, limit))

    def _is_small(self, mirror: int) -> bool:
        row = self._db.row(
            "SELECT coalesce(sum(n.files), 0), (SELECT max(id) FROM locations) FROM datasets d "
            "JOIN versions n ON n.id = d.newest_version WHERE d.mirror = ?",
            (mirror,),
        )
        assert row is not None
        return bool(row[1] and row[0] * _SMALL_SHARE < row[1])

    def failing(self) -> dict[str, dict[str, int]]:
        """Return the number of failing locations of each mirror, by probe result."""
        found: dict[str, dict[str, int]] = {}
        for mirror, result, count in self._db.rows(
            "SELECT m.name, l.probe_result, count(*) FROM locations l INDEXED BY locations_failing "
            "CROSS JOIN versions v ON v.id = l.last_version "
            "CROSS JOIN datasets d ON d.id = v.dataset "
            "CROSS JOIN mirrors m ON m.id = d.mirror "
            f"WHERE l.probe_result <> 'ok' AND d.withdrawn = '' AND {_IS_CURRENT} "
            "GROUP BY m.name, l.probe_result ORDER BY m.name, l.probe_result"
        ):
            found.setdefault(mirror, {})[result] = count
        return found

    def failures(self) -> list[FailureRow]:
        """Return a failure per mirror whose locations lost current or published contents.

        Older observed states, which upstream may delete, do not count, and neither do locations
        that could not be probed.
        """
        found: dict[str, tuple[Counter[str], str, str]] = {}
        for mirror, result, count, first, last in self._db.rows(
            "SELECT m.name, l.probe_result, count(*), min(l.probed_at), max(l.probed_at) "
            "FROM locations l INDEXED BY locations_failing "
            "CROSS JOIN versions w ON w.id = l.last_version "
            "CROSS JOIN datasets e ON e.id = w.dataset "
            "CROSS JOIN mirrors m ON m.id = e.mirror "
            "WHERE l.probe_result <> 'ok' "
            "AND l.probe_result IN ('not-found', 'changed', 'refused', 'archived') "
            f"AND e.withdrawn = '' AND {_IS_CURRENT} AND EXISTS ("
            "SELECT 1 FROM files f JOIN datasets d ON d.id = f.dataset "
            "JOIN versions v ON v.dataset = d.id AND v.seq >= f.since "
            "AND (f.until IS NULL OR v.seq < f.until) "
            "WHERE f.content = l.content AND (v.id = d.newest_version OR v.kind = 'published')) "
            "GROUP BY m.name, l.probe_result ORDER BY m.name, l.probe_result"
        ):
            counts, since, at = found.setdefault(mirror, (Counter(), first, last))
            counts[result] = count
            found[mirror] = counts, min(since, first), max(at, last)
        return [
            FailureRow(
                "locations",
                mirror,
                None,
                f"{counts.total()} locations no longer have current or published files "
                f"({', '.join(f'{count} {reason}' for reason, count in counts.items())}); "
                "`neuromirror audit` probes them again",
                since,
                at,
            )
            for mirror, (counts, since, at) in found.items()
        ]

    def failing_of(self, version: VersionRow) -> dict[str, int]:
        """Return the number of failing locations of a version's files, by probe result."""
        rows = self._db.rows(
            "SELECT l.probe_result, count(DISTINCT l.id) "
            "FROM locations l INDEXED BY locations_failing "
            "CROSS JOIN files f ON f.content = l.content "
            f"WHERE l.probe_result <> 'ok' AND f.dataset = ? AND f.since <= ? "
            f"AND (f.until IS NULL OR f.until > ?) AND {_IS_CURRENT} "
            "GROUP BY l.probe_result ORDER BY l.probe_result",
            (version.dataset, version.seq, version.seq),
        )
        return dict(rows)

    def failing_hosts(self, limit: int) -> list[FailingHost]:
        """Return the hosts with failing locations by mirror, host and probe result, most first."""
        # the host of https://host/path, the bucket of s3://bucket/key
        rows = self._db.rows(
            "SELECT mirror, substr(rest, 1, instr(rest || '/', '/') - 1) AS host, result, "
            "count(*) AS locations, max(at) FROM ("
            "SELECT m.name AS mirror, substr(l.url, instr(l.url, '://') + 3) AS rest, "
            "l.probe_result AS result, l.probed_at AS at "
            "FROM locations l INDEXED BY locations_failing "
            "CROSS JOIN versions v ON v.id = l.last_version "
            "CROSS JOIN datasets d ON d.id = v.dataset "
            "CROSS JOIN mirrors m ON m.id = d.mirror "
            f"WHERE l.probe_result <> 'ok' AND d.withdrawn = '' AND {_IS_CURRENT}"
            ") GROUP BY mirror, host, result ORDER BY locations DESC, mirror, host, result LIMIT ?",
            (limit,),
        )
        return [FailingHost(*row) for row in rows]

    def probe_summary(self, version: VersionRow) -> ProbeSummary:
        """Return counts of a version's files by their probes; it reads every file."""
        key = "probes", version.dataset, version.seq
        return self._db.cached(key, lambda: self._read_probe_summary(version))

    def _read_probe_summary(self, version: VersionRow) -> ProbeSummary:
        # reading the locations of every file takes most of the time
        probed = self._db.row("SELECT 1 FROM locations WHERE probed_at IS NOT NULL LIMIT 1")
        joined = "locations" if probed else "(SELECT * FROM locations LIMIT 0)"
        row = self._db.row(
            "SELECT count(*), coalesce(sum(hashed), 0), coalesce(sum(available IS NOT NULL), 0), "
            "coalesce(sum(probed), 0), min(available) FROM (SELECT c.checked <> 0 AS hashed, "
            "max(CASE WHEN l.probe_result = 'ok' THEN l.probed_at END) AS available, "
            "max(l.probed_at) IS NOT NULL AS probed "
            "FROM files f CROSS JOIN contents c ON c.id = f.content "
            f"LEFT JOIN {joined} l ON l.content = c.id "
            "WHERE f.dataset = ? AND f.since <= ? AND (f.until IS NULL OR f.until > ?) "
            "GROUP BY f.path)",
            (version.dataset, version.seq, version.seq),
        )
        assert row is not None
        return ProbeSummary(*row)

    def probe_coverage(self) -> tuple[bool, str | None]:
        """Return whether every location was probed, and the time of the oldest last probe."""
        never = self._db.row("SELECT 1 FROM locations WHERE probed_at IS NULL LIMIT 1")
        oldest = self._db.row("SELECT min(probed_at) FROM locations WHERE probed_at IS NOT NULL")
        return never is None, None if oldest is None else oldest[0]


def _location_row(row: tuple[Any, ...]) -> LocationRow:
    url, kind, version_id, checked_at, result = row
    return LocationRow(url, kind, version_id or url_version_id(url), checked_at, result)


def _due_location(row: tuple[Any, ...], known: tuple[Any, ...]) -> DueLocation:
    url, dataset, path, checked_at, result, is_only_location = row[CONTENT_WIDTH:]
    return DueLocation(
        url, row[1], known, dataset, path, checked_at, result, bool(is_only_location)
    )


_BATCH = 10_000
"""Values per statement."""


_T = TypeVar("_T")


def batches(values: list[_T]) -> Iterator[list[_T]]:
    return (values[start : start + _BATCH] for start in range(0, len(values), _BATCH))


def placeholders(values: list[Any]) -> str:
    return ",".join("?" * len(values))
