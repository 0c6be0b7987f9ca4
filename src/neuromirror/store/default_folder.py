"""The folder of the store if none is specified."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_LOCAL_STORE: Final = Path("store")


def default_store_folder(*, is_local: bool = False) -> Path:
    """Return the folder of the store if none is specified.

    Parameters
    ----------
    is_local
        Whether it is in the current folder even if it does not exist there yet.

    Returns
    -------
    Path
        ``store`` in the current folder if it exists, else that of the user, in the user's data
        folder.
    """
    if is_local or _LOCAL_STORE.exists():
        return _LOCAL_STORE
    from platformdirs import user_data_path

    return user_data_path("neuromirror") / "store"
