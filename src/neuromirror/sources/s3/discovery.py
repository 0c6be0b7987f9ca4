"""Discovery of the datasets in a bucket, level by level, and of their changes.

AIND's DocDB states the times of last change of assets, which are hints only.
``GET <find>?filter=&projection=&limit=&skip=`` returns a list of records. Since the size of a reply
is limited, a page may have fewer than ``limit`` records; only an empty page is the end. The field
is ``last_modified`` in v1 and ``_last_modified`` in v2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from neuromirror.net import ObjectRow, S3Bucket, Session
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.options import BucketOptions, S3Options

Segments = tuple[bytes, ...]
_SHOWN: Final = 5


class PrefixScope:
    """The part of a bucket that the mirror's options select.

    Prefixes are given as segments, the names between slashes.
    """

    def __init__(self, options: BucketOptions) -> None:
        self.top: Segments = local_ids.split_prefix(options.prefix.encode("utf-8"))
        self._exclude = options.exclude

    def is_excluded(self, segments: Segments) -> bool:
        """Return whether this prefix, or one above it, is excluded."""
        return self.matches(segments, self._exclude)

    def matches(self, segments: Segments, patterns: Sequence[str]) -> bool:
        """Return whether a shell pattern matches this prefix or one above it."""
        return any(
            fnmatchcase(local_ids.display_key(b"/".join(segments[:end])), pattern)
            for end in range(len(self.top) + 1, len(segments) + 1)
            for pattern in patterns
        )

    def is_below(self, segments: Segments) -> bool:
        """Return whether a prefix is the mirror's prefix or below it."""
        return segments[: len(self.top)] == self.top

    def level(self, segments: Segments) -> int:
        """Return the number of levels below the mirror's prefix."""
        return len(segments) - len(self.top)


class DatasetLayout(PrefixScope):
    """The depths below the mirror's prefix at which prefixes are datasets, from the options.

    Such a prefix is the root of a dataset.
    """

    def __init__(self, options: S3Options) -> None:
        super().__init__(options)
        self._depth = options.depth
        # the longest matching prefix applies
        self._overrides = sorted(
            (
                (local_ids.split_prefix(override.prefix.encode("utf-8")), override.depth)
                for override in options.datasets
            ),
            key=lambda override: len(override[0]),
            reverse=True,
        )

    def is_root(self, segments: Segments) -> bool:
        """Return whether this prefix is a dataset's root."""
        return self.is_below(segments) and self.level(segments) == self._depth_at(segments)

    def _depth_at(self, segments: Segments) -> int:
        for prefix, depth in self._overrides:
            if segments[: len(prefix)] == prefix:
                return depth
        return self._depth


class UnassignedObjects:
    """Counts the objects that belong to no dataset.

    They are in folders above those of the datasets.
    """

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self._first: list[bytes] = []

    def add(self, row: ObjectRow) -> None:
        """Count an object."""
        self.count += 1
        self.bytes += row.size
        if len(self._first) < _SHOWN:
            self._first.append(row.key)

    def summary(self) -> str | None:
        """Describe the objects, if any."""
        if not self.count:
            return None
        shown = ", ".join(map(local_ids.display_key, self._first))
        rest = self.count - len(self._first)
        more = f" and {rest} more" if rest else ""
        what = "1 object" if self.count == 1 else f"{self.count} objects"
        return (
            f"{what} ({self.bytes} bytes) above the datasets' depth, in no dataset: {shown}{more}"
        )


def find_roots(
    bucket: S3Bucket, layout: DatasetLayout, unassigned: UnassignedObjects
) -> Iterator[Segments]:
    """Yield the prefixes in a bucket that are datasets, as segments, sorted by their bytes.

    If datasets are at several depths, the order applies within each depth. Objects above them are
    counted in ``unassigned``.
    """
    if layout.is_root(layout.top):
        if next(bucket.list_level(local_ids.prefix_of(layout.top)), None) is not None:
            yield layout.top
        return
    yield from _below(bucket, layout, unassigned, layout.top)


def _below(
    bucket: S3Bucket, layout: DatasetLayout, unassigned: UnassignedObjects, around: Segments
) -> Iterator[Segments]:
    for entry in bucket.list_level(local_ids.prefix_of(around)):
        if isinstance(entry, ObjectRow):
            unassigned.add(entry)
            continue
        segments = local_ids.split_prefix(entry)
        if layout.is_excluded(segments):
            continue
        if layout.is_root(segments):
            yield segments
        else:
            yield from _below(bucket, layout, unassigned, segments)


_PAGE: Final = 1000
_MOST_PAGES: Final = 100_000
_ATTEMPTS: Final = 2
"""Attempts per request: few, because the result is only a hint."""
_PROJECTION: Final = {"name": 1, "location": 1, "last_modified": 1, "_last_modified": 1}


def docdb_times(session: Session, find: str, location: str) -> dict[str, str]:
    """Return when DocDB last modified the records of each asset below a location of a bucket.

    Parameters
    ----------
    session
        Sends the requests.
    find
        The URL of DocDB's ``find``.
    location
        ``s3://bucket/prefix``.

    Returns
    -------
    dict[str, str]
        The times by the asset's location, without a final slash. The times of several records of an
        asset are joined.

    Raises
    ------
    NetError, UnexpectedReplyError
        If DocDB cannot be read.
    """
    rows = _rows(session, find, {"location": {"$regex": f"^{re.escape(location)}"}})
    return _by_location(row for row in rows if _location(row).startswith(location))


def docdb_times_of(session: Session, find: str, location: str) -> str | None:
    """Return when DocDB last modified the records of one asset; None if it has none.

    The arguments and the format of the times are those of :func:`docdb_times`.
    """
    rows = _rows(session, find, {"location": {"$in": [location, f"{location}/"]}})
    return _by_location(rows).get(location)


def _by_location(rows: Iterable[Any]) -> dict[str, str]:
    times: dict[str, list[str]] = {}
    for row in rows:
        if location := _location(row):
            times.setdefault(location, []).append(_time(row))
    return {
        location: " ".join(sorted(some)) if all(some) else "" for location, some in times.items()
    }


def _location(row: Any) -> str:
    location = row.get("location") if isinstance(row, Mapping) else None
    return location.rstrip("/") if isinstance(location, str) else ""


def _time(row: Mapping[str, Any]) -> str:
    for field in ("_last_modified", "last_modified"):
        value = row.get(field)
        if value:
            return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return ""


def _rows(session: Session, find: str, mongo_filter: Mapping[str, Any]) -> Iterable[Any]:
    query: dict[str, str | int] = {
        "filter": json.dumps(mongo_filter),
        "projection": json.dumps(_PROJECTION),
        "limit": _PAGE,
    }
    skip = 0
    for _ in range(_MOST_PAGES):
        rows = session.get_json(find, {**query, "skip": skip}, attempts=_ATTEMPTS)
        if not isinstance(rows, list):
            raise UnexpectedReplyError(f"{find}: the reply is not a list of records")
        if not rows:
            return
        yield from rows
        skip += len(rows)
    raise UnexpectedReplyError(f"{find}: the list of records does not end")
