"""The page that compares two versions, and the form to choose them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

from datasette.utils.asgi import Response

from neuromirror.index import Index, VersionRow, shapes
from neuromirror.store import Store
from neuromirror.web.filters import kind_label
from neuromirror.web.request import BadRequestError, CatalogueRequest, view
from neuromirror.web.version_comparison import compare_versions, split_version_name

_PAGE_SIZE: Final = 2000
_MAX_CHOICES: Final = 300
"""Versions, or datasets, that the form offers."""
_MIN_SUMMARIZED: Final = 50
"""Number of changes from which they are summarised by folder."""
_MAX_FOLDERS: Final = 100


@view
async def diff(request: CatalogueRequest) -> Response:
    """Show the differences between two versions, or a form to choose them."""
    old, new = request.query_parameter("a").strip(), request.query_parameter("b").strip()
    under = request.query_parameter("under").strip("/")
    page = request.integer_parameter("page", 1, 1_000_000)
    if old and new:
        context = await request.site.reader.long_query(
            lambda index: _difference(request.site.store, index, (old, new), page, under)
        )
        return await request.render_page("diff", page=page, a=old, b=new, under=under, **context)
    first = request.query_parameter("dataset").strip() or _split(old or new)[0]
    second = request.query_parameter("other").strip() or first
    context = await request.query_index(lambda index: _form(index, first, second, old, new))
    return await request.render_page("compare", dataset=first, other=second, **context)


def _form(index: Index, first: str, second: str, old: str, new: str) -> dict[str, Any]:
    """Return the datasets, or the versions of two datasets, to choose from."""
    if not first:
        rows = islice(index.datasets(subdatasets=False), _MAX_CHOICES)
        return {"datasets": [(one.name, one.title) for one in rows], "sides": None}
    sides = _choices(index, first), _choices(index, second)
    before, after = (_resolved(index, name) for name in (old, new))
    if not after:
        after = index.resolve(second).name
    if not before:
        before = _earlier([name for name, _ in sides[0]], after)
    return {"sides": sides, "chosen": (before, after)}


def _earlier(names: Sequence[str], name: str) -> str:
    """Return the version before another one, of names that start with the newest."""
    earlier = names[names.index(name) + 1 :] if name in names else names
    others = earlier or [one for one in names if one != name]
    return others[0] if others else name


def _resolved(index: Index, name: str) -> str:
    """Return the version that a name means; empty for the name of a dataset."""
    return index.resolve(*_split(name)).name if split_version_name(name)[1] else ""


def _choices(index: Index, dataset: str) -> list[tuple[str, str]]:
    """Return name and kind of the versions of a dataset, newest first."""
    rows: list[VersionRow] = list(index.versions(dataset))
    return [
        (one.name, kind_label(one.kind, one.upstream)) for one in reversed(rows[-_MAX_CHOICES:])
    ]


def _difference(
    store: Store, index: Index, names: tuple[str, str], page: int, under: str
) -> dict[str, Any]:
    old, new = (index.resolve(*_split(name)) for name in names)
    first = (page - 1) * _PAGE_SIZE
    found = compare_versions(store, index, old, new, first, _PAGE_SIZE, under)
    if page > 1 and not found.changes:
        raise BadRequestError(f"page {page} does not exist: there are {found.total} differences")
    sides = [_choices(index, row.dataset_name) for row in (old, new)]
    return {
        "old": shapes.Version.of(old).plain(),
        "new": shapes.Version.of(new).plain(),
        "changes": found.changes,
        "counts": found.counts,
        "folders": _summary(found.folders, found.total),
        "first": first,
        "total": found.total,
        "sides": sides,
        "chosen": (old.name, new.name),
    }


def _summary(folders: Mapping[str, Counter[str]], total: int) -> list[tuple[str, Counter[str]]]:
    """Return the folders with most changes; none if there are few changes or one folder."""
    if total < _MIN_SUMMARIZED or not any(folders):
        return []
    return sorted(folders.items(), key=lambda one: (-one[1].total(), one[0]))[:_MAX_FOLDERS]


def _split(name: str) -> tuple[str, str]:
    dataset, label = split_version_name(name)
    return dataset, label or "latest"
