"""The page of what differs between two versions."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import Index, UnknownDataset, UnknownMirror
from neuromirror.store import Store
from neuromirror.web.asked import Asked, Wrong, view
from neuromirror.web.records import told_version

_DIFFERENT = 2000
_OFFERED = 300
"""Versions that the form offers."""


@view
async def diff(asked: Asked) -> Response:
    """What is different between two versions, or a form to choose them."""
    one, other = asked.value("a").strip(), asked.value("b").strip()
    page = asked.whole("page", 1, 1_000_000)
    if one and other:
        told = await asked.site.reader.ask_at_length(
            lambda index: {
                **_different(asked.site.store, index, one, other, page),
                "offered": _offered(index, one, other),
            }
        )
        return await asked.page("diff", most=_DIFFERENT, page=page, a=one, b=other, **told)
    offered = await asked.ask(lambda index: _offered(index, one, other))
    wrong = ""
    if one or other:
        wrong = "say which versions: one is missing. A version is <mirror>:<id>@<label>, "
        wrong += "such as dandi:000027@0.210831.2033"
    return await asked.page(
        "diff", 400 if wrong else 200, a=one, b=other, offered=offered, wrong=wrong, old=None
    )


def _offered(index: Index, *names: str) -> list[str]:
    """The versions of the datasets that were named, newest first."""
    found: list[str] = []
    for name in dict.fromkeys(_split(one)[0] for one in names if one):
        try:
            versions = list(index.versions(name))
        except (UnknownDataset, UnknownMirror):
            continue
        found += [one.name for one in reversed(versions[-_OFFERED:])]
    return found


def _different(store: Store, index: Index, one: str, other: str, page: int) -> dict[str, Any]:
    from neuromirror.lab import Counts
    from neuromirror.lab import diff as compare
    from neuromirror.lab.diff import FileChange, version_side

    rows = [index.resolve(*_split(name)) for name in (one, other)]
    counts = Counts()
    first = (page - 1) * _DIFFERENT
    changes: list[FileChange] = []
    place = 0
    with TemporaryDirectory(prefix="neuromirror-") as scratch:
        sides = [version_side(store, index, row) for row in rows]
        for place, change in enumerate(compare(sides[0], sides[1], Path(scratch)), 1):
            counts.add(change)
            if first < place <= first + _DIFFERENT:
                changes.append(change)
    if page > 1 and not changes:
        raise Wrong(f"there is no page {page} of this: {place} things differ")
    return {
        "old": told_version(rows[0]),
        "new": told_version(rows[1]),
        "changes": changes,
        "counts": counts,
        "first": first,
        "all": place,
        "wrong": "",
    }


def _split(name: str) -> tuple[str, str]:
    found, _, label = name.partition("@")
    return found, label or "latest"
