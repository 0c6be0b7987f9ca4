"""The whole site of one store: Datasette with the catalogue, as an ASGI application."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromirror.index import CANNED
from neuromirror.model import ConfigurationError
from neuromirror.store import Store
from neuromirror.store.private import refuse_private
from neuromirror.web.cutouts import Cutouts
from neuromirror.web.limiting import Limiter, parse_limits
from neuromirror.web.reader import Reader

if TYPE_CHECKING:
    from datasette.app import Datasette
    from jinja2 import Environment

_SETTINGS = {
    "sql_time_limit_ms": 1000,
    "max_returned_rows": 1000,
    "default_page_size": 50,
    "num_sql_threads": 3,
    "allow_download": False,
    "allow_csv_stream": False,
    "suggest_facets": False,
    "facet_time_limit_ms": 200,
    "template_debug": False,
    "trace_debug": False,
    "default_cache_ttl": 0,
}


@dataclass(frozen=True, slots=True)
class Site:
    """What the pages are made from; ``address`` is the site's own, as people type it."""

    store: Store
    reader: Reader
    title: str
    address: str
    cutouts: Cutouts
    limiter: Limiter
    templates: Environment


_SITES: weakref.WeakKeyDictionary[Any, Site] = weakref.WeakKeyDictionary()
"""Of each Datasette that shows a store."""


def site_of(datasette: Datasette) -> Site | None:
    """The site that a Datasette shows, or None: it is another one's Datasette."""
    return _SITES.get(datasette)


def catalogue(
    store: Store,
    index_path: Path,
    *,
    title: str = "",
    address: str = "",
    cutouts: bool = True,
    limiter: Limiter | None = None,
) -> Any:
    """The site of a store, as an ASGI application; see :class:`Site`.

    ``cutouts`` says whether voxels may be had from upstream for those who ask; ``limiter`` admits
    expensive requests, by default as :data:`~neuromirror.web.limiting.KINDS` says.

    Raises ConfigurationError without the extra ``web``, for a private store, and IndexMissing.
    """
    refuse_private(store.root)
    try:
        from datasette.app import Datasette
        from datasette.plugins import pm
    except ImportError as error:
        raise ConfigurationError(
            f"the catalogue needs {error.name}, which is not installed: pip install "
            "'neuromirror[web]'"
        ) from error
    from neuromirror import web
    from neuromirror.web.rendering import environment

    if not pm.is_registered(web):  # as where its entry point is not seen
        pm.register(web)
    reader = Reader(index_path)
    datasette = Datasette(
        [],
        metadata={
            "title": title or "neuromirror",
            "databases": {"index": {"queries": CANNED}},
        },
        settings=_SETTINGS,
    )
    _SITES[datasette] = Site(
        store,
        reader,
        title or "neuromirror",
        address,
        Cutouts(store, allowed=cutouts),
        limiter or Limiter(parse_limits(())),
        environment(),
    )
    reader.show_in(datasette)
    return datasette.app()
