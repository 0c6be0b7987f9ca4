"""``/zarr/<id>/files/``: the archive's own list of what is in a Zarr, with its slips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuromirror_demo.paging import Refusal, flag, with_query
from neuromirror_demo.records import Zarr

_MOST = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for."""

    prefix: str
    after: str
    limit: int
    download: bool


def read(args: Mapping[str, str]) -> Asked:
    """The parameters of a request; raises :class:`Refusal` for those that upstream refuses."""
    prefix, limit = args.get("prefix", ""), args.get("limit", str(_MOST))
    if ".." in prefix.replace("\\", "/").split("/"):
        raise Refusal(400, {"prefix": ['Zarr path cannot contain ".." components.']})
    if not limit.isdecimal():
        raise Refusal(400, {"limit": ["A valid integer is required."]})
    if int(limit) > _MOST:
        detail = f"Ensure this value is less than or equal to {_MOST}."
        raise Refusal(400, {"limit": [detail]})
    return Asked(
        prefix.lstrip("/"),
        args.get("after", "").lstrip("/"),
        int(limit),
        flag(args, "download", False),
    )


def files_page(zarr: Zarr, asked: Asked, args: Mapping[str, str], url: str) -> dict[str, Any]:
    """One page ``{next, results}``; ``args`` and ``url`` are the request's own."""
    # The slash at the end is lost: `1/` also finds `10/`.
    start = asked.prefix.rstrip("/")
    names = sorted(
        (name for name in zarr.entries if name.startswith(start) and name > asked.after),
        key=str.encode,
    )
    shown = names[: asked.limit]
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
