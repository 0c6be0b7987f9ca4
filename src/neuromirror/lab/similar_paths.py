"""Suggestions for a lock file or folder that does not exist."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Final

_LOCK: Final = "datasets.lock"
_MAX_STEPS_UP: Final = 4
"""Number of folders in which a lock file is looked for: the current one and those above it."""


def similar_paths(path: Path) -> list[str]:
    """Return paths that a user may have meant by a missing lock file or folder, the nearest first.

    Parameters
    ----------
    path
        The missing path.

    Returns
    -------
    list of str
        Similar names in its folder, and the lock files there and in the folders above.
    """
    try:
        names = [one.name for one in path.parent.iterdir()]
    except OSError:
        names = []
    near = [path.parent / name for name in get_close_matches(path.name, names, 2)]
    above = [Path(*[".."] * steps, _LOCK) for steps in range(_MAX_STEPS_UP)]
    locks = [one for one in (path.parent / _LOCK, *above) if one.is_file()]
    return list(dict.fromkeys(map(str, [*near, *locks[:1]])))
