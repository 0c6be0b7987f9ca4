"""What an export has done so far, in a small file beside its results."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from neuromirror.model import parse_json
from neuromirror.store import write_atomically
from neuromirror.volume.errors import ExportRefusedError

STATE: Final = ".neuromirror-export.json"
LOCK: Final = ".neuromirror-export.lock"

_FORMAT: Final = 1


@dataclass(slots=True)
class ExportState:
    """How far an export is.

    ``export`` says which it is: the bytes that it makes depend on nothing else. ``finished`` are
    files in place, with their size and the time of their last change (ns), by which it is seen
    later that nobody has touched them. ``slabs`` are the ranges along z whose voxels are in all
    files that hold some, finished or not.
    """

    folder: Path
    export: dict[str, Any]
    finished: dict[str, list[int]] = field(default_factory=dict)
    slabs: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def read(cls, folder: Path, export: dict[str, Any]) -> ExportState:
        """The state of this export in a folder; raises ExportRefusedError where another's is
        there."""
        path = folder / STATE
        try:
            document = parse_json(path.read_bytes(), path.name)
        except FileNotFoundError:
            return cls(folder, export)
        except ValueError:
            document = None
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ExportRefusedError(f"{path} cannot be read; name another folder, or remove it")
        if document["export"] != export:
            differences = ", ".join(
                f"{name} {document['export'].get(name)}"
                for name, value in export.items()
                if document["export"].get(name) != value
            )
            raise ExportRefusedError(
                f"{folder} holds another export ({differences}); name another folder, or empty "
                f"this one"
            )
        slabs = {(start, stop) for start, stop in document["slabs"]}
        return cls(folder, export, document["finished"], slabs)

    def write(self) -> None:
        """Keeps the state; what it tells must be on disk before."""
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
        """Whether the folder knows whose it is."""
        return (self.folder / STATE).exists()

    def finish(self, path: str, draft: Path) -> None:
        """Remembers a file that only needs to be put in its place."""
        self.finished[path] = _size_and_mtime(draft)

    def is_finished(self, path: str) -> bool:
        """Whether a file is there as it was finished."""
        known = self.finished.get(path)
        try:
            return known is not None and _size_and_mtime(self.folder / path) == known
        except FileNotFoundError:
            return False


def _size_and_mtime(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]
