"""Encode and decode voxels in bodies (bossspatialdb/renderers.py and parsers.py)."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from werkzeug.wrappers import Request

from neuromirror_demo.boss.errors import BossError, Code, FrameworkError, UpstreamDefectError
from neuromirror_demo.boss.records import BossChannel, BossExperiment
from neuromirror_demo.volumes import XYZ

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

BLOSC: Final = "application/blosc"
BLOSC_PYTHON: Final = "application/blosc-python"
NPYGZ: Final = "application/npygz"
JPEG: Final = "image/jpeg"
JSON: Final = "application/json"
OFFERED: Final = (BLOSC, BLOSC_PYTHON, NPYGZ, JPEG, JSON)
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
    def shape(self) -> tuple[int, ...]:
        """The shape of the body: ``z, y, x``, or ``t, z, y, x`` if the request has a time."""
        x, y, z = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return (len(self.samples), z, y, x) if self.with_time else (z, y, x)

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
    if accepted == NPYGZ:
        return _npygz(voxels)
    if accepted == JPEG:
        return _jpeg(voxels)
    if accepted == JSON:
        raise UpstreamDefectError("voxels are no JSON")
    import blosc  # type: ignore[import-untyped]

    if accepted == BLOSC_PYTHON:
        packed: bytes = blosc.pack_array(voxels)
        return packed
    sizes = (8 * voxels.itemsize, voxels.itemsize, 3, 5)
    stream: bytes = blosc.compress(voxels, typesize=sizes[turn % len(sizes)])
    return stream


def _npygz(voxels: Voxels) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, voxels, allow_pickle=False)
    return zlib.compress(file.getvalue())


def _jpeg(voxels: Voxels) -> bytes:
    from PIL import Image

    if voxels.ndim != 3:
        what = "The cutout service JPEG interface does not support 4D cutouts"
        raise BossError(what, Code.UNSUPPORTED_4D)
    if voxels.dtype != "uint8":
        what = "The cutout service JPEG interface only supports uint8 image data"
        raise BossError(what, Code.DATATYPE_DOES_NOT_MATCH)
    depth, height, width = voxels.shape
    file = io.BytesIO()
    Image.fromarray(voxels.reshape(depth * height, width)).save(file, "JPEG", quality=85)
    return file.getvalue()


def decode(request: Request, cutout_request: BossCutoutRequest) -> Voxels:
    """Return the voxels in a request's body, with the expected shape and type."""
    if request.mimetype == NPYGZ:
        return _from_npygz(request.get_data(), cutout_request)
    if request.mimetype == BLOSC:
        return _from_blosc(request.get_data(), cutout_request)
    # Upstream accepts pickles too; a demo must not run foreign code.
    raise FrameworkError(415, f'Unsupported media type "{request.mimetype}" in request.')


def _from_npygz(body: bytes, cutout_request: BossCutoutRequest) -> Voxels:
    import numpy as np

    try:
        voxels: Voxels = np.load(io.BytesIO(zlib.decompress(body)), allow_pickle=False)
    except (ValueError, zlib.error) as error:
        raise UpstreamDefectError("unreadable") from error
    if voxels.dtype != cutout_request.channel.datatype:
        raise BossError("Datatype does not match channel", Code.DATATYPE_DOES_NOT_MATCH)
    if voxels.shape != cutout_request.shape:
        what = "Data dimensions in URL do not match POSTed data."
        raise BossError(what, Code.DATA_DIMENSION_MISMATCH)
    return voxels


def _from_blosc(body: bytes, cutout_request: BossCutoutRequest) -> Voxels:
    import blosc
    import numpy as np

    try:
        flat = np.frombuffer(blosc.decompress(body), cutout_request.channel.datatype)
    except (ValueError, blosc.blosc_extension.error) as error:
        raise BossError(
            "Failed to decompress data. Verify the datatype/bitdepth of your data matches the "
            "channel.",
            Code.DATATYPE_DOES_NOT_MATCH,
        ) from error
    if flat.nbytes != cutout_request.size:
        raise BossError(
            "Failed to unpack data. Verify the datatype of your POSTed data and xyz dimensions "
            "used in the POST URL.",
            Code.DATA_DIMENSION_MISMATCH,
        )
    return flat.reshape(cutout_request.shape)
