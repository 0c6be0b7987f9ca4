"""What a body must be: voxels of the type and shape that were asked for."""

from __future__ import annotations

from typing import Final

from neuromirror.sources.volumes.errors import WrongVoxelsError

_UNSIGNED: Final = ("uint8", "uint16", "uint32", "uint64")


def check_dtype(found: str, expected: str | None, where: str) -> str:
    """The type of a body's voxels; raises :class:`WrongVoxelsError` if it is not as wanted.

    Where none is wanted, any unsigned integer will do.
    """
    if found != expected if expected is not None else found not in _UNSIGNED:
        raise WrongVoxelsError(
            f"{where} gave voxels of type {found}, not {expected or 'an unsigned integer'}"
        )
    return found


def check_shape(found: tuple[int, ...], shape: tuple[int, ...], where: str) -> None:
    """Raises :class:`WrongVoxelsError` unless a body's axes are z, y, x, or single ones before
    them."""
    if found[-3:] != shape or any(size != 1 for size in found[:-3]):
        raise WrongVoxelsError(f"{where} gave an array of shape {found}, not {shape} (z, y, x)")
