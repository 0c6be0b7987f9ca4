"""The site of a store: Datasette with the catalogue, as an ASGI application."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, to_builtins

from neuromirror.index import Index
from neuromirror.model import ConfigurationError
from neuromirror.store import Store
from neuromirror.store.private_store import require_public_store
from neuromirror.web.async_index import AsyncIndexReader
from neuromirror.web.cutouts import CutoutService
from neuromirror.web.example_searches import ExampleSearches
from neuromirror.web.gateway.service import GatewayService, GatewaySettings
from neuromirror.web.previews import PreviewService
from neuromirror.web.rate_limits import RequestLimiter, parse_limits
from neuromirror.web.readmes import ReadmeService
from neuromirror.web.server.datasette_pool import DatasettePool
from neuromirror.web.server.page_pool import PagePool

if TYPE_CHECKING:
    from datasette.app import Datasette
    from jinja2 import Environment


class Site(Struct, frozen=True):
    """The objects that all pages of the catalogue share.

    ``address`` is the public URL of the site, ``archives`` the titles of archives by mirror.
    ``tables`` are the Datasette processes that serve SQL queries; None inside these processes
    themselves. ``pages`` are the processes that make pages; None if this process makes all.
    """

    store: Store
    reader: AsyncIndexReader
    title: str
    address: str
    cutouts: CutoutService
    previews: PreviewService
    limiter: RequestLimiter
    templates: Environment
    readmes: ReadmeService
    archives: Mapping[str, str]
    examples: ExampleSearches
    gateway: GatewayService
    tables: DatasettePool | None = None
    pages: PagePool | None = None

    def archive_title(self, mirror: str) -> str:
        """Return the title of an archive for visitors; the name of the mirror without one."""
        return self.archives.get(mirror, mirror)


_SITES: weakref.WeakKeyDictionary[Any, Site] = weakref.WeakKeyDictionary()
"""The site of each Datasette instance."""


def find_site(datasette: Datasette) -> Site | None:
    """Return the site that :func:`attach_site` attached to a Datasette instance, or None."""
    return _SITES.get(datasette)


def import_pint_without_dask() -> None:
    """Import Datasette's copy of Pint without the optional ``dask.array``.

    Where dask is installed, Pint imports it with all of SciPy, for nothing that Datasette uses: a
    third of the start of a catalogue, and 30 MB in each of its processes. To be called before
    ``datasette.app`` is imported.
    """
    if "dask" in sys.modules:
        return
    sys.modules["dask"] = None  # type: ignore[assignment]  # the import statement then fails
    try:
        import_module("datasette.vendored.pint")
    finally:
        del sys.modules["dask"]


def catalogue_app(
    store: Store,
    index_path: Path,
    *,
    title: str = "",
    address: str = "",
    cutouts: bool = True,
    sql: bool = False,
    limiter: RequestLimiter | None = None,
    archives: Mapping[str, str] | None = None,
    gateway: GatewaySettings | None = None,
    processes: int = 1,
    on_page_exit: Callable[[], None] = lambda: None,
) -> Any:
    """Return the site of a store as an ASGI application.

    Parameters
    ----------
    store, index_path
        The store and its index.
    title, address
        Title and public URL of the site.
    cutouts
        Whether visitors may request voxels, previews and small files, and READMEs be read, from
        upstream.
    sql
        Whether visitors may write SQL statements.
    limiter
        Limits expensive requests, by default as :data:`~neuromirror.web.rate_limits.REQUEST_KINDS`.
    archives
        Titles of archives by the name of their mirror.
    gateway
        How the content of files is delivered below ``/at/``; by default by redirects.
    processes
        The number of processes that make pages; 1 for this process alone.
    on_page_exit
        Called when one of these processes exited unexpectedly or was stopped because it hung.

    Raises
    ------
    ConfigurationError
        If the extra ``web`` is not installed, or the store is private.
    IndexMissingError
        If the store has no index.
    """
    require_public_store(store.root)
    try:
        import_pint_without_dask()
        from datasette.app import Datasette
        from datasette.plugins import pm
    except ImportError as error:
        raise ConfigurationError(
            f"the catalogue needs {error.name}, which is not installed: pip install "
            "'neuromirror[web]'"
        ) from error
    from neuromirror.web import datasette_hooks

    if not pm.is_registered(datasette_hooks):  # if its entry point is not installed
        pm.register(datasette_hooks)
    Index.open_readonly(index_path).close()
    title = title or "neuromirror"
    # it serves style sheets only; queries of tables run in separate processes
    datasette = Datasette([], metadata={"title": title})
    found = DatasettePool(store.root, index_path, title=title, address=address, sql=sql)
    settings = gateway or GatewaySettings()
    sites = processes + 1 if processes > 1 else 1  # those that make pages, and this one
    options = {
        "store": str(store.root.absolute()),
        "index": str(index_path.absolute()),
        "title": title,
        "address": address,
        "cutouts": cutouts,
        "archives": dict(archives or {}),
        "gateway": to_builtins(settings.modes),
        "processes": sites,
    }
    attach_site(
        datasette,
        store,
        index_path,
        title=title,
        address=address,
        cutouts=cutouts,
        limiter=limiter,
        archives=archives,
        gateway=settings,
        tables=found,
        pages=PagePool(processes, options, on_page_exit) if sites > 1 else None,
        processes=sites,
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
    archives: Mapping[str, str] | None = None,
    gateway: GatewaySettings | None = None,
    tables: DatasettePool | None = None,
    pages: PagePool | None = None,
    processes: int = 1,
) -> None:
    """Attach the site of a store to a Datasette instance, from which :func:`find_site` returns it.

    The parameters are those of :func:`catalogue_app`; ``tables`` are the processes that serve SQL
    queries, ``pages`` those that make pages, and ``processes`` is the number of processes that have
    such a site, among which limits are divided.
    """
    from neuromirror.web.template_environment import template_environment

    reader = AsyncIndexReader(index_path)
    _SITES[datasette] = Site(
        store,
        reader,
        title,
        address,
        CutoutService(store, is_allowed=cutouts),
        PreviewService(store, is_allowed=cutouts),
        limiter or RequestLimiter(parse_limits(())),
        template_environment(),
        ReadmeService(store, is_allowed=cutouts, processes=processes),
        archives or {},
        ExampleSearches(),
        GatewayService(store, reader, gateway or GatewaySettings(), relays=cutouts),
        tables,
        pages,
    )
