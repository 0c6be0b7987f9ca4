"""Access untrusted folders without following symlinks.

A lock file comes with its folder, and a clone with its work tree; either may contain symlinks that
lead elsewhere. A :class:`SafeFolder` keeps the folder's descriptor open. Everything below it is
opened, created, renamed and removed relative to descriptors (``openat`` and similar calls), one
component at a time and with ``O_NOFOLLOW``. This is safe on Linux and macOS even if another process
changes the folder meanwhile. Programs that take paths (git, git-annex) run in scratch folders with
mode 0700.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from neuromirror.model import ConfigurationError

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNER_MODE: Final = 0o700


class UnsafePathError(ConfigurationError):
    """A path leads through a symlink or out of its folder, or is not a regular file."""


class SafeFolder:
    """An open folder whose files are accessed without following symlinks; a context manager.

    For folders that other users can write to. Names are single path components: UnsafePathError is
    raised for a name with a slash, and for ``..``.

    Parameters
    ----------
    path
        The name of the folder in messages.
    descriptor
        The open file descriptor, which the object owns.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def open_path(cls, path: Path, *, create: bool = False, below: Path | None = None) -> Self:
        """Open a folder.

        No component of a relative path, or of a path in the folder ``below``, may be a symlink.
        Symlinks in any other absolute path are trusted: the user named it.

        Parameters
        ----------
        path
            The path of the folder.
        create
            Whether to create the folder if it is missing.
        below
            A folder; the rest of ``path`` below it must have no symlink.

        Returns
        -------
        Self
            The open folder.

        Raises
        ------
        UnsafePathError
            A component is a symlink.
        NotADirectoryError, FileNotFoundError
            As from ``os.open``.
        """
        top, names = _split_trusted(path, below)
        if create and not top.exists():
            top.mkdir(parents=True, exist_ok=True)
        opened = cls(path if not names else top, os.open(top, _FOLDER_FLAGS & ~os.O_NOFOLLOW))
        if not names:
            return opened
        with opened:
            inner = opened.folder(*names, create=create)
        inner.path = path
        return inner

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def folder(self, *names: str, create: bool = False, mode: int = 0o777) -> Self:
        """Open the folder at a relative path.

        Parameters
        ----------
        *names
            The components of the path.
        create
            Whether to create the folder if it is missing.
        mode
            The mode of a new folder, before the umask.

        Returns
        -------
        Self
            The open folder.
        """
        path, opened = self.path, os.dup(self.descriptor)
        try:
            for name in names:
                path /= _check_name(path, name)
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(name, mode, dir_fd=opened)
                inner = _open(path, name, _FOLDER_FLAGS, opened)
                os.close(opened)
                opened = inner
        except BaseException:
            os.close(opened)
            raise
        return type(self)(path, opened)

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        """Open a regular file.

        Parameters
        ----------
        name
            The name of the file.
        flags
            As for ``os.open``.
        mode
            The mode of a new file, before the umask.

        Returns
        -------
        int
            The file descriptor.

        Raises
        ------
        UnsafePathError
            The entry is a symlink, a pipe, a folder or a device.
        """
        path = self.path / _check_name(self.path, name)
        # a pipe must not block
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            opened = _open(path, name, flags, self.descriptor, mode)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a pipe without a reader
                raise _not_regular_error(path) from error
            raise
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise _not_regular_error(path)
        return opened

    def new_file(self, mode: int = 0o600) -> tuple[str, int]:
        """Create a file with a random name; return name and descriptor.

        Parameters
        ----------
        mode
            The mode of the file, before the umask.

        Returns
        -------
        tuple[str, int]
            The name, and the file descriptor.
        """
        name = f".new-{secrets.token_hex(8)}"
        return name, self.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def names(self) -> list[str]:
        """Return the names in the folder, sorted.

        Returns
        -------
        list[str]
            The names.
        """
        return sorted(os.listdir(self.descriptor))

    def status(self, name: str) -> os.stat_result | None:
        """Return the ``lstat`` result of an entry; None if it is missing.

        Parameters
        ----------
        name
            The name of the entry.

        Returns
        -------
        os.stat_result | None
            The result.
        """
        try:
            return os.lstat(_check_name(self.path, name), dir_fd=self.descriptor)
        except FileNotFoundError:
            return None

    def refuse_symlink(self, name: str) -> None:
        """Refuse an entry that is a symlink.

        Parameters
        ----------
        name
            The name of the entry.

        Raises
        ------
        UnsafePathError
            The entry is a symlink.
        """
        found = self.status(name)
        if found is not None and stat.S_ISLNK(found.st_mode):
            raise _symlink_error(self.path / name)

    def unlink(self, name: str) -> None:
        """Remove a file or a symlink, if it exists.

        Parameters
        ----------
        name
            The name of the file.
        """
        with suppress(FileNotFoundError):
            os.unlink(_check_name(self.path, name), dir_fd=self.descriptor)

    def rmdir(self, name: str) -> None:
        """Remove an empty folder.

        Parameters
        ----------
        name
            The name of the folder.
        """
        os.rmdir(_check_name(self.path, name), dir_fd=self.descriptor)

    def remove_tree(self, name: str) -> None:
        """Remove a folder and its content, also from folders without write permission.

        Errors are ignored.

        Parameters
        ----------
        name
            The name of the folder.
        """
        with suppress(OSError, UnsafePathError), self.folder(name) as top:
            _empty_folder(top)
            self.rmdir(name)

    def replace(self, name: str, folder: SafeFolder, new_name: str) -> None:
        """Move an entry to a folder, and replace an existing one (``os.replace``).

        Parameters
        ----------
        name
            The name of the entry.
        folder
            The folder to which it is moved.
        new_name
            Its name there; an existing file is replaced.
        """
        os.replace(
            _check_name(self.path, name),
            _check_name(folder.path, new_name),
            src_dir_fd=self.descriptor,
            dst_dir_fd=folder.descriptor,
        )

    @contextmanager
    def scratch(self, prefix: str = ".new-") -> Iterator[Self]:
        """Create a folder with mode 0700, and remove it at the end of the block.

        Parameters
        ----------
        prefix
            The start of the name of the folder.

        Yields
        ------
        Self
            The open folder.
        """
        name = f"{prefix}{secrets.token_hex(8)}"
        os.mkdir(name, _OWNER_MODE, dir_fd=self.descriptor)
        try:
            with self.folder(name) as made:
                yield made
        finally:
            self.remove_tree(name)


def refuse_symlinks(top: Path, *relative: str) -> None:
    """Raise UnsafePathError if a component of a path below a folder is a symlink.

    Missing components are accepted. Use it for folders whose files another program opens by path.

    Parameters
    ----------
    top
        The folder; it may itself be reached through a symlink.
    *relative
        Paths below ``top``.

    Raises
    ------
    UnsafePathError
        A component is a symlink.
    """
    seen: set[Path] = set()
    for path in relative:
        at = top
        for name in Path(path).parts:
            at /= _check_name(at, name)
            if at not in seen and at.is_symlink():
                raise _symlink_error(at)
            seen.add(at)


def refuse_relative_symlinks(path: Path) -> None:
    """Raise UnsafePathError if a component of a relative path is a symlink.

    A repository from another user may contain them. Missing components, absolute paths and paths
    out of the current folder are accepted: the user specified them.

    Parameters
    ----------
    path
        The path.

    Raises
    ------
    UnsafePathError
        A component is a symlink.
    """
    top, names = _split_trusted(path, None)
    refuse_symlinks(top, str(Path(*names)))


def _empty_folder(top: SafeFolder) -> None:
    """Remove the content of a folder.

    Folders are moved to the top before they are emptied: ``shutil.rmtree`` fails for a path of more
    folders than Python's recursion limit, which a foreign dataset may contain.
    """
    os.fchmod(top.descriptor, _OWNER_MODE)
    pending = _remove_files(top)
    while pending:
        name = pending.pop()
        with top.folder(name) as folder:
            os.fchmod(folder.descriptor, _OWNER_MODE)
            for inner in _remove_files(folder):
                with folder.folder(inner) as below:
                    os.fchmod(below.descriptor, _OWNER_MODE)
                moved = f".removed-{secrets.token_hex(8)}"
                folder.replace(inner, top, moved)
                pending.append(moved)
        top.rmdir(name)


def _remove_files(folder: SafeFolder) -> list[str]:
    """Remove everything except folders from a folder; return the names of the folders."""
    folders = []
    for name in folder.names():
        found = folder.status(name)
        if found is not None and stat.S_ISDIR(found.st_mode):
            folders.append(name)
        else:
            folder.unlink(name)
    return folders


def _split_trusted(path: Path, below: Path | None) -> tuple[Path, tuple[str, ...]]:
    """Split a path into the trusted folder and the components below it."""
    full = Path(os.path.abspath(path))
    tops = [] if below is None else [Path(os.path.abspath(below))]
    if not path.is_absolute():
        tops.append(Path.cwd())
    found = [top for top in tops if full.is_relative_to(top)]
    # the outermost one, so that all components are checked
    top = min(found, key=lambda one: len(one.parts), default=full)
    return top, full.relative_to(top).parts


def _check_name(folder: Path, name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise UnsafePathError(f"{folder}: {name!r} is not a valid file name; nothing was changed")
    return name


def _open(path: Path, name: str, flags: int, folder: int, mode: int = 0o666) -> int:
    try:
        return os.open(name, flags, mode, dir_fd=folder)
    except OSError as error:
        # ELOOP, or for O_DIRECTORY on Linux ENOTDIR; EMLINK on some BSDs
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            with suppress(FileNotFoundError):
                if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
                    raise _symlink_error(path) from error
        error.filename = str(path)
        raise


def _not_regular_error(path: Path) -> UnsafePathError:
    return UnsafePathError(f"{path} is not a regular file; remove it, or use another folder")


def _symlink_error(path: Path) -> UnsafePathError:
    return UnsafePathError(
        f"{path} is a symlink, and symlinks in an untrusted folder are not followed; remove it, or "
        "name its target by an absolute path"
    )
