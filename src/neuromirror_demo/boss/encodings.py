"""Encode voxels in bodies (bossspatialdb/renderers.py)."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from werkzeug.wrappers import Request

from neuromirror_demo.boss.errors import UpstreamDefectError
from neuromirror_demo.boss.records import BossChannel, BossExperiment
from neuromirror_demo.volumes import XYZ

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

BLOSC: Final = "application/blosc"
NPYGZ: Final = "application/npygz"
JSON: Final = "application/json"
OFFERED: Final = (BLOSC, NPYGZ, JSON)
"""Media types in order of preference; the first is sent unless the request accepts another."""


@dataclass(frozen=True, slots=True)
class BossCutoutRequest:
    """The parameters of one request."""

    experiment: BossExperiment
    channel: BossChannel
    level: int
    start: XYZ
    stop: XYZ
    samples: range
    with_time: bool

    @property
    def size(self) -> int:
        """The size of the voxels in bytes."""
        size = int(self.channel.datatype.removeprefix("uint")) // 8 * len(self.samples)
        for a, b in zip(self.start, self.stop, strict=True):
            size *= b - a
        return size


def accepted_type(request: Request) -> str:
    """Return the media type that the request accepts.

    Raises Broken if upstream does not support it: its first renderer then fails to render the JSON
    of the error.
    """
    accepted_types = [
        mime.lower() for mime, quality in request.accept_mimetypes if quality > 0
    ] or ["*/*"]
    for mime in sorted(accepted_types, key=lambda one: one.count("*")):
        for offered in OFFERED:
            if mime in {offered, f"{offered.partition('/')[0]}/*", "*/*"}:
                return offered
    raise UpstreamDefectError(f"cannot give {accepted_types}")


def encode(voxels: Voxels, accepted: str, turn: int) -> bytes:
    """Return the body of a reply.

    Upstream's blosc streams depend on the order in which its threads finish. Here large ones do
    too, and small ones, which need no threads, depend on ``turn``.
    """
    if accepted == JSON:
        raise UpstreamDefectError("voxels are no JSON")
    if accepted == NPYGZ:
        import numpy as np

        file = io.BytesIO()
        np.save(file, voxels, allow_pickle=False)
        return zlib.compress(file.getvalue())
    import blosc  # type: ignore[import-untyped]

    sizes = (8 * voxels.itemsize, voxels.itemsize, 3, 5)
    stream: bytes = blosc.compress(voxels, typesize=sizes[turn % len(sizes)])
    return stream
