"""The annexed files of a clone below selected paths, as listed in git's index."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from neuromirror.annex import (
    MAX_POINTER_BYTES,
    POINTER_PREFIX,
    key_file_name,
    key_from_file_name,
    parse_key,
    parse_pointer,
    pointer_content,
)
from neuromirror.git import (
    GITLINK_MODE,
    REGULAR_FILE_MODE,
    SYMLINK_MODE,
    BatchObjectReader,
    GitError,
    call_git,
)
from neuromirror.model import ConfigurationError
from neuromirror.transfer.annex_clone import AnnexClone

_EXECUTABLE: Final = b"100755"
_REGULAR: Final = (REGULAR_FILE_MODE, _EXECUTABLE)
_TARGET: Final = b".git/annex/objects/"
_BLOCK: Final = 1 << 20


class AnnexedFile(Struct, frozen=True):
    """An annexed file: its path in git, its key, and whether it is a pointer file (unlocked)."""

    path: bytes
    key: str
    is_unlocked: bool = False


class SelectedSubdataset(Struct, frozen=True):
    """A subdataset with selected files.

    Attributes
    ----------
    path
        The path of the subdataset.
    paths
        Selected paths inside it, None for all.
    is_explicit
        Whether the user named it or a path in it.
    """

    path: bytes
    paths: Sequence[bytes] | None
    is_explicit: bool


class PathSelection:
    """A selection of paths in a clone.

    Parameters
    ----------
    top
        Top folder of the clone.
    paths
        Paths relative to ``top``, or absolute; None selects everything.

    Raises
    ------
    ConfigurationError
        A path is outside of the clone.
    """

    def __init__(self, top: Path, paths: Sequence[str | Path] | None) -> None:
        self._all = paths is None
        self._chosen: dict[bytes, bool] = {}
        self._folders: dict[bytes, bytes | None] = {b"": None}
        real = os.path.realpath(top)
        folders: dict[str, str] = {}
        for path in paths or ():
            # the last component may be the symlink of an annexed file: do not follow it
            folder, name = os.path.split(os.path.normpath(os.path.join(top, path)))
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            below = os.path.relpath(os.path.join(folders[folder], name), real)
            if below == os.curdir:
                self._all = True
            elif below == os.pardir or below.startswith(os.pardir + os.sep):
                raise ConfigurationError(f"{path} is not in the dataset {top}")
            else:
                self._chosen[os.fsencode(below)] = False

    def includes(self, path: bytes) -> bool:
        """Return whether a path, or a folder above it, is selected."""
        within = path if path in self._chosen else self._within(path.rpartition(b"/")[0])
        if within is None:
            return self._all
        self._chosen[within] = True
        return True

    def names(self, path: bytes) -> bool:
        """Return whether a path itself is selected, not only a folder above it."""
        return path in self._chosen

    def _within(self, folder: bytes) -> bytes | None:
        """Return the innermost selected path that is ``folder`` or above it."""
        passed = []
        while folder not in self._folders:
            passed.append(folder)
            if folder in self._chosen:
                self._folders[folder] = folder
            else:
                folder = folder.rpartition(b"/")[0]
        found = self._folders[folder]
        self._folders.update(dict.fromkeys(passed, found))
        return found

    def subdataset(self, path: bytes) -> SelectedSubdataset | None:
        """Return the selection inside a subdataset, None if nothing in it is selected."""
        below = [one for one in self._chosen if one.startswith(path + b"/")]
        for one in below:
            self._chosen[one] = True
        named = path in self._chosen
        if self.includes(path):
            return SelectedSubdataset(path, None, named or bool(below))
        return (
            SelectedSubdataset(path, [one[len(path) + 1 :] for one in below], True)
            if below
            else None
        )

    def unmatched(self) -> list[bytes]:
        """Return the selected paths that no file matched."""
        found = [path for path, seen in self._chosen.items() if seen]
        return [
            path
            for path, seen in self._chosen.items()
            if not seen and not any(one.startswith(path + b"/") for one in found)
        ]


class AnnexedFileListing(Struct):
    """The selected annexed files of a clone.

    Attributes
    ----------
    clone, selection, objects
        The clone, the paths, and a reader for the clone's objects.
    pointer_keys
        Keys of all unlocked files, selected or not. Their content must also be written to the work
        tree, which only git-annex does.
    subdatasets, unrecognized_links, foreign_links, in_git
        Selected subdatasets, links whose key is not supported, links into another repository, and
        files that are selected by their own path and are in git; filled while :meth:`files` is
        iterated.
    """

    clone: AnnexClone
    selection: PathSelection
    objects: BatchObjectReader
    pointer_keys: frozenset[str] = frozenset()
    subdatasets: list[SelectedSubdataset] = field(default_factory=list)
    unrecognized_links: list[bytes] = field(default_factory=list)
    foreign_links: list[bytes] = field(default_factory=list)
    in_git: list[bytes] = field(default_factory=list)

    def files(self) -> Iterator[AnnexedFile]:
        """Yield the selected files in the order of git's index; raises GitError."""
        unlocked = self._unlocked()
        self.pointer_keys = frozenset(unlocked.values())
        for mode, name, path in self._entries():
            if mode == GITLINK_MODE:
                if (sub := self.selection.subdataset(path)) is not None:
                    self.subdatasets.append(sub)
            elif not self.selection.includes(path):
                continue
            elif mode == SYMLINK_MODE:
                target = self._link_target(path, name)
                if _TARGET in target:
                    key = _key_of(target.rpartition(b"/")[2])
                    if key is None:
                        self.unrecognized_links.append(path)
                    elif self._is_foreign_link(path, target):
                        self.foreign_links.append(path)
                    else:
                        yield AnnexedFile(path, key)
            elif path in unlocked:
                yield AnnexedFile(path, unlocked[path], is_unlocked=True)
            elif self.selection.names(path):
                self.in_git.append(path)

    def _entries(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield mode, object id (hexadecimal) and path of each entry of git's index."""
        with subprocess.Popen(
            ["git", "ls-files", "--stage", "-z"],
            cwd=self.clone.top,
            env=self.clone.environment,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            rest = b""
            while block := process.stdout.read(_BLOCK):
                *lines, rest = (rest + block).split(b"\0")
                for line in lines:
                    head, _, path = line.partition(b"\t")
                    mode, name, _ = head.split(b" ")
                    yield mode, name, path
        if process.returncode:
            raise GitError(f"{self.clone.top}: git failed to list the index; see 'git status'")

    def _unlocked(self) -> dict[bytes, str]:
        """Return the keys of all unlocked files, by path."""
        regular = [(name, path) for mode, name, path in self._entries() if mode in _REGULAR]
        if not regular:
            return {}
        sizes = call_git(
            self.clone.environment,
            *("cat-file", "--batch-check=%(objectsize)"),
            stdin=b"\n".join(name for name, _ in regular) + b"\n",
        ).stdout.split(b"\n")
        small = [
            one
            for one, size in zip(regular, sizes, strict=False)
            if size.isdigit() and len(POINTER_PREFIX) < int(size) <= MAX_POINTER_BYTES
        ]
        found = {}
        contents = self.objects.read([name for name, _ in small])
        for (_, path), content in zip(small, contents, strict=True):
            key = None if content is None else parse_pointer(content)
            first_line = b"" if content is None else content.split(b"\n", 1)[0]
            if key is not None and key.isprintable() and pointer_content(key) == first_line + b"\n":
                found[path] = key
        return found

    def _is_foreign_link(self, path: bytes, target: bytes) -> bool:
        """Return whether a link leads to existing content of another repository."""
        top = os.fsencode(self.clone.top)
        resolved = os.path.normpath(os.path.join(top, os.path.dirname(path), target))
        return os.path.lexists(resolved) and not resolved.startswith(os.path.join(top, _TARGET))

    def _link_target(self, path: bytes, name: bytes) -> bytes:
        """Return the target of a link in the work tree, or else in git."""
        try:
            return os.readlink(os.path.join(os.fsencode(self.clone.top), path))
        except OSError:
            return next(self.objects.read([name])) or b""


def _key_of(name: bytes) -> str | None:
    """Return the key of an object's file name, None if it is not a supported key."""
    try:
        key = key_from_file_name(name)
        parse_key(key)
    except ValueError:
        return None
    return key if key_file_name(key) == name and key.isprintable() else None
