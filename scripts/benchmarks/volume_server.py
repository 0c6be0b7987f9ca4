"""Runs a BOSS with large channels.

Arguments are ``BLOCKS DIR``: the channel ``bench/bench/em`` has so many blocks of 2048 x
2048 x 64 voxels side by side, the channel ``bench/large/em`` the size of kasthuri11's and no
voxels. Each cut-out is encoded when it is asked for, as blosc or npygz, by the demo BOSS's own
encoders; nothing is kept for the next request. The first line that is printed says where the
server is.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from neuromirror_demo import volumes
from neuromirror_demo.boss import DemoBoss
from neuromirror_demo.boss.encodings import BLOSC, NPYGZ, encode

BLOCK = (2048, 2048, 64)
LARGE = (10752, 13312, 1849)
_CUTOUT = re.compile(r"/v1/cutout/bench/bench/em/0/(\d+):(\d+)/(\d+):(\d+)/(\d+):(\d+)/")
_NOISE = 12
"""Gray levels of a microscope's noise, with which zlib compresses the tissue like real tissue."""


def made_voxels(blocks: int) -> Any:
    """Return repeated tissue with noise that does not repeat."""
    tile = volumes.tissue((512, 512, BLOCK[2]))
    voxels = np.tile(tile, (1, BLOCK[1] // 512, blocks * BLOCK[0] // 512))
    noise = np.random.default_rng(1)
    for z in range(BLOCK[2]):
        voxels[z] += noise.integers(0, _NOISE, voxels[z].shape, dtype=np.uint8)
    return voxels


class Cutouts:
    """Encode the bodies of cutouts, once per request."""

    def __init__(self, voxels: Any) -> None:
        self._voxels = voxels

    def get(self, found: re.Match[str], accepted: str) -> bytes:
        """Return the body of a reply."""
        x0, x1, y0, y1, z0, z1 = map(int, found.groups())
        cut = np.ascontiguousarray(self._voxels[z0:z1, y0:y1, x0:x1])
        return encode(cut, accepted, 0)


def handler(cutouts: Cutouts, behind: str) -> type[BaseHTTPRequestHandler]:
    """Handle cut-outs, and pass other requests on."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            accepted = self.headers.get("Accept", "")
            found = _CUTOUT.match(self.path)
            if found is None:
                status, kind, body = self._from_behind(accepted)
            else:
                kind = BLOSC if BLOSC in accepted else NPYGZ
                status, body = 200, cutouts.get(found, kind)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _from_behind(self, accepted: str) -> tuple[int, str, bytes]:
            connection = http.client.HTTPConnection(behind, timeout=60)
            headers = {"Accept": accepted, "Authorization": self.headers.get("Authorization", "")}
            connection.request("GET", self.path, headers=headers)
            reply = connection.getresponse()
            body = reply.read()
            connection.close()
            return reply.status, reply.headers.get("Content-Type", ""), body

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def main() -> None:
    """Run the server."""
    blocks = int(sys.argv[1])
    with DemoBoss(sys.argv[2], empty=True) as boss:
        boss.add_collection("bench")
        for name, stop in (("bench", (BLOCK[0] * blocks, *BLOCK[1:])), ("large", LARGE)):
            boss.add_frame(name, stop=stop, voxel=(4, 4, 40))
            boss.add_experiment(f"bench/{name}", name, levels=1)
            boss.add_channel(f"bench/{name}/em")
        cutouts = Cutouts(made_voxels(blocks))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(cutouts, boss.host))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(json.dumps({"api": f"http://127.0.0.1:{server.server_address[1]}"}), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
