"""The whole site of one store: Datasette with the catalogue, as an ASGI application."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromirror.index import Index
from neuromirror.model import ConfigurationError
from neuromirror.store import Store
from neuromirror.store.private_store import require_public_store
from neuromirror.web.async_index import AsyncIndexReader
from neuromirror.web.cutouts import CutoutService
from neuromirror.web.rate_limits import RequestLimiter, parse_limits
from neuromirror.web.server.datasette_pool import DatasettePool

if TYPE_CHECKING:
    from datasette.app import Datasette
    from jinja2 import Environment


@dataclass(frozen=True, slots=True)
class Site:
    """What the pages are made from; ``address`` is the site's own, as people type it.

    ``tables`` are None in the processes that answer for tables themselves.
    """

    store: Store
    reader: AsyncIndexReader
    title: str
    address: str
    cutouts: CutoutService
    limiter: RequestLimiter
    templates: Environment
    tables: DatasettePool | None = None


_SITES: weakref.WeakKeyDictionary[Any, Site] = weakref.WeakKeyDictionary()
"""Of each Datasette that shows a store."""


def find_site(datasette: Datasette) -> Site | None:
    """The site that a Datasette shows, or None: it is another one's Datasette."""
    return _SITES.get(datasette)


def catalogue_app(
    store: Store,
    index_path: Path,
    *,
    title: str = "",
    address: str = "",
    cutouts: bool = True,
    sql: bool = False,
    limiter: RequestLimiter | None = None,
) -> Any:
    """The site of a store, as an ASGI application; see :class:`Site`.

    ``cutouts`` says whether voxels may be had from upstream for those who ask, ``sql`` whether
    visitors may write SQL statements of their own; ``limiter`` admits expensive requests, by
    default as :data:`~neuromirror.web.rate_limits.REQUEST_KINDS` says.

    Raises ConfigurationError without the extra ``web``, for a private store, and IndexMissingError.
    """
    require_public_store(store.root)
    try:
        from datasette.app import Datasette
        from datasette.plugins import pm
    except ImportError as error:
        raise ConfigurationError(
            f"the catalogue needs {error.name}, which is not installed: pip install "
            "'neuromirror[web]'"
        ) from error
    from neuromirror import web

    if not pm.is_registered(web):  # as where its entry point is not seen
        pm.register(web)
    Index.open_readonly(index_path).close()
    title = title or "neuromirror"
    # for its style sheets; what asks the index runs in processes of its own
    datasette = Datasette([], metadata={"title": title})
    found = DatasettePool(store.root, index_path, title=title, address=address, sql=sql)
    attach_site(
        datasette,
        store,
        index_path,
        title=title,
        address=address,
        cutouts=cutouts,
        limiter=limiter,
        tables=found,
    )
    return datasette.app()


def attach_site(
    datasette: Datasette,
    store: Store,
    index_path: Path,
    *,
    title: str,
    address: str,
    cutouts: bool = False,
    limiter: RequestLimiter | None = None,
    tables: DatasettePool | None = None,
) -> None:
    """Make a Datasette show a store; see :class:`Site`."""
    from neuromirror.web.template_environment import template_environment

    _SITES[datasette] = Site(
        store,
        AsyncIndexReader(index_path),
        title,
        address,
        CutoutService(store, is_allowed=cutouts),
        limiter or RequestLimiter(parse_limits(())),
        template_environment(),
        tables,
    )
