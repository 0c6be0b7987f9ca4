"""Plugin hooks of Datasette, and the static files and templates that it finds beside them."""

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
    """Add the catalogue's pages, security headers and the store's files.

    Parameters
    ----------
    datasette
        The Datasette application.

    Returns
    -------
    Any
        The wrapper, which Datasette applies to its own application.
    """
    site = find_site(datasette)
    if site is None or site.tables is None:
        return lambda app: app
    return lambda app: catalogue_middleware(app, datasette, site)


@hookimpl(hookwrapper=True)  # type: ignore[untyped-decorator]
def handle_exception(datasette: Datasette, request: Any, exception: Exception) -> Any:
    """Replace Datasette's error handler, which shows exceptions and logs all variables.

    Parameters
    ----------
    datasette
        The Datasette application.
    request
        The request that failed.
    exception
        The error.

    Returns
    -------
    Any
        The generator that a wrapper of a Datasette hook must be.
    """
    outcome = yield
    if find_site(datasette) is not None:
        outcome.force_result([lambda: error_response(datasette, request, exception)])


@hookimpl  # type: ignore[untyped-decorator]
def skip_csrf(datasette: Datasette) -> bool:
    """Disable CSRF protection, because the site is read-only.

    Parameters
    ----------
    datasette
        The Datasette application.

    Returns
    -------
    bool
        True.
    """
    return find_site(datasette) is not None
