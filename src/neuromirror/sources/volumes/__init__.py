"""Volumes that upstream can only be cut out of, as Zarr chunks: what BOSS and ndstore share.

Names are imported when they are first used, as in :mod:`neuromirror.sources`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromirror.sources.volumes.channels import (
        NAMELESS,
        ChannelSource,
        components_of,
        local_id_of,
    )
    from neuromirror.sources.volumes.decode import canonical
    from neuromirror.sources.volumes.errors import (
        BlockFailed,
        CutoutRefused,
        MalformedUrl,
        TokenRefused,
        TooManyFiles,
        WrongVoxels,
    )
    from neuromirror.sources.volumes.fetching import PARALLEL, fetch
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
    from neuromirror.sources.volumes.listing import volume_listing
    from neuromirror.sources.volumes.ngff import documents
    from neuromirror.sources.volumes.options import VolumeOptions
    from neuromirror.sources.volumes.planning import check_size, estimated, planned
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
    )

__all__ = [
    "ITEM_SIZES",
    "NAMELESS",
    "PARALLEL",
    "PUBLIC_TOKEN",
    "REQUEST_LIMIT",
    "SCHEMES",
    "VOLUME_REMOTE",
    "Block",
    "BlockFailed",
    "BlockUrl",
    "Box",
    "ChannelSource",
    "CutoutRefused",
    "CutoutRequest",
    "Level",
    "MalformedUrl",
    "TokenRefused",
    "TooManyFiles",
    "Triple",
    "Volume",
    "VolumeOptions",
    "WrongVoxels",
    "block_at",
    "blocks",
    "canonical",
    "check_size",
    "choose_chunk",
    "components_of",
    "cutout_request",
    "documents",
    "estimated",
    "fetch",
    "is_secure",
    "level_blocks",
    "local_id_of",
    "parse_url",
    "planned",
    "volume_listing",
]

_WHERE = {
    **dict.fromkeys(("PARALLEL", "fetch"), "fetching"),
    **dict.fromkeys(("NAMELESS", "ChannelSource", "components_of", "local_id_of"), "channels"),
    **dict.fromkeys(("canonical",), "decode"),
    **dict.fromkeys(
        (
            "BlockFailed",
            "CutoutRefused",
            "MalformedUrl",
            "TokenRefused",
            "TooManyFiles",
            "WrongVoxels",
        ),
        "errors",
    ),
    **dict.fromkeys(
        (
            "REQUEST_LIMIT",
            "Block",
            "Level",
            "Volume",
            "block_at",
            "blocks",
            "choose_chunk",
            "level_blocks",
        ),
        "grid",
    ),
    **dict.fromkeys(("volume_listing",), "listing"),
    **dict.fromkeys(("documents",), "ngff"),
    **dict.fromkeys(("VolumeOptions",), "options"),
    **dict.fromkeys(("check_size", "estimated", "planned"), "planning"),
    **dict.fromkeys(("VOLUME_REMOTE",), "remote_identity"),
    **dict.fromkeys(("PUBLIC_TOKEN", "CutoutRequest", "cutout_request"), "requests"),
    **dict.fromkeys(("SCHEMES",), "schemes"),
    **dict.fromkeys(("ITEM_SIZES", "BlockUrl", "Box", "Triple", "is_secure", "parse_url"), "urls"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
