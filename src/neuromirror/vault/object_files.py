"""Object files of a git-annex repository, as git-annex leaves them.

An object is ``…/KEY/KEY``. Neither the file nor its folder is writable. A file gets its final name
by a rename, so that it is complete under that name. Folders of objects that are symbolic links are
refused: other users may be allowed to write to a repository.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

PARTIAL_PREFIX: Final = "neuromirror-"
"""Start of the names of files that are not complete."""

_LEFT_AFTER: Final = 86_400
"""Seconds after which such a file belongs to no running process."""
_WRITE_BITS = 0o222
_ATTEMPTS: Final = 100


def move_object(path: bytes, target: bytes) -> None:
    """Move a complete file to the path of an object; an object that is there is replaced.

    Raises
    ------
    NotADirectoryError
        A symbolic link is in place of a folder of the object.
    """
    folder = os.path.dirname(target)
    refuse_links(folder)
    for attempt in range(_ATTEMPTS):
        try:
            if not make_object_folder(folder):
                os.chmod(folder, os.stat(folder).st_mode & 0o7777 | 0o200)
            os.rename(path, target)
            break
        except (FileNotFoundError, FileExistsError):
            # the removal of another object may remove empty hash directories meanwhile; then
            # os.makedirs() reports that one exists which is no directory any more
            if attempt == _ATTEMPTS - 1 or not os.path.exists(path):
                raise
    freeze_folder(folder)


def refuse_links(folder: bytes) -> None:
    """Raise NotADirectoryError if the folder of an object or a hash directory is a link."""
    above = os.path.dirname(folder)
    for one in (os.path.dirname(above), above, folder):
        if os.path.islink(one):
            why = "there is a symbolic link in place of a folder"
            raise NotADirectoryError(errno.ENOTDIR, why, os.fsdecode(one))


def freeze_folder(folder: bytes) -> None:
    """Remove write permission from the folder of an object, as git-annex does."""
    os.chmod(folder, os.stat(folder).st_mode & 0o7777 & ~_WRITE_BITS)


def remove_object(path: bytes) -> bool:
    """Remove an object and its folder.

    Raises
    ------
    NotADirectoryError
        A symbolic link is in place of a folder of the object.
    """
    folder = os.path.dirname(path)
    refuse_links(folder)
    try:
        os.chmod(folder, os.stat(folder).st_mode & 0o7777 | 0o200)
        os.unlink(path)
        found = True
    except FileNotFoundError:
        found = False
    # the hash directories may have other keys
    for one in (folder, os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))):
        with suppress(OSError):
            os.rmdir(one)
    return found


def remove_old_partials(folder: Path) -> None:
    """Remove incomplete files of processes that were killed, unless they were written today."""
    for one in folder.glob(f"{PARTIAL_PREFIX}*"):
        with suppress(OSError):
            if time.time() - one.stat().st_mtime > _LEFT_AFTER:
                one.unlink()


def write_all(file: int, content: memoryview) -> None:
    """Write all of ``content``: a write to a disk that fills up may be partial."""
    while content:
        content = content[os.write(file, content) :]


def make_object_folder(folder: bytes) -> bool:
    """Create an object's folder and its parents."""
    hashed = os.path.dirname(folder)
    try:
        os.mkdir(hashed)
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(hashed, exist_ok=True)
    try:
        os.mkdir(folder)
    except FileExistsError:
        return False
    return True
