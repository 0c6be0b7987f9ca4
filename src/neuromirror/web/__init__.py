"""The catalogue: an ASGI application that serves pages, an API and the store's files.

Datasette serves the tables below ``/index`` in processes of its own, with the plugin
:mod:`neuromirror.web.datasette_hooks` (entry point group ``datasette``), which does nothing in
other instances of Datasette. This package itself imports nothing, so that the service can check the
settings of the catalogue without loading a server.
"""
