"""A block's chunk file, from its service."""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import prod
from typing import Final

from neuromirror.net import HttpError, Session
from neuromirror.sources.volumes.decode import canonical
from neuromirror.sources.volumes.errors import CutoutRefused, WrongVoxels
from neuromirror.sources.volumes.requests import cutout_request
from neuromirror.sources.volumes.urls import ITEM_SIZES, BlockUrl

_NO_VOXELS: Final = ("text/", "application/json", "application/blosc", "image/")
"""What a reply says that it is, when it is something else than was asked for."""

_SLOWEST: Final = 32 << 10
"""Bytes of voxels in a second: a service that is slower for long gives no more than drops."""


def fetch(
    session: Session,
    url: BlockUrl,
    *,
    size: int | None = None,
    token: str | None = None,
    seconds: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Generator[bytes, None, None]:
    """Yields the bytes of a block's chunk file, as they come from its service.

    ``size`` is the file's, as the annex key tells it: with the URL it gives the type of a voxel.
    None takes any unsigned integer that the reply says. ``token`` is sent to the URL's host alone;
    None: the session's own, or what the service takes from anybody. ``seconds`` is how long all of
    it may take, None: as long as its size allows. ``progress`` is told how many bytes there were so
    far. The connection is held until the last byte, or until it is closed.

    Raises :class:`CutoutRefused` and other NetErrors, :class:`WrongVoxels`, and
    :class:`MalformedUrl` where no file of this block has the size; what was yielded by then is of
    no use.
    """
    dtype = url.dtype if size is None else url.voxel_type(size)
    request = cutout_request(url, token)
    if seconds is None:
        voxels = prod(url.shape) * (8 if dtype is None else ITEM_SIZES[dtype])
        seconds = session.limits.read + session.limits.total + voxels / _SLOWEST
    try:
        with session.stream(
            request.address,
            total=seconds,
            headers=request.headers,
            redirects=0 if request.secret else None,
        ) as reply:
            kind = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind.startswith(_NO_VOXELS):
                raise WrongVoxels(f"{url} gave {kind[:80]!r} instead of voxels", passing=True)
            done = 0
            for piece in canonical(
                reply.chunks, request.encoding, url.box, url.chunk, dtype, where=str(url)
            ):
                yield piece
                done += len(piece)
                if progress is not None:
                    progress(done)
    except HttpError as error:
        raise CutoutRefused(url.scheme, str(url), error) from error
