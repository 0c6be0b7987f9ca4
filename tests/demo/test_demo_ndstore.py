"""The demo ndstore answers as neurodata/ndstore did, its mistakes included."""

from __future__ import annotations

import json
from pathlib import Path

import requests

from neuromirror_demo.ndstore import DemoNdstore
from neuromirror_demo.ndstore.server import Project, Space


def test_the_info_of_kasthuri11_is_what_the_manual_shows() -> None:
    space = Space("kasthuri11", (21504, 26624, 1850), (0, 0, 1), (1.0, 1.0, 10.0), 8, "zslices")
    document = json.loads(json.dumps(Project("kasthuri11", space).info()))["dataset"]
    assert document["imagesize"]["7"] == [168, 208, 1850]
    assert [document["cube_dimension"][str(level)] for level in (4, 5)] == [
        [128, 128, 16],
        [64] * 3,
    ]
    assert [document["neariso_scaledown"][str(n)] for n in range(8)] == [1, 1, 1, 1, 2, 3, 6, 13]
    assert document["voxelres"]["7"] == [128.0, 128.0, 10.0]
    assert document["offset"]["7"] == [0, 0, 1]
    assert document["resolutions"] == [*range(8)]
    assert document["scalinglevels"] == 7


def test_sizes_are_rounded_up_and_offsets_down(tmp_path: Path) -> None:
    with DemoNdstore(tmp_path) as ndstore:
        document, ramon = (
            requests.get(f"{ndstore.api}/{project}/info/", timeout=300).json()
            for project in ("democube", "demo15_ramon")
        )
    document = document["dataset"]
    assert document["imagesize"] == {"0": [100, 90, 36], "1": [50, 45, 18], "2": [25, 23, 9]}
    assert document["offset"] == {"0": [10, 6, 4], "1": [5, 3, 2], "2": [2, 1, 1]}
    assert document["scaling"] == "xyz"
    assert "neariso_offset" not in document
    channel = ramon["channels"]["synapses"]
    assert channel["resolution"] == 1
    assert channel["channel_type"] == "annotation"
