"""Globs that select files of a dataset: ``sub-01``, ``*/anat/*``, ``**/*.nwb``.

``*`` and ``?`` match within a name, ``[…]`` matches one character of a set (``[!…]`` one that is
not in the set), ``**`` matches any number of folders. A glob that matches a folder or a subdataset
selects all its files. Matching is case-sensitive.

Globs and paths are untrusted input, so that matching never backtracks: between two wildcards the
leftmost match is as good as any later one, and each is an atomic group. The time per path is
proportional to its length times the length of the globs with wildcards, which is bounded; plain
paths are looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import translate

from neuromirror.model import ConfigurationError

MAX_GLOB_LENGTH = 4096
"""Maximum length of a glob."""
MAX_WILDCARD_CHARACTERS = 1 << 14
"""Maximum total length of all globs with wildcards."""

_EXAMPLES = 3
"""Number of paths that the message about a glob without files names."""

_ANY = "**"
_WILD = re.compile(r"[*?[]")

_Parts = list[re.Pattern[str] | None]
"""The parts of a glob with wildcards: expressions for names, and None for ``**``."""
_Reached = list[tuple[_Parts, set[int]]]
"""Globs, each with the numbers of parts that the names so far complete: several with ``**``."""
_Node = dict[str, "_Node | None"]
"""Names in a folder; None for a name that is selected with all its files."""


def escape(path: str) -> str:
    """Return a glob that matches exactly this path and everything below it."""
    return re.sub(r"[*?[]", r"[\g<0>]", path)


class Globs:
    """A set of globs that selects files by their paths; an empty set selects all files.

    Raises
    ------
    ConfigurationError
        A glob is invalid.
    """

    def __init__(self, globs: Iterable[str]) -> None:
        wild: list[list[str]] = []
        self._plain: _Node = {}
        self._all = True
        for glob in globs:
            self._all = False
            if _WILD.search(glob):
                wild.append(_parts(glob))
            else:
                _insert(self._plain, _parts(glob))
        if sum(len(part) + 1 for parts in wild for part in parts) > MAX_WILDCARD_CHARACTERS:
            raise ConfigurationError(
                f"the globs with wildcards have more than {MAX_WILDCARD_CHARACTERS} characters in "
                "total; use fewer, or plain names of folders"
            )
        # the expressions for stars do not backtrack
        self._wild = [list(map(_expression, parts)) for parts in wild]
        self._last: tuple[str, _Reached] = ("", [])

    def matches(self, path: str) -> bool:
        """Return whether a file is selected, by its path or by a folder above it."""
        if self._all or any(len(parts) in places for parts, places in self._reached(path)):
            return True
        return bool(self._plain) and _walk(self._plain, path.split("/")) is None

    def reaches(self, folder: str) -> bool:
        """Return whether a file in a folder could be selected."""
        if self._all or self._reached(folder):
            return True
        return bool(self._plain) and _walk(self._plain, folder.split("/")) != {}

    def _reached(self, path: str) -> _Reached:
        """Return the globs with wildcards that could select a path or something below it."""
        if not self._wild:
            return []
        folder, slash, name = path.rpartition("/")
        last, reached = self._last
        if not reached or folder != last:
            # most paths are in the same folder as the one before
            reached = [(parts, {0}) for parts in self._wild]
            for above in folder.split("/") if slash else ():
                reached = _follow(reached, above)
            self._last = folder, reached
        return _follow(reached, name)


class WatchedGlobs:
    """Globs that select files, of which those that select none are known. Thread-safe.

    Parameters
    ----------
    globs
        The globs; empty to select all files.

    Raises
    ------
    ConfigurationError
        A glob is invalid.
    """

    def __init__(self, globs: Iterable[str]) -> None:
        self._unmatched = {glob: Globs([glob]) for glob in globs}
        self._globs = Globs(self._unmatched)
        self._examples: list[str] = []

    def matches(self, path: str) -> bool:
        """Return whether a file is selected, as :meth:`Globs.matches`."""
        if len(self._examples) < _EXAMPLES:
            self._examples.append(path)
        if not self._globs.matches(path):
            return False
        for glob, own in tuple(self._unmatched.items()):
            if own.matches(path):
                self._unmatched.pop(glob, None)
        return True

    def reaches(self, folder: str) -> bool:
        """Return whether a file in a folder could be selected, as :meth:`Globs.reaches`."""
        return self._globs.reaches(folder)

    def unmatched(self) -> Iterator[tuple[str, str]]:
        """Yield each glob that selected none of the files so far, with a message."""
        here = ", ".join(self._examples[:_EXAMPLES])
        example = f"; there are, for example, {here}" if here else ""
        for glob in tuple(self._unmatched):
            yield glob, f"no annexed file matches this glob{example}"


def _parts(glob: str) -> list[str]:
    parts = glob.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ConfigurationError(
            f"{glob[:80]!r} is not a path in a dataset or a glob; write, for example, sub-01, "
            "sub-*/anat or **/*.nwb"
        )
    if len(glob) > MAX_GLOB_LENGTH:
        raise ConfigurationError(
            f"the glob {glob[:80]!r}… has more than {MAX_GLOB_LENGTH} characters"
        )
    return parts


def _expression(part: str) -> re.Pattern[str] | None:
    expression = translate(part)
    if "(?!)" in expression:
        raise ConfigurationError(f"a character set of the glob part {part[:80]!r} is empty")
    return None if part == _ANY else re.compile(expression)


def _insert(root: _Node, parts: list[str]) -> None:
    node = root
    for part in parts[:-1]:
        below = node.setdefault(part, {})
        if below is None:
            return
        node = below
    node[parts[-1]] = None


def _walk(root: _Node, names: list[str]) -> _Node | None:
    """Return the node of a path: None if it is selected, empty if no name is below it."""
    node: _Node | None = root
    for name in names:
        if node is None:
            return None
        node = node.get(name, {})
    return node


def _follow(reached: _Reached, name: str) -> _Reached:
    """Return the globs that could select a name in a folder, or something below it."""
    found = []
    for parts, before in reached:
        if len(parts) in before:  # the folder is selected
            found.append((parts, before))
            continue
        places, moved = set(before), set[int]()
        for place, expression in enumerate(parts):
            if place not in places:
                continue
            if expression is not None:
                if expression.match(name):
                    moved.add(place + 1)
            elif place == len(parts) - 1:
                moved |= {place, place + 1}
            else:
                moved.add(place)
                places.add(place + 1)  # it also matches zero folders
        if moved:
            found.append((parts, moved))
    return found
