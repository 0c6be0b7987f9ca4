"""Volumes as arrays: opened, cut out, and fetched block by block.

Names are imported when they are first asked for: git-annex starts the special remote, which is in
here too, again and again.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.volume.array import OpenVolume, open, open_volume, opened
    from neuromirror.volume.errors import (
        BlockMissing,
        ExportFailed,
        ExportRefused,
        ExtraMissing,
        NoSuchLevel,
        NotAVolume,
        OutsideVolume,
    )
    from neuromirror.volume.exporting import FORMATS, Exported, export
    from neuromirror.volume.regions import parse_box

__all__ = [
    "FORMATS",
    "BlockMissing",
    "ExportFailed",
    "ExportRefused",
    "Exported",
    "ExtraMissing",
    "NoSuchLevel",
    "NotAVolume",
    "OpenVolume",
    "OutsideVolume",
    "export",
    "open",
    "open_volume",
    "opened",
    "parse_box",
]

_WHERE = {
    **dict.fromkeys(("OpenVolume", "open", "open_volume", "opened"), "array"),
    **dict.fromkeys(("FORMATS", "Exported", "export"), "exporting"),
    "parse_box": "regions",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_WHERE.get(name, 'errors')}")
    return getattr(module, name)
