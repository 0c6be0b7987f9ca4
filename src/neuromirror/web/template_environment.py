"""The templates, read and compiled once.

Not by Datasette's ways: those ask all plugins for more at every page, and wait at every macro.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from neuromirror.web import addresses, filters


def template_environment() -> Environment:
    """The templates with the words and addresses they use; what they are told is escaped."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        auto_reload=False,
    )
    made.filters.update(filters.FILTERS)
    made.globals.update(addresses.TEMPLATE_GLOBALS)
    return made
