"""The mirrors of a service, reloaded when their files change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct, field

from neuromirror.config.builtin_mirrors import builtin_mirror_files
from neuromirror.crawl import Mirror, find_mirror, list_mirror_files, load_mirror
from neuromirror.model import ConfigurationError

_Stamp = tuple[int, int, int]
"""Modification time, size and inode of a file: they change when it is written."""


class MirrorFileChanges(Struct):
    """The changes of mirror files since the last time they were read.

    Attributes
    ----------
    changed
        Names of the mirrors that are new or whose file changed.
    removed
        Names of the mirrors whose file was removed.
    errors
        Messages about invalid files, by mirror; by an empty name for the folder itself.
    valid
        Names of the mirrors whose file was read without error.
    """

    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    valid: list[str] = field(default_factory=list)


class MirrorFiles:
    """The last valid content of the mirror files; ``mirrors`` by name.

    ``names`` are the mirrors to serve; if empty, all mirrors of the folder, also those added later.
    A named mirror without a file in the folder at the start is the built-in one, until the folder
    gets a file for it. A file that is removed later never falls back to the built-in one.
    ``check`` raises ConfigurationError for a mirror that cannot be served. Raises
    ConfigurationError if a file is invalid at the start.
    """

    def __init__(self, folder: Path, names: Sequence[str], check: Callable[[Mirror], None]) -> None:
        self._folder = folder
        self._names = frozenset(names)
        self._check = check
        # taken before reading, so that a concurrent write is noticed by the next reload
        builtin = builtin_mirror_files()
        self._builtin = {name: builtin[name] for name in names if name in builtin}
        paths = self._list()
        self._stamps = {name: _stamp(path) for name, path in paths.items()}
        loaded = {name: load_mirror(path) for name, path in paths.items()}
        for name in names:
            find_mirror(loaded, name)
        self.mirrors = {name: one for name, one in loaded.items() if self._serves(name)}
        for mirror in self.mirrors.values():
            check(mirror)
        self._folder_error = ""

    def served_mirrors(self) -> list[Mirror]:
        """Return the current mirrors; thread-safe."""
        return list(self.mirrors.values())

    def reload(self) -> MirrorFileChanges:
        """Read changed files; a mirror whose file is invalid keeps its last valid content."""
        changes = MirrorFileChanges()
        try:
            paths = self._list()
        except ConfigurationError as error:
            if self._folder_error != str(error):
                self._folder_error = str(error)
                changes.errors[""] = str(error)
            return changes
        if self._folder_error:
            self._folder_error = ""
            changes.valid.append("")
        for name in [one for one in self.mirrors if one not in paths]:
            del self.mirrors[name]
            changes.removed.append(name)
        for name, path in paths.items():
            stamp = _stamp(path)
            if stamp is None or self._stamps.get(name) == stamp or not self._serves(name):
                continue
            self._stamps[name] = stamp
            self._read(path, changes)
        self._stamps = {name: stamp for name, stamp in self._stamps.items() if name in paths}
        return changes

    def _list(self) -> dict[str, Path]:
        """Return the paths of the local files and of the built-in ones that are served."""
        if self._names and self._names <= self._builtin.keys() and not self._folder.exists():
            return dict(self._builtin)
        local = {path.stem: path for path in list_mirror_files(self._folder)}
        self._builtin = {name: path for name, path in self._builtin.items() if name not in local}
        return {**self._builtin, **local}

    def _read(self, path: Path, changes: MirrorFileChanges) -> None:
        try:
            mirror = load_mirror(path)
            self._check(mirror)
        except ConfigurationError as error:
            changes.errors[path.stem] = str(error)
            return
        changes.valid.append(path.stem)
        if self.mirrors.get(mirror.name) != mirror:
            self.mirrors[mirror.name] = mirror
            changes.changed.append(mirror.name)

    def _serves(self, name: str) -> bool:
        return not self._names or name in self._names


def _stamp(path: Path) -> _Stamp | None:
    try:
        changes = path.stat()
    except OSError:
        return None
    return changes.st_mtime_ns, changes.st_size, changes.st_ino
