"""The folder of the previews that a catalogue made of a store's files."""

from __future__ import annotations

import shutil
from pathlib import Path

from neuromirror.store.store import Store


def preview_folder(store: Store) -> Path:
    """Return the folder of the previews, which may be deleted at any time."""
    return store.root / "neuromirror" / "previews"


def delete_previews(store: Store) -> None:
    """Delete the previews of all datasets, so that none of a withdrawn dataset is left."""
    shutil.rmtree(preview_folder(store), ignore_errors=True)
