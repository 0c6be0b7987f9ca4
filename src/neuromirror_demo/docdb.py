"""A simulation of the REST endpoint of AIND's document database.

``GET /{v1|v2}/metadata_index/data_assets/find?filter=&projection=&limit=&skip=`` returns
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
        limit, skip = int(query.get("limit") or 0), int(query.get("skip") or 0)
        found = [
            one
            for one in records
            if all(_matches(one.get(name), condition) for name, condition in filters.items())
        ][skip:]
    except (ValueError, TypeError, AttributeError, re.error) as error:
        return json_response({"message": f"Bad Request: {error}"}, 400)
    names = {"_id", *shown}
    return json_response(
        [
            {name: value for name, value in one.items() if not shown or name in names}
            for one in found[: min(limit or most, most)]
        ]
    )


def _matches(value: Any, condition: Any) -> bool:
    if not isinstance(condition, dict):
        return bool(value == condition)
    for how, other in condition.items():
        if how not in _OPERATORS:
            raise ValueError(f"unknown operator {how}")
        if not _OPERATORS[how](value, other):
            return False
    return True


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$in": lambda value, other: value in other,
    "$regex": lambda value, other: isinstance(value, str) and bool(re.search(other, value)),
}
"""The operators that clients of the project use."""
