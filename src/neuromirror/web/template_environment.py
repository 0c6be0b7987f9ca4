"""The Jinja environment of the templates, compiled once.

Datasette's own environment is not used: it calls all plugins for each page and awaits each macro.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from neuromirror.web import addresses, filters


def template_environment() -> Environment:
    """Return the environment with filters and URL functions; output is HTML-escaped."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("datasette_hooks") / "templates"),
        autoescape=True,
        auto_reload=False,
    )
    made.filters.update(filters.FILTERS)
    made.globals.update(addresses.TEMPLATE_GLOBALS)
    return made
