"""The state of an export, in a small file next to its results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from neuromirror.model import parse_json
from neuromirror.store import write_atomically
from neuromirror.volume.errors import ExportRefusedError

STATE: Final = ".neuromirror-export.json"
LOCK: Final = ".neuromirror-export.lock"

_FORMAT: Final = 1


class ExportState(Struct):
    """The progress of an export, from which an interrupted export continues.

    Attributes
    ----------
    export : dict
        Everything on which the bytes of the files depend; another export must not continue.
    finished : dict
        Finished files with size and modification time (ns), which show later changes.
    slabs : set of (int, int)
        Ranges along z whose voxels are in all their files, finished or not.
    """

    folder: Path
    export: dict[str, Any]
    finished: dict[str, list[int]] = field(default_factory=dict)
    slabs: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def read(cls, folder: Path, export: dict[str, Any]) -> ExportState:
        """Return the state of this export in a folder.

        Raises ExportRefusedError if the folder has another export.
        """
        path = folder / STATE
        try:
            document = parse_json(path.read_bytes(), path.name)
        except FileNotFoundError:
            return cls(folder, export)
        except ValueError:
            document = None
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ExportRefusedError(f"{path} cannot be read; choose another folder, or remove it")
        if document["export"] != export:
            differences = ", ".join(
                f"{name} {document['export'].get(name)}"
                for name, value in export.items()
                if document["export"].get(name) != value
            )
            raise ExportRefusedError(
                f"{folder} has another export ({differences}); choose another folder, or empty "
                "this one"
            )
        slabs = {(start, stop) for start, stop in document["slabs"]}
        return cls(folder, export, document["finished"], slabs)

    def write(self) -> None:
        """Write the state; what it describes must have been synced to disk."""
        document = {
            "format": _FORMAT,
            "export": self.export,
            "finished": self.finished,
            "slabs": sorted(self.slabs),
        }
        content = json.dumps(document, indent=1, sort_keys=True).encode()
        write_atomically(self.folder / STATE, content + b"\n")

    @property
    def is_saved(self) -> bool:
        """Whether the folder has a state."""
        return (self.folder / STATE).exists()

    def finish(self, path: str, draft: Path) -> None:
        """Record a file that only needs to be renamed."""
        self.finished[path] = _size_and_mtime(draft)

    def is_finished(self, path: str) -> bool:
        """Return whether a file is present and unchanged since it was finished."""
        known = self.finished.get(path)
        try:
            return known is not None and _size_and_mtime(self.folder / path) == known
        except FileNotFoundError:
            return False


def _size_and_mtime(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]
