"""Helpers for tests of BOSS: sources with short waits, unusual volumes, and a rewriting proxy."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import requests
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Request, Response

from neuromirror.net import RequestLimits, Session
from neuromirror.sources import Listing
from neuromirror.sources.boss import BossOptions, BossSource
from neuromirror.sources.volumes.fetching import fetch_block
from neuromirror.sources.volumes.urls import parse_url
from neuromirror_demo.boss import DemoBoss
from support.visit_context import FakeVisitContext

TOKEN = "NEUROMIRROR_TEST_BOSS"
"""The environment variable with the token."""


def make_source(api: str, attempts: int = 2, **options: Any) -> BossSource:
    """Return a source for the service at a URL."""
    given = {"api": api, "block": [128, 128, 32], **options}
    checked = BossOptions.model_validate(given)
    tokens = {checked.api: checked.token_env} if checked.token_env else {}
    limits = RequestLimits(attempts=attempts, wait=0.01, wait_max=0.02)
    return BossSource("bossdb", checked, Session(allow_private=True, tokens=tokens, limits=limits))


def listing_of(source: BossSource, local_id: str, **known: Any) -> Listing:
    """Return the listing of a channel's current state."""
    (version,) = source.versions(source.dataset(local_id))
    return source.listing(version, FakeVisitContext(**known))


def documents_of(listing: Listing) -> Mapping[str, bytes]:
    """Return all documents by path."""
    return {document.path.decode(): document.content for document in listing.documents}


def read_level(
    source: BossSource, listing: Listing, level: int, shape: tuple[int, ...], dtype: str
) -> np.ndarray[Any, Any]:
    """Return the voxels of a level, assembled from its fetched blocks."""
    made = np.zeros(shape, dtype)
    for record in listing.entries():
        found = re.fullmatch(rb"%d/c/((?:\d+/)*\d+)" % level, record.path)
        if found is None:
            continue
        url = parse_url(record.locations[0].url)
        body = b"".join(fetch_block(source.session, url, size=record.size))
        chunk = url.chunk[::-1] if len(shape) == 3 else (1, *url.chunk[::-1])
        voxels = np.frombuffer(body, dtype).reshape(chunk)
        at = tuple(
            slice(int(n) * size, int(n) * size + size)
            for n, size in zip(found[1].split(b"/"), chunk, strict=True)
        )
        region = made[at]
        region[...] = voxels[tuple(slice(0, size) for size in region.shape)]
    return made


def add_volume(
    boss: DemoBoss,
    path: str,
    voxels: np.ndarray[Any, Any],
    *,
    start: tuple[int, int, int] = (0, 0, 0),
    voxel: tuple[float, float, float] = (4.0, 4.0, 40.0),
    **about: Any,
) -> None:
    """Add a channel with its own collection, frame and experiment."""
    collection, experiment, _ = path.split("/")
    of_experiment = {
        name: about.pop(name) for name in ("levels", "method", "time_step_unit") if name in about
    }
    boss.add_collection(collection)
    size = voxels.shape[::-1][:3]
    stop = [first + count for first, count in zip(start, size, strict=True)]
    boss.add_frame(f"{collection}_frame", start=start, stop=stop, voxel=voxel)
    boss.add_experiment(f"{collection}/{experiment}", f"{collection}_frame", **of_experiment)
    boss.add_channel(path, str(voxels.dtype), voxels=voxels, **about)


class RewritingProxy:
    """An HTTP server that forwards requests below a prefix to a BOSS.

    ``request_headers`` are the headers of all requests. ``replacements`` maps patterns of paths to
    replies that are returned instead.
    """

    def __init__(self, server: HTTPServer, boss: DemoBoss, prefix: str = "") -> None:
        self.api = server.url_for(f"/{prefix}").rstrip("/")
        self.request_headers: list[Mapping[str, str]] = []
        self.replacements: dict[str, Response] = {}
        self._boss = boss
        self._prefix = f"/{prefix}".rstrip("/")
        server.expect_request(re.compile(f"{self._prefix}/.*")).respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        self.request_headers.append(dict(request.headers))
        path = request.environ["REQUEST_URI"].removeprefix(self._prefix)
        for pattern, response in self.replacements.items():
            if re.search(pattern, path):
                return response
        passed = {
            name: value
            for name, value in request.headers.items()
            if name in ("Authorization", "Accept")
        }
        reply = requests.get(f"{self._boss.url}{path}", headers=passed, timeout=300)
        kind = reply.headers["Content-Type"]
        return Response(reply.content, reply.status_code, content_type=kind)
