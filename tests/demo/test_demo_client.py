"""The real DANDI client reads the demo archive as it reads the real one."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from neuromirror.demo import SHARED, ZARR, DemoArchive


def test_the_dandi_client_lists_dandisets_versions_and_assets(demo: DemoArchive) -> None:
    from dandi.dandiapi import DandiAPIClient

    with DandiAPIClient(demo.api_url) as client:
        found = {one.identifier: one for one in client.get_dandisets()}
        assert list(found) == [
            *("000001", "000002", "000003", "000004", "000005", "000007", "000008")
        ]
        labels = [one.identifier for one in found["000002"].get_versions()]
        assert labels == ["draft", *(one.label for one in demo.dandisets["000002"].published)]
        newest = client.get_dandiset("000002", labels[-1])
        assets = {one.path: one for one in newest.get_assets()}
        assert sorted(assets) == demo.paths("000002", labels[-1])
        digest = assets[SHARED].get_raw_metadata()["digest"]["dandi:sha2-256"]
        assert digest == demo.sha256("000002", SHARED)
        metadata = newest.get_metadata()
        assert metadata.name.endswith("(demo)")
        image = client.get_dandiset("000005").get_asset_by_path(ZARR)
        assert len(list(image.iterfiles())) == 36


def test_the_embargoed_is_refused_to_an_anonymous_client(demo: DemoArchive) -> None:
    from dandi.dandiapi import DandiAPIClient
    from dandi.exceptions import HTTP404Error
    from requests import HTTPError

    with DandiAPIClient(demo.api_url) as client, pytest.raises((HTTPError, HTTP404Error)):
        client.get_dandiset("000006", "draft").get_raw_metadata()
    with DandiAPIClient(demo.api_url, token=demo.token) as client:
        assert client.get_dandiset("000006", "draft").get_raw_metadata()["name"]


@pytest.mark.parametrize("dandiset", ["000002", "000005"])
def test_dandi_download_fetches_and_verifies_a_version(
    demo: DemoArchive, tmp_path: Path, dandiset: str
) -> None:
    version = demo.dandisets[dandiset].versions[-1]
    url = f"{demo.api_url}/dandisets/{dandiset}/versions/{version.label}/"
    run = subprocess.run(
        ["dandi", "download", "-o", str(tmp_path), url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr + run.stdout
    for path, asset in version.assets.items():
        got = tmp_path / dandiset / path
        if asset.blob is not None:
            assert hashlib.sha256(got.read_bytes()).hexdigest() == asset.blob.sha256
        if asset.zarr is not None:
            for name, entry in asset.zarr.entries.items():
                assert (got / name).read_bytes() == entry.data


def test_dandi_download_sees_wrong_bytes(demo: DemoArchive, tmp_path: Path) -> None:
    demo.corrupt_blob("000008", "notes.txt")
    url = f"{demo.api_url}/dandisets/000008/versions/draft/"
    run = subprocess.run(
        ["dandi", "download", "-o", str(tmp_path), url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode != 0
