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

from neuromirror.model import ConfigurationError

MAX_GLOB_LENGTH = 4096
"""Maximum length of a glob."""
MAX_WILDCARD_CHARACTERS = 1 << 14
"""Maximum total length of all globs with wildcards."""

_EXAMPLES = 3
"""Number of paths that the message about a glob without files names."""

_ANY = "**"
_WILD = re.compile(r"[*?[]")
_TOKEN = re.compile(r"\*+|\?|\[(!?)(\]?[^\]/]*)\]|.", re.DOTALL)

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
        self._whole = re.compile("|".join(map(_path, wild))) if wild else None
        self._wild = [[(part, re.compile(_name(part))) for part in parts] for parts in wild]

    def matches(self, path: str) -> bool:
        """Return whether a file is selected, by its path or by a folder above it."""
        if self._all or (self._whole is not None and self._whole.match(path) is not None):
            return True
        return bool(self._plain) and _walk(self._plain, path.split("/")) is None

    def reaches(self, folder: str) -> bool:
        """Return whether a file in a folder could be selected."""
        names = folder.split("/")
        if self._all or any(_reaches(parts, names) for parts in self._wild):
            return True
        return bool(self._plain) and _walk(self._plain, names) != {}


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


def _path(parts: list[str]) -> str:
    """Return the expression that matches a path, or a path below it."""
    runs: list[list[str]] = [[]]
    for part in parts:
        if part == _ANY:
            runs.append([])
        else:
            runs[-1].append(_name(part))
    first, *others = runs
    pieces = ["/".join(first)]
    for run in filter(None, others):
        pieces.append(f"(?>(?:[^/]++/)*?{'/'.join(run)}(?=/|\\Z))")
    expression = "/".join(filter(None, pieces))
    if parts[-1] == _ANY:
        return f"(?:{expression}/[^/])" if expression else "[^/]"
    return f"(?:{expression}(?=/|\\Z))"


def _name(part: str) -> str:
    """Return the expression of a name, up to a slash or the end of the path."""
    if part == _ANY:
        return "[^/]+"
    runs: list[list[str]] = [[]]
    for token in _TOKEN.finditer(part):
        if token[0][0] == "*":
            runs.append([])
        else:
            runs[-1].append(_expression(token))
    first, *others = runs
    pieces = ["".join(first)]
    for run in others[:-1]:
        if run:
            pieces.append(f"(?>[^/]*?{''.join(run)})")
    if others and others[-1]:
        last = others[-1]
        pieces.append(f"(?=[^/]{{{len(last)}}})[^/]*+(?<={''.join(last)})")
    elif others:
        pieces.append("[^/]*+")
    return "".join(pieces)


def _expression(token: re.Match[str]) -> str:
    """Return the expression of one character."""
    text = token[0]
    if text == "?":
        return "[^/]"
    if len(text) == 1:
        return re.escape(text)
    members = _members(text, token[2])
    return f"[^/{members}]" if token[1] else f"(?!/)[{members}]"


def _members(text: str, members: str) -> str:
    """Return the characters and ranges of a set, escaped."""
    found: list[str] = []
    for low, high in re.findall(r"(.)(?:-(.))?", members, re.DOTALL):
        if high and low > high:
            raise ConfigurationError(f"invalid character set {text!r} in a glob: {low}-{high}")
        found.append(re.escape(low) + (f"-{re.escape(high)}" if high else ""))
    if not found:
        raise ConfigurationError(f"invalid character set {text!r} in a glob: it is empty")
    return "".join(found)


def _reaches(parts: list[tuple[str, re.Pattern[str]]], names: list[str]) -> bool:
    """Return whether a path that starts with these names can match.

    Simulates the glob as an automaton over the positions that may come next.
    """
    positions = {0}
    for name in names:
        # ``**`` also matches zero folders
        for position in range(len(parts) - 1):
            if position in positions and parts[position][0] == _ANY:
                positions.add(position + 1)
        moved = set()
        for position in positions:
            part, expression = parts[position]
            if part == _ANY:
                moved |= {position, position + 1} if position == len(parts) - 1 else {position}
            elif expression.fullmatch(name):
                moved.add(position + 1)
        if len(parts) in moved:
            return True
        positions = moved
    return bool(positions)
