"""A minimal cutout service on loopback."""

import io
import re
import threading
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler
from time import sleep
from typing import Any

import blosc
import numpy as np

from support.loopback_http import HttpService

BLOSC = "application/blosc"
_BOSS = re.compile(r"/v1/cutout/(.+)/(\d+)/(\d+):(\d+)/(\d+):(\d+)/(\d+):(\d+)/(?:(\d+):\d+/)?\?")
_NDSTORE = re.compile(r"/nd/ca/(.+)/npz/(\d+)/(\d+),(\d+)/(\d+),(\d+)/(\d+),(\d+)/(?:(\d+),\d+/)?$")


_PIECE = 1 << 16


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class VolumeService(HttpService):
    """Serves arrays (``[t,] z, y, x``) by level, from their starts (x, y, z) on.

    ``answers`` has a list of special replies per cutout (as in its URL); each is used once:
    (status, headers, body), a number of bytes after which the body is cut off, or (a float) seconds
    to wait after each 64 KiB. ``abandoned`` are the cutouts that no client read to the end.
    ``speaks_blosc`` determines whether clients that accept blosc receive it.
    """

    def __init__(self, levels: dict[str, Any], starts: dict[str, tuple[int, int, int]]) -> None:
        self.levels = levels
        self.starts = starts
        self.requests: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.replacements: dict[str, list[Any]] = {}
        self.abandoned: list[str] = []
        self.speaks_blosc = False
        self.peak_requests = 0
        self._busy = 0
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    def wait(self) -> None:
        """Wait until no request is in progress."""
        while self._busy:
            sleep(0.01)

    def cutout(self, level: str, numbers: list[int], time: int | None) -> Any:
        x0, x1, y0, y1, z0, z1 = numbers
        sx, sy, sz = self.starts[level]
        array = self.levels[level]
        assert x0 >= sx
        assert y0 >= sy
        assert z0 >= sz
        part = array[..., z0 - sz : z1 - sz, y0 - sy : y1 - sy, x0 - sx : x1 - sx]
        assert part.shape[-3:] == (z1 - z0, y1 - y0, x1 - x0), "asked for more than there is"
        return part if time is None else part[time : time + 1]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self._busy += 1
            self.peak_requests = max(self.peak_requests, self._busy)
        try:
            self._reply(request)
        finally:
            with self._lock:
                self._busy -= 1

    def _reply(self, request: BaseHTTPRequestHandler) -> None:
        found = _BOSS.match(request.path) or _NDSTORE.match(request.path)
        assert found is not None, request.path
        _, level, *numbers = found.groups()
        time = numbers.pop()
        sides = [f"{start}:{stop}" for start, stop in zip(numbers[::2], numbers[1::2], strict=True)]
        cutout = "/".join([level, *sides, *([time] if time else [])])
        with self._lock:
            self.requests[cutout] += 1
            self.headers.append(dict(request.headers))
            instead = self.replacements.get(cutout, []) or self.replacements.get("*", [])
            answer = instead.pop(0) if instead else None
        if isinstance(answer, tuple):
            status, headers, body = answer
        else:
            part = self.cutout(level, list(map(int, numbers)), None if time is None else int(time))
            if found.re is _NDSTORE:
                part = part[np.newaxis]
            status, headers, body = 200, {}, zlib.compress(npy(part), 1)
            if self.speaks_blosc and BLOSC in request.headers.get("Accept", ""):
                headers = {"Content-Type": BLOSC}
                body = blosc.compress(np.ascontiguousarray(part), typesize=8 * part.itemsize)
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if isinstance(answer, int):
            body = body[:answer]
            request.close_connection = True
        try:
            for at in range(0, len(body), _PIECE):
                request.wfile.write(body[at : at + _PIECE])
                if isinstance(answer, float):
                    sleep(answer)
        except ConnectionError:  # clients close the connection after reading enough
            request.close_connection = True
            self.abandoned.append(cutout)
