"""The demo ndstore answers as neurodata/ndstore did, its mistakes included."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from neuromirror_demo.ndstore import (
    CALCIUM,
    CELLS,
    IMAGE_11,
    MEMBRANES,
    PRIVATE,
    SYNAPSES,
    DemoNdstore,
)
from neuromirror_demo.ndstore.server import Project, Space

OWNER = {"Authorization": f"Token {DemoNdstore.token}"}


@pytest.fixture
def ndstore(tmp_path: Path) -> Iterator[DemoNdstore]:
    """A fresh ndstore."""
    with DemoNdstore(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def still_ndstore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoNdstore]:
    """An ndstore for all tests that only read it: no verb, no fault."""
    with DemoNdstore(tmp_path_factory.mktemp("ndstore")) as running:
        yield running


def get(ndstore: DemoNdstore, path: str, **headers: str) -> requests.Response:
    return requests.get(f"{ndstore.api}/{path}", headers=headers, timeout=300)


def cut(ndstore: DemoNdstore, path: str, where: str) -> Any:
    """The array of an npz cutout."""
    answer = get(ndstore, f"{path}/npz/{where}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "product/npz")
    return np.load(io.BytesIO(zlib.decompress(answer.content)), allow_pickle=False)


# -- what there is


def test_public_projects_are_listed_and_private_ones_are_not(still_ndstore: DemoNdstore) -> None:
    assert get(still_ndstore, "public_tokens/").json() == [
        *("demo11", "demo11_anno", "demo12", "demo15_ramon", "democube"),
    ]
    assert "demo13_private" in still_ndstore.projects


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


def test_sizes_are_rounded_up_and_offsets_down(still_ndstore: DemoNdstore) -> None:
    document = get(still_ndstore, "democube/info/").json()["dataset"]
    assert document["imagesize"] == {"0": [100, 90, 36], "1": [50, 45, 18], "2": [25, 23, 9]}
    assert document["offset"] == {"0": [10, 6, 4], "1": [5, 3, 2], "2": [2, 1, 1]}
    assert document["scaling"] == "xyz"
    assert "neariso_offset" not in document
    channel = get(still_ndstore, "demo15_ramon/info/").json()["channels"]["synapses"]
    assert channel["resolution"] == 1
    assert channel["channel_type"] == "annotation"


# -- voxels


@pytest.mark.parametrize(
    ("path", "where", "level", "box"),
    [
        (IMAGE_11, "0/3,70/5,40/1,12/", 0, np.s_[0:11, 5:40, 3:70]),
        (IMAGE_11, "2/0,50/0,38/1,41/", 2, np.s_[0:40, 0:38, 0:50]),
        (CELLS, "1/90,100/70,75/30,41/", 1, np.s_[29:40, 70:75, 90:100]),
        (MEMBRANES, "0/0,200/0,1/40,41/", 0, np.s_[39:40, 0:1, 0:200]),
        (SYNAPSES, "1/10,75/0,60/5,21/", 1, np.s_[4:20, 0:60, 10:75]),
    ],
)
def test_coordinates_count_the_offset(
    still_ndstore: DemoNdstore, path: str, where: str, level: int, box: Any
) -> None:
    found = cut(still_ndstore, path, where)
    voxels = still_ndstore.voxels(path, level)
    assert found.dtype == voxels.dtype
    assert np.array_equal(found, voxels[box][None])


def test_a_time_series_is_cut_at_its_own_times_and_only_with_a_slash(
    still_ndstore: DemoNdstore,
) -> None:
    voxels = still_ndstore.voxels(CALCIUM, 1)
    where = "1/5,55/3,48/2,20"
    assert np.array_equal(cut(still_ndstore, CALCIUM, f"{where}/6,8/"), voxels[None, 1:3])
    # Without the last slash the times are not seen: the first sample, and no axis for it.
    assert np.array_equal(cut(still_ndstore, CALCIUM, f"{where}/6,8"), voxels[0][None])
    beyond = cut(still_ndstore, CALCIUM, f"{where}/8,9/")
    assert beyond.shape == (1, 1, 18, 45, 50)
    assert not beyond.any()


# -- errors


# -- refusals


def test_refusals_are_text_that_quotes_itself(still_ndstore: DemoNdstore) -> None:
    below = get(still_ndstore, f"{IMAGE_11}/npz/0/0,50/0,40/0,11/")
    assert below.status_code == 404
    assert below.headers["Content-Type"].startswith("text/html")
    message = "Illegal range. Image size: [200, 150, 40] at offset [0, 0, 1]"
    message = f"Illegal arguments to cutout. Check cube failed {message!r}"
    assert below.text == repr(repr(repr(message)))  # three exceptions, each of the one before
    assert "Illegal scaling level" in get(still_ndstore, f"{IMAGE_11}/npz/3/0,5/0,5/1,2/").text
    assert "Incorrect cutout arguments" in get(still_ndstore, f"{IMAGE_11}/npz/0/0,5/0,5/").text
    assert get(still_ndstore, "demo11/missing/npz/0/0,5/0,5/1,2/").text == "\"''\""
    assert get(still_ndstore, f"{IMAGE_11}/jpeg/0/0,5/0,5/1,2/").status_code == 404
    assert get(still_ndstore, f"{IMAGE_11}/npz/0/5,5/0,5/1,2/").status_code == 404
    assert get(still_ndstore, "demo11/info").status_code == 404
    assert (
        requests.post(f"{still_ndstore.api}/{IMAGE_11}/npz/0/0,5/0,5/1,2/", timeout=300).status_code
        == 405
    )


def test_what_is_private_and_what_is_not_there_are_refused_alike(
    still_ndstore: DemoNdstore,
) -> None:
    replies = [get(still_ndstore, f"{token}/info/") for token in ("demo13_private", "missing")]
    assert [one.status_code for one in replies] == [401, 401]
    assert replies[0].json() == replies[1].json()
    assert replies[0].headers["WWW-Authenticate"] == "Token"
    where = f"{PRIVATE}/npz/0/0,5/0,5/1,2/"
    assert get(still_ndstore, where).status_code == 403
    assert get(still_ndstore, where, **OWNER).status_code == 200
    assert get(still_ndstore, "missing/info/", **OWNER).status_code == 403
    # A wrong token is like none.
    wrong = {"Authorization": "Token wrong"}
    assert get(still_ndstore, where, **wrong).status_code == 403
    assert get(still_ndstore, f"{IMAGE_11}/npz/0/0,5/0,5/1,2/", **wrong).status_code == 200


# -- what can happen to it
