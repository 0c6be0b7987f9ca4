"""The page that compares two versions."""

from __future__ import annotations

from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import Index, UnknownDatasetError, UnknownMirrorError, shapes
from neuromirror.store import Store
from neuromirror.web.request import BadRequestError, CatalogueRequest, view
from neuromirror.web.version_comparison import compare_versions, split_version_name

_PAGE_SIZE = 2000
_MAX_CHOICES = 300
"""Versions that the form offers."""


@view
async def diff(request: CatalogueRequest) -> Response:
    """Show the differences between two versions, or a form to choose them."""
    old, new = request.query_parameter("a").strip(), request.query_parameter("b").strip()
    page = request.integer_parameter("page", 1, 1_000_000)
    if old and new:
        context = await request.site.reader.long_query(
            lambda index: {
                **_difference(request.site.store, index, old, new, page),
                "choices": _version_choices(index, old, new),
            }
        )
        return await request.render_page("diff", page=page, a=old, b=new, **context)
    choices = await request.query_index(lambda index: _version_choices(index, old, new))
    error = ""
    if old or new:
        error = "Enter two versions."
    return await request.render_page(
        "diff", 400 if error else 200, a=old, b=new, choices=choices, error=error, old=None
    )


def _version_choices(index: Index, *names: str) -> list[str]:
    """Return the versions of the given datasets, newest first."""
    found: list[str] = []
    for name in dict.fromkeys(_split(one)[0] for one in names if one):
        try:
            versions = list(index.versions(name))
        except (UnknownDatasetError, UnknownMirrorError):
            continue
        found += [one.name for one in reversed(versions[-_MAX_CHOICES:])]
    return found


def _difference(store: Store, index: Index, one: str, other: str, page: int) -> dict[str, Any]:
    old, new = (index.resolve(*_split(name)) for name in (one, other))
    first = (page - 1) * _PAGE_SIZE
    found = compare_versions(store, index, old, new, first, _PAGE_SIZE)
    if page > 1 and not found.changes:
        raise BadRequestError(f"page {page} does not exist: there are {found.total} differences")
    return {
        "old": shapes.Version.of(old).plain(),
        "new": shapes.Version.of(new).plain(),
        "changes": found.changes,
        "counts": found.counts,
        "first": first,
        "total": found.total,
        "error": "",
    }


def _split(name: str) -> tuple[str, str]:
    dataset, label = split_version_name(name)
    return dataset, label or "latest"
