"""The folder and the size limit of the cache: from the environment, else defaults."""

from __future__ import annotations

import os
import re
import shutil
import threading
from pathlib import Path
from typing import Final

from neuromirror.cache.piece_cache import PieceCache
from neuromirror.model import ConfigurationError

FOLDER_VARIABLE: Final = "NEUROMIRROR_CACHE"
"""The folder of the cache; ``off`` for no cache."""

SIZE_VARIABLE: Final = "NEUROMIRROR_CACHE_SIZE"
"""Maximum size of the cache, such as ``20GB`` or ``500MiB``; ``0`` for no cache."""

_DEFAULT_SIZE: Final = 10 << 30
_PART_OF_DISK: Final = 10
_SIZE: Final = re.compile(r"(\d{1,15})(?:\.(\d{1,15}))?\s*([kmgt]?)(i?)b?", re.IGNORECASE)

_opened: dict[tuple[Path, int], PieceCache] = {}
_lock = threading.Lock()


def open_cache() -> PieceCache | None:
    """Return the cache of this machine, one per process; None if it is switched off.

    Returns
    -------
    PieceCache or None
        The cache in the folder and with the limit that the environment sets. By default, the
        folder is in the user's cache folder, and the limit 10 GiB or a tenth of the disk, whichever
        is less.

    Raises
    ------
    ConfigurationError
        The size is not a size.
    """
    folder = cache_folder()
    if folder is None:
        return None
    limit = _limit(folder)
    if not limit:
        return None
    with _lock:
        found = _opened.get((folder, limit))
        if found is None:
            found = _opened[folder, limit] = PieceCache(folder, limit)
        return found


def cache_folder() -> Path | None:
    """Return the folder of the cache; None if it is switched off.

    Returns
    -------
    Path or None
        The folder, which may be missing.
    """
    named = os.environ.get(FOLDER_VARIABLE, "")
    if named == "off":
        return None
    if named:
        return Path(named).absolute()
    from platformdirs import user_cache_path

    return user_cache_path("neuromirror") / "pieces"


def parse_size(text: str) -> int:
    """Return a size in bytes.

    Parameters
    ----------
    text
        A number with an optional unit: decimal such as ``1.5GB``, or binary such as ``500 MiB``.
        Without a unit it is a whole number of bytes.

    Returns
    -------
    int
        The size in bytes.

    Raises
    ------
    ValueError
        The text is not a size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or ((found[2] or found[4]) and not found[3]):
        raise ValueError(f"{text!r} is not a size such as 1.5GB or 500MiB")
    decimals = found[2] or ""
    unit = int((1024 if found[4] else 1000) ** " kmgt".index(found[3].lower() or " "))
    return int(found[1] + decimals) * unit // int(10 ** len(decimals))


def _limit(folder: Path) -> int:
    named = os.environ.get(SIZE_VARIABLE, "")
    if named:
        try:
            return parse_size(named)
        except ValueError as error:
            raise ConfigurationError(f"{SIZE_VARIABLE}: {error}") from None
    there = folder
    while not os.path.exists(there) and there != there.parent:  # also without permission
        there = there.parent
    return min(_DEFAULT_SIZE, shutil.disk_usage(there).total // _PART_OF_DISK)
