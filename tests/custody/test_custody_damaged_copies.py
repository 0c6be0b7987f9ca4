"""Damaged and unreadable copies: replaced where the bytes are wrong, untouched where unknown."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pytest

from neuromirror.custody.copies import (
    KeepItem,
    KeepOptions,
    KeepOutcome,
    UncheckedCopyError,
    find_fault,
)
from neuromirror.custody.keep import CopyTask, copy_between, run_keep
from neuromirror.custody.vaults import check_vault, read_due_copies
from neuromirror.index.ledger import Ledger, Stored
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.protocol import Vault, VaultError
from support.loopback_http import serving_directory
from support.vaults import directory_vault, key_of, put

COUNT = 4
CONTENTS = [b"content %d" % number for number in range(COUNT)]
KEYS = [key_of(content) for content in CONTENTS]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the contents."""
    folder = tmp_path_factory.mktemp("served")
    for number, content in enumerate(CONTENTS):
        (folder / f"{number}.bin").write_bytes(content)
    with serving_directory(folder) as address:
        yield address


def items(url: str, count: int = COUNT) -> list[KeepItem]:
    """Return contents of the server."""
    return [
        KeepItem("demo:1", "1", f"{n}.bin", key, len(CONTENTS[n]), (f"{url}/{n}.bin",))
        for n, key in enumerate(KEYS[:count])
    ]


def keep(vault: Vault, ledger: Ledger, url: str, count: int = COUNT) -> list[KeepOutcome]:
    """Copy contents of the server into a vault."""
    options = KeepOptions(jobs=2, allowed_hosts=frozenset({urlsplit(url).netloc}))
    return list(run_keep(items(url, count), vault, ledger, options))


def state_of(vault: Vault, ledger: Ledger, key: str) -> str | None:
    """Return the recorded state of a copy."""
    copies = ledger.copies([key], all_states=True).get(key, ())
    return next((copy.state for copy in copies if copy.vault == vault.uuid), None)


class _Unreadable(DirectoryVault):
    """A vault on a disk that cannot return the bytes of one content: no file system does that."""

    number = errno.ETIMEDOUT
    key = KEYS[0]

    def open(self, key: str) -> BinaryIO:
        if key == self.key:
            raise OSError(self.number, os.strerror(self.number))
        return super().open(key)


def unreadable(folder: Path, number: int, name: str = "nas") -> _Unreadable:
    """Return a vault with two contents, of which the first cannot be read."""
    whole = directory_vault(folder, name)
    for content in CONTENTS[:2]:
        put(whole, folder, content)
    vault = _Unreadable(whole.config, whole.path)
    vault.number = number
    return vault


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EMFILE, errno.EACCES, errno.ESTALE])
def test_only_a_bad_sector_is_a_fault(tmp_path: Path, number: int) -> None:
    vault = unreadable(tmp_path, number)
    with pytest.raises(UncheckedCopyError):
        find_fault(vault, KEYS[0])
    vault.number = errno.EIO
    assert find_fault(vault, KEYS[0])


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EIO])
def test_a_copy_that_cannot_be_read_is_not_removed_and_not_recorded(
    tmp_path: Path, ledger: Ledger, url: str, number: int
) -> None:
    vault = unreadable(tmp_path, number)
    before = Path(os.fsdecode(vault.object_path(KEYS[0]))).stat()
    found = {one.key: one.status for one in keep(vault, ledger, url, 3)}
    assert found == {KEYS[0]: "error", KEYS[1]: "ok", KEYS[2]: "ok"}
    assert Path(os.fsdecode(vault.object_path(KEYS[0]))).stat() == before
    assert state_of(vault, ledger, KEYS[0]) is None


def test_a_recorded_bad_sector_is_replaced(tmp_path: Path, ledger: Ledger, url: str) -> None:
    vault = unreadable(tmp_path, errno.EIO)
    path = Path(os.fsdecode(vault.object_path(KEYS[0])))
    os.utime(path, (1, 1))
    ledger.add_vault(vault.uuid, "nas", "directory")
    ledger.record(vault.uuid, [Stored(KEYS[0], len(CONTENTS[0]), "full-read")])
    ledger.mark(vault.uuid, [KEYS[0]], "damaged", "full-read")
    assert {one.status for one in keep(vault, ledger, url, 2)} == {"ok"}
    assert path.stat().st_mtime > 1
    assert state_of(vault, ledger, KEYS[0]) == "present"


def test_a_source_that_cannot_be_read_is_the_problem_of_one_content(
    tmp_path: Path, ledger: Ledger, url: str
) -> None:
    source = unreadable(tmp_path, errno.EIO)
    target = directory_vault(tmp_path, "cloud")
    for vault in (source, target):
        ledger.add_vault(vault.uuid, vault.config.name, "directory")
    tasks = [CopyTask(item, [source]) for item in items(url, 2)]
    found = {one.key: one.status for one in copy_between(tasks, target, ledger, KeepOptions())}
    assert found == {KEYS[0]: "error", KEYS[1]: "ok"}


def test_a_full_disk_for_temporary_files_is_not_blamed_on_the_source(
    tmp_path: Path, ledger: Ledger, mount_disk: Callable[[str], Path]
) -> None:
    content = os.urandom(1 << 20)
    source, target = directory_vault(tmp_path), directory_vault(tmp_path, "cloud")
    for vault in (source, target):
        ledger.add_vault(vault.uuid, vault.config.name, "directory")
    key = put(source, tmp_path, content)
    disk = mount_disk("256k")
    (tmp_path / "uploads").symlink_to(disk)
    task = CopyTask(KeepItem("demo:1", "1", "a.bin", key, len(content), ()), [source])
    (found,) = copy_between([task], target, ledger, KeepOptions())
    assert (found.status, "nas" in found.message) == ("error", False)
    assert list(disk.iterdir()) == []


def test_a_target_that_is_gone_ends_copying(tmp_path: Path, ledger: Ledger, url: str) -> None:
    source, target = unreadable(tmp_path, errno.EIO), directory_vault(tmp_path, "cloud")
    for vault in (source, target):
        ledger.add_vault(vault.uuid, vault.config.name, "directory")
    target.path.rename(tmp_path / "away")
    tasks = [CopyTask(item, [source]) for item in items(url, 2)[1:]]
    with pytest.raises(VaultError):
        list(copy_between(tasks, target, ledger, KeepOptions()))


def test_a_check_does_not_report_unread_and_damaged_copies_as_missing(
    tmp_path: Path, ledger: Ledger
) -> None:
    vault = unreadable(tmp_path, errno.ETIMEDOUT)
    ledger.add_vault(vault.uuid, "nas", "directory")
    ledger.record(vault.uuid, [Stored(key, 9, "full-read") for key in KEYS[:2]])
    wrong = Path(os.fsdecode(vault.object_path(KEYS[1])))
    wrong.chmod(0o644)
    wrong.write_bytes(b"CONTENT 1")
    for _ in range(2):
        found = {one.key: one.status for one in check_vault(vault, ledger, full=True)}
        assert found == {KEYS[0]: "error", KEYS[1]: "error"}
        assert state_of(vault, ledger, KEYS[0]) == "present"
        assert state_of(vault, ledger, KEYS[1]) == "damaged"
    wrong.unlink()
    for _ in range(2):
        found = {one.key: one.status for one in check_vault(vault, ledger)}
        assert found[KEYS[1]] == "error"
        assert state_of(vault, ledger, KEYS[1]) == "missing"


def test_copies_that_cannot_be_read_do_not_keep_others_from_being_read(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.custody.vaults._READ", 1)
    vault = unreadable(tmp_path, errno.ETIMEDOUT)
    # the copy that cannot be read comes first
    vault.key, other = sorted(KEYS[:2])
    ledger.add_vault(vault.uuid, "nas", "directory")
    ledger.record(vault.uuid, [Stored(key, 9, "listing") for key in KEYS[:2]])
    found = [(one.key, one.status) for one in read_due_copies(vault, ledger, 100, KeepOptions())]
    assert found == [(vault.key, "error"), (other, "ok")]
    assert state_of(vault, ledger, vault.key) == "present"
