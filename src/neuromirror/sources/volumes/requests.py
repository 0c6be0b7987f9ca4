"""Requests for blocks: their URLs, headers and encodings, and the division of large blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.sources.volumes.errors import MalformedUrlError
from neuromirror.sources.volumes.urls import ITEM_SIZES, BlockUrl, Range, is_secure

PUBLIC_TOKEN: Final = "public"
"""BossDB's token for anonymous access to public channels."""

BLOSC: Final = "application/blosc"
_NPYGZ: Final = "application/npygz"


class CutoutRequest(Struct, frozen=True):
    """A request for the voxels of a block.

    Attributes
    ----------
    address, headers
        The URL and headers.
    encoding
        The body's encoding, as in :func:`~neuromirror.sources.volumes.decode_cutout`, unless its
        Content-Type is ``application/blosc``.
    secret
        Whether the headers have a secret that no other host may receive.
    """

    address: str
    headers: Mapping[str, str]
    encoding: str
    secret: bool

    @property
    def accepted(self) -> str:
        """The content types that the reply may have."""
        return self.headers.get("Accept", "")


def cutout_request(
    url: BlockUrl, token: str | None = None, *, blosc: bool = False
) -> CutoutRequest:
    """Return the request for a block.

    A URL with plain HTTP to a public host gets no token, because third-party datasets could contain
    such URLs to make the token readable in transit. A URL with a port is exempt.

    Parameters
    ----------
    url
        The block.
    token
        The host's token; None for anonymous access.
    blosc
        Whether a BOSS may reply with blosc, which it encodes five times as fast.

    Returns
    -------
    CutoutRequest
        The URL and headers of the request.

    Raises
    ------
    MalformedUrlError
        The service has no such block.
    """
    if not url.secure and is_secure(url.host) and ":" not in url.host:
        token = None
    if url.scheme == "boss":
        return _boss(url, token, blosc)
    return _ndstore(url, token)


def _boss(url: BlockUrl, token: str | None, blosc: bool) -> CutoutRequest:
    """Return a request to BOSS's cutout service, version 1 (jhuapl-boss/boss, bossspatialdb).

    It bypasses the cache, as intern does for data that are read once.
    """
    *before, collection, experiment, channel = _segments(url, 3)
    prefix = "".join(f"{one}/" for one in before)
    (x0, x1), (y0, y1), (z0, z1) = url.box
    time = "" if url.time is None else f"{url.time}:{url.time + 1}/"
    return CutoutRequest(
        f"{url.origin}/{prefix}v1/cutout/{collection}/{experiment}/{channel}/{url.level}/"
        f"{x0}:{x1}/{y0}:{y1}/{z0}:{z1}/{time}?access-mode=no-cache",
        {
            "Accept": f"{BLOSC}, {_NPYGZ};q=0.9" if blosc else _NPYGZ,
            "Authorization": f"Token {token or PUBLIC_TOKEN}",
        },
        "npygz",
        secret=token is not None and token != PUBLIC_TOKEN,
    )


def token_probe(url: BlockUrl, token: str | None) -> CutoutRequest | None:
    """Return a request that a BOSS answers with 401 only if it refuses the token.

    It distinguishes a wrong token from a missing permission. For an ndstore it returns None,
    because there is no such request.
    """
    if url.scheme != "boss":
        return None
    request = cutout_request(url, token)
    prefix = "".join(f"{one}/" for one in url.path.split("/")[:-3])
    headers = {**request.headers, "Accept": "application/json"}
    return replace(request, address=f"{url.origin}/{prefix}v1/collection/", headers=headers)


def _ndstore(url: BlockUrl, token: str | None) -> CutoutRequest:
    """Return a request to ndstore's cutout service (neurodata/ndstore, data_api.rst)."""
    *before, project, channel = _segments(url, 2)
    prefix = "".join(f"{one}/" for one in before)
    (x0, x1), (y0, y1), (z0, z1) = url.box
    time = "" if url.time is None else f"{url.time},{url.time + 1}/"
    headers = {} if token is None else {"Authorization": f"Token {token}"}
    return CutoutRequest(
        f"{url.origin}/{prefix}{project}/{channel}/npz/{url.level}/"
        f"{x0},{x1}/{y0},{y1}/{z0},{z1}/{time}",
        headers,
        "npz",
        secret=token is not None,
    )


def _segments(url: BlockUrl, least: int) -> list[str]:
    segments = url.path.split("/")
    if len(segments) < least:
        raise MalformedUrlError(
            f"{url} names no channel: {url.scheme} has {least} names before the resolution"
        )
    return segments


CUBOID: Final = (512, 512, 16)
"""Shape of a BOSS cuboid along x, y, z (spdb/c_lib/ndtype.py)."""

_PART_BYTES: Final = 16 << 20
"""Maximum bytes of voxels per part, unless a cuboid has more."""


class Subrequest(Struct, frozen=True):
    """A part of a block with a request of its own.

    Attributes
    ----------
    url
        The part.
    corner
        Where the part starts, along x and y, within its slab. A slab is the whole x and y extent of
        the block over the part's range along z.
    ends_slab
        Whether the part is the last one of its slab.
    """

    url: BlockUrl
    corner: tuple[int, int]
    ends_slab: bool


def split_block(url: BlockUrl, dtype: str | None) -> list[Subrequest]:
    """Return the parts of a block, slab by slab.

    A small block, one with voxels of unknown type, and any block of an ndstore is not divided.

    Parameters
    ----------
    url
        The block.
    dtype
        Numpy's name of the type of a voxel; None if unknown.
    """
    whole = [Subrequest(url, (0, 0), ends_slab=True)]
    if dtype is None or url.scheme != "boss":
        return whole
    item = ITEM_SIZES[dtype]
    if prod(url.shape) * item <= _PART_BYTES:
        return whole
    xs, ys, zs = url.box
    x_step, y_step = _steps(url, item)
    columns = [xs] if x_step is None else [*_grid_ranges(xs, x_step)]
    parts: list[Subrequest] = []
    for z in _grid_ranges(zs, CUBOID[2]):
        boxes = [(x, y, z) for y in _grid_ranges(ys, y_step) for x in columns]
        for number, box in enumerate(boxes):
            (x0, x1), (y0, y1), (z0, z1) = box
            parts.append(
                Subrequest(
                    replace(url, box=box, chunk=(x1 - x0, y1 - y0, z1 - z0)),
                    (x0 - xs[0], y0 - ys[0]),
                    ends_slab=number == len(boxes) - 1,
                )
            )
    return parts


def iter_planes(slab: Sequence[tuple[Subrequest, memoryview]], item: int) -> Iterator[memoryview]:
    """Yield a slab plane by plane without copying; its parts must be as wide as the slab.

    Parameters
    ----------
    slab
        The parts of the slab with their voxels, in order.
    item
        Bytes per voxel.
    """
    for z in range(slab[0][0].url.shape[0]):
        for part, voxels in slab:
            _, high, wide = part.url.shape
            length = high * wide * item
            yield voxels[z * length : (z + 1) * length]


def copy_subrequest(
    slab: bytearray, subrequest: Subrequest, voxels: memoryview, plane: tuple[int, int], item: int
) -> None:
    """Copy a part's voxels to their place in a slab.

    Parameters
    ----------
    slab
        The slab, which is changed.
    subrequest
        The part.
    voxels
        The part's voxels.
    plane
        Number of voxels of the slab along x and y.
    item
        Bytes per voxel.
    """
    wide, high = plane
    x, y = subrequest.corner
    deep, tall, broad = subrequest.url.shape
    # rows as wide as the plane are contiguous in both
    rows = tall if broad == wide else 1
    length = rows * broad * item
    taken = 0
    for z in range(deep):
        for row in range(0, tall, rows):
            at = ((z * high + y + row) * wide + x) * item
            slab[at : at + length] = voxels[taken : taken + length]
            taken += length


def _steps(url: BlockUrl, item: int) -> tuple[int | None, int]:
    """Return a part's size along x (None: the block's width) and y, in whole cuboids."""
    wide, high, deep = CUBOID
    row = url.shape[2] * high * deep * item
    if row <= _PART_BYTES:
        return None, _PART_BYTES // row * high
    return max(1, _PART_BYTES // (wide * high * deep * item)) * wide, high


def _grid_ranges(whole: Range, step: int) -> Iterator[Range]:
    """Yield the ranges of a grid with origin 0, clipped to ``whole``."""
    start, stop = whole
    while start < stop:
        end = min(stop, start + step - start % step)
        yield start, end
        start = end
