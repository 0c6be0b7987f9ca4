"""The catalogue: a Datasette plugin that serves pages, an API and the store's files.

The plugin (entry point group ``datasette``) is inactive until a site is attached to a Datasette
instance; :func:`neuromirror.web.site.catalogue_app` does that.
"""

from neuromirror.web.datasette_hooks import asgi_wrapper, handle_exception, skip_csrf

__all__ = ["asgi_wrapper", "handle_exception", "skip_csrf"]
