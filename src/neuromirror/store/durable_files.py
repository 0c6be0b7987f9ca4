"""Write files and folders that survive a crash of the machine, and that a web server can read.

A rename is durable only after an fsync of its folder. Modes do not depend on the umask, because the
store's files are served.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

FOLDER_MODE = 0o755
FILE_MODE = 0o644
UMASK = 0o022


def make_folder(path: Path, *, durable: bool = True) -> None:
    """Create a folder and its missing parents; with ``durable``, fsync them."""
    if path.is_dir():
        return
    make_folder(path.parent, durable=durable)
    path.mkdir(exist_ok=True)
    path.chmod(FOLDER_MODE)
    if durable:
        fsync_path(path.parent)


def write_atomically(
    path: Path, content: bytes, *, durable: bool = True, mode: int = FILE_MODE
) -> None:
    """Write a small file by a rename, so that readers see the old or the new content.

    Parameters
    ----------
    path
        The file; it is created or replaced.
    content
        The whole new content.
    durable
        Whether to flush file and folder to disk. Without it, a crash of the machine may lose or
        truncate the file.
    mode
        The permissions of the file.
    """
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if durable:
                finish_file(file, mode)
            else:
                os.fchmod(file.fileno(), mode)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    if durable:
        fsync_path(path.parent)


def copy_atomically(source: Path, target: Path, scratch: Path) -> None:
    """Copy a file by a rename, so that no reader and no crash sees a part of it.

    Parameters
    ----------
    source
        The file.
    target
        The copy; it is created, with its folder, or replaced.
    scratch
        A scratch folder on the disk of ``target``.
    """
    make_folder(target.parent)
    draft = scratch / target.name
    shutil.copyfile(source, draft)
    draft.chmod(FILE_MODE)
    fsync_path(draft)
    os.replace(draft, target)
    fsync_path(target.parent)


def finish_file(file: IO[bytes], mode: int = FILE_MODE) -> None:
    """Flush, chmod and fsync a file that is about to be renamed."""
    file.flush()
    os.fchmod(file.fileno(), mode)
    os.fsync(file.fileno())


def fsync_path(path: Path) -> None:
    """Fsync a file's content, or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(root: Path) -> None:
    """Fsync a folder and everything in it."""
    for folder, _, files in os.walk(root):
        for name in files:
            fsync_path(Path(folder, name))
        fsync_path(Path(folder))
