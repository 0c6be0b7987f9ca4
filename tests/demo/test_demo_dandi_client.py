"""The real DANDI client reads the demo archive as it reads the real one."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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
        "embargoed": [],
    }}
for given in (None, token):
    with DandiAPIClient(api, token=given) as client:
        try:
            name = client.get_dandiset("000006", "draft").get_raw_metadata()["name"]
        except (HTTPError, HTTP404Error) as error:
            name = None
        results["embargoed"].append(name)
"""


def run_script(script: str, api: str, token: str) -> Any:
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


def test_the_dandi_client_lists_what_its_user_may_see(demo: DemoArchive) -> None:
    output = run_script(LISTED, demo.api_url, demo.token)
    assert output["dandisets"] == [f"00000{number}" for number in (1, 2, 3, 4, 5, 7, 8)]
    published = [one.label for one in demo.dandisets["000002"].published]
    assert output["labels"] == ["draft", *published]
    assert output["paths"] == demo.paths("000002", published[-1])
    assert output["digest"] == demo.sha256("000002", SHARED)
    assert output["name"].endswith("(demo)")
    assert output["entries"] == 36
    anonymous, owner = output["embargoed"]
    assert anonymous is None
    assert owner == demo.dandisets["000006"].draft.description.title


def test_dandi_download_fetches_versions_and_sees_wrong_bytes(
    demo: DemoArchive, tmp_path: Path
) -> None:
    found = {name: demo.dandisets[name].versions[-1] for name in ("000002", "000005", "000008")}
    demo.corrupt_blob("000008", "notes.txt")
    urls = [f"{demo.api_url}/dandisets/{name}/versions/{one.label}/" for name, one in found.items()]
    run = subprocess.run(
        ["dandi", "download", "-o", str(tmp_path), *urls],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode != 0
    differing = [line.split("  ")[0] for line in run.stdout.splitlines() if " differs " in line]
    assert differing == ["000008/notes.txt"], run.stdout + run.stderr
    for name, version in found.items():
        for path, asset in version.assets.items():
            if f"{name}/{path}" in differing:
                continue
            got = tmp_path / name / path
            if asset.blob is not None:
                assert hashlib.sha256(got.read_bytes()).hexdigest() == asset.blob.sha256
            if asset.zarr is not None:
                for entry_path, entry in asset.zarr.entries.items():
                    assert (got / entry_path).read_bytes() == entry.data
