"""Copies are read, checked and made: which contents, from vault to vault, and what is recorded."""

import os
import threading
from pathlib import Path

import pytest

from neuromirror.custody.copies import (
    KeepContents,
    KeepItem,
    KeepOptions,
    UncheckedCopyError,
    find_fault,
    is_proof,
)
from neuromirror.custody.keep import CopyTask, copy_between
from neuromirror.index.ledger import Ledger
from neuromirror.transfer.outcomes import Finding
from neuromirror.transfer.verified_repository import PinnedFile
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.protocol import CopyMissingError, Presence, VaultError
from support.vaults import CONTENTS, KEYS, directory_vault, filled, key_of, put


class CountingVault(DirectoryVault):
    """A vault that counts how often it is made durable."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1
        super().flush()


@pytest.fixture
def target(tmp_path: Path, ledger: Ledger) -> CountingVault:
    made = directory_vault(tmp_path, "cloud")
    vault = CountingVault(made.config, made.path)
    ledger.add_vault(vault.uuid, "cloud", "directory")
    return vault


@pytest.fixture
def tasks(tmp_path: Path, ledger: Ledger) -> list[CopyTask]:
    source = filled(tmp_path, ledger, "nas")
    sizes = zip(KEYS, map(len, CONTENTS), strict=True)
    return [CopyTask(KeepItem("demo:1", "1", "a", key, size, ()), [source]) for key, size in sizes]


def recorded(ledger: Ledger, vault: DirectoryVault) -> set[str]:
    return {copy.key for copy in ledger.copies_in(vault.uuid)}


def test_copies_are_made_durable_and_recorded_together(
    ledger: Ledger, target: CountingVault, tasks: list[CopyTask]
) -> None:
    found = list(copy_between(tasks, target, ledger, KeepOptions()))
    assert {(one.key, one.status, one.message) for one in found} == {
        (key, "ok", "from nas") for key in KEYS
    }
    assert recorded(ledger, target) == set(KEYS)
    assert target.flushes == 1


def test_copies_are_recorded_also_if_the_caller_stops(
    ledger: Ledger, target: CountingVault, tasks: list[CopyTask]
) -> None:
    lost = KeepItem("demo:1", "1", "lost", key_of(b"lost"), 4, ())
    run = copy_between([*tasks, CopyTask(lost, tasks[0].sources)], target, ledger, KeepOptions())
    assert next(run).status == "error"
    run.close()
    assert recorded(ledger, target) == {key for key, _ in list(target.keys())}


def test_copies_are_not_recorded_if_the_vault_is_gone_before_they_are_durable(
    ledger: Ledger, target: CountingVault, tasks: list[CopyTask], tmp_path: Path
) -> None:
    lost = KeepItem("demo:1", "1", "lost", key_of(b"lost"), 4, ())
    run = copy_between([*tasks, CopyTask(lost, tasks[0].sources)], target, ledger, KeepOptions())
    assert next(run).status == "error"
    target.path.rename(tmp_path / "unmounted")
    with pytest.raises(VaultError):
        list(run)
    assert recorded(ledger, target) == set()


def test_right_and_wrong_bytes_are_distinguished_from_those_that_were_not_read(
    tmp_path: Path,
) -> None:
    vault = directory_vault(tmp_path)
    key = put(vault, tmp_path, b"the content")
    assert find_fault(vault, key) is None
    stop = threading.Event()
    stop.set()
    with pytest.raises(UncheckedCopyError):
        find_fault(vault, key, stop)
    path = Path(os.fsdecode(vault.object_path(key)))
    path.chmod(0o644)
    path.write_bytes(b"The content")
    assert find_fault(vault, key) is not None
    path.write_bytes(b"the conten")
    assert find_fault(vault, key) is not None
    vault.remove(key)
    with pytest.raises(CopyMissingError):
        find_fault(vault, key)


def test_a_key_that_cannot_be_verified_is_not_a_fault(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path)
    with pytest.raises(UncheckedCopyError):
        find_fault(vault, "WORM-s3-m1700000000--name")


def test_only_the_sha256_of_the_key_is_a_proof() -> None:
    key = key_of(b"x")
    sha256 = key.partition("--")[2].partition(".")[0]
    assert is_proof(Presence(key, 1, "head", sha256))
    assert not is_proof(Presence(key, 2, "head", sha256))
    assert not is_proof(Presence(key, 1, "head", sha256[::-1]))
    assert not is_proof(Presence(key, 1, "head"))
    assert not is_proof(Presence("MD5E-s1--abc.bin", 1, "head", sha256))


def test_a_content_is_listed_once_with_its_first_file() -> None:
    contents = KeepContents()
    for dataset, item in [
        ("demo:1", PinnedFile(b"a.nwb", "MD5E-s3--x.nwb", ("http://h/a",))),
        ("demo:1", PinnedFile(b"copy.nwb", "MD5E-s3--x.nwb", ("http://h/b",))),
        ("demo:2", PinnedFile(b"a.nwb", "MD5E-s3--x.nwb", ("http://h/c",))),
        ("demo:2", PinnedFile(b"b", "VURL--http%c//h/b", ("http://h/b",))),
        ("demo:2", Finding(status="error", path=".", message="damaged")),
        ("demo:2", Finding(status="ok", path=".", message="fine")),
    ]:
        contents.add(dataset, "0.1", item)
    assert [(one.path, one.size) for one in contents.items.values()] == [("a.nwb", 3), ("b", None)]
    assert [finding.dataset for finding in contents.findings] == ["demo:2"]
    assert contents.bytes == 3
