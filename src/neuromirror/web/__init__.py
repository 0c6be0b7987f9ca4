"""The catalogue: a plugin of Datasette over the index, beside the store's own files.

Where Datasette finds this package (entry point group ``datasette``) it does nothing until its
metadata say which store it is of; :func:`neuromirror.web.site.catalogue` does that.
"""

from neuromirror.web.datasette_hooks import asgi_wrapper, handle_exception, skip_csrf

__all__ = ["asgi_wrapper", "handle_exception", "skip_csrf"]
