"""A simulation of the REST endpoint of AIND's document database.

``GET /{v1|v2}/metadata_index/data_assets/find?filter=&projection=&sort=&limit=&skip=`` returns
a JSON list of records. Like the real one, it silently returns fewer than ``limit`` records if they
would exceed a size in bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from werkzeug.wrappers import Response

from neuromirror_demo.paging import json_response

PATH = re.compile(r"/(?P<version>v[12])/metadata_index/data_assets/find/?")

Record = dict[str, Any]

_RENAMED = {"created": "_created", "last_modified": "_last_modified"}


def collection(records: Iterable[Record], version: str) -> list[Record]:
    """Return the records of a database version: v1 older schemas, v2 all, with its field names."""
    if version == "v1":
        return [one for one in records if "_created" not in one]
    return [{_RENAMED.get(name, name): value for name, value in one.items()} for one in records]


def find(records: Iterable[Record], query: Mapping[str, str], most: int) -> Response:
    """Return the matching records, at most ``most``; 400 for an invalid query."""
    try:
        filters = json.loads(query.get("filter") or "{}")
        shown = json.loads(query.get("projection") or "{}")
        order = json.loads(query.get("sort") or "{}")
        limit, skip = int(query.get("limit") or 0), int(query.get("skip") or 0)
        found = [one for one in records if _matches(one, filters)]
    except (ValueError, TypeError, AttributeError, re.error) as error:
        return json_response({"message": f"Bad Request: {error}"}, 400)
    for name, direction in reversed(list(order.items())):
        found.sort(key=_by(name), reverse=direction == -1)
    found = found[skip:]
    return json_response([_project(one, shown) for one in found[: min(limit or most, most)]])


def _field(record: Record, name: str) -> Any:
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _by(name: str) -> Callable[[Record], str]:
    return lambda one: str(_field(one, name))


def _matches(record: Record, filters: Mapping[str, Any]) -> bool:
    for name, condition in filters.items():
        if name in {"$and", "$or"}:
            joined = all if name == "$and" else any
            if not joined(_matches(record, one) for one in condition):
                return False
            continue
        value = _field(record, name)
        if isinstance(condition, dict):
            if not all(_compares(value, how, other) for how, other in condition.items()):
                return False
        elif value != condition:
            return False
    return True


def _compares(value: Any, how: str, other: Any) -> bool:
    match how:
        case "$gt":
            return value is not None and bool(value > other)
        case "$gte":
            return value is not None and bool(value >= other)
        case "$lt":
            return value is not None and bool(value < other)
        case "$lte":
            return value is not None and bool(value <= other)
        case "$in":
            return value in other
        case "$ne":
            return bool(value != other)
        case "$exists":
            return (value is not None) == bool(other)
        case "$regex":
            return isinstance(value, str) and re.search(other, value) is not None
    raise ValueError(f"unknown operator {how}")


def _project(record: Record, shown: Mapping[str, Any]) -> Record:
    if not shown:
        return record
    if any(not value for name, value in shown.items() if name != "_id"):
        return {name: value for name, value in record.items() if shown.get(name, 1)}
    kept: Record = {}
    for name in [*(["_id"] if shown.get("_id", 1) else []), *shown]:
        value = _field(record, name)
        if value is None or not shown.get(name, 1):
            continue
        target = kept
        *outer, last = name.split(".")
        for part in outer:
            target = target.setdefault(part, {})
        target[last] = value
    return kept
