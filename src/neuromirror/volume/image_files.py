"""Regions as single files for viewing: a TIFF with one page per z-slice, or PNGs."""

from __future__ import annotations

import re
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from neuromirror.volume.errors import ExportRefusedError
from neuromirror.volume.images import color_labels, encode_png
from neuromirror.volume.layouts import Region, tiff_maker
from neuromirror.volume.regions import format_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+=-]")
_MAX_NAME_LENGTH: Final = 180
_EXACT_DTYPES: Final = ("uint8", "uint16")
_OME_UNITS: Final = {
    "angstrom": "Å",
    "nanometer": "nm",
    "micrometer": "µm",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
}
_OME_TYPES: Final = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")
_NO_DATE: Final = (1980, 1, 1, 0, 0, 0)


class OutputFile(Struct, frozen=True):
    """A file of a region, to be written.

    Attributes
    ----------
    name
        The file name.
    media_type
        The media type, such as ``image/tiff``.
    write
        Writes voxels of shape (z, y, x) to a path.
    """

    name: str
    media_type: str
    write: Callable[[Path, NDArray[Any]], None]


def has_ome_type(dtype: str) -> bool:
    """Return whether OME-TIFF supports a data type, such as ``uint16``."""
    return dtype in _OME_TYPES


def tiff(region: Region) -> OutputFile:
    """Return one TIFF: an OME-TIFF if OME has the data type, else plain pages."""
    is_ome = has_ome_type(region.volume.volume.dtype)
    make = tiff_maker(region, region.shape, ome=_ome_metadata(region) if is_ome else None)

    def write(path: Path, voxels: NDArray[Any]) -> None:
        offset = make(path)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(voxels.reshape(-1).view("B").data)

    name = f"{region.whole_stem}{'.ome' if is_ome else ''}.tif"
    return OutputFile(_safe_name(name), "image/tiff", write)


def _ome_metadata(region: Region) -> dict[str, Any]:
    volume, level, box = region.volume, region.volume.level.name, format_box(region.box)
    sample = "" if region.time is None else f"/{region.time}"
    region_id = f"{volume.source}@{volume.state}/{level}/{box}{sample}"
    metadata: dict[str, Any] = {
        "axes": "ZYX",
        "Creator": "neuromirror",
        "Name": f"{volume.name} level {level} {box}",
        "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, region_id)}",
    }
    unit = _OME_UNITS.get(volume.volume.unit)
    for axis, size in zip("XYZ", volume.level.voxel, strict=True):
        if unit is not None:
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    return metadata


def pngs(region: Region) -> OutputFile:
    """Return a PNG of one z-slice, or a zip of PNGs named like ndpull's TIFFs.

    8 and 16 bits are written unchanged; labels of other types are coloured. Raises
    ExportRefusedError for other data types.
    """
    volume = region.volume.volume
    if volume.dtype not in _EXACT_DTYPES and not volume.labels:
        raise ExportRefusedError(
            f"PNG does not support voxels of type {volume.dtype}, only 8 and 16 bits; use TIFF"
        )
    drawn = None if volume.dtype in _EXACT_DTYPES else color_labels
    z0, z1 = region.box[2]
    if z1 - z0 == 1:

        def write(path: Path, voxels: NDArray[Any]) -> None:
            with path.open("wb") as file:
                file.writelines(encode_png(voxels[0], drawn))

        return OutputFile(_safe_name(f"{region.stem}_z{z0}.png"), "image/png", write)
    digits = len(str(z1))

    def write_all(path: Path, voxels: NDArray[Any]) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for z, plane in enumerate(voxels, z0):
                name = _safe_name(f"{region.stem}_z{z:0{digits}d}.png")
                with file.open(zipfile.ZipInfo(name, _NO_DATE), "w") as one:
                    one.writelines(encode_png(plane, drawn))

    return OutputFile(_safe_name(f"{region.stem}_z{z0}-{z1}.zip"), "application/zip", write_all)


CUTOUT_FORMATS: Final[Mapping[str, Callable[[Region], OutputFile]]] = {"tiff": tiff, "png": pngs}
"""The formats of cut-outs, by name."""


def _safe_name(name: str) -> str:
    """Return a file name that is safe in headers and on all systems."""
    made = _UNSAFE.sub("_", name).lstrip(".")
    stem, dot, ending = made.rpartition(".")
    return f"{stem[:_MAX_NAME_LENGTH]}{dot}{ending}"
