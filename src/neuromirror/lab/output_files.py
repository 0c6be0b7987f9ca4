"""Write lock files, lists and citations, one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from neuromirror.lab.lockfile import (
    MOST_VAULTS,
    Lock,
    PinnedVault,
    dump_lock,
    load_lock,
    parse_lock,
    read_lock_bytes,
)
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.store import SafeFolder, write_atomically

_MODE: Final = 0o666


def write_file(pieces: Iterable[str], target: Path) -> None:
    """Write the pieces of a text to a file atomically; an existing file is replaced.

    Raises
    ------
    ConfigurationError
        The folder of the file does not exist, or the path is a folder.
    UnsafePathError
        ``target`` is a relative path, and one of its folders is a symlink.
    """
    if not target.parent.is_dir():
        raise ConfigurationError(f"{target.parent}: no such folder; create it first")
    with SafeFolder.open_path(target.parent) as folder:
        draft, handle = folder.new_file(_MODE)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(pieces)
            folder.replace(draft, folder, target.name)
        finally:
            folder.unlink(draft)


def is_missing_or_empty(folder: Path) -> bool:
    """Return whether a path is missing or an empty folder, possibly through a symlink."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


class LockBusyError(NeuromirrorError):
    """Another process is writing the lock file."""


@contextmanager
def exclusive_write(path: Path) -> Iterator[SafeFolder]:
    """Prevent other processes from writing the lock file at ``path`` during the block.

    A file beside it is locked with ``flock``, which the kernel releases when the process exits.

    Yields
    ------
    SafeFolder
        The folder of the lock file, which is created if it does not exist.

    Raises
    ------
    LockBusyError
        Another process is writing the lock file.
    UnsafePathError
        A component of the path is a symlink.
    """
    name = f".{path.name}.pinning"
    with (
        SafeFolder.open_path(path.parent, create=True) as folder,
        open(folder.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file,
    ):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the previous holder may have removed the file after it was opened here
            status = folder.status(name)
            is_held = status is not None and os.path.samestat(status, os.fstat(file.fileno()))
        except BlockingIOError:
            is_held = False
        if not is_held:
            raise LockBusyError(
                f"another neuromirror process is writing {path}; nothing was changed, run the "
                "command again when it has finished"
            )
        try:
            yield folder
        finally:
            folder.unlink(name)


def add_vaults(path: Path, vaults: Mapping[str, Sequence[PinnedVault]]) -> list[str]:
    """Add vaults to the pins of a lock file, so that it can be restored from them alone.

    A vault that a pin names already is replaced: its URL may have changed. All else in the file
    stays, and a file in which nothing changes is not written.

    Parameters
    ----------
    path
        The path of the lock file.
    vaults
        The vaults to add, by the name of the pinned dataset. A name without a pin is ignored.

    Returns
    -------
    list of str
        The names of the datasets whose pins changed.

    Raises
    ------
    LockUnusableError
        The file is missing or not a valid lock file.
    LockBusyError
        Another process is writing it.
    ConfigurationError
        A value is not valid in a lock file, or a pin would have too many vaults.
    """
    load_lock(path)  # a missing file has one clear error
    changed = []
    with exclusive_write(path):
        content = read_lock_bytes(path)
        lock = parse_lock(path, content)
        pins = []
        for pin in lock.datasets:
            known = {copy.uuid: copy for copy in pin.copies}
            known |= {vault.uuid: vault for vault in vaults.get(pin.name, ())}
            copies = tuple(sorted(known.values(), key=lambda one: (one.name, one.uuid)))
            if problem := next(filter(None, (copy.problem() for copy in copies)), ""):
                raise ConfigurationError(f"{path}, {pin.name}: {problem}; nothing was changed")
            if len(copies) > MOST_VAULTS:
                raise ConfigurationError(
                    f"{path}, {pin.name}: a pin names at most {MOST_VAULTS} vaults; nothing was "
                    "changed"
                )
            if copies != pin.copies:
                changed.append(pin.name)
            pins.append(msgspec.structs.replace(pin, copies=copies))
        if changed:
            write_atomically(path, dump_lock(Lock(path, tuple(pins)), content))
    return changed
