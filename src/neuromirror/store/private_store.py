"""A store of what is not public: a folder of its own that only its owner can enter.

It is a store like any other, with ``neuromirror/private`` in it to tell which kind it is. Each kind
refuses to be used as the other, and neither may lie in the other: a server that shows the public
store cannot come upon it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from neuromirror.model import ConfigurationError
from neuromirror.store.durable_files import fsync_path, make_folder
from neuromirror.store.store import Store

_MARKER = Path("neuromirror", "private")
_PUBLIC_MESSAGE = "{root} is a public store already; name another folder with --private-store"
_OTHERS_MODE = 0o007
_OWNER_MODE = 0o700


class StoreNotPrivateError(ConfigurationError):
    """A folder that cannot be a private store: others may see it, or it is a public one."""


class UnexpectedPrivateStoreError(ConfigurationError):
    """A private store where a public one is called for."""


def is_private_store(root: Path) -> bool:
    """Whether the store at ``root`` is a private one."""
    return (root / _MARKER).exists()


def require_public_store(root: Path) -> None:
    """Raises UnexpectedPrivateStoreError for a private store."""
    if is_private_store(root):
        raise UnexpectedPrivateStoreError(
            f"{root} is a private store, of dandisets under embargo; name it with --private-store, "
            "and the public store with --store"
        )


def open_private_store(root: Path, public: Path) -> Store:
    """The private store at ``root``, made if it is missing; ``public`` is the public one's folder.

    A new one has mode 0700. Raises StoreNotPrivateError, before anything is made, for a folder
    that is
    in the public store or around it, that others than its owner's group can enter, or that is
    another kind of store.
    """
    root = root.absolute()
    _check_not_nested(root.resolve(), public.resolve())
    if not root.exists():
        make_folder(root.parent)
        # never open, not even for a moment
        with suppress(FileExistsError):
            root.mkdir(_OWNER_MODE)
            root.chmod(_OWNER_MODE)
            fsync_path(root.parent)
    if root.is_dir():
        _check_mode(root)
        if not is_private_store(root):
            _write_marker(root)
    store = Store.open(root, create=True)
    restrict_to_owner(root)
    return store


def find_private_store(root: Path, public: Path) -> Store | None:
    """The private store at ``root`` if there is one; nothing is written.

    Raises as :func:`open_private_store` does.
    """
    _check_not_nested(root.resolve(), public.resolve())
    if not (root / "neuromirror" / "store.json").exists():
        return None
    _check_mode(root)
    if not is_private_store(root):
        raise StoreNotPrivateError(_PUBLIC_MESSAGE.format(root=root))
    return Store.open(root)


def restrict_to_owner(folder: Path) -> None:
    """Takes from all that is in a folder the rights of those who may not enter the folder.

    Programs give files modes of their own, whatever the folder is.
    """
    refused = ~folder.stat().st_mode & 0o077
    for directory, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(directory, name)
            # others at work may remove what they made
            with suppress(FileNotFoundError):
                found = path.lstat().st_mode
                if not stat.S_ISLNK(found) and found & refused:
                    path.chmod(stat.S_IMODE(found) & ~refused)


def _check_not_nested(root: Path, public: Path) -> None:
    if root == public or public in root.parents or root in public.parents:
        raise StoreNotPrivateError(
            f"the private store {root} and the public store {public} must not be in one another: "
            "what serves the public one would show both; name another folder with --private-store"
        )


def _check_mode(root: Path) -> None:
    mode = stat.S_IMODE(root.stat().st_mode)
    if mode & _OTHERS_MODE:
        raise StoreNotPrivateError(
            f"everybody on this machine can look into {root} (mode {mode:04o}); close it with "
            f"'chmod 700 {root}' (or 750 for a group), or name another folder with --private-store"
        )


def _write_marker(root: Path) -> None:
    """Makes a private store of an empty folder, or of what a killed process left of one."""
    own = root / _MARKER.parent
    if (own / "store.json").exists():
        raise StoreNotPrivateError(_PUBLIC_MESSAGE.format(root=root))
    if any(root.iterdir()) and not own.is_dir():
        return  # no store at all, which opening it says
    own.mkdir(_OWNER_MODE, exist_ok=True)
    (own / _MARKER.name).touch()
    fsync_path(own)
