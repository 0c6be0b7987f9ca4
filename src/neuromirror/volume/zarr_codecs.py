"""Codecs of a Zarr that must not be used for data of others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from neuromirror.model import ZARR_METADATA

_UNSAFE: Final = "pickle"
"""The codec of numcodecs that executes what a chunk contains. Older versions do so unasked."""


def names_unsafe_codec(key: str, content: bytes | bytearray | memoryview) -> bool:
    """Return whether a file is metadata of a Zarr that names a codec which executes programs.

    Parameters
    ----------
    key
        The path of the file.
    content
        Its content.
    """
    name = key.rpartition("/")[2].encode("utf-8", "surrogateescape")
    if name not in ZARR_METADATA:
        return False
    try:
        document = json.loads(bytes(content))
    except (ValueError, RecursionError):
        return False  # zarr-python does not accept it either
    return any(_UNSAFE in one.split(".") for one in _codec_names(document))


def _codec_names(document: Any) -> Iterator[str]:
    """Yield the names of all codecs of the arrays of a document."""
    left = [(document, False)]
    while left:
        value, is_codec = left.pop()
        if isinstance(value, list):
            left += ((one, is_codec) for one in value)
        elif isinstance(value, dict):
            for name, one in value.items():
                if is_codec and name in ("id", "name") and isinstance(one, str):
                    yield one
                elif name not in ("attributes", ".zattrs"):
                    left.append((one, is_codec or name in ("filters", "compressor", "codecs")))
