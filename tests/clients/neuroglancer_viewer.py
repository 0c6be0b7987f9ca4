"""Show layers in Neuroglancer, drawn by a browser that another process controls.

Each line of the input is a JSON list: the layers, each with its kind and its source, and the path
of a PNG. The address of a viewer is printed, which a browser has to open; then the path, when the
PNG is written.
"""

import json
import sys
from pathlib import Path
from queue import Queue

import neuroglancer

KINDS = {"image": neuroglancer.ImageLayer, "segmentation": neuroglancer.SegmentationLayer}
SECONDS = 120


def main() -> None:
    """Serve viewers until the end of the input."""
    neuroglancer.set_server_bind_address("127.0.0.1")
    for line in sys.stdin:
        layers, picture = json.loads(line)
        viewer = neuroglancer.Viewer()
        with viewer.txn() as state:
            for kind, source in layers:
                state.layers.append(name=kind, layer=KINDS[kind](source=source))
            state.layout = "xy"
        with viewer.config_state.txn() as config:
            config.viewer_size = (300, 200)
        print(viewer.get_viewer_url(), flush=True)  # noqa: T201
        drawn: Queue[bytes] = Queue()
        viewer.async_screenshot(lambda reply, drawn=drawn: drawn.put(reply.screenshot.image))
        Path(picture).write_bytes(drawn.get(timeout=SECONDS))
        print(picture, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
