"""Open private stores: stores of datasets that are not public, which only their owner can enter.

The file ``neuromirror/private`` marks a store as private. A private store is rejected where a
public one is expected, and vice versa. Neither may be inside the other, so that a server of the
public store cannot reach the private one.
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
_PUBLIC_MESSAGE = "{root} is a public store; choose another folder with --private-store"
_TWO_STORES = "specify it with --private-store, and the public store with --store"
_OTHERS_MODE = 0o007
_OWNER_MODE = 0o700


class StoreNotPrivateError(ConfigurationError):
    """The folder cannot be used as a private store.

    Other users can enter it, it is a public store, or one of the two stores is inside the other.
    """


class UnexpectedPrivateStoreError(ConfigurationError):
    """A private store was given where a public one is expected."""


def is_private_store(root: Path) -> bool:
    """Return whether the store at ``root`` is private."""
    return (root / _MARKER).exists()


def require_public_store(root: Path, advice: str = _TWO_STORES) -> None:
    """Raise UnexpectedPrivateStoreError if the store at ``root`` is private.

    ``advice`` is the end of the message.
    """
    if is_private_store(root):
        raise UnexpectedPrivateStoreError(f"{root} is a private store; {advice}")


def open_private_store(root: Path, public: Path) -> Store:
    """Open the private store at ``root``; create it with mode 0700 if it is missing.

    Parameters
    ----------
    root
        The private store's folder.
    public
        The public store's folder.

    Raises
    ------
    StoreNotPrivateError
        One of the stores is inside the other, users outside of the owner's group can enter
        ``root``, or it is a public store. Nothing was created.
    """
    root = root.absolute()
    _check_not_nested(root.resolve(), public.resolve())
    if not root.exists():
        make_folder(root.parent)
        # mkdir with the mode: the folder is never open to others
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
    """Open the private store at ``root`` if there is one; write nothing.

    Raises StoreNotPrivateError as :func:`open_private_store` does.
    """
    _check_not_nested(root.resolve(), public.resolve())
    if not (root / "neuromirror" / "store.json").exists():
        return None
    _check_mode(root)
    if not is_private_store(root):
        raise StoreNotPrivateError(_PUBLIC_MESSAGE.format(root=root))
    return Store.open(root)


def restrict_to_owner(folder: Path) -> None:
    """Remove from everything in a folder the permissions for others that the folder itself lacks.

    To be called after other programs, such as git, have written to a private store.
    """
    refused = ~folder.stat().st_mode & 0o077
    for directory, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(directory, name)  # a Path takes several times as long
            # another process may remove its files meanwhile
            with suppress(FileNotFoundError):
                found = os.lstat(path).st_mode
                if not stat.S_ISLNK(found) and found & refused:
                    os.chmod(path, stat.S_IMODE(found) & ~refused)


def _check_not_nested(root: Path, public: Path) -> None:
    if root == public or public in root.parents or root in public.parents:
        raise StoreNotPrivateError(
            f"the private store {root} and the public store {public} must not contain each other: "
            "a server of the public one would serve both; choose another folder with "
            "--private-store"
        )


def _check_mode(root: Path) -> None:
    mode = stat.S_IMODE(root.stat().st_mode)
    if mode & _OTHERS_MODE:
        raise StoreNotPrivateError(
            f"all users of this machine can read {root} (mode {mode:04o}); run 'chmod 700 {root}' "
            "(or 750 for a group), or choose another folder with --private-store"
        )


def _write_marker(root: Path) -> None:
    """Mark an empty folder, or the incomplete store of a killed process, as private."""
    own = root / _MARKER.parent
    if (own / "store.json").exists():
        raise StoreNotPrivateError(_PUBLIC_MESSAGE.format(root=root))
    if any(root.iterdir()) and not own.is_dir():
        return  # not a store: Store.open raises the error
    own.mkdir(_OWNER_MODE, exist_ok=True)
    (own / _MARKER.name).touch()
    fsync_path(own)
