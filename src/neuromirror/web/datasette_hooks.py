"""What Datasette asks of its plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasette import hookimpl

from neuromirror.web.server.error_pages import error_response
from neuromirror.web.server.middleware import catalogue_middleware
from neuromirror.web.site import find_site

if TYPE_CHECKING:
    from datasette.app import Datasette


@hookimpl  # type: ignore[untyped-decorator]
def asgi_wrapper(datasette: Datasette) -> Any:
    """Our pages, headers on all replies, and the store's own files."""
    site = find_site(datasette)
    if site is None or site.tables is None:
        return lambda app: app
    return lambda app: catalogue_middleware(app, datasette, site)


@hookimpl(hookwrapper=True)  # type: ignore[untyped-decorator]
def handle_exception(datasette: Datasette, request: Any, exception: Exception) -> Any:
    """Errors of Datasette's own pages.

    In place of its own handler, which shows what an exception says and logs all that was known.
    """
    outcome = yield
    if find_site(datasette) is not None:
        outcome.force_result([lambda: error_response(datasette, request, exception)])


@hookimpl  # type: ignore[untyped-decorator]
def skip_csrf(datasette: Datasette) -> bool:
    """Nothing can be changed here, so no cookie guards it."""
    return find_site(datasette) is not None
