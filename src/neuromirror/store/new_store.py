"""A new store into which nothing was mirrored."""

from __future__ import annotations

import shutil
from typing import Final

from neuromirror.model import TaskFailed
from neuromirror.store.store import Store

_TOP_NAMES: Final = frozenset({"alias", "error_logs", "neuromirror", "ria-layout-version"})


def remove_if_unused(store: Store) -> None:
    """Remove a store that has no datasets, and no journal entries except those of failures.

    Parameters
    ----------
    store
        A store that did not exist when the command started.
    """
    root, own = store.root, store.index_path.parent
    empty_folders = (root / "alias", own / "locks", own / "protected")
    is_unused = (
        {path.name for path in root.iterdir()} <= _TOP_NAMES
        and not any(path.is_dir() and any(path.iterdir()) for path in empty_folders)
        and all(isinstance(entry, TaskFailed) for _, entry in store.read_entries(0))
    )
    if is_unused:
        shutil.rmtree(root)
