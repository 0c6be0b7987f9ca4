"""The content codings of the chunks of precomputed layers: those that CloudVolume writes.

The crawler names files by them, the gateway states them, and the readers of volumes undo them.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Any, Final

CODING_SUFFIXES: Final = {
    **{"br": ".br", "gzip": ".gz", "zstd": ".zstd", "xz": ".xz", "bzip2": ".bz2"}
}
"""The ending of a file with which CloudVolume recognizes each coding on a disk."""

CODING_ALIASES: Final = {
    **{"x-gzip": "gzip", "bz2": "bzip2", "lzma": "xz"},
    **{"identity": "", "aws-chunked": "", "utf-8": ""},
}
"""Other names of codings, in ``Content-Encoding`` and CloudVolume's options; '' for no coding."""

ENCODINGS_DOCUMENT: Final = ".precomputed/encodings.json"
"""The document of a layer with the codings of its folders."""

_LZMA_MEMORY: Final = 256 << 20


def unpack(content: bytes | memoryview, coding: str, max_bytes: int) -> bytes:
    """Undo a content coding.

    Parameters
    ----------
    content
        The stored bytes.
    coding
        A coding in :data:`CODING_SUFFIXES`, ``zlib``, or empty.
    max_bytes
        Maximum size of the result in bytes.

    Returns
    -------
    bytes
        The content; one byte more than ``max_bytes`` if it is larger.

    Raises
    ------
    ValueError
        The content is damaged, has more than one stream, or the coding is not supported.
    ImportError
        The package brotli is not installed.
    """
    if not coding:
        return bytes(content)
    if coding == "zstd":
        return _unpack_zstd(content, max_bytes)
    if coding == "br":
        import brotli  # type: ignore[import-not-found,import-untyped,unused-ignore]

        decompressor = brotli.Decompressor()
        try:
            made: bytes = decompressor.process(content, output_buffer_limit=max_bytes + 1)
        except brotli.error as error:
            raise ValueError(str(error)) from error
        is_finished = decompressor.is_finished()
        made = made[: max_bytes + 1]  # the limit is not exact
    else:
        decompressor = _decompressor(coding)
        try:
            made = decompressor.decompress(content, max_bytes + 1)
        except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
            raise ValueError(str(error)) from error
        is_finished = decompressor.eof and not decompressor.unused_data
    if len(made) <= max_bytes and not is_finished:
        raise ValueError(f"a truncated {coding} stream, or bytes after its end")
    return made


def _decompressor(coding: str) -> Any:
    if coding in ("gzip", "zlib"):
        return zlib.decompressobj(wbits=31 if coding == "gzip" else 15)
    if coding == "xz":
        return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
    if coding == "bzip2":
        return bz2.BZ2Decompressor()
    raise ValueError(f"the content coding {coding[:40]!r} is not supported")


def _unpack_zstd(content: bytes | memoryview, max_bytes: int) -> bytes:
    import zstandard

    try:
        decompressor = zstandard.ZstdDecompressor()
        with decompressor.stream_reader(content) as reader:
            made = reader.read(max_bytes + 1)
        if len(made) > max_bytes:
            return made
        # the reader does not report a truncated frame; of a small one, this takes bounded memory
        whole = decompressor.decompressobj()
        whole.decompress(content)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    if not whole.eof or whole.unused_data:
        raise ValueError("a truncated zstd stream, or bytes after its end")
    return made
