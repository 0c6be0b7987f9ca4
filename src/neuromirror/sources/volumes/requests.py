"""The request for a block from each service: URL, headers and encoding of the body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from neuromirror.sources.volumes.errors import MalformedUrlError
from neuromirror.sources.volumes.urls import BlockUrl, is_secure

PUBLIC_TOKEN: Final = "public"
"""BossDB's token for anonymous access to public channels."""

BLOSC: Final = "application/blosc"
_NPYGZ: Final = "application/npygz"


@dataclass(frozen=True, slots=True)
class CutoutRequest:
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
