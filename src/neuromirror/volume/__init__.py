"""Volumes as arrays: opening, cut-outs, images and exports.

Names are imported on first use, because git-annex starts the special remote of this package often.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.volume.array import OpenVolume, open, open_volume
    from neuromirror.volume.cutouts import (
        CUTOUT_FORMATS,
        MAX_VOXEL_BYTES,
        Cutout,
        MiddlePlane,
        OutputFile,
        encode_png,
        has_ome_type,
        middle_plane,
        nested_boxes,
        plan_cutout,
        read_voxels,
        to_display,
    )
    from neuromirror.volume.description import PRECOMPUTED, VolumeDescription, describe
    from neuromirror.volume.errors import (
        BlockUnavailableError,
        CutoutTooLargeError,
        ExportFailedError,
        ExportRefusedError,
        MissingExtraError,
        NotAVolumeError,
        OutsideVolumeError,
        UndecodableBlockError,
        UnknownLevelError,
        UnreadableVolumeError,
    )
    from neuromirror.volume.exporter import FORMATS, ExportResult, export
    from neuromirror.volume.files import VersionFiles, open_version_files
    from neuromirror.volume.geometry import format_box, parse_box, validate_box
    from neuromirror.volume.zarr_store import VersionStore, open_zarr

__all__ = [
    "CUTOUT_FORMATS",
    "FORMATS",
    "MAX_VOXEL_BYTES",
    "PRECOMPUTED",
    "BlockUnavailableError",
    "Cutout",
    "CutoutTooLargeError",
    "ExportFailedError",
    "ExportRefusedError",
    "ExportResult",
    "MiddlePlane",
    "MissingExtraError",
    "NotAVolumeError",
    "OpenVolume",
    "OutputFile",
    "OutsideVolumeError",
    "UndecodableBlockError",
    "UnknownLevelError",
    "UnreadableVolumeError",
    "VersionFiles",
    "VersionStore",
    "VolumeDescription",
    "describe",
    "encode_png",
    "export",
    "format_box",
    "has_ome_type",
    "middle_plane",
    "nested_boxes",
    "open",
    "open_version_files",
    "open_volume",
    "open_zarr",
    "parse_box",
    "plan_cutout",
    "read_voxels",
    "to_display",
    "validate_box",
]

_EXPORTS = {
    name: f"neuromirror.{module}"
    for module, names in {
        "volume.array": "OpenVolume open open_volume",
        "volume.cutouts": (
            "CUTOUT_FORMATS Cutout MAX_VOXEL_BYTES MiddlePlane OutputFile encode_png has_ome_type "
            "middle_plane nested_boxes plan_cutout read_voxels to_display"
        ),
        "volume.description": "PRECOMPUTED VolumeDescription describe",
        "volume.errors": (
            "BlockUnavailableError CutoutTooLargeError ExportFailedError "
            "ExportRefusedError MissingExtraError NotAVolumeError OutsideVolumeError "
            "UndecodableBlockError UnknownLevelError UnreadableVolumeError"
        ),
        "volume.exporter": "ExportResult FORMATS export",
        "volume.geometry": "format_box parse_box validate_box",
        "volume.files": "VersionFiles open_version_files",
        "volume.zarr_store": "VersionStore open_zarr",
    }.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
