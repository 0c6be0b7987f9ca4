"""Settings of memory for a server process that runs for long."""

from __future__ import annotations

import ctypes
import gc

_MALLOC_ARENA_MAX = -8, 2
"""M_ARENA_MAX of mallopt(3), and its value."""
_COLLECTION_THRESHOLDS = 20_000, 20, 50
"""Thresholds of :func:`gc.set_threshold`."""


def limit_memory_use() -> None:
    """Limit glibc's malloc arenas and the pauses of Python's garbage collector.

    Arenas per thread are never returned to the system. A collection of all objects takes 80 ms,
    most of it for the modules, whose objects are left out from now on: call it after the imports.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(*_MALLOC_ARENA_MAX)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTION_THRESHOLDS)
