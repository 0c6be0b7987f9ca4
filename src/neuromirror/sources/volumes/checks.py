"""What a body must be: voxels of the type and shape that were asked for."""

from __future__ import annotations

from typing import Final

from neuromirror.sources.volumes.errors import WrongVoxels

_UNSIGNED: Final = ("uint8", "uint16", "uint32", "uint64")


def checked_type(found: str, wanted: str | None, where: str) -> str:
    """The type of a body's voxels; raises :class:`WrongVoxels` if it is not as wanted.

    Where none is wanted, any unsigned integer will do.
    """
    if found != wanted if wanted is not None else found not in _UNSIGNED:
        raise WrongVoxels(
            f"{where} gave voxels of type {found}, not {wanted or 'an unsigned integer'}"
        )
    return found


def check_shape(found: tuple[int, ...], shape: tuple[int, ...], where: str) -> None:
    """Raises :class:`WrongVoxels` unless a body's axes are z, y, x, or single ones before them."""
    if found[-3:] != shape or any(size != 1 for size in found[:-3]):
        raise WrongVoxels(f"{where} gave an array of shape {found}, not {shape} (z, y, x)")
