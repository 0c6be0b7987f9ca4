"""Faults during ``keep``: nothing counts that is not there, and the next run converges."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from neuromirror.config.vault_files import VaultConfig
from neuromirror.custody.copies import KeepItem, KeepOptions, KeepOutcome, find_fault
from neuromirror.custody.keep import run_keep
from neuromirror.custody.vaults import adopt_files, find_files, read_due_copies
from neuromirror.index.ledger import Ledger, Stored
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.opening import open_vault
from neuromirror.vault.protocol import Vault
from neuromirror.vault.s3 import S3Vault
from support.faulty_s3 import FaultyS3
from support.loopback_http import serving_directory
from support.vaults import key_of, write_vault

COUNT = 12
STEPS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.chmod"})


def content_of(number: int) -> bytes:
    """Return a content; every third one is too large for memory."""
    return b"%08d" % number * (100 if number % 3 else 100_000)


def items_at(url: str, count: int) -> list[KeepItem]:
    """Return the contents of a server."""
    contents = [content_of(number) for number in range(count)]
    return [
        KeepItem("demo:1", "1", f"{n}.bin", key_of(one), len(one), (f"{url}/{n}.bin",))
        for n, one in enumerate(contents)
    ]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the contents."""
    folder = tmp_path_factory.mktemp("served")
    for number in range(COUNT):
        (folder / f"{number}.bin").write_bytes(content_of(number))
    with serving_directory(folder) as address:
        yield address


def keep(vault: Vault, folder: Path, url: str) -> list[KeepOutcome]:
    options = KeepOptions(jobs=2, allowed_hosts=frozenset({urlsplit(url).netloc}))
    with Ledger.open(folder / "custody.sqlite") as ledger:
        return list(run_keep(items_at(url, COUNT), vault, ledger, options))


def recorded(vault: Vault, folder: Path) -> set[str]:
    with Ledger.open(folder / "custody.sqlite") as ledger:
        return {copy.key for copy in ledger.copies_in(vault.uuid, state="present")}


def assert_complete(vault: Vault, folder: Path, url: str) -> None:
    """Check that the vault has right bytes for every key, and that exactly these are recorded."""
    keys = {item.key for item in items_at(url, COUNT)}
    assert recorded(vault, folder) == keys
    assert dict(vault.keys()).keys() == keys
    assert [find_fault(vault, key) for key in keys] == [None] * COUNT


def assert_nothing_wrong(vault: Vault, folder: Path) -> None:
    """Check that each recorded copy is there with the right bytes."""
    assert [find_fault(vault, key) for key in recorded(vault, folder)] == [None] * len(
        recorded(vault, folder)
    )


def start_keeper(config: VaultConfig, folder: Path, url: str, kill: int = 0) -> BaseProcess:
    """Keep the contents in a forked process, which exits with 1 unless all are kept.

    With ``kill`` > 0 it kills itself at that step: a file that is opened for writing, renamed,
    removed or made read-only, or a folder that is created.
    """
    step = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal step
        is_write = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if (event in STEPS or is_write) and str(folder) in str(arguments[0]):
            step += 1
            if step == kill:
                os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        if kill:
            sys.addaudithook(hook)
        with closing(open_vault(config, None, create=True)) as vault:
            statuses = {one.status for one in keep(vault, folder, url)}
        sys.exit(not statuses <= {"ok", "notneeded"})

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


@pytest.mark.kill
def test_killed_at_any_step_the_next_run_converges(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROMIRROR_CACHE", "off")
    config = write_vault(tmp_path / "vaults", kind="directory", path=str(tmp_path / "nas"))
    kill, killed = 1, 0
    while True:
        process = start_keeper(config, tmp_path, url, kill)
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
        if (tmp_path / "nas" / "annex" / "tmp").exists():
            vault = DirectoryVault(config, tmp_path / "nas")
            if (tmp_path / "custody.sqlite").exists():
                with Ledger.open(tmp_path / "custody.sqlite") as ledger:
                    ledger.add_vault(vault.uuid, "nas", "directory")
                assert_nothing_wrong(vault, tmp_path)
            # a complete name has the complete content, whatever was recorded
            assert {find_fault(vault, key) for key in dict(vault.keys())} <= {None}
        kill += 1 + kill // 3
    assert killed > 5
    assert_complete(DirectoryVault(config, tmp_path / "nas"), tmp_path, url)


@pytest.mark.kill
def test_two_keepers_at_once_store_each_content_once(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROMIRROR_CACHE", "off")
    config = write_vault(tmp_path / "vaults", kind="directory", path=str(tmp_path / "nas"))
    keepers = [start_keeper(config, tmp_path, url) for _ in range(2)]
    for process in keepers:
        process.join(120)
    assert [process.exitcode for process in keepers] == [0, 0]
    assert_complete(DirectoryVault(config, tmp_path / "nas"), tmp_path, url)


def test_a_full_disk_is_an_error_and_the_rest_fits_later(
    tmp_path: Path, url: str, mount_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.vault.directory.DISK_RESERVE", 0)
    monkeypatch.setenv("NEUROMIRROR_CACHE", "off")
    disk = mount_disk("3m")
    config = write_vault(tmp_path / "vaults", kind="directory", path=str(disk / "vault"))
    vault = DirectoryVault(config, disk / "vault", create=True)
    filler = disk / "filler"
    filler.write_bytes(b"x" * (1200 << 10))
    found = keep(vault, tmp_path, url)
    failed = [one for one in found if one.failed]
    assert failed
    assert {one.host for one in failed} == {"nas"}
    assert "Traceback" not in str(failed)
    assert recorded(vault, tmp_path) == {one.key for one in found if one.status == "ok"}
    assert_nothing_wrong(vault, tmp_path)
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    assert not any(one.failed for one in keep(vault, tmp_path, url))
    assert_complete(vault, tmp_path, url)


def test_a_storm_of_errors_ends_the_run_with_one_message(
    tmp_path: Path, url: str, s3_server: FaultyS3, bucket: S3Vault
) -> None:
    with s3_server.storm(503, "SlowDown", "PUT"):
        found = keep(bucket, tmp_path, url)
    assert not any(one.status == "ok" for one in found)
    (last,) = (one for one in found if one.path == ".")
    assert last.host == "cloud"
    assert recorded(bucket, tmp_path) == set()
    assert not any(one.failed for one in keep(bucket, tmp_path, url))
    assert_complete(bucket, tmp_path, url)


def test_credentials_that_expire_half_way_keep_what_was_stored(
    tmp_path: Path, url: str, s3_server: FaultyS3, bucket: S3Vault
) -> None:
    stored = []

    def expire(method: str, path: str) -> tuple[int, str] | None:
        if method == "PUT":
            stored.append(path)
        return (400, "ExpiredToken") if len(stored) > COUNT // 2 else None

    with s3_server.failing(expire):
        found = keep(bucket, tmp_path, url)
    (last,) = (one for one in found if one.failed)
    assert last.path == "."
    assert "credentials" in last.message
    kept = {one.key for one in found if one.status == "ok"}
    assert recorded(bucket, tmp_path) == kept == set(dict(bucket.keys()))
    assert kept
    assert not any(one.failed for one in keep(bucket, tmp_path, url))
    assert_complete(bucket, tmp_path, url)


def test_a_bucket_that_was_emptied_is_noticed_and_filled(
    tmp_path: Path, url: str, s3_server: FaultyS3, bucket: S3Vault
) -> None:
    keep(bucket, tmp_path, url)
    for key, _ in list(bucket.keys()):
        s3_server.client.delete_object(Bucket=bucket.config.settings.bucket, Key=key)  # type: ignore[union-attr]
    assert {one.status for one in keep(bucket, tmp_path, url)} == {"ok"}
    assert_complete(bucket, tmp_path, url)


def test_a_copy_that_s3_refuses_to_describe_is_one_error(
    tmp_path: Path, url: str, s3_server: FaultyS3, bucket: S3Vault
) -> None:
    keep(bucket, tmp_path, url)
    (tmp_path / "custody.sqlite").unlink()
    first = items_at(url, COUNT)[0].key

    def refuse(method: str, path: str) -> tuple[int, str] | None:
        return (400, "InvalidRequest") if method == "HEAD" and first in path else None

    with s3_server.failing(refuse):
        found = keep(bucket, tmp_path, url)
    assert {one.key for one in found if one.failed} == {first}
    assert len(recorded(bucket, tmp_path)) == COUNT - 1
    assert not any(one.failed for one in keep(bucket, tmp_path, url))
    assert_complete(bucket, tmp_path, url)


def test_a_file_that_s3_refuses_does_not_end_an_import(
    tmp_path: Path, url: str, s3_server: FaultyS3, bucket: S3Vault
) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    items = {one.key: one for one in items_at(url, 3)}
    for number, item in enumerate(items.values()):
        with urlopen(item.urls[0]) as response:
            (folder / f"{number}").write_bytes(response.read())
    refused = next(iter(items))

    def refuse(method: str, path: str) -> tuple[int, str] | None:
        return (400, "InvalidRequest") if method == "PUT" and refused in path else None

    with s3_server.failing(refuse), Ledger.open(tmp_path / "custody.sqlite") as ledger:
        found = list(adopt_files(find_files(folder), folder, items, bucket, ledger))
    assert {one.key: one.status for one in found} == {
        key: "error" if key == refused else "ok" for key in items
    }
    assert recorded(bucket, tmp_path) == items.keys() - {refused}


def test_wrong_bytes_that_s3_refuses_to_describe_are_damaged(
    tmp_path: Path, s3_server: FaultyS3, bucket: S3Vault
) -> None:
    key = key_of(b"right")
    s3_server.client.put_object(
        Bucket=bucket.config.settings.bucket,  # type: ignore[union-attr]
        Key=key,
        Body=b"wrong",
    )

    def refuse(method: str, path: str) -> tuple[int, str] | None:
        return (400, "InvalidRequest") if method == "HEAD" and key in path else None

    with Ledger.open(tmp_path / "custody.sqlite") as ledger, s3_server.failing(refuse):
        ledger.add_vault(bucket.uuid, "cloud", "s3")
        ledger.record(bucket.uuid, [Stored(key, 5, "listing")])
        (found,) = read_due_copies(bucket, ledger, 0, KeepOptions())
        (copy,) = ledger.copies_in(bucket.uuid)
    assert (found.failed, found.host, copy.state) == (True, None, "damaged")
