"""The demo as a program, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from neuromirror_demo import DemoArchive, DemoDirectoryError

COMMAND = [sys.executable, "-m", "neuromirror_demo", "serve", "--dir"]


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    with subprocess.Popen(
        [*COMMAND, str(directory), *options], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_its_addresses_and_stops_on_signal(
    tmp_path: Path, demo_files: Path, how: signal.Signals
) -> None:
    directory = tmp_path / "new" / "demo"
    directory.mkdir(parents=True)
    (directory / "cache").symlink_to(demo_files)
    (directory / ".neuromirror-demo").touch()
    with serving(directory, "--no-buckets", "--no-volumes") as (process, addresses):
        assert addresses.keys() == {"dandi", "s3", "control", "mirrors"}
        owner = {"Authorization": f"token {addresses['dandi']['token']}"}
        api = addresses["dandi"]["api"]
        listed = requests.get(f"{api}/dandisets/?embargoed=true", headers=owner, timeout=300).json()
        assert listed["count"] == 8
        bucket = f"{addresses['s3']['endpoint']}/{addresses['s3']['bucket']}"
        assert requests.get(f"{bucket}?list-type=2", timeout=300).status_code == 200
        assert api in Path(addresses["mirrors"], "demo.toml").read_text()
        process.send_signal(how)
        assert process.wait(timeout=600) == 0
    assert not Path(addresses["mirrors"], "demo.toml").exists()
    with pytest.raises(requests.ConnectionError):
        requests.get(api, timeout=5)


def test_serve_starts_buckets_and_volumes_too_and_leaves_nothing(
    tmp_path: Path, demo_files: Path
) -> None:
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "cache").symlink_to(demo_files)
    (directory / ".neuromirror-demo").touch()
    with serving(directory, "--buckets", "--volumes") as (process, addresses):
        buckets = addresses["buckets"]
        for name in buckets["names"]:
            listing = f"{buckets['endpoint']}/{name}?list-type=2"
            assert requests.get(listing, timeout=300).status_code == 200
        assert requests.get(buckets["docdb"]["v1"], timeout=300).json()
        assert buckets["endpoint"] in Path(addresses["mirrors"], "demo-aind.toml").read_text()
        boss = addresses["boss"]
        owner = {"Authorization": f"Token {boss['token']}"}
        answer = requests.get(f"{boss['api']}/v1/collection/", headers=owner, timeout=300)
        assert "demo_private" in answer.json()["collections"]
        assert f'api = "{boss["api"]}"' in Path(addresses["mirrors"], "demo-boss.toml").read_text()
        ndstore = addresses["ndstore"]["api"]
        assert "demo11" in requests.get(f"{ndstore}/public_tokens/", timeout=300).json()
        assert f'api = "{ndstore}"' in Path(addresses["mirrors"], "demo-neurodata.toml").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=600) == 0
    assert os.listdir(addresses["mirrors"]) == []
    with pytest.raises(requests.ConnectionError):
        requests.get(listing, timeout=5)


def test_the_archive_is_controlled_over_http(demo: DemoArchive) -> None:
    def post(verb: str, **given: object) -> requests.Response:
        return requests.post(f"{demo.control_url}/{verb}", json=given, timeout=300)

    label = post("publish", dandiset="000008").json()["result"]
    assert demo.dandisets["000008"].published[-1].label == label
    made = post("add_file", dandiset="000008", path="x.txt", content="x\n").json()["result"]
    assert demo.dandisets["000008"].draft.assets["x.txt"].asset_id == made
    for refused in (post("touch", dandiset="999999"), post("touch", nonsense=1), post("__exit__")):
        assert refused.status_code == 400
        assert refused.json()["detail"]


def test_given_port_is_used_and_released(tmp_path: Path, demo_files: Path) -> None:
    with DemoArchive(tmp_path, cache=demo_files, empty=True) as first:
        port = int(first.api_url.split(":")[2].split("/")[0])
    with DemoArchive(tmp_path, cache=demo_files, empty=True, port=port) as restarted:
        assert restarted.api_url == first.api_url
        assert requests.get(f"{restarted.api_url}/dandisets/", timeout=300).json()["count"] == 0


def test_nothing_is_left_when_the_block_ends(tmp_path: Path, demo_files: Path) -> None:
    others = set(threading.enumerate())
    with DemoArchive(tmp_path / "demo", cache=demo_files) as demo:
        requests.get(f"{demo.api_url}/info/", timeout=300)
        url = f"{demo.s3_url}/demo-dandiarchive/"
        requests.get(url, timeout=300)
        started = set(threading.enumerate()) - others
        assert started
    # one that sends a reply ends when its connection does
    for thread in started:
        thread.join(60)
    assert [thread for thread in started if thread.is_alive()] == []
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)
    assert os.listdir(demo.mirrors) == []


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DemoDirectoryError, match="something else"):
        DemoArchive(tmp_path)
    run = subprocess.run(
        [*COMMAND, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 2
    assert str(tmp_path) in run.stderr
    assert os.listdir(tmp_path) == ["thesis.tex"]
