"""The real DANDI client reads the demo archive as it reads the real one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neuromirror_demo import SHARED, ZARR, DemoArchive

LISTED = f"""
with DandiAPIClient(api) as client:
    found = {{one.identifier: one for one in client.get_dandisets()}}
    labels = [one.identifier for one in found["000002"].get_versions()]
    newest = client.get_dandiset("000002", labels[-1])
    assets = {{one.path: one for one in newest.get_assets()}}
    image = client.get_dandiset("000005").get_asset_by_path({ZARR!r})
    results = {{
        "dandisets": list(found),
        "labels": labels,
        "paths": sorted(assets),
        "digest": assets[{SHARED!r}].get_raw_metadata()["digest"]["dandi:sha2-256"],
        "name": newest.get_metadata().name,
        "entries": len(list(image.iterfiles())),
    }}
"""

EMBARGOED = """
with DandiAPIClient(api, token=token or None) as client:
    try:
        results = client.get_dandiset("000006", "draft").get_raw_metadata()["name"]
    except (HTTPError, HTTP404Error) as error:
        results = None
"""


def run_script(script: str, api: str, token: str = "") -> Any:
    """Run a script of the dandi client in a separate process and return its JSON output.

    pydantic objects that dandischema keeps alive can crash the interpreter at exit.
    """
    code = (
        "import json, sys\n"
        "from dandi.dandiapi import DandiAPIClient\n"
        "from dandi.exceptions import HTTP404Error\n"
        "from requests import HTTPError\n"
        f"api, token = sys.argv[1:]\n{script}\nprint(json.dumps(results))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, api, token], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_dandi_client_lists_dandisets_versions_and_assets(demo: DemoArchive) -> None:
    output = run_script(LISTED, demo.api_url)
    assert output["dandisets"] == [f"00000{number}" for number in (1, 2, 3, 4, 5, 7, 8)]
    published = [one.label for one in demo.dandisets["000002"].published]
    assert output["labels"] == ["draft", *published]
    assert output["paths"] == demo.paths("000002", published[-1])
    assert output["digest"] == demo.sha256("000002", SHARED)
    assert output["name"].endswith("(demo)")
    assert output["entries"] == 36


def test_the_embargoed_is_refused_to_an_anonymous_client(demo: DemoArchive) -> None:
    assert run_script(EMBARGOED, demo.api_url) is None
    assert run_script(EMBARGOED, demo.api_url, demo.token)


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
