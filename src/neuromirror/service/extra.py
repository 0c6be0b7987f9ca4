"""Whether the packages are there that a service and its catalogue need."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec

from neuromirror.model import ConfigurationError

_NEEDED = ("apscheduler", "prometheus_client", "pythonjsonlogger")
_FOR_PAGES = ("datasette", "uvicorn")


def check_extra() -> None:
    """Raises ConfigurationError where one is missing."""
    for name in _NEEDED:
        try:
            import_module(name)
        except ImportError as error:
            raise _missing("'neuromirror serve'", "service", name) from error


def check_web() -> None:
    """Raises ConfigurationError where one that pages need is missing; imports none of them."""
    _find(_FOR_PAGES, "the catalogue", "web")


def check_json() -> None:
    """Raises ConfigurationError where what logs in JSON is missing."""
    _find(("pythonjsonlogger",), "--log-json", "service")


def _find(names: Iterable[str], what: str, extra: str) -> None:
    for name in names:
        if find_spec(name) is None:
            raise _missing(what, extra, name)


def _missing(what: str, extra: str, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what} needs the extra '{extra}' ({name} is missing): pip install 'neuromirror[{extra}]'"
    )
