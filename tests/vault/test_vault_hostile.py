"""Vaults in which others may write: pipes, devices, links and other UUIDs in place of objects."""

import os
import subprocess
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from neuromirror.custody.copies import find_fault
from neuromirror.custody.keep import DamagedCopyError, copy_content
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.protocol import CopyRefusedError, VaultUnavailableError
from neuromirror.vault.s3 import S3Vault
from support.kept_dataset import NAME, KeptDataset
from support.stub_server import StubServer, responds_with
from support.vaults import VAULT_UUID, directory_vault, key_of, put, write_vault

CONTENT = b"some bytes"


def replace_object(vault: DirectoryVault, key: str, make: Callable[[bytes], None]) -> bytes:
    """Replace the file of a content by what ``make`` makes at its path."""
    path = vault.object_path(key)
    os.chmod(os.path.dirname(path), 0o755)
    os.unlink(path)
    make(path)
    return path


def within(seconds: float, function: Callable[[], object]) -> object:
    """Return what a function returns, or the error that it raises, within some seconds."""
    found: list[object] = []

    def call() -> None:
        try:
            found.append(function())
        except NeuromirrorError as error:
            found.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it still waits or reads"
    return found[0]


def grow(path: bytes) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: os.symlink("/dev/zero", path), grow],
    ids=["pipe", "device", "sparse"],
)
def test_an_object_that_is_no_content_is_neither_waited_for_nor_read_without_end(
    tmp_path: Path, make: Callable[[bytes], None]
) -> None:
    vault = directory_vault(tmp_path)
    key = put(vault, tmp_path, CONTENT)
    replace_object(vault, key, make)
    found = within(10, lambda: find_fault(vault, key))
    assert isinstance(found, str | NeuromirrorError)


@pytest.mark.parametrize("above", [0, 1, 2])
def test_no_content_is_written_or_removed_through_a_link(tmp_path: Path, above: int) -> None:
    vault = directory_vault(tmp_path)
    key, victim = key_of(CONTENT), tmp_path / "victim"
    link = Path(os.fsdecode(vault.object_path(key))).parents[above]
    mine = victim / Path(os.fsdecode(vault.object_path(key))).relative_to(link)
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    mode = mine.parent.stat().st_mode
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(victim)
    with pytest.raises(CopyRefusedError, match="symbolic link"):
        put(vault, tmp_path, CONTENT)
    with pytest.raises(CopyRefusedError, match="symbolic link"):
        vault.remove(key)
    assert mine.read_bytes() == b"mine"
    assert mine.parent.stat().st_mode == mode


def test_a_copy_without_end_fills_no_disk(tmp_path: Path) -> None:
    source, target = directory_vault(tmp_path, "one"), directory_vault(tmp_path, "two")
    key = put(source, tmp_path, CONTENT)
    replace_object(source, key, grow)
    read: list[int] = []
    found = within(10, lambda: copy_content(key, source, target, tmp_path, read.append))
    assert isinstance(found, DamagedCopyError)
    assert sum(read) <= 1 << 20
    assert target.find_object(key) is None


@pytest.mark.parametrize(
    "uuid", ["", "web", "a b", "../../x", "00000000-0000-0000-0000-000000000001"]
)
def test_a_vault_has_a_uuid_of_its_own(tmp_path: Path, uuid: str) -> None:
    vault = directory_vault(tmp_path)
    (vault.path / "config").write_text(f"[annex]\n\tuuid = {uuid}\n")
    with pytest.raises(ConfigurationError, match="UUID"):
        DirectoryVault(vault.config, vault.path)


def test_a_vault_cannot_replace_a_remote_of_the_dataset(tmp_path: Path, demo_files: Path) -> None:
    kept = KeptDataset(tmp_path, demo_files)
    kept.stop_upstream()
    branch = kept.harness.repository(NAME)
    log = subprocess.check_output(["git", "-C", branch, "show", "git-annex:remote.log"], text=True)
    kept.vault.uuid = log.split()[0]
    with pytest.raises(NeuromirrorError, match="of another remote of demo:000002"):
        kept.publish()
    refs = kept.harness.refs()
    assert not [ref for ref in refs if ref.endswith("custody/git-annex")]


_KEY = key_of(CONTENT)
_OBJECT = f"<Contents><Key>{_KEY}</Key><Size>10</Size></Contents>"
_TOKEN = "<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>"


@pytest.mark.parametrize(
    "listed",
    [
        _OBJECT + _TOKEN,
        _TOKEN,
        _OBJECT + "<IsTruncated>true</IsTruncated>",
        _OBJECT.replace("10", "x"),
        _OBJECT.replace("Size", "Bytes"),
        _OBJECT.replace("Key", "Name"),
    ],
    ids=["endless", "empty", "no-token", "no-number", "no-size", "no-key"],
)
@pytest.mark.usefixtures("aws_credentials")
def test_a_malformed_list_of_a_bucket_is_one_error(tmp_path: Path, listed: str) -> None:
    name = "http://s3.amazonaws.com/doc/2006-03-01/"
    page = f'<ListBucketResult xmlns="{name}">{listed}</ListBucketResult>'.encode()
    with StubServer() as server:
        server.answers["/our-bucket"] = responds_with(200, page, "application/xml")
        server.answers["/our-bucket/annex-uuid"] = responds_with(200, VAULT_UUID.encode())
        config = write_vault(
            tmp_path / "vaults", "cloud", kind="s3", endpoint=server.url, bucket="our-bucket"
        )
        vault = S3Vault(config)
        with pytest.raises(VaultUnavailableError, match="malformed list"):
            list(islice(vault.keys(), 10))
