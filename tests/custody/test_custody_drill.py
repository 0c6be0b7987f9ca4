"""Drills: a lock file is restored from vaults alone, and everything else is really blocked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.config.vault_files import load_vaults
from neuromirror.custody import drill
from neuromirror.custody.drill import DrillRecords, DrillResult, record_drill, run_drill
from neuromirror.lab.lockfile import load_lock
from neuromirror.store import Store
from support.faulty_s3 import FaultyS3
from support.loopback_http import QuietHandler, serving
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest
from support.vaults import write_vault


@pytest.fixture
def lab(mirror: MirrorHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a mirror, a lock file, and a vault in the store with its contents."""
    pin_latest(mirror, tmp_path / "datasets.lock", "demo:000001")
    write_vault(tmp_path / "vaults", "nas", kind="directory")
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["keep", "datasets.lock", "--in", "nas"]).exit_code == 0
    return tmp_path


def run(lab: Path) -> DrillResult:
    mirror = MirrorHarness(lab / "mirrors", lab / "store")
    return run_drill(lab / "datasets.lock", load_vaults(lab / "vaults"), mirror.store)


def copies(lab: Path) -> list[Path]:
    folder = lab / "store" / "vaults" / "nas" / "annex" / "objects"
    return sorted(one for one in folder.rglob("*") if one.is_file())


def assert_all_restored(lab: Path, result: DrillResult) -> None:
    assert (result.ok, result.problems) == (True, [])
    (pin,) = load_lock(lab / "datasets.lock").datasets
    assert result.commits == [pin.commit]
    assert result.files == len(copies(lab)) > 0
    assert result.bytes == sum(copy.stat().st_size for copy in copies(lab))


def test_all_files_are_restored_and_verified_and_wrong_bytes_make_a_drill_fail(lab: Path) -> None:
    assert_all_restored(lab, run(lab))
    damaged = copies(lab)[0]
    content = damaged.read_bytes()
    damaged.chmod(0o644)
    damaged.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert not run(lab).ok


def test_a_lock_file_may_have_a_path_that_is_not_utf_8(lab: Path) -> None:
    folder = lab / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    for name in ("datasets.lock", "datasets.lock.d"):
        (lab / name).rename(folder / name)
    lock = folder / "datasets.lock"
    done = CliRunner().invoke(main, ["drill", str(lock)])
    assert done.exit_code == 0, done.output
    drills = DrillRecords.load(Store.open(lab / "store")).drills
    assert {path: one.ok for path, one in drills.items()} == {str(lock): True}
    assert CliRunner().invoke(main, ["status"]).exit_code == 0


def test_without_the_kernel_a_copy_that_only_upstream_still_has_makes_a_drill_fail(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "_NO_NETWORK", ("no-such-program",))
    result = run(lab)
    assert_all_restored(lab, result)
    assert result.blocked == "process"
    lost = copies(lab)[0]
    lost.parent.chmod(0o755)
    lost.unlink()
    done = CliRunner().invoke(main, ["drill", "datasets.lock", "--json"])
    assert done.exit_code == 1
    (record,) = map(json.loads, done.stdout.splitlines())
    assert record["status"] == "error"
    assert record["problems"]
    status = CliRunner().invoke(main, ["status", "--json"])
    assert status.exit_code == 1
    (shown,) = [
        one for one in map(json.loads, status.stdout.splitlines()) if one.get("kind") == "drill"
    ]
    assert shown["status"] == "error"


def test_a_lock_file_has_one_record_however_its_path_is_written(lab: Path) -> None:
    (lab / "link").symlink_to(lab)
    store = Store.open(lab / "store")
    for path in ("datasets.lock", "vaults/../datasets.lock", "link/datasets.lock"):
        record_drill(store, Path(path), DrillResult(1.0, ok=True))
    assert list(DrillRecords.load(store).drills) == [str((lab / "datasets.lock").resolve())]


def test_a_lock_is_restored_from_a_bucket_with_credentials_or_by_its_public_url(
    lab: Path, s3_server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "NEUROMIRROR_VAULTS": str(lab / "vaults"),
    }.items():
        monkeypatch.setenv(name, value)
    bucket = s3_server.make()
    settings = {"kind": "s3", "bucket": bucket.name, "endpoint": s3_server.endpoint}
    write_vault(lab / "vaults", "cloud", **settings)
    kept = CliRunner().invoke(main, ["keep", "datasets.lock", "--in", "cloud"])
    assert kept.exit_code == 0, kept.output
    drilled = ["drill", "datasets.lock", "--in", "cloud", "--json"]
    for more in ({}, {"public_url": f"{s3_server.endpoint}/{bucket.name}/"}):
        write_vault(lab / "vaults", "cloud", **settings, **more)
        done = CliRunner().invoke(main, drilled)
        (record,) = map(json.loads, done.stdout.splitlines())
        assert (done.exit_code, record["problems"], record["files"]) == (0, [], len(copies(lab)))
    bucket.client.delete_object(Bucket=bucket.name, Key=copies(lab)[0].name)
    assert CliRunner().invoke(main, drilled).exit_code == 1


def test_a_file_that_is_no_lock_is_wrong_usage_and_not_recorded(lab: Path) -> None:
    (lab / "other.lock").write_text("version = 1\n")
    assert CliRunner().invoke(main, ["drill", "other.lock"]).exit_code == 2
    assert CliRunner().invoke(main, ["status"]).exit_code == 0


def test_no_library_of_the_process_can_reach_another_host_or_read_the_store(tmp_path: Path) -> None:
    (tmp_path / "store" / "vault").mkdir(parents=True)
    (tmp_path / "store" / "secret").write_text("in the store")
    (tmp_path / "store" / "vault" / "copy").write_text("in the vault")
    script = f"""
import http.client, socket, sqlite3, urllib.request
from neuromirror.custody.drill import block
refused = block([], [{str(tmp_path / "store")!r}], [{str(tmp_path / "store" / "vault")!r}])
URL = "http://127.0.0.1:PORT/"
def attempt(what):
    try:
        what()
    except OSError as error:
        return type(getattr(error, "reason", error)).__name__
    return "allowed"
print(attempt(lambda: urllib.request.urlopen(URL)))
print(attempt(lambda: socket.create_connection(("127.0.0.1", PORT))))
print(attempt(lambda: socket.getaddrinfo("example.org", 80)))
print(attempt(lambda: open({str(tmp_path / "store" / "secret")!r})))
print(attempt(lambda: open({str(tmp_path / "store" / "vault" / "copy")!r})))
print(len(refused))
"""
    with serving(QuietHandler) as url:
        port = url.rstrip("/").rpartition(":")[2]
        done = subprocess.run(
            [sys.executable, "-c", script.replace("PORT", port)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    *found, refused = done.stdout.split()
    assert found == ["BlockedError"] * 4 + ["allowed"]
    assert int(refused) == 3
