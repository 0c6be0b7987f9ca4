"""The catalogue: a Datasette plugin that serves pages, an API and the store's files.

The plugin, :mod:`neuromirror.web.datasette_hooks` (entry point group ``datasette``), is inactive
until a site is attached to a Datasette instance; :func:`neuromirror.web.site.catalogue_app` does
that. This package itself imports nothing, so that the service can check the settings of the
catalogue without loading Datasette.
"""
