"""Plugin hooks of Datasette, and the static files and templates that it finds beside them."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from datasette import hookimpl

from neuromirror.web.server.error_pages import error_response
from neuromirror.web.site import Site

if TYPE_CHECKING:
    from datasette.app import Datasette


SITES: weakref.WeakKeyDictionary[Datasette, Site] = weakref.WeakKeyDictionary()
"""The site of each Datasette instance that serves the tables of a catalogue."""


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
    site = SITES.get(datasette)
    if site is not None:
        outcome.force_result([lambda: error_response(site, request, exception)])


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
    return datasette in SITES
