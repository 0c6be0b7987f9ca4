"""The real client, intern, finds a BOSS where the demo's is.

It runs in a process of its own: it takes seconds to import, and forks to cut out.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuromirror_demo.boss import ACTIVITY, TISSUE, DemoBoss

_BEFORE = """
import json, sys, numpy as np
from intern.remote.boss import BossRemote
from intern.resource.boss.resource import (
    CollectionResource)

def remote(token):
    return BossRemote({"protocol": "http", "host": sys.argv[1], "token": token})

boss, results = remote(sys.argv[2]), {}

def failing(act):
    try:
        act()
    except Exception as error:
        return str(error)
    return "did not fail"
"""


def intern(boss: DemoBoss, code: str, folder: Path, token: str) -> Any:
    """Run code with intern in the folder; return its ``results``. The code uses ``boss``."""
    script = f"{_BEFORE}{code}\nprint(json.dumps(results))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, boss.host, token],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[DemoBoss]:
    with DemoBoss(tmp_path / "boss") as running:
        yield running


def test_intern_lists_cuts_out_and_reports_errors(boss: DemoBoss, tmp_path: Path) -> None:
    boss.soft_delete("demo_cortex/sections/cells")
    boss.fault("status", status=429, path="/experiment/calcium/channel/$")
    code = """
results["collections"] = boss.list_collections()
results["experiments"] = boss.list_experiments("demo_cortex")
results["channels"] = boss.list_channels("demo_cortex", "sections")
results["frames"] = boss.list_coordinate_frames()
section = boss.get_experiment("demo_cortex", "sections")
results["extents"] = boss.get_extents(section)
results["keys"] = boss.list_metadata(section)
em = boss.get_channel("em", "demo_cortex", "sections")
results["license"] = boss.get_metadata(CollectionResource("demo_cortex"), ["license"])
np.save("whole", boss.get_cutout(em, 0, [0, 300], [0, 260], [12, 82]))
np.save("coarse", boss.get_cutout(em, 2, [0, 75], [0, 65], [12, 82]))
how = {"chunk_size": (128, 128, 32), "parallel": 2}
np.save("pieces", boss.get_cutout(em, 0, [0, 300], [0, 260], [12, 82], **how))
series = boss.get_channel("gcamp", "demo_activity", "calcium")
np.save("series", boss.get_cutout(series, 1, [0, 75], [0, 65], [0, 18], [0, 3]))
from intern import array
from intern.convenience.array import _BossDBVolumeProvider
opened = array("bossdb://demo_cortex/sections/em", volume_provider=_BossDBVolumeProvider(boss))
results["shape"] = opened.shape
np.save("sliced", opened[20:30, 0:50, 10:60])
results["failed"] = {
    "token": failing(lambda: remote("wrong").get_cutout(em, 0, [0, 9], [0, 9], [12, 13])),
    "list": failing(lambda: remote("wrong").list_collections()),
    "deleted": failing(lambda: boss.get_channel("cells", "demo_cortex", "sections")),
    "outside": failing(lambda: boss.get_cutout(em, 0, [0, 9], [0, 9], [0, 13])),
    "throttled": failing(lambda: boss.list_channels("demo_activity", "calcium")),
}
"""
    output = intern(boss, code, tmp_path, token="public")
    assert output["collections"] == ["demo_cortex", "demo_activity"]
    assert output["experiments"] == ["sections"]
    assert output["channels"] == ["em", "sketch"]
    assert output["frames"] == ["demo_sections", "demo_calcium", "demo_notes"]
    assert output["extents"] == [[0, 300], [0, 260], [12, 82]]
    assert output["keys"] == ["citation & doi"]
    assert output["license"] == {"license": "CC-BY-4.0"}
    assert output["shape"] == [70, 260, 300]
    whole = boss.voxels(TISSUE)
    assert np.array_equal(np.load(tmp_path / "whole.npy"), whole)
    assert np.array_equal(np.load(tmp_path / "pieces.npy"), whole)
    assert np.array_equal(np.load(tmp_path / "coarse.npy"), boss.voxels(TISSUE, 2))
    assert np.array_equal(np.load(tmp_path / "series.npy"), boss.voxels(ACTIVITY, 1))
    assert np.array_equal(np.load(tmp_path / "sliced.npy"), whole[8:18, 0:50, 10:60])
    messages = output["failed"]
    assert {
        name: message.partition("HTTP response: ")[2][:5] for name, message in messages.items()
    } == {
        "token": "(500)",
        "list": "(401)",
        "deleted": "(404)",
        "outside": "(400)",
        "throttled": "(429)",
    }
    assert '"code":4005' in messages["deleted"]
