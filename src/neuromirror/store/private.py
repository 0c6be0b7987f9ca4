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
from neuromirror.store.disk import make_folder, sync
from neuromirror.store.store import Store

_MARKER = Path("neuromirror", "private")
_PUBLIC = "{root} is a public store already; name another folder with --private-store"
_OTHERS = 0o007
_OWNER = 0o700


class StoreNotPrivate(ConfigurationError):
    """A folder that cannot be a private store: others may see it, or it is a public one."""


class StorePrivate(ConfigurationError):
    """A private store where a public one is called for."""


def is_private(root: Path) -> bool:
    """Whether the store at ``root`` is a private one."""
    return (root / _MARKER).exists()


def refuse_private(root: Path) -> None:
    """Raises StorePrivate for a private store."""
    if is_private(root):
        raise StorePrivate(
            f"{root} is a private store, of dandisets under embargo; name it with --private-store, "
            "and the public store with --store"
        )


def open_private(root: Path, public: Path) -> Store:
    """The private store at ``root``, made if it is missing; ``public`` is the public one's folder.

    A new one has mode 0700. Raises StoreNotPrivate, before anything is made, for a folder that is
    in the public store or around it, that others than its owner's group can enter, or that is
    another kind of store.
    """
    root = root.absolute()
    _check_apart(root.resolve(), public.resolve())
    if not root.exists():
        make_folder(root.parent)
        # never open, not even for a moment
        with suppress(FileExistsError):
            root.mkdir(_OWNER)
            root.chmod(_OWNER)
            sync(root.parent)
    if root.is_dir():
        _check_closed(root)
        if not is_private(root):
            _mark(root)
    store = Store.open(root, create=True)
    close_to_others(root)
    return store


def find_private(root: Path, public: Path) -> Store | None:
    """The private store at ``root`` if there is one; nothing is written.

    Raises as :func:`open_private` does.
    """
    _check_apart(root.resolve(), public.resolve())
    if not (root / "neuromirror" / "store.json").exists():
        return None
    _check_closed(root)
    if not is_private(root):
        raise StoreNotPrivate(_PUBLIC.format(root=root))
    return Store.open(root)


def close_to_others(folder: Path) -> None:
    """Takes from all that is in a folder the rights of those who may not enter the folder.

    Programs give files modes of their own, whatever the folder is.
    """
    refused = ~folder.stat().st_mode & 0o077
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            # others at work may remove what they made
            with suppress(FileNotFoundError):
                found = path.lstat().st_mode
                if not stat.S_ISLNK(found) and found & refused:
                    path.chmod(stat.S_IMODE(found) & ~refused)


def _check_apart(root: Path, public: Path) -> None:
    if root == public or public in root.parents or root in public.parents:
        raise StoreNotPrivate(
            f"the private store {root} and the public store {public} must not be in one another: "
            "what serves the public one would show both; name another folder with --private-store"
        )


def _check_closed(root: Path) -> None:
    mode = stat.S_IMODE(root.stat().st_mode)
    if mode & _OTHERS:
        raise StoreNotPrivate(
            f"everybody on this machine can look into {root} (mode {mode:04o}); close it with "
            f"'chmod 700 {root}' (or 750 for a group), or name another folder with --private-store"
        )


def _mark(root: Path) -> None:
    """Makes a private store of an empty folder, or of what a killed process left of one."""
    own = root / _MARKER.parent
    if (own / "store.json").exists():
        raise StoreNotPrivate(_PUBLIC.format(root=root))
    if any(root.iterdir()) and not own.is_dir():
        return  # no store at all, which opening it says
    own.mkdir(_OWNER, exist_ok=True)
    (own / _MARKER.name).touch()
    sync(own)
