"""A region as one file that people open: a TIFF with a page a z-slice, or PNGs."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuromirror.volume.errors import ExportRefused
from neuromirror.volume.layouts import Region, stack
from neuromirror.volume.pictures import coloured, png

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+=-]")
_LONGEST: Final = 180
_EXACT: Final = ("uint8", "uint16")
_NO_DATE: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a region is written as: the file's name and media type, and who writes it."""

    name: str
    media_type: str
    write: Callable[[Path, NDArray[Any]], None]


def tiff(region: Region) -> FileKind:
    """One TIFF: an OME-TIFF where OME has the type of voxels, else plain pages."""
    (target,) = stack(region).targets

    def write(path: Path, voxels: NDArray[Any]) -> None:
        offset = target.make(path)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(voxels.reshape(-1).view("B").data)

    return FileKind(_safe(target.path), "image/tiff", write)


def pngs(region: Region) -> FileKind:
    """A PNG of one z-slice, a zip of them of several, named as ndpull names TIFFs.

    8 and 16 bits are kept as they are; labels of other types are drawn in colours. Raises
    ExportRefused for what PNG cannot hold.
    """
    volume = region.volume.volume
    if volume.dtype not in _EXACT and not volume.labels:
        raise ExportRefused(
            f"PNG has no voxels of type {volume.dtype}, only 8 and 16 bits; take a TIFF"
        )
    drawn = None if volume.dtype in _EXACT else coloured
    z0, z1 = region.box[2]
    if z1 - z0 == 1:

        def write(path: Path, voxels: NDArray[Any]) -> None:
            with path.open("wb") as file:
                file.writelines(png(voxels[0], drawn))

        return FileKind(_safe(f"{region.stem}_z{z0}.png"), "image/png", write)
    digits = len(str(z1))

    def write_all(path: Path, voxels: NDArray[Any]) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for z, plane in enumerate(voxels, z0):
                name = _safe(f"{region.stem}_z{z:0{digits}d}.png")
                with file.open(zipfile.ZipInfo(name, _NO_DATE), "w") as one:
                    one.writelines(png(plane, drawn))

    return FileKind(_safe(f"{region.stem}_z{z0}-{z1}.zip"), "application/zip", write_all)


CUTOUT_FORMATS: Final[Mapping[str, Callable[[Region], FileKind]]] = {"tiff": tiff, "png": pngs}
"""What a region can be had as, by what it is called."""


def _safe(name: str) -> str:
    """A file name that no header and no system takes for anything else."""
    made = _UNSAFE.sub("_", name).lstrip(".")
    stem, dot, ending = made.rpartition(".")
    return f"{stem[:_LONGEST]}{dot}{ending}"
