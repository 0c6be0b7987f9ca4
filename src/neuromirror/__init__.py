"""Versioned, bit-reproducible DataLad mirrors of neuroscience archives.

:func:`open` reads a file of a pinned state over the network, verified; :func:`open_zarr` opens a
Zarr, a volume or a precomputed layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.stream import (
        ContentGoneError,
        StreamError,
        UnverifiableError,
        WrongBytesError,
        open,
    )
    from neuromirror.volume import open_zarr

__version__ = "0.1.0"

__all__ = [
    "ContentGoneError",
    "StreamError",
    "UnverifiableError",
    "WrongBytesError",
    "open",
    "open_zarr",
]


def __getattr__(name: str) -> Any:
    # imported on first use: most commands do not stream
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from neuromirror import stream, volume

    return getattr(volume if name == "open_zarr" else stream, name)
