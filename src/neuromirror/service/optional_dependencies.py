"""Checks for the optional packages of the service and the catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from neuromirror.model import ConfigurationError

_SERVICE_PACKAGES = ("apscheduler", "prometheus_client", "pythonjsonlogger")
_WEB_PACKAGES = ("starlette", "uvicorn")


def require_service() -> None:
    """Raise ConfigurationError if a package that the service needs is missing."""
    _require(_SERVICE_PACKAGES, "'neuromirror serve'", "service")


def require_web() -> None:
    """Raise ConfigurationError if a package of the catalogue is missing."""
    _require(_WEB_PACKAGES, "the catalogue", "web")


def require_json_logging() -> None:
    """Raise ConfigurationError if the package for JSON logging is missing."""
    _require(("pythonjsonlogger",), "--log-json", "service")


def _require(names: Iterable[str], what: str, extra: str) -> None:
    for name in names:
        if find_spec(name) is None:
            raise ConfigurationError(
                f"{what} needs the extra '{extra}' ({name} is missing): pip install "
                f"'neuromirror[{extra}]'"
            )
