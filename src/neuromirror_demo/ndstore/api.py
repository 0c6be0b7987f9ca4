"""The read-only part of ndstore's REST interface that clients of volumes need (``django/sd``).

It is served below ``/nd/ca/`` and its synonym ``/nd/sd/``. ndstore's own errors are 404 with a line
of text and an HTML content type. A token that is not public is refused before ndstore receives the
request, whether it exists or not, with JSON; an invalid user token counts as none.
"""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from werkzeug.wrappers import Request, Response

from neuromirror_demo.ndstore.server import (
    PROPAGATED,
    UNDER_PROPAGATION,
    NdstoreChannel,
    Project,
    Space,
)
from neuromirror_demo.volumes import XYZ
from neuromirror_demo.web import NOT_FOUND_HTML

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

_ARGUMENTS: Final = re.compile(
    r"([0-9]+)/([0-9]+),([0-9]+)/([0-9]+),([0-9]+)/([0-9]+),([0-9]+)(.*)?$"
)
_TIMES: Final = re.compile(r"/(\d+),(\d+)/")


class NdstoreError(Exception):
    """An error that ndstore returns as 404, with its text."""


@dataclass(frozen=True, slots=True)
class NdstoreCutoutRequest:
    """The requested region: voxels of a level, counted from the dataset's offset.

    ``times`` is None if the reply has no time axis.
    """

    level: int
    corner: XYZ
    size: XYZ
    times: tuple[int, int] | None


def parse(arguments: str, space: Space) -> NdstoreCutoutRequest:
    """Parse a request ``RES/x0,x1/y0,y1/z0,z1[/t0,t1]/…``; raise :class:`NdstoreError`.

    A range of times is recognized only with a final slash.
    """
    found = _ARGUMENTS.match(arguments)
    if found is None:
        raise NdstoreError(f"Incorrect cutout arguments {arguments}")
    level, x0, x1, y0, y1, z0, z1 = map(int, found.groups()[:-1])
    rest = found[8]
    if level not in space.resolutions:
        raise NdstoreError(f"Illegal scaling level {arguments}")
    start = space.offset_at(level)
    low = (x0 - start[0], y0 - start[1], z0 - start[2])
    high = (x1 - start[0], y1 - start[1], z1 - start[2])
    whole = space.size_at(level)
    if not all(0 <= a < b <= n for a, b, n in zip(low, high, whole, strict=True)):
        message = f"Illegal range. Image size: {list(whole)} at offset {list(start)}"
        failed = f"Illegal arguments to cutout. Check cube failed {message!r}"
        raise NdstoreError(failed)
    times = _TIMES.match(rest)
    return NdstoreCutoutRequest(
        level,
        low,
        (high[0] - low[0], high[1] - low[1], high[2] - low[2]),
        None if times is None else (int(times[1]), int(times[2])),
    )


def cut_out(project: Project, channel: NdstoreChannel, request: NdstoreCutoutRequest) -> Voxels:
    """Return the voxels in (z, y, x), or (time, z, y, x) if times were requested.

    Voxels that were never written are zero. Upstream makes up the levels that it does not store,
    from wrong positions; here they are zero, too.
    """
    import numpy as np

    times = request.times or (channel.timerange[0], channel.timerange[0] + 1)
    (x, y, z), (width, height, depth) = request.corner, request.size
    made = np.zeros((times[1] - times[0], depth, height, width), np.dtype(channel.datatype))
    table = channel.tables.get(request.level)
    if channel.propagate not in (PROPAGATED, UNDER_PROPAGATION):
        table = table if request.level == channel.resolution else None
    for number, time in enumerate(range(*times)):
        sample = time - channel.timerange[0]
        if table is not None and 0 <= sample < len(table):
            there = table[sample, z : z + depth, y : y + height, x : x + width]
            made[number, : there.shape[0], : there.shape[1], : there.shape[2]] = there
    return made if request.times is not None else made[0]


_BASE: Final = re.compile(r"/(?:nd/|ocp/)?(?:ca|sd)/(?P<rest>.*)")
_SLASHES: Final = re.compile("//+")
_INFO: Final = re.compile(r"(?P<token>\w+)/info/[\w,/]*")
_CUTOUT: Final = re.compile(
    r"(?P<token>\w+)/(?P<channel>\w+)/(?P<service>\w+)/(?P<arguments>\d[\w.,/-]*)"
)
_DETAILS: Final = {
    True: "You do not have permission to perform this action.",
    False: "Authentication credentials were not provided.",
}


class NdstoreApi:
    """Answers requests for projects; ``owner`` is the user token that can read private projects.

    ``spoil`` may change the voxels of a cutout before they are encoded.
    """

    def __init__(
        self,
        projects: dict[str, Project],
        owner: str,
        spoil: Callable[[Request, Any], Any] = lambda request, voxels: voxels,
    ) -> None:
        self._projects = projects
        self._owner = owner
        self._spoil = spoil

    def answer(self, request: Request) -> Response:
        """Return the reply to one request."""
        # The web server in front of ndstore merges slashes; ndstore's own client relies on this.
        found = _BASE.fullmatch(_SLASHES.sub("/", request.path))
        if found is None:
            return _html(NOT_FOUND_HTML, 404)
        rest = found["rest"]
        if rest == "public_tokens/":
            return _json(sorted(one.token for one in self._projects.values() if not one.private))
        if found := _INFO.fullmatch(rest):
            refused = self._refusal(request, found["token"], plain=False)
            return refused or _json(self._projects[found["token"]].info())
        if found := _CUTOUT.fullmatch(rest):
            try:
                return self._refusal(request, found["token"]) or self._cutout(request, found)
            except NdstoreError as error:
                return _html(str(error), 404)
        return _html(NOT_FOUND_HTML, 404)

    def _refusal(self, request: Request, token: str, *, plain: bool = True) -> Response | None:
        """Return the error for a client that may not read this token, if it may not.

        ``plain``: session authentication comes first, which cannot request credentials.
        """
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        known = kind.lower() == "token" and given.strip() == self._owner
        project = self._projects.get(token)
        if project is not None and (known or not project.private):
            return None
        return _json({"detail": _DETAILS[known]}, 403 if known or plain else 401)

    def _cutout(self, request: Request, match: re.Match[str]) -> Response:
        """Return a zlib stream (no zip file) of a ``.npy`` file of (channel, [time,] z, y, x)."""
        import numpy as np

        project, service = self._projects[match["token"]], match["service"]
        if service != "npz":
            raise NdstoreError(
                f"An illegal Web GET service was requested {service}. Args {match['arguments']}"
            )
        channel = project.channels.get(match["channel"])
        if channel is None:
            raise NdstoreError("")  # Django's own error has no text
        voxels = cut_out(project, channel, parse(match["arguments"], project.space))
        body = io.BytesIO()
        np.save(body, self._spoil(request, voxels)[None])
        return Response(zlib.compress(body.getvalue()), content_type="product/npz")


def _json(body: object, status: int = 200) -> Response:
    written = json.dumps(body, sort_keys=True, indent=4)
    return Response(written, status=status, content_type="application/json")


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status=status, content_type="text/html; charset=utf-8")
