"""The server of the benchmark ``stream``: its listing and its ranges."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from neuromirror.net import S3Bucket, Session
from neuromirror_demo.catalogue_process import first_line

_KEYS = ("a.nwb", "image.zarr/.zarray", "image.zarr/0/0")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    for key in _KEYS:
        path = tmp_path / "bucket" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode() * 100)
    scripts = Path(__file__).parents[2] / "scripts"
    command = [sys.executable, "-m", "benchmarks.stream_server", str(tmp_path / "bucket"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=scripts) as process:
        try:
            yield f"http://127.0.0.1:{int(first_line(process))}"
        finally:
            process.terminate()


def test_the_bucket_lists_and_returns_its_objects(address: str) -> None:
    bucket = S3Bucket(
        Session(is_private_allowed=lambda *_: True), "bench", region="us-east-1", endpoint=address
    )
    rows = {row.key.decode(): row.size for row in bucket.objects(b"").rows()}
    assert rows == {key: len(key) * 100 for key in _KEYS}
    whole = requests.get(f"{address}/bench/a.nwb", timeout=20).content
    for given, expected in (("2-7", whole[2:8]), ("490-", whole[490:]), ("-3", whole[-3:])):
        headers = {"Range": f"bytes={given}"}
        reply = requests.get(f"{address}/bench/a.nwb", headers=headers, timeout=20)
        assert (reply.status_code, reply.content) == (206, expected)
    assert requests.get(f"{address}/bench/b", timeout=20).status_code == 404
    counts = requests.get(f"{address}/-/counts", timeout=20).json()
    assert counts["bytes"] == len(whole) + 6 + 10 + 3
