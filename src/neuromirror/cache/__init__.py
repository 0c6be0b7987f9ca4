"""The cache of this machine for contents and their pieces; nothing in it is trusted."""

from neuromirror.cache.piece_cache import (
    FOLDER_VARIABLE,
    SIZE_VARIABLE,
    CachedContent,
    ContentName,
    PieceCache,
    cache_folder,
    open_cache,
    parse_size,
)

__all__ = [
    "FOLDER_VARIABLE",
    "SIZE_VARIABLE",
    "CachedContent",
    "ContentName",
    "PieceCache",
    "cache_folder",
    "open_cache",
    "parse_size",
]
