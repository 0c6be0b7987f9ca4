"""The mirrors that a service serves, read again when their files change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neuromirror.crawl import Mirror, find_mirror, load_mirror, load_mirrors, mirror_files
from neuromirror.model import ConfigurationError

_Stamp = tuple[int, int, int]
"""What tells that a file was written: its time, its size, its number on the disk."""


@dataclass(slots=True)
class Reread:
    """What changed since the last look: names of mirrors, and what is wrong with files now.

    ``wrong`` has messages by mirror, the folder's by the empty name; ``right`` are the names of
    files that were read and are not wrong.
    """

    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    right: list[str] = field(default_factory=list)


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
        self._seen = {path.stem: _stamp(path) for path in mirror_files(folder)}
        loaded = load_mirrors(folder)
        for name in names:
            find_mirror(loaded, name)
        self.mirrors = {name: one for name, one in loaded.items() if self._serves(name)}
        for mirror in self.mirrors.values():
            check(mirror)
        self._folder_wrong = ""

    def served(self) -> list[Mirror]:
        """The mirrors as they are now, for any thread."""
        return list(self.mirrors.values())

    def reread(self) -> Reread:
        """Reads what was written since; a mirror whose file is wrong now stays as it was."""
        found = Reread()
        try:
            paths = {path.stem: path for path in mirror_files(self._folder)}
        except ConfigurationError as error:
            if self._folder_wrong != str(error):
                self._folder_wrong = str(error)
                found.wrong[""] = str(error)
            return found
        if self._folder_wrong:
            self._folder_wrong = ""
            found.right.append("")
        for name in [one for one in self.mirrors if one not in paths]:
            del self.mirrors[name]
            found.gone.append(name)
        for name, path in paths.items():
            stamp = _stamp(path)
            if stamp is None or self._seen.get(name) == stamp or not self._serves(name):
                continue
            self._seen[name] = stamp
            self._read(path, found)
        self._seen = {name: stamp for name, stamp in self._seen.items() if name in paths}
        return found

    def _read(self, path: Path, found: Reread) -> None:
        try:
            mirror = load_mirror(path)
            self._check(mirror)
        except ConfigurationError as error:
            found.wrong[path.stem] = str(error)
            return
        found.right.append(path.stem)
        if self.mirrors.get(mirror.name) != mirror:
            self.mirrors[mirror.name] = mirror
            found.changed.append(mirror.name)

    def _serves(self, name: str) -> bool:
        return not self._names or name in self._names


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
