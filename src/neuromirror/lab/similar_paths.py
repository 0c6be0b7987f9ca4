"""Suggestions for a lock file or folder that does not exist, or is not a clone."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Final

_LOCK: Final = "datasets.lock"
_MAX_CLONES: Final = 2
"""Number of clones in a folder that are suggested."""
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
    return list(dict.fromkeys(map(str, [*near, *_locks(path.parent)])))


def nearby_datasets(folder: Path) -> list[str]:
    """Return clones and a lock file that a user may have meant by a folder that is not a clone.

    Parameters
    ----------
    folder
        The folder.

    Returns
    -------
    list of str
        The clone that contains the folder, else those in it; and the nearest lock file.
    """
    above = [folder.joinpath(*[".."] * steps) for steps in range(1, _MAX_STEPS_UP)]
    around = [one for one in above if (one / ".git").exists()]
    within = sorted(one.parent for one in folder.glob("*/.git"))
    return [*map(str, around[:1] or within[:_MAX_CLONES]), *map(str, _locks(folder))]


def _locks(folder: Path) -> list[Path]:
    """Return the lock file of a folder, or else the nearest one above the current folder."""
    above = [Path(*[".."] * steps, _LOCK) for steps in range(_MAX_STEPS_UP)]
    return [one for one in (folder / _LOCK, *above) if one.is_file()][:1]
