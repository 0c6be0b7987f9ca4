"""Checks of the type and shape of received voxels."""

from __future__ import annotations

from typing import Final

from neuromirror.sources.volumes.errors import WrongVoxelsError

_UNSIGNED: Final = ("uint8", "uint16", "uint32", "uint64")


def check_dtype(found: str, expected: str | None, where: str) -> str:
    """Return the type of the voxels; raise WrongVoxelsError if it is not the expected one.

    If ``expected`` is None, any unsigned integer type is accepted. ``where`` is the origin of the
    voxels, for the message.
    """
    if found != expected if expected is not None else found not in _UNSIGNED:
        raise WrongVoxelsError(
            f"{where} returned voxels of type {found}, not {expected or 'an unsigned integer'}"
        )
    return found


def check_shape(found: tuple[int, ...], shape: tuple[int, ...], where: str) -> None:
    """Raise WrongVoxelsError unless an array has the expected shape (z, y, x).

    Parameters
    ----------
    found
        The shape of the array; it may have axes of length one before z.
    shape
        The expected shape.
    where
        The origin of the array, for the message.
    """
    if found[-3:] != shape or any(size != 1 for size in found[:-3]):
        raise WrongVoxelsError(f"{where} returned an array of shape {found}, not {shape} (z, y, x)")
