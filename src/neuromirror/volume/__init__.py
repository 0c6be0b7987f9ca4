"""Volumes as arrays: opened, cut out, shown, and fetched block by block.

Names are imported when they are first asked for: git-annex starts the special remote, which is in
here too, again and again.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.volume.array import OpenVolume, open, open_volume, opened
    from neuromirror.volume.cutting import MOST_VOXELS, Cutout, cutout, voxels
    from neuromirror.volume.described import PRECOMPUTED, DescribedVolume, describe
    from neuromirror.volume.errors import (
        BlockMissing,
        ExportFailed,
        ExportRefused,
        ExtraMissing,
        NoSuchLevel,
        NotAVolume,
        NotReadable,
        OutsideVolume,
        TooMuch,
    )
    from neuromirror.volume.exporting import FORMATS, Exported, export
    from neuromirror.volume.layouts import has_ome_type
    from neuromirror.volume.pictures import Middle, around, middle, png, shown
    from neuromirror.volume.regions import checked_box, parse_box, told_box
    from neuromirror.volume.stacks import CUTOUT_FORMATS, FileKind
    from neuromirror.volume.tokens import nobody
    from neuromirror.volume.version_files import VersionFiles, files_of

__all__ = [
    "CUTOUT_FORMATS",
    "FORMATS",
    "MOST_VOXELS",
    "PRECOMPUTED",
    "BlockMissing",
    "Cutout",
    "DescribedVolume",
    "ExportFailed",
    "ExportRefused",
    "Exported",
    "ExtraMissing",
    "FileKind",
    "Middle",
    "NoSuchLevel",
    "NotAVolume",
    "NotReadable",
    "OpenVolume",
    "OutsideVolume",
    "TooMuch",
    "VersionFiles",
    "around",
    "checked_box",
    "cutout",
    "describe",
    "export",
    "files_of",
    "has_ome_type",
    "middle",
    "nobody",
    "open",
    "open_volume",
    "opened",
    "parse_box",
    "png",
    "shown",
    "told_box",
    "voxels",
]

_WHERE = {
    **dict.fromkeys(("OpenVolume", "open", "open_volume", "opened"), "array"),
    **dict.fromkeys(("MOST_VOXELS", "Cutout", "cutout", "voxels"), "cutting"),
    **dict.fromkeys(("PRECOMPUTED", "DescribedVolume", "describe"), "described"),
    **dict.fromkeys(("FORMATS", "Exported", "export"), "exporting"),
    **dict.fromkeys(("has_ome_type",), "layouts"),
    **dict.fromkeys(("Middle", "around", "middle", "png", "shown"), "pictures"),
    **dict.fromkeys(("checked_box", "parse_box", "told_box"), "regions"),
    **dict.fromkeys(("CUTOUT_FORMATS", "FileKind"), "stacks"),
    **dict.fromkeys(("nobody",), "tokens"),
    **dict.fromkeys(("VersionFiles", "files_of"), "version_files"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_WHERE.get(name, 'errors')}")
    return getattr(module, name)
