"""Globs that choose a part of a dataset: ``sub-01``, ``*/anat/*``, ``**/*.nwb``.

``*`` and ``?`` stay within a name, ``[…]`` is one of a set of characters (``[!…]`` none of it),
``**`` is any number of folders. A glob that fits a folder (or a sub-dataset) takes all that is in
it. Case counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from neuromirror.model import ConfigurationError

_ANY = "**"
_TOKEN = re.compile(r"\*+|\?|\[(!?)(\]?[^\]/]*)\]|.", re.DOTALL)


class Globs:
    """Some globs; of none, everything is chosen. Raises ConfigurationError for what is no glob."""

    def __init__(self, globs: Iterable[str]) -> None:
        self._split = [_parts(glob) for glob in globs]
        self._whole = re.compile("|".join(map(_path, self._split)))

    def matches(self, path: str) -> bool:
        """Whether a file at this path is chosen, by its own path or by a folder that it is in."""
        return not self._split or self._whole.match(path) is not None

    def reaches(self, folder: str) -> bool:
        """Whether a file somewhere in this folder could be chosen."""
        names = folder.split("/")
        return not self._split or any(_reaches(parts, names) for parts in self._split)


def _parts(glob: str) -> list[str]:
    parts = glob.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ConfigurationError(
            f"{glob!r} is not a path in a dataset, nor a glob of paths; write for example sub-01, "
            "sub-*/anat or **/*.nwb"
        )
    return parts


def _path(parts: list[str]) -> str:
    """The expression of a path that fits, or that goes on from one that does."""
    pieces = [r"(?:[^/]+/)*" if part == _ANY else f"{_name(part)}/" for part in parts[:-1]]
    last = r"[^/]+" if parts[-1] == _ANY else _name(parts[-1])
    return f"(?:{''.join(pieces)}{last}(?:/.*)?\\Z)"


def _name(part: str) -> str:
    return _TOKEN.sub(_expression, part)


def _expression(token: re.Match[str]) -> str:
    text = token[0]
    if text[0] == "*":
        return "[^/]*"
    if text == "?":
        return "[^/]"
    if len(text) == 1:
        return re.escape(text)
    members = re.sub(r"([\\\[\]^&~|])", r"\\\1", token[2])
    try:
        re.compile(f"[{members}]")
    except re.error as error:
        raise ConfigurationError(f"{text!r} in a glob is no set of characters: {error}") from error
    return f"[^/{members}]" if token[1] else f"[{members}]"


def _reaches(parts: list[str], names: list[str]) -> bool:
    """Whether a path that begins with these names can fit.

    Followed are the places in the glob that may come next; at its end everything below fits.
    """
    places = {0}
    for name in names:
        # a ``**`` may stand for no folder at all
        for place in range(len(parts) - 1):
            if place in places and parts[place] == _ANY:
                places.add(place + 1)
        moved = set()
        for place in places:
            if parts[place] == _ANY:
                moved |= {place, place + 1} if place == len(parts) - 1 else {place}
            elif re.fullmatch(_name(parts[place]), name, re.DOTALL):
                moved.add(place + 1)
        if len(parts) in moved:
            return True
        places = moved
    return bool(places)
