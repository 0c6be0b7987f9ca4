"""Objects in archive storage classes: mirrored, and not readable before a restore."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror_demo import DemoBuckets
from support.command_shell import Shell

BUCKET = "demo-aind-open-data"
NAME = "cold:asset"


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """A bucket whose dataset has an object in each of three storage classes."""
    with DemoBuckets(tmp_path / "buckets", empty=True) as running:
        (running.mirrors / "cold.toml").write_text(
            f'source = "s3"\n[options]\nbucket = "{BUCKET}"\nendpoint = "{running.endpoint}"\n'
            "depth = 1\n"
        )
        for storage_class in ("STANDARD", "GLACIER_IR", "DEEP_ARCHIVE"):
            version = running.put(f"asset/{storage_class}.bin", storage_class)
            version.storage_class = storage_class
        yield running


def test_an_archived_object_is_named_everywhere_and_no_url_of_it_is_ok(
    buckets: DemoBuckets, tmp_path: Path
) -> None:
    shell = Shell(buckets.mirrors, tmp_path / "store")
    cold = "DEEP_ARCHIVE.bin"
    assert "1 in an archive storage class, not readable now" in shell.run("sync", NAME).out
    (shown,) = shell.records("show", NAME)
    assert shown["retention"] == {"archived": 1, "mutable-bucket": 2}
    lock = str(tmp_path / "datasets.lock")
    assert "archive storage class" in shell.run("pin", NAME, "-o", lock).out
    urls = {one["url"].rpartition("/")[2]: one for one in shell.records("audit", NAME, code=1)[:3]}
    assert {name: one["health"] for name, one in urls.items()} == {
        cold: "archived",
        "STANDARD.bin": "ok",
        "GLACIER_IR.bin": "ok",
    }
    got = shell.run_any("get", NAME, "--into", str(tmp_path / "got"))
    assert got.code == 1
    assert "DEEP_ARCHIVE.bin" in got.out + got.err
    assert "restore-object" in got.out + got.err
    assert "token" not in got.out + got.err
    # a restored copy is readable; no commit depends on the class
    commit = shown["commit"]
    version = buckets.bucket(BUCKET).current(f"asset/{cold}".encode())
    assert version is not None
    version.restore = 'ongoing-request="true"'
    time.sleep(1.1)  # checks of the same second are not older
    assert "being restored" in shell.run_any("audit", NAME, "--older-than", "0").err
    version.restore = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2029 00:00:00 GMT"'
    time.sleep(1.1)
    shell.run("audit", NAME, "--older-than", "0")
    version.storage_class, version.restore = "STANDARD", ""
    shell.run("sync", NAME)
    (shown,) = shell.records("show", NAME)
    assert (shown["retention"], shown["commit"]) == ({"mutable-bucket": 3}, commit)
