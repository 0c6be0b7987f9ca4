"""Pages of volumes: what they say, and that a picture or a cut-out is what the archive has."""

import io
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import tifffile
from PIL import Image

from neuromirror_demo.boss import ACTIVITY, CELLS, SKETCH
from support.running_catalogue import RunningCatalogue, commands, run_catalogue, visible_text
from support.volume_archives import (
    EM,
    LAYER,
    VolumeArchives,
    cutout_path,
    expected_voxels,
    read_image,
)

# --- the page


def test_volume_api_matches_the_page(volume_site: RunningCatalogue) -> None:
    volume = volume_site.api(f"/datasets/{EM}@latest/volume")
    assert (volume["kind"], volume["data_type"], volume["unit"]) == ("image", "uint8", "nanometer")
    assert volume["frame"]["name"] == "demo_sections"
    level = volume["levels"][2]
    assert (level["start"], level["stop"]) == ([0, 0, 12], [75, 65, 82])
    assert (level["voxel_size"], level["block"]) == ([16.0, 16.0, 40.0], [75, 65, 32])
    assert (level["blocks"], level["bytes"]) == (3, 75 * 65 * 70)
    assert (level["encoding"], level["unreadable_reason"]) == ("raw voxels", None)
    series = volume_site.api(f"/datasets/b:{ACTIVITY}@latest/volume")["times"]
    assert series == {"first": 0, "last": 2, "step": 50.0, "unit": "millisecond"}
    assert volume_site.api(f"/datasets/b:{CELLS}@latest/volume")["kind"] == "annotation"
    layer = volume_site.api(f"/datasets/demo-precomputed:{ACTIVITY}@latest/volume")
    assert (layer["format"], layer["levels"][0]["folder"]) == (
        "Neuroglancer precomputed",
        "1500_1500_1500",
    )


def test_a_sharded_layer_is_described_but_not_cut_out(volume_site: RunningCatalogue) -> None:
    level = volume_site.api(f"/datasets/demo-precomputed:{ACTIVITY}@latest/volume")["levels"][0]
    assert level["unreadable_reason"]
    page = volume_site.page(f"/volume/demo-precomputed:{ACTIVITY}@latest")
    assert "mip=0, fill_missing=True)[0:150, 0:130, 0:40]" in page
    assert 'name="x0"' not in page
    volume_site.page(cutout_path(f"demo-precomputed:{ACTIVITY}", 0, "0:9,0:9,0:9"), 400)


# --- pictures


@pytest.mark.parametrize(
    ("name", "level", "z"),
    [(EM, 0, 47), ("n:demo11/image", 0, 21), (f"demo-precomputed:{LAYER}", 0, 32)],
)
def test_a_picture_is_the_archives_middle_plane(
    volume_site: RunningCatalogue, volumes: VolumeArchives, name: str, level: int, z: int
) -> None:
    shown = read_image(volume_site.get(f"/slice/{name}@latest.png"))
    voxels, (_, _, first) = volumes.voxels(name, level)
    assert np.array_equal(shown, voxels[z - first])
    page = volume_site.page(f"/volume/{name}@latest?shown")
    assert 'loading="lazy"' in page
    assert f'alt="Level {level}, z {z} of {name}@' in page


def test_labels_are_colours_one_each_and_0_is_black(
    volume_site: RunningCatalogue, volumes: VolumeArchives
) -> None:
    for name in (f"b:{CELLS}", f"demo-precomputed:{CELLS}"):
        shown = read_image(volume_site.get(f"/slice/{name}@latest.png"))
        voxels, (_, _, first) = volumes.voxels(name, 0)
        ids = voxels[first + len(voxels) // 2 - first]
        assert shown.shape == (*ids.shape, 3)
        pairs = {
            (one, tuple(colour))
            for one, colour in zip(ids.flat, shown.reshape(-1, 3).tolist(), strict=True)
        }
        assert len(pairs) == len({one for one, _ in pairs}) == len({colour for _, colour in pairs})
        assert len(pairs) > 5
        assert (0, (0, 0, 0)) in pairs


def test_16_bit_contrast_is_stretched_and_labelled(
    volume_site: RunningCatalogue, volumes: VolumeArchives
) -> None:
    shown = read_image(volume_site.get(f"/slice/b:{ACTIVITY}@latest.png"))
    plane = volumes.voxels(f"b:{ACTIVITY}", 0)[0][0, 18].astype(float)
    low, high = np.percentile(plane, (1, 99))
    expected = np.rint(np.clip((plane - low) / (high - low), 0, 1) * 255)
    assert np.array_equal(shown, expected)
    page = volume_site.page(f"/volume/b:{ACTIVITY}@latest?shown")
    caption = page.partition("<figcaption")[2].partition("</figcaption>")[0]
    assert f"{low:,.6g} " in caption


def test_concurrent_requests_for_a_picture_read_its_blocks_once(
    quiet_volumes: VolumeArchives,
) -> None:
    with run_catalogue(quiet_volumes.mirror_harness.store) as site:
        quiet_volumes.boss.fault("slow", path="/cutout/", delay=0.01)
        with ThreadPoolExecutor(6) as pool:
            replies = list(pool.map(lambda _: site.get(f"/slice/{EM}@latest.png"), range(6)))
        assert [reply.status_code for reply in replies] == [200] * 6
        requests_before = quiet_volumes.count_voxel_requests()
        assert requests_before == 9
        tag = replies[0].headers["etag"]
        second = site.get(f"/slice/{EM}@latest.png", headers={"If-None-Match": tag})
        assert (second.status_code, second.content) == (304, b"")
        site.get(f"/slice/{EM}@latest.png")
        assert quiet_volumes.count_voxel_requests() == requests_before


def test_failed_picture_is_a_message_and_not_retried(quiet_volumes: VolumeArchives) -> None:
    with run_catalogue(quiet_volumes.mirror_harness.store) as site:
        quiet_volumes.boss.fault("status", status=503, path="/cutout/")
        reply = site.get(f"/slice/{EM}@latest.png")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "30")
        assert reply.headers["content-type"].startswith("image/svg+xml")
        requests_before = quiet_volumes.count_voxel_requests()
        page = site.page(f"/volume/{EM}@latest")
        assert "block 0/c/" in visible_text(page)
        assert "<img" not in page
        assert site.get(f"/slice/{EM}@latest.png").status_code == 503
        assert quiet_volumes.count_voxel_requests() == requests_before


# --- cut-outs


@pytest.mark.parametrize(
    ("name", "level", "box", "time"),
    [
        (EM, 0, "100:150,120:200,40:50", None),
        (EM, 1, "0:150,0:130,12:82", None),
        (f"plain:{SKETCH}", 0, "3:130,5:60,19:25", None),
        (f"b:{CELLS}", 0, "100:170,60:150,43:46", None),
        (f"b:{ACTIVITY}", 0, "100:150,0:130,30:36", 2),
        ("n:demo11/membranes", 1, "10:90,0:75,1:30", None),
        (f"demo-precomputed:{LAYER}", 0, "0:150,0:130,12:52", None),
        (f"demo-precomputed:{LAYER}", 2, "0:38,0:33,20:40", None),
        (f"demo-precomputed:{CELLS}", 1, "5:70,6:60,14:49", None),
    ],
)
def test_a_tiff_is_the_archives_voxels(
    volume_site: RunningCatalogue,
    volumes: VolumeArchives,
    name: str,
    level: int,
    box: str,
    time: int | None,
) -> None:
    more = {} if time is None else {"t": time}
    reply = volume_site.get(cutout_path(name, level, box, format="tiff", **more))
    assert reply.status_code == 200, visible_text(reply.text)
    assert reply.headers["content-type"] == "image/tiff"
    expected = expected_voxels(volumes, name, level, box, time)
    with tifffile.TiffFile(io.BytesIO(reply.content)) as file:
        found = file.asarray()
        assert found.dtype == expected.dtype
        assert np.array_equal(found.reshape(expected.shape), expected)
        assert len(file.pages) == len(expected)
        assert file.is_ome == (found.dtype != np.uint64)
        if file.is_ome:
            voxel = volume_site.api(f"/datasets/{name}@latest/volume")["levels"][level][
                "voxel_size"
            ]
            assert f'PhysicalSizeX="{voxel[0]}"' in str(file.ome_metadata)


def test_a_chunk_that_a_layer_leaves_out_is_zeros(volume_site: RunningCatalogue) -> None:
    reply = volume_site.get(cutout_path(f"demo-precomputed:{LAYER}", 0, "0:70,0:64,12:28"))
    found = tifffile.imread(io.BytesIO(reply.content))
    assert not found[:, :, :64].any()
    assert found[:, :, 64:].any()


def test_a_cutout_has_the_voxels_of_the_command_on_its_page(
    volume_site: RunningCatalogue, volumes: VolumeArchives, tmp_path: Path, isolated_home: Path
) -> None:
    page = volume_site.page(f"/volume/{EM}@latest?level=2")
    (command,) = (one for one in commands(page) if "neuromirror export" in one)
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = sorted((tmp_path / "cutout").glob("*.tif"))
    reply = volume_site.get(cutout_path(EM, 2, "0:75,0:65,12:82"))
    with volumes.mirror_harness.index() as index:
        label = index.versions.resolve(EM).label
    name = f"{made[0].name.partition('_z')[0]}_z12-82_level-2_{label}.ome.tif"
    assert reply.headers["content-disposition"] == f'attachment; filename="{name}"'
    found = tifffile.imread(io.BytesIO(reply.content))
    assert np.array_equal(found, np.stack([tifffile.imread(one) for one in made]))


def test_one_slice_is_a_png_and_several_are_a_zip_of_them(
    volume_site: RunningCatalogue, volumes: VolumeArchives
) -> None:
    one = volume_site.get(cutout_path(EM, 0, "10:200,20:210,30:31", format="png"))
    assert "_x10-200_y20-210_z30_level-0_state-" in one.headers["content-disposition"]
    assert np.array_equal(
        read_image(one), expected_voxels(volumes, EM, 0, "10:200,20:210,30:31")[0]
    )
    box = "5:100,3:90,8:11"
    several = volume_site.get(cutout_path(f"b:{ACTIVITY}", 0, box, format="png", t=1))
    expected = expected_voxels(volumes, f"b:{ACTIVITY}", 0, box, 1)
    with zipfile.ZipFile(io.BytesIO(several.content)) as file:
        names = file.namelist()
        assert [one.rpartition("_")[2] for one in names] == ["z08.png", "z09.png", "z10.png"]
        for name, plane in zip(names, expected, strict=True):
            assert np.array_equal(np.asarray(Image.open(file.open(name))), plane)
    second = volume_site.get(cutout_path(f"b:{ACTIVITY}", 0, box, format="png", t=1))
    assert second.content == several.content
    volume_site.page(cutout_path("n:demo11/membranes", 0, "0:9,0:9,1:2", format="png"), 400)


def test_voxels_without_checksums_are_not_called_verified(volume_site: RunningCatalogue) -> None:
    volume_site.get(f"/slice/plain:{SKETCH}@latest.png")
    assert 'class="soft unverified"' in volume_site.page(f"/volume/plain:{SKETCH}@latest?shown")
    assert 'class="soft verified"' in volume_site.page(f"/volume/{EM}@latest")


def test_conditional_and_head_cutouts_send_no_upstream_requests(
    volume_site: RunningCatalogue, quiet_volumes: VolumeArchives
) -> None:
    path = cutout_path(EM, 2, "0:10,0:10,12:13")
    tag = volume_site.get(path).headers["etag"]
    requests_before = quiet_volumes.count_voxel_requests()
    assert volume_site.get(path, headers={"If-None-Match": tag}).status_code == 304
    head = requests.head(volume_site.address + path, timeout=300)
    assert (head.status_code, head.headers["etag"]) == (200, tag)
    assert quiet_volumes.count_voxel_requests() == requests_before
    assert volume_site.get(cutout_path(EM, 2, "0:10,0:10,12:14")).headers["etag"] != tag
