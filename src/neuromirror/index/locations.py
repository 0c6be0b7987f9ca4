"""Write the locations of contents; each URL is added to a content once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from neuromirror.index.bulk_insert import insert_rows
from neuromirror.index.urls import short_hash
from neuromirror.model import Location, RecordLine
from neuromirror.model.records import plain_url

_PendingLocation = tuple[Location, int, bool]
"""A location, the hash of its plain URL, whether a changed file has it."""

_RELEARN = "UPDATE locations SET last_version = max(last_version, ?) WHERE id = ?"
_COLUMNS = "locations (content, rank, url, kind, version_id, url_hash, last_version)"

EXACT, OBJECT, ADDRESS = 0, 1, 2
"""Ranks: an exact object version, an object that may be overwritten, another URL."""


def rank(location: Location) -> int:
    """Return the preference of a location; a lower number is better.

    An object version is best, then an object without a version, then any other URL.
    """
    if location.kind not in ("s3", "s3-private"):
        return ADDRESS
    return OBJECT if location.version_id is None else EXACT


class LocationWriter:
    """Adds the locations of the files of one version to the tables.

    For use within one transaction, which the caller opens.

    Parameters
    ----------
    connection
        The connection.
    version
        The id of the version.
    is_renewal
        Whether the version is in the index already, so that its own locations become the last ones.
    """

    def __init__(
        self, connection: sqlite3.Connection, version: int, *, is_renewal: bool = False
    ) -> None:
        self._db = connection
        self._version = version
        self._is_renewal = is_renewal

    def add(self, files: Iterable[tuple[int, bool, bool, Sequence[Location]]]) -> None:
        """Add the locations of files.

        An item is (content id, whether the content is new, whether the file changed, locations).

        A location of a changed file gets this version as its last one, so that after a roll-back
        upstream the exact object version of a plain URL is again the one that is served.
        """
        # in order of appearance, whatever the batch size: it determines the row ids (I8)
        pending: dict[tuple[int, str], _PendingLocation] = {}
        hashes: list[int] = []
        for content, fresh, changed, locations in files:
            for location in locations:
                at = (content, location.url)
                before = pending.get(at)
                if before is None:
                    plain = short_hash(plain_url(location.url))
                    pending[at] = (location, plain, changed)
                    if not fresh:
                        hashes.append(plain)
                elif changed and not before[2]:
                    pending[at] = (before[0], before[1], True)
        known = self._read_known(hashes)
        version = self._version
        new: list[tuple[int, int, str, str, str | None, int, int]] = []
        relearned: list[tuple[int, int]] = []
        for at, (location, plain, changed) in pending.items():
            found = known.get(at)
            if found is None:
                version_id = _explicit_version_id(location)
                new.append(
                    (at[0], rank(location), at[1], location.kind, version_id, plain, version)
                )
            elif changed and (found[1] != version or self._is_renewal):
                relearned.append((version, found[0]))
        self._db.executemany(_RELEARN, relearned)
        if self._is_renewal:
            self._db.executemany(
                "UPDATE locations SET id = (SELECT max(id) + 1 FROM locations) WHERE id = ?",
                [(number,) for _, number in relearned],
            )
        insert_rows(self._db, _COLUMNS, new)

    def add_new(self, contents: Sequence[int], records: Sequence[RecordLine]) -> None:
        """Add the locations of files whose contents are all new and distinct."""
        version = self._version
        new = []
        for content, record in zip(contents, records, strict=True):
            locations: Iterable[Location] = record.locations
            if len(record.locations) > 1:
                once: dict[str, Location] = {}
                for location in record.locations:
                    once.setdefault(location.url, location)
                locations = once.values()
            for location in locations:
                plain = short_hash(plain_url(location.url))
                version_id = _explicit_version_id(location)
                new.append(
                    (
                        content,
                        rank(location),
                        location.url,
                        location.kind,
                        version_id,
                        plain,
                        version,
                    )
                )
        insert_rows(self._db, _COLUMNS, new)

    def _read_known(self, hashes: list[int]) -> dict[tuple[int, str], tuple[int, int]]:
        """Return (row id, last version) of the locations that exist, by content and URL."""
        found: dict[tuple[int, str], tuple[int, int]] = {}
        # by URL, not by content: one content may have very many locations
        for start in range(0, len(hashes), 10_000):
            some = hashes[start : start + 10_000]
            marks = ",".join("?" * len(some))
            for row in self._db.execute(
                f"SELECT content, url, id, last_version FROM locations WHERE url_hash IN ({marks})",
                some,
            ):
                found[row[:2]] = row[2:]
        return found


def _explicit_version_id(location: Location) -> str | None:
    """Return the version id if it must be stored: most URLs contain it."""
    if location.version_id is None or location.url.endswith(f"versionId={location.version_id}"):
        return None
    return location.version_id
