"""Fixtures for the tests of transfer: clones whose content is on a faulty web server."""

from support.web_clone import web_clone, web_clone_template

__all__ = ["web_clone", "web_clone_template"]
