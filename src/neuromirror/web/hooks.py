"""What Datasette asks of its plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasette import hookimpl

from neuromirror.web import addresses, words
from neuromirror.web.guarding import guarded
from neuromirror.web.routes import ROUTES
from neuromirror.web.site import site_of

if TYPE_CHECKING:
    from datasette.app import Datasette


@hookimpl  # type: ignore[untyped-decorator]
def register_routes(datasette: Datasette) -> list[tuple[str, Any]]:
    """The catalogue's pages, before those of Datasette."""
    return list(ROUTES) if site_of(datasette) is not None else []


@hookimpl  # type: ignore[untyped-decorator]
def prepare_jinja2_environment(env: Any) -> None:
    """The words and addresses that templates use."""
    env.filters.update(words.FILTERS)
    env.globals.update(addresses.BY_NAME)


@hookimpl  # type: ignore[untyped-decorator]
def asgi_wrapper(datasette: Datasette) -> Any:
    """Headers on all replies, and the store's own files."""
    site = site_of(datasette)
    return (lambda app: app) if site is None else (lambda app: guarded(app, site))


@hookimpl  # type: ignore[untyped-decorator]
def skip_csrf(datasette: Datasette) -> bool:
    """Nothing can be changed here, so no cookie guards it."""
    return site_of(datasette) is not None
