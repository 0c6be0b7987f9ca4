"""What Datasette asks of its plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasette import hookimpl

from neuromirror.web.server.failing import failed
from neuromirror.web.server.guarding import guarded
from neuromirror.web.site import site_of

if TYPE_CHECKING:
    from datasette.app import Datasette


@hookimpl  # type: ignore[untyped-decorator]
def asgi_wrapper(datasette: Datasette) -> Any:
    """Our pages, headers on all replies, and the store's own files."""
    site = site_of(datasette)
    if site is None or site.tables is None:
        return lambda app: app
    return lambda app: guarded(app, datasette, site)


@hookimpl(hookwrapper=True)  # type: ignore[untyped-decorator]
def handle_exception(datasette: Datasette, request: Any, exception: Exception) -> Any:
    """Errors of Datasette's own pages.

    In place of its own handler, which shows what an exception says and logs all that was known.
    """
    outcome = yield
    if site_of(datasette) is not None:
        outcome.force_result([lambda: failed(datasette, request, exception)])


@hookimpl  # type: ignore[untyped-decorator]
def skip_csrf(datasette: Datasette) -> bool:
    """Nothing can be changed here, so no cookie guards it."""
    return site_of(datasette) is not None
