"""Show layers in Neuroglancer, drawn by a browser that another process controls.

Each line of the input is a JSON list of pictures: the layers, each with its kind and its source,
and the path of a PNG. The address of a viewer is printed, which a browser has to open; then each
path, when the PNG is written.
"""

import json
import sys
from pathlib import Path
from queue import Queue
from typing import Any

import neuroglancer

KINDS = {"image": neuroglancer.ImageLayer, "segmentation": neuroglancer.SegmentationLayer}
SECONDS = 120


def main() -> None:
    """Serve viewers until the end of the input."""
    neuroglancer.set_server_bind_address("127.0.0.1")
    for line in sys.stdin:
        viewer = neuroglancer.Viewer()
        with viewer.config_state.txn() as config:
            config.viewer_size = (300, 200)
        print(viewer.get_viewer_url(), flush=True)  # noqa: T201
        for layers, picture in json.loads(line):
            draw(viewer, layers, Path(picture))
            print(picture, flush=True)  # noqa: T201


def draw(viewer: neuroglancer.Viewer, layers: list[tuple[str, str]], picture: Path) -> None:
    """Write the picture of layers."""
    state = neuroglancer.ViewerState()
    for kind, source in layers:
        state.layers.append(name=kind, layer=KINDS[kind](source=source))
    state.layout = "xy"
    viewer.set_state(state)
    drawn: Queue[Any] = Queue()
    shown: list[str] = []
    # at first the browser may still show the layers of the picture before
    while shown != [source for _, source in layers]:
        viewer.async_screenshot(drawn.put)
        reply = drawn.get(timeout=SECONDS)
        shown = [layer.source[0].url for layer in reply.viewer_state.layers]
    picture.write_bytes(reply.screenshot.image)


if __name__ == "__main__":
    main()
