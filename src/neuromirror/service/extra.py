"""Whether the packages are there that a service needs."""

from __future__ import annotations

from importlib import import_module

from neuromirror.model import ConfigurationError

_NEEDED = ("apscheduler", "prometheus_client", "pythonjsonlogger")


def check_extra() -> None:
    """Raises ConfigurationError where one is missing."""
    for name in _NEEDED:
        try:
            import_module(name)
        except ImportError as error:
            raise ConfigurationError(
                f"'neuromirror serve' needs the extra 'service' ({name} is missing): "
                "pip install 'neuromirror[service]'"
            ) from error
