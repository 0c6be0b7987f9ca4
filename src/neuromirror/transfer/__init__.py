"""Download, hash and verify the bytes of annexed files.

The module of :func:`get` is imported on first use, because only downloads need its libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.transfer.clone_get import JOBS, get

__all__ = ["JOBS", "get"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"{__name__}.clone_get"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
