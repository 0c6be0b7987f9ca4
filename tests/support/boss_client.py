"""Requests to a demo BOSS with a plain HTTP client."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import requests

from neuromirror_demo.boss import Box, DemoBoss

NPYGZ = "application/npygz"
BLOSC = "application/blosc"


def ask(
    boss: DemoBoss,
    path: str,
    *,
    method: str = "GET",
    token: str | None = "public",
    version: str = "v1",
    **how: Any,
) -> requests.Response:
    """Return the reply to a path below the API version."""
    headers = {**how.pop("headers", {}), **({"Authorization": f"Token {token}"} if token else {})}
    url = f"{boss.api}/{version}/{path}"
    return requests.request(method, url, headers=headers, timeout=30, **how)


def address(path: str, level: int, box: Box, time: tuple[int, int] | None = None) -> str:
    """Return the path of a cutout, below the API version."""
    spans = [*box, *([time] if time else [])]
    return f"cutout/{path}/{level}/{'/'.join(f'{a}:{b}' for a, b in spans)}/"


def cut(
    boss: DemoBoss,
    path: str,
    level: int,
    box: Box,
    time: tuple[int, int] | None = None,
    **how: Any,
) -> np.ndarray[Any, Any]:
    """Return the voxels of a cutout, requested as npygz."""
    reply = ask(boss, address(path, level, box, time), headers={"Accept": NPYGZ}, **how)
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, NPYGZ), reply.text
    return unpacked(reply.content)


def unpacked(body: bytes) -> np.ndarray[Any, Any]:
    """Return the voxels in an npygz body."""
    found: np.ndarray[Any, Any] = np.load(io.BytesIO(zlib.decompress(body)), allow_pickle=False)
    return found


def error_of(reply: requests.Response) -> tuple[int, int]:
    """Return the status and code of an error reply; its JSON must repeat the status."""
    body = reply.json()
    assert body["status"] == reply.status_code
    assert body["message"]
    return body["status"], body["code"]
