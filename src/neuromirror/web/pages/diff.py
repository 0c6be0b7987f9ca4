"""The page of what differs between two versions."""

from __future__ import annotations

from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import Index, UnknownDataset, UnknownMirror
from neuromirror.store import Store
from neuromirror.web.asked import Asked, Wrong, view
from neuromirror.web.comparing import compared, named_version
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
    old, new = (index.resolve(*_split(name)) for name in (one, other))
    first = (page - 1) * _DIFFERENT
    found = compared(store, index, old, new, first, _DIFFERENT)
    if page > 1 and not found.changes:
        raise Wrong(f"there is no page {page} of this: {found.all} things differ")
    return {
        "old": told_version(old),
        "new": told_version(new),
        "changes": found.changes,
        "counts": found.counts,
        "first": first,
        "all": found.all,
        "wrong": "",
    }


def _split(name: str) -> tuple[str, str]:
    dataset, label = named_version(name)
    return dataset, label or "latest"
