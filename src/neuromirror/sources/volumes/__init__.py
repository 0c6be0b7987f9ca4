"""Volumes behind a cutout API, mirrored as Zarr chunks: the common part of BOSS and ndstore.

Names are imported on first use, as in :mod:`neuromirror.sources`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.sources.volumes.channels import (
        RESTRICTED,
        UNNAMEABLE,
        ChannelSource,
        local_id_of,
        segments_of,
    )
    from neuromirror.sources.volumes.decode import decode_cutout
    from neuromirror.sources.volumes.errors import (
        BlockReadError,
        CutoutRefusedError,
        MalformedUrlError,
        TokenRefusedError,
        TooManyFilesError,
        WrongVoxelsError,
    )
    from neuromirror.sources.volumes.fetching import PARALLEL, fetch_block
    from neuromirror.sources.volumes.grid import (
        REQUEST_LIMIT,
        Block,
        Level,
        Volume,
        block_at,
        blocks,
        choose_chunk,
        level_blocks,
    )
    from neuromirror.sources.volumes.listing import VolumeListing
    from neuromirror.sources.volumes.ngff import zarr_documents
    from neuromirror.sources.volumes.options import VolumeOptions
    from neuromirror.sources.volumes.planning import check_size, estimate_volume, plan_volume
    from neuromirror.sources.volumes.remote_identity import VOLUME_REMOTE
    from neuromirror.sources.volumes.requests import PUBLIC_TOKEN, CutoutRequest, cutout_request
    from neuromirror.sources.volumes.schemes import SCHEMES
    from neuromirror.sources.volumes.urls import (
        ITEM_SIZES,
        BlockUrl,
        Box,
        Triple,
        is_secure,
        parse_url,
        to_triple,
    )

__all__ = [
    "ITEM_SIZES",
    "PARALLEL",
    "PUBLIC_TOKEN",
    "REQUEST_LIMIT",
    "RESTRICTED",
    "SCHEMES",
    "UNNAMEABLE",
    "VOLUME_REMOTE",
    "Block",
    "BlockReadError",
    "BlockUrl",
    "Box",
    "ChannelSource",
    "CutoutRefusedError",
    "CutoutRequest",
    "Level",
    "MalformedUrlError",
    "TokenRefusedError",
    "TooManyFilesError",
    "Triple",
    "Volume",
    "VolumeListing",
    "VolumeOptions",
    "WrongVoxelsError",
    "block_at",
    "blocks",
    "check_size",
    "choose_chunk",
    "cutout_request",
    "decode_cutout",
    "estimate_volume",
    "fetch_block",
    "is_secure",
    "level_blocks",
    "local_id_of",
    "parse_url",
    "plan_volume",
    "segments_of",
    "to_triple",
    "zarr_documents",
]

_EXPORTS = {
    "Block": "neuromirror.sources.volumes.grid",
    "BlockReadError": "neuromirror.sources.volumes.errors",
    "BlockUrl": "neuromirror.sources.volumes.urls",
    "Box": "neuromirror.sources.volumes.urls",
    "ChannelSource": "neuromirror.sources.volumes.channels",
    "CutoutRefusedError": "neuromirror.sources.volumes.errors",
    "CutoutRequest": "neuromirror.sources.volumes.requests",
    "ITEM_SIZES": "neuromirror.sources.volumes.urls",
    "Level": "neuromirror.sources.volumes.grid",
    "MalformedUrlError": "neuromirror.sources.volumes.errors",
    "PARALLEL": "neuromirror.sources.volumes.fetching",
    "PUBLIC_TOKEN": "neuromirror.sources.volumes.requests",
    "REQUEST_LIMIT": "neuromirror.sources.volumes.grid",
    "RESTRICTED": "neuromirror.sources.volumes.channels",
    "SCHEMES": "neuromirror.sources.volumes.schemes",
    "TokenRefusedError": "neuromirror.sources.volumes.errors",
    "TooManyFilesError": "neuromirror.sources.volumes.errors",
    "Triple": "neuromirror.sources.volumes.urls",
    "UNNAMEABLE": "neuromirror.sources.volumes.channels",
    "VOLUME_REMOTE": "neuromirror.sources.volumes.remote_identity",
    "Volume": "neuromirror.sources.volumes.grid",
    "VolumeListing": "neuromirror.sources.volumes.listing",
    "VolumeOptions": "neuromirror.sources.volumes.options",
    "WrongVoxelsError": "neuromirror.sources.volumes.errors",
    "block_at": "neuromirror.sources.volumes.grid",
    "blocks": "neuromirror.sources.volumes.grid",
    "check_size": "neuromirror.sources.volumes.planning",
    "choose_chunk": "neuromirror.sources.volumes.grid",
    "cutout_request": "neuromirror.sources.volumes.requests",
    "decode_cutout": "neuromirror.sources.volumes.decode",
    "estimate_volume": "neuromirror.sources.volumes.planning",
    "fetch_block": "neuromirror.sources.volumes.fetching",
    "is_secure": "neuromirror.sources.volumes.urls",
    "level_blocks": "neuromirror.sources.volumes.grid",
    "local_id_of": "neuromirror.sources.volumes.channels",
    "parse_url": "neuromirror.sources.volumes.urls",
    "plan_volume": "neuromirror.sources.volumes.planning",
    "segments_of": "neuromirror.sources.volumes.channels",
    "to_triple": "neuromirror.sources.volumes.urls",
    "zarr_documents": "neuromirror.sources.volumes.ngff",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
