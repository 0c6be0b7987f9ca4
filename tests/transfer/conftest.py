"""Fixtures of the transfer's tests: clones whose contents lie on a web server with faults."""

from __future__ import annotations

from support.web_clone import web_clone, web_clone_template

__all__ = ["web_clone", "web_clone_template"]
