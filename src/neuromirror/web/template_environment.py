"""The Jinja environment of the templates, compiled once."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader
from jinja2.runtime import Context, Macro

from neuromirror.web import addresses, filters

CONTACT_VARIABLE = "NEUROMIRROR_CATALOGUE_CONTACT"
"""The environment variable with the operator's e-mail address or web page."""
REPOSITORY_VARIABLE = "NEUROMIRROR_CATALOGUE_REPOSITORY"
"""The environment variable with the URL of a git repository of neuromirror."""


_DICT_ATTRIBUTES: Final = frozenset(dir(dict))


_FUNCTIONS: Final = frozenset(addresses.TEMPLATE_GLOBALS.values())


class _FastContext(Context):
    """A context that calls macros and the functions of URLs without looking at them first.

    Jinja looks up, for each of the hundreds of calls of a page, whether a function expects the
    context; that took longer than most calls.
    """

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a function or a method."""
        kind = type(function)
        if kind is Macro:
            args = (self.eval_ctx, *args)
        elif kind is not BuiltinFunctionType and not (
            kind is FunctionType and function in _FUNCTIONS
        ):
            return super().call(function, *args, **kwargs)
        # the variables of the calling block and loop, for functions that expect the context
        kwargs.pop("_block_vars", None)
        kwargs.pop("_loop_vars", None)
        return function(*args, **kwargs)


class _FastEnvironment(Environment):
    """An environment in which ``one.path`` of a dictionary is looked up as a key first.

    Jinja looks for an attribute first, and most values of the templates are dictionaries: the
    exceptions took a tenth of the time of a page.
    """

    context_class = _FastContext

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an item of a dictionary, or an attribute of anything else."""
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


@cache
def template_environment() -> Environment:
    """Return the environment with filters and URL functions; output is HTML-escaped."""
    made = _FastEnvironment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        auto_reload=False,
    )
    made.filters.update(filters.FILTERS)
    made.globals.update(addresses.TEMPLATE_GLOBALS)
    return made


def operator_variables() -> dict[str, str]:
    """Return the variables of templates that the operator sets in the process's environment."""
    contact = os.environ.get(CONTACT_VARIABLE, "").strip()
    return {
        "contact": contact,
        "contact_address": _address(contact),
        "package_source": _package_source(),
    }


def _package_source() -> str:
    """Return what ``pip install`` is given: the operator's repository, or the package's name."""
    given = os.environ.get(REPOSITORY_VARIABLE, "").strip()
    if not given:
        labels = ("source", "repository")
        urls = metadata.metadata("neuromirror").get_all("Project-URL") or []
        pairs = [one.partition(",") for one in urls]
        found = {label.strip().casefold(): url.strip() for label, _, url in pairs}
        given = next((found[label] for label in labels if label in found), "")
    return f"neuromirror @ git+{given}" if given else "neuromirror"


def _address(contact: str) -> str:
    """Return the URL of a contact; empty for other text."""
    if contact.startswith(("https://", "http://")):
        return contact
    return f"mailto:{contact}" if re.fullmatch(r"[^\s@:/?&]+@[^\s@:/?&]+", contact) else ""
