"""Objects in archive storage classes: mirrored, and not readable before a restore."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from neuromirror.store import Store
from neuromirror_demo import DemoBuckets
from support.command_shell import Shell
from support.running_catalogue import run_catalogue

BUCKET = "demo-aind-open-data"
NAME = "cold:asset"
COLD = "DEEP_ARCHIVE.bin"


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
    assert "1 in an archive storage class, not readable now" in shell.run("sync", NAME).out
    (shown,) = shell.records("show", NAME)
    assert shown["retention"] == {"archived": 1, "mutable-bucket": 2}
    lock = str(tmp_path / "datasets.lock")
    assert "archive storage class" in shell.run("pin", NAME, "-o", lock).out
    urls = {one["url"].rpartition("/")[2]: one for one in shell.records("audit", NAME, code=1)[:3]}
    assert {name: one["health"] for name, one in urls.items()} == {
        COLD: "archived",
        "STANDARD.bin": "ok",
        "GLACIER_IR.bin": "ok",
    }
    got = shell.run_any("get", NAME, "--into", str(tmp_path / "got"))
    assert got.code == 1
    assert COLD in got.out + got.err
    assert "restore-object" in got.out + got.err
    assert "token" not in got.out + got.err
    with run_catalogue(Store.open(tmp_path / "store")) as site:
        for page in (NAME, f"{NAME}@{shown['version']}"):
            text = requests.get(f"{site.address}/dataset/{page}", timeout=60).text
            assert "1 archived, not readable now<" in text, page
    # a restored copy is readable; no commit depends on the class
    commit = shown["commit"]
    version = buckets.bucket(BUCKET).current(f"asset/{COLD}".encode())
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


def test_an_object_that_intelligent_tiering_archived_is_not_ok(
    buckets: DemoBuckets, tmp_path: Path
) -> None:
    # listings state only that it is in INTELLIGENT_TIERING
    version = buckets.put("asset/tiered.bin", "tiered", bucket=BUCKET)
    version.storage_class, version.archive_status = "INTELLIGENT_TIERING", "ARCHIVE_ACCESS"
    shell = Shell(buckets.mirrors, tmp_path / "store")
    assert "1 in an archive storage class" in shell.run("sync", NAME).out
    audited = shell.records("audit", NAME, code=1)
    health = {one["url"].rpartition("/")[2]: one["health"] for one in audited if "url" in one}
    assert health["tiered.bin"] == "archived"
    got = shell.run_any("get", NAME, "--into", str(tmp_path / "got"))
    assert got.code == 1
    assert "tiered.bin" in got.out + got.err
    assert "ARCHIVE_ACCESS" in got.out + got.err or "restore-object" in got.out + got.err
    lock = str(tmp_path / "datasets.lock")
    shell.run("pin", NAME, "-o", lock)
    found = {
        one["path"]: one["status"] for one in shell.records("verify", "--remote", lock, code=1)
    }
    assert (found["tiered.bin"], found[COLD], found["STANDARD.bin"]) == ("impossible",) * 2 + (
        "ok",
    )
    version.archive_status = ""
    time.sleep(1.1)
    audited = shell.records("audit", NAME, "--older-than", "0", code=1)
    health = {one["url"].rpartition("/")[2]: one["health"] for one in audited if "url" in one}
    assert health["tiered.bin"] == "ok"
