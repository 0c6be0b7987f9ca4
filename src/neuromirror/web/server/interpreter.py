"""Settings of Python for a server process that runs for long, with several threads."""

from __future__ import annotations

import ctypes
import gc
import sys

_MALLOC_ARENA_MAX = -8, 2
"""M_ARENA_MAX of mallopt(3), and its value."""
_COLLECTION_THRESHOLDS = 20_000, 20, 50
"""Thresholds of :func:`gc.set_threshold`."""
_SWITCH_SECONDS = 0.0002


def prepare_interpreter() -> None:
    """Set limits of memory and of pauses; to be called after the imports.

    - glibc's malloc gets few arenas: memory of arenas per thread is never returned to the system.
    - A collection of all objects takes 80 ms, most of it for the modules, whose objects are left
      out from now on.
    - SQLite releases Python's lock for each row, and the thread that makes a page gets it back only
      when another one, which renders a page, has held it for the switch interval: with the default
      of 5 ms, slow pages take three times as long.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another library lacks it
        mallopt(*_MALLOC_ARENA_MAX)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTION_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_SECONDS)
