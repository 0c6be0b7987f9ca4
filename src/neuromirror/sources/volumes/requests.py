"""How each service is asked for a block: the address, the headers, and what the body will be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from neuromirror.sources.volumes.errors import MalformedUrlError
from neuromirror.sources.volumes.urls import BlockUrl, is_secure

PUBLIC_TOKEN: Final = "public"
"""What BossDB takes for a token from anybody, for all that is public."""


BLOSC: Final = "application/blosc"
_NPYGZ: Final = "application/npygz"


@dataclass(frozen=True, slots=True)
class CutoutRequest:
    """A request for the voxels of a block.

    ``encoding`` says what the body is (see :func:`~neuromirror.sources.volumes.canonical`) unless
    its Content-Type is ``application/blosc``; ``secret`` that the headers hold something no other
    host may see.
    """

    address: str
    headers: Mapping[str, str]
    encoding: str
    secret: bool

    @property
    def accepted(self) -> str:
        """The types that the reply may have."""
        return self.headers.get("Accept", "")


def cutout_request(
    url: BlockUrl, token: str | None = None, *, blosc: bool = False
) -> CutoutRequest:
    """The request for a block, by the scheme of its URL; raises :class:`MalformedUrlError`.

    ``blosc`` says that a BOSS may answer with blosc, which it encodes five times as fast.

    A URL that has a public host asked over plain http gets no token, unless it names the port, and
    so a service of its own: whoever wrote the URL would have it sent for all to read.
    """
    if not url.secure and is_secure(url.host) and ":" not in url.host:
        token = None
    if url.scheme == "boss":
        return _boss(url, token, blosc)
    return _ndstore(url, token)


def _boss(url: BlockUrl, token: str | None, blosc: bool) -> CutoutRequest:
    """BOSS's cut-out service, version 1 (jhuapl-boss/boss, django/bossspatialdb).

    The cache is passed by, as intern does for reads that do not come again.
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
    """A request that only a refused token lets fail with 401; None where there is no such."""
    if url.scheme != "boss":
        return None
    request = cutout_request(url, token)
    prefix = "".join(f"{one}/" for one in url.path.split("/")[:-3])
    headers = {**request.headers, "Accept": "application/json"}
    return replace(request, address=f"{url.origin}/{prefix}v1/collection/", headers=headers)


def _ndstore(url: BlockUrl, token: str | None) -> CutoutRequest:
    """ndstore's cut-out service (neurodata/ndstore, docs/sphinx/api/data_api.rst)."""
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
