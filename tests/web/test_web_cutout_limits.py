"""Cut-outs that are not given: wrong boxes, upstream's troubles, and the bounds on all of it."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tifffile

from neuromirror.index import VersionRow
from neuromirror.sources.volumes.urls import token_variable
from neuromirror.volume import CUTOUT_FORMATS, middle_plane, plan_cutout
from neuromirror.web.async_index import UnavailableError
from neuromirror.web.cutouts import MAX_CONCURRENT, MAX_SENDING, CutoutService
from neuromirror_demo import walkthrough
from neuromirror_demo.boss import ACTIVITY, TISSUE
from support.running_catalogue import RunningCatalogue, run_catalogue, visible_text
from support.volume_archives import EM, VolumeArchives, cutout_path

# --- refused cutouts


@pytest.mark.parametrize(
    "path",
    [
        cutout_path(EM, 0, "0:301,0:260,12:82"),
        cutout_path(EM, 0, "0:10,0:10,0:20"),
        cutout_path(EM, 0, "10:10,0:10,12:20"),
        cutout_path(EM, 0, "-5:10,0:10,12:20"),
        cutout_path(EM, 0, "a:10,0:10,12:20"),
        cutout_path(EM, 0, "0:10,0:10,12:99999999999999999999"),
        cutout_path(EM, 7, "0:10,0:10,12:20"),
        cutout_path(EM, 0, "0:10,0:10,12:20", format="jpeg"),
        cutout_path(EM, 0, "0:10,0:10,12:20", t=0),
        f"/cutout/{EM}@latest?level=2&box=0:10,0:10,12:13",
        f"/cutout/{EM}@latest?level=2&x0=0&x=10",
        f"/cutout/{EM}@latest?level=2&level=0",
        cutout_path(f"b:{ACTIVITY}", 0, "0:10,0:10,2:3"),
        cutout_path(f"b:{ACTIVITY}", 0, "0:10,0:10,2:3", t=9),
    ],
)
def test_impossible_cutout_is_refused_without_upstream_requests(
    volume_site: RunningCatalogue, quiet_volumes: VolumeArchives, path: str
) -> None:
    page = volume_site.page(path, 400)
    assert 'role="alert"' in page
    assert 'name="x0"' in page
    assert quiet_volumes.count_voxel_requests() == 0


@pytest.mark.parametrize(
    ("fault", "options", "status", "says"),
    [
        ("status", {"status": 503}, 503, "(HTTP 503)"),
        ("status", {"status": 429}, 503, "(HTTP 429)"),
        ("status", {"status": 404}, 502, "HTTP 404"),
        ("zeros", {}, 502, "block "),
        ("html", {}, 502, "block "),
    ],
)
def test_upstream_failure_is_explained(
    volume_site: RunningCatalogue,
    quiet_volumes: VolumeArchives,
    fault: str,
    options: dict[str, Any],
    status: int,
    says: str,
) -> None:
    quiet_volumes.boss.fault(fault, **({"path": "/cutout/"} | options))
    reply = volume_site.get(cutout_path(EM, 2, "0:10,0:10,12:13"))
    assert reply.status_code == status, visible_text(reply.text)
    assert says in visible_text(reply.text)
    assert ("retry-after" in reply.headers) == (status == 503)
    assert str(quiet_volumes.mirror_harness.folder) not in reply.text


def test_what_only_a_token_opens_stays_closed_though_the_operator_has_one(
    quiet_volumes: VolumeArchives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(token_variable(quiet_volumes.boss.host), quiet_volumes.boss.token)
    quiet_volumes.boss.set_public(TISSUE, False)
    try:
        with run_catalogue(quiet_volumes.mirror_harness.store) as site:
            text = site.text(cutout_path(EM, 2, "0:10,0:10,12:13"), 403)
            assert "token" in text
            assert site.get(f"/slice/{EM}@latest.png").status_code == 403
    finally:
        quiet_volumes.boss.set_public(TISSUE, True)


def test_third_concurrent_cutout_is_refused_with_503(
    volume_site: RunningCatalogue, quiet_volumes: VolumeArchives
) -> None:
    fault = quiet_volumes.boss.fault("hang", path="/cutout/", seconds=60)
    with ThreadPoolExecutor(2) as pool:
        first = [
            pool.submit(volume_site.get, cutout_path(EM, 2, f"0:10,0:10,{z}:{z + 1}"))
            for z in (12, 50)
        ]
        while quiet_volumes.count_voxel_requests() < 2:
            assert not any(one.done() for one in first)
            time.sleep(0.02)
        third = volume_site.get(cutout_path(EM, 2, "0:10,0:10,70:71"))
        assert (third.status_code, third.headers["retry-after"]) == (503, "30")
        assert "in half a minute" in visible_text(third.text)
        assert quiet_volumes.count_voxel_requests() == 2
        assert volume_site.get(f"/volume/{EM}@latest").status_code == 200
        fault.clear()
        assert [one.result().status_code for one in first] == [200, 200]
    assert volume_site.get(cutout_path(EM, 2, "0:10,0:10,70:71")).status_code == 200


def test_without_the_optional_packages_the_page_has_facts_and_the_command(
    quiet_volumes: VolumeArchives, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "hidden = {'numpy', 'tifffile', 'zarr', 'h5py'}\n"
        "PathFinder.find_spec = lambda name, path=None, target=None: (\n"
        "    None if name in hidden else find(name, path, target))\n"
    )
    store = quiet_volumes.mirror_harness.folder
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NEUROMIRROR_STORE": str(store)}
    with walkthrough.run_catalogue(tmp_path, environment) as process:
        site = RunningCatalogue(process.address)
        text = site.text(f"/volume/{EM}@latest")
        assert "4 × 4 × 40 nm" in text
        assert "pip install 'neuromirror[volumes]'" in text
        site.page(cutout_path(EM, 0, "0:10,0:10,12:20"), 501)
        assert site.get(f"/slice/{EM}@latest.png").status_code == 501
        assert quiet_volumes.count_voxel_requests() == 0


# --- the bounds, from inside


def row_of(volumes: VolumeArchives, name: str) -> VersionRow:
    with volumes.mirror_harness.index() as index:
        return index.versions.resolve(name)


def test_cutouts_being_sent_are_limited(quiet_volumes: VolumeArchives) -> None:
    async def request_cutouts() -> None:
        cutouts = CutoutService(quiet_volumes.mirror_harness.store)
        row = row_of(quiet_volumes, EM)
        region = plan_cutout(cutouts.describe(row), "2", ((0, 4), (0, 4), (12, 13)))
        kind = CUTOUT_FORMATS["tiff"](region.region)
        files = [await cutouts.cut(row, region, kind) for _ in range(MAX_SENDING)]
        with pytest.raises(UnavailableError, match="half a minute") as caught:
            await cutouts.cut(row, region, kind)
        assert caught.value.status == 503
        cutouts.finish_sending()
        files.append(await cutouts.cut(row, region, kind))
        for file in files:
            assert tifffile.imread(file).shape == (4, 4)
            file.close()

    asyncio.run(request_cutouts())


def test_cutout_timeout_frees_its_slot(quiet_volumes: VolumeArchives) -> None:
    async def request_cutouts() -> None:
        cutouts = CutoutService(quiet_volumes.mirror_harness.store, seconds=0.5)
        row = row_of(quiet_volumes, EM)
        of = cutouts.describe(row)
        region = plan_cutout(of, "0", ((0, 4), (0, 4), (12, 13)))
        kind = CUTOUT_FORMATS["tiff"](region.region)
        with quiet_volumes.boss.fault("slow", path="/cutout/", delay=0.2, chunk=512):
            for _ in range(MAX_CONCURRENT + 1):
                with pytest.raises(UnavailableError, match="longer than") as caught:
                    await cutouts.cut(row, region, kind)
                assert caught.value.status == 504
            with pytest.raises(UnavailableError, match="longer than"):
                await cutouts.picture(row, of, middle_plane(of))
            known = cutouts.cached_picture(row.commit)
            assert isinstance(known, UnavailableError)
        cutouts = CutoutService(quiet_volumes.mirror_harness.store)
        (await cutouts.cut(row, region, kind)).close()

    asyncio.run(request_cutouts())


def test_page_without_cutouts_sends_no_upstream_requests(quiet_volumes: VolumeArchives) -> None:
    with run_catalogue(quiet_volumes.mirror_harness.store, "--no-cutouts") as site:
        page = site.page(f"/volume/{EM}@latest?level=1")
        assert "<img" not in page
        assert 'name="x0"' not in page
        assert "4 × 4 × 40 nm" in visible_text(page)
        assert "--level 1 --box 0:150,0:130,12:82 --format tiff" in visible_text(page)
        site.page(cutout_path(EM, 0, "0:10,0:10,12:20"), 403)
        assert site.get(f"/slice/{EM}@latest.png").status_code == 403
        assert quiet_volumes.count_voxel_requests() == 0
