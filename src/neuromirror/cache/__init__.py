"""The cache of this machine for contents and their pieces; nothing in it is trusted."""

from neuromirror.cache.cached_content import CachedContent, ContentName
from neuromirror.cache.piece_cache import CachedEntry, PieceCache
from neuromirror.cache.settings import (
    FOLDER_VARIABLE,
    SIZE_VARIABLE,
    cache_folder,
    open_cache,
    parse_size,
)

__all__ = [
    "FOLDER_VARIABLE",
    "SIZE_VARIABLE",
    "CachedContent",
    "CachedEntry",
    "ContentName",
    "PieceCache",
    "cache_folder",
    "open_cache",
    "parse_size",
]
