"""Where contents can be had: URLs are added to a content once, and remember who taught them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from neuromirror.index.bulk_insert import insert_rows
from neuromirror.index.urls import plain_url, short_hash
from neuromirror.model import Location, RecordLine

_PendingLocation = tuple[Location, int, bool]
"""A place, the hash of its plain URL, whether a changed file brings it."""

_COLUMNS = "locations (content, rank, url, kind, version_id, url_hash, last_version)"

EXACT, OBJECT, ADDRESS = 0, 1, 2
"""Ranks: an exact object version, an object that may be overwritten, another address."""


def rank(location: Location) -> int:
    """The order in which places are offered; lower is better."""
    if location.kind != "s3":
        return ADDRESS
    return OBJECT if location.version_id is None else EXACT


class LocationWriter:
    """Adds the places of one version's files; lives for one transaction."""

    def __init__(self, connection: sqlite3.Connection, version: int) -> None:
        self._db = connection
        self._version = version

    def add(self, files: Iterable[tuple[int, bool, bool, Sequence[Location]]]) -> None:
        """Take (content id, the content is new, the file changed, its places) of each file.

        A place that a changed file brings counts as learnt anew, so that after a roll-back
        upstream the exact version of a plain URL is the one that is served again.
        """
        # in order of appearance, whatever the size of a batch is: the row ids follow it (I8)
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
            elif changed and found[1] != version:
                relearned.append((version, found[0]))
        self._db.executemany("UPDATE locations SET last_version = ? WHERE id = ?", relearned)
        insert_rows(self._db, _COLUMNS, new)

    def add_new(self, contents: Sequence[int], records: Sequence[RecordLine]) -> None:
        """Take the places of files whose contents are all new and differ from each other."""
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
        """(row id, learned) of the places that are there already."""
        found: dict[tuple[int, str], tuple[int, int]] = {}
        # by the URL, not by the content: one content may have very many places
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
    """The version id if it must be kept beside the URL: most URLs say it themselves."""
    if location.version_id is None or location.url.endswith(f"versionId={location.version_id}"):
        return None
    return location.version_id
