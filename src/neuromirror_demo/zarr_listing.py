"""``/zarr/<id>/files/``: the archive's own list of a Zarr's files, with its defects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuromirror_demo.paging import ApiError, flag, with_query
from neuromirror_demo.records import Zarr

_MAX_PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class ZarrFilesQuery:
    """A parsed request."""

    prefix: str
    after: str
    limit: int
    download: bool


def parse_query(args: Mapping[str, str]) -> ZarrFilesQuery:
    """Parse the parameters of a request; raise :class:`ApiError` for invalid ones."""
    prefix, limit = args.get("prefix", ""), args.get("limit", str(_MAX_PAGE_SIZE))
    if ".." in prefix.replace("\\", "/").split("/"):
        raise ApiError(400, {"prefix": ['Zarr path cannot contain ".." components.']})
    if not limit.isdecimal():
        raise ApiError(400, {"limit": ["A valid integer is required."]})
    if int(limit) > _MAX_PAGE_SIZE:
        detail = f"Ensure this value is less than or equal to {_MAX_PAGE_SIZE}."
        raise ApiError(400, {"limit": [detail]})
    return ZarrFilesQuery(
        prefix.lstrip("/"),
        args.get("after", "").lstrip("/"),
        int(limit),
        flag(args, "download", False),
    )


def files_page(
    zarr: Zarr, query: ZarrFilesQuery, args: Mapping[str, str], url: str
) -> dict[str, Any]:
    """Return one page ``{next, results}``; ``args`` and ``url`` are those of the request."""
    # The final slash is dropped, so that `1/` also matches `10/`.
    start = query.prefix.rstrip("/")
    names = sorted(
        (name for name in zarr.entries if name.startswith(start) and name > query.after),
        key=str.encode,
    )
    shown = names[: query.limit]
    following = None
    if shown and len(names) > len(shown):
        following = with_query(url, {**args, "after": shown[-1]})
    return {
        "next": following,
        "results": [
            {
                "Key": name,
                "LastModified": f"{zarr.entries[name].modified:%Y-%m-%d %H:%M:%S}+00:00",
                "ETag": zarr.entries[name].etag,
                "Size": len(zarr.entries[name].data),
            }
            for name in shown
        ],
    }
