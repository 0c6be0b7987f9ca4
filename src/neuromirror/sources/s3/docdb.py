"""The times of last change of assets in AIND's DocDB. They are hints only.

``GET <find>?filter=&projection=&limit=&skip=`` returns a list of records. Since the size of a reply
is limited, a page may have fewer than ``limit`` records; only an empty page is the end. The field
is ``last_modified`` in v1 and ``_last_modified`` in v2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from neuromirror.net import Session
from neuromirror.sources.errors import UnexpectedReplyError

_PAGE: Final = 1000
_MOST_PAGES: Final = 100_000
_ATTEMPTS: Final = 2
"""Attempts per request: few, because the result is only a hint."""
_PROJECTION: Final = {"name": 1, "location": 1, "last_modified": 1, "_last_modified": 1}


def all_times(session: Session, find: str, location: str) -> dict[str, str]:
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


def times_of(session: Session, find: str, location: str) -> str | None:
    """Return when DocDB last modified the records of one asset; None if it has none.

    The arguments and the format of the times are those of :func:`all_times`.
    """
    rows = _rows(session, find, {"location": {"$in": [location, f"{location}/"]}})
    return _by_location(rows).get(location)


def _by_location(rows: Iterable[Any]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for row in rows:
        if location := _location(row):
            found.setdefault(location, []).append(_time(row))
    return {
        location: " ".join(sorted(times)) for location, times in found.items() if all(times)
    } | {location: "" for location, times in found.items() if not all(times)}


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
