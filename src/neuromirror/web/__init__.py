"""The catalogue: an ASGI application that serves pages, an API and the store's files.

This package itself imports nothing, so that the service can check the settings of the catalogue
without loading a server.
"""
