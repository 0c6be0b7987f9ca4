"""The Jinja environment of the templates, compiled once.

Datasette's own environment is not used: it calls all plugins for each page and awaits each macro.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader

from neuromirror.web import addresses, filters

CONTACT_VARIABLE = "NEUROMIRROR_CATALOGUE_CONTACT"
"""The environment variable with the operator's e-mail address or web page."""


_DICT_ATTRIBUTES: Final = frozenset(dir(dict))


class _FastEnvironment(Environment):
    """An environment in which ``one.path`` of a dictionary is looked up as a key first.

    Jinja looks for an attribute first, and most values of the templates are dictionaries: the
    exceptions took a tenth of the time of a page.
    """

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an item of a dictionary, or an attribute of anything else."""
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


def template_environment() -> Environment:
    """Return the environment with filters and URL functions; output is HTML-escaped."""
    made = _FastEnvironment(
        loader=FileSystemLoader(Path(__file__).with_name("datasette_hooks") / "templates"),
        autoescape=True,
        auto_reload=False,
    )
    made.filters.update(filters.FILTERS)
    made.globals.update(addresses.TEMPLATE_GLOBALS)
    made.globals.update(contact=(contact := os.environ.get(CONTACT_VARIABLE, "").strip()))
    made.globals.update(contact_address=_address(contact))
    return made


def _address(contact: str) -> str:
    """Return the URL of a contact; empty for other text."""
    if contact.startswith(("https://", "http://")):
        return contact
    return f"mailto:{contact}" if re.fullmatch(r"[^\s@:/?&]+@[^\s@:/?&]+", contact) else ""
