"""Import packages without dependencies that take long to import and are not needed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from threading import Lock
from types import ModuleType, SimpleNamespace

_LOCK = Lock()


def import_without(module: str, unneeded: Mapping[str, tuple[str, ...]]) -> ModuleType:
    """Import a module, with placeholders for modules that it imports.

    Parameters
    ----------
    module
        The name of the module.
    unneeded
        The names that it takes from each module that it imports, but does not use. Modules that
        are loaded already are not replaced.

    Returns
    -------
    ModuleType
        The module.

    Raises
    ------
    ImportError
        As for :func:`importlib.import_module`.
    """
    with _LOCK:
        replaced = unneeded.keys() - sys.modules.keys()
        for one in replaced:
            placeholder = sys.modules[one] = ModuleType(one)
            placeholder.__dict__.update(dict.fromkeys(unneeded[one], SimpleNamespace))
        try:
            return import_module(module)
        finally:
            for one in replaced:
                del sys.modules[one]
