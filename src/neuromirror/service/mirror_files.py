"""The mirrors that a service serves, read again when their files change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neuromirror.crawl import Mirror, find_mirror, list_mirror_files, load_mirror, load_mirrors
from neuromirror.model import ConfigurationError

_Stamp = tuple[int, int, int]
"""What tells that a file was written: its time, its size, its number on the disk."""


@dataclass(slots=True)
class MirrorFileChanges:
    """What changed since the last look: names of mirrors, and what is wrong with files now.

    ``wrong`` has messages by mirror, the folder's by the empty name; ``right`` are the names of
    files that were read and are not wrong.
    """

    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    valid: list[str] = field(default_factory=list)


class MirrorFiles:
    """Mirror files as they were when they were last right; ``mirrors`` by name.

    ``names`` are those that are served, none: all of the folder, those to come too. ``check``
    raises ConfigurationError for a mirror that cannot be served here. Raises ConfigurationError
    where a file is wrong from the beginning.
    """

    def __init__(self, folder: Path, names: Sequence[str], check: Callable[[Mirror], None]) -> None:
        self._folder = folder
        self._names = frozenset(names)
        self._check = check
        # looked at before they are read: what is written meanwhile is seen the next time
        self._stamps = {path.stem: _stamp(path) for path in list_mirror_files(folder)}
        loaded = load_mirrors(folder)
        for name in names:
            find_mirror(loaded, name)
        self.mirrors = {name: one for name, one in loaded.items() if self._serves(name)}
        for mirror in self.mirrors.values():
            check(mirror)
        self._folder_error = ""

    def served_mirrors(self) -> list[Mirror]:
        """The mirrors as they are now, for any thread."""
        return list(self.mirrors.values())

    def reload(self) -> MirrorFileChanges:
        """Reads what was written since; a mirror whose file is wrong now stays as it was."""
        changes = MirrorFileChanges()
        try:
            paths = {path.stem: path for path in list_mirror_files(self._folder)}
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
