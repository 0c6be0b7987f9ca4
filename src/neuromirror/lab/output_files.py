"""Write lists and citations to files that the user names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from neuromirror.model import ConfigurationError
from neuromirror.store import SafeFolder

_MODE: Final = 0o666


class OutputUnsuitableError(ConfigurationError):
    """A result cannot be written to the output path."""


def write_file(pieces: Iterable[str], target: Path) -> None:
    """Write the pieces of a text to a file atomically; an existing file is replaced.

    Raises
    ------
    OutputUnsuitableError
        The folder of the file does not exist, or the path is a folder.
    UnsafePathError
        ``target`` is a relative path, and one of its folders is a symlink.
    """
    if not target.parent.is_dir():
        raise OutputUnsuitableError(f"{target.parent}: no such folder; create it first")
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


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Provide a scratch folder that is renamed to ``target`` at the end of the block.

    After an error, nothing is left behind.

    Parameters
    ----------
    target
        The path of the result, which must be missing or an empty folder.

    Yields
    ------
    Path
        The scratch folder, which is empty.

    Raises
    ------
    OutputUnsuitableError
        ``target`` has content or is a symlink, or cannot be created.
    UnsafePathError
        ``target`` is a relative path, and one of its folders is a symlink.
    """
    if target.is_symlink() or not is_missing_or_empty(target):
        raise OutputUnsuitableError(
            f"{target} is not an empty folder; specify an empty or missing one with --output"
        )
    try:
        parent = SafeFolder.open_path(target.parent, create=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputUnsuitableError(
            f"{target} cannot be created: {target.parent} is not a folder; choose another one "
            f"with --output"
        ) from error
    with parent, parent.scratch() as scratch:
        parent.refuse_symlink(target.name)
        draft = scratch.path / "draft"
        draft.mkdir()
        yield draft
        if parent.status(target.name) is not None:
            parent.rmdir(target.name)
        scratch.replace("draft", parent, target.name)
