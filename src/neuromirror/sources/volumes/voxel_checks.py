"""Checks of the type and shape of received voxels."""

from __future__ import annotations

from typing import Final

from neuromirror.sources.volumes.errors import WrongVoxelsError

_UNSIGNED: Final = ("uint8", "uint16", "uint32", "uint64")


def check_dtype(found: str, expected: str | None, where: str) -> str:
    """Return the type of the voxels; raise WrongVoxelsError if it is not the expected one.

    If ``expected`` is None, any unsigned integer type is accepted.
    """
    if found != expected if expected is not None else found not in _UNSIGNED:
        raise WrongVoxelsError(
            f"{where} returned voxels of type {found}, not {expected or 'an unsigned integer'}"
        )
    return found


def check_shape(found: tuple[int, ...], shape: tuple[int, ...], where: str) -> None:
    """Raise WrongVoxelsError unless the axes are z, y, x, possibly after axes of length one."""
    if found[-3:] != shape or any(size != 1 for size in found[:-3]):
        raise WrongVoxelsError(f"{where} returned an array of shape {found}, not {shape} (z, y, x)")
