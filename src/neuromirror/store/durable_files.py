"""Files and folders that outlive a crash of the machine, and that a web server may read.

A rename is on disk only when its folder has been forced there. Modes do not follow the umask: what
is in the store is there to be served.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

FOLDER_MODE = 0o755
FILE_MODE = 0o644
UMASK = 0o022


def make_folder(path: Path, *, durable: bool = True) -> None:
    """Makes a folder, and those above it that are missing; forces them to disk if ``lasting``."""
    if path.is_dir():
        return
    make_folder(path.parent, durable=durable)
    path.mkdir(exist_ok=True)
    path.chmod(FOLDER_MODE)
    if durable:
        fsync_path(path.parent)


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes a small file so that it is never seen half written.

    Unless it is ``lasting`` it may be lost, or cut off, in a crash of the machine.
    """
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if durable:
                finish_file(file)
            else:
                os.fchmod(file.fileno(), FILE_MODE)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    if durable:
        fsync_path(path.parent)


def finish_file(file: IO[bytes]) -> None:
    """Gives a file that is about to be renamed its mode, and forces its content to disk."""
    file.flush()
    os.fchmod(file.fileno(), FILE_MODE)
    os.fsync(file.fileno())


def fsync_path(path: Path) -> None:
    """Forces to disk what a file holds, or which names a folder has."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(root: Path) -> None:
    """Forces a folder to disk with all that is in it."""
    for folder, _, files in os.walk(root):
        for name in files:
            fsync_path(Path(folder, name))
        fsync_path(Path(folder))
