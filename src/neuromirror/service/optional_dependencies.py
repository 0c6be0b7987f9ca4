"""Checks for the optional packages of the service and the catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec

from neuromirror.model import ConfigurationError

_SERVICE_PACKAGES = ("apscheduler", "prometheus_client", "pythonjsonlogger")
_WEB_PACKAGES = ("datasette", "uvicorn")


def require_service() -> None:
    """Raise ConfigurationError if a package that the service needs is missing."""
    for name in _SERVICE_PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            raise _missing_error("'neuromirror serve'", "service", name) from error


def require_web() -> None:
    """Raise ConfigurationError if a package of the catalogue is missing, without importing any."""
    _require(_WEB_PACKAGES, "the catalogue", "web")


def require_json_logging() -> None:
    """Raise ConfigurationError if the package for JSON logging is missing."""
    _require(("pythonjsonlogger",), "--log-json", "service")


def _require(names: Iterable[str], what: str, extra: str) -> None:
    for name in names:
        if find_spec(name) is None:
            raise _missing_error(what, extra, name)


def _missing_error(what: str, extra: str, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what} needs the extra '{extra}' ({name} is missing): pip install 'neuromirror[{extra}]'"
    )
