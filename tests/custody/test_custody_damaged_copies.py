"""Damaged and unreadable copies: replaced where the bytes are wrong, untouched where unknown."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pytest

from neuromirror.custody.adopt import adopt_files, find_files
from neuromirror.custody.copy_audit import audit_copies
from neuromirror.custody.copy_checks import UncheckedCopyError, find_fault
from neuromirror.custody.drop import DropRules, plan_drop
from neuromirror.custody.keep import run_keep
from neuromirror.custody.keep_outcomes import KeepOptions, KeepOutcome
from neuromirror.custody.keep_plan import KeepItem
from neuromirror.custody.rolling_read import read_due_copies, repair_copies
from neuromirror.custody.vault_check import check_vault
from neuromirror.custody.vault_copies import CopyTask, copy_between, fill_vault
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import Stored, Wish
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.errors import VaultError
from neuromirror.vault.protocol import Vault
from neuromirror.vault.special_remote import SpecialRemoteVault
from support.loopback_http import serving_directory
from support.special_remotes import (
    prepared_repository,
    prepared_special_remote,
    special_remote_vault,
)
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


def damaged_in(vault: SpecialRemoteVault, ledger: Ledger, key: str) -> None:
    """Record a copy that has the size of the key and wrong bytes."""
    vault.store_bytes(key, memoryview(b"wrong by" + b"t" * (len(CONTENTS[0]) - 8)))
    ledger.add_vault(vault.uuid, "tape", "special-remote")
    ledger.record(vault.uuid, [Stored(key, len(CONTENTS[0]), "git-annex")])
    ledger.mark(vault.uuid, [key], "damaged", "full-read")


def state_of(vault: Vault, ledger: Ledger, key: str) -> str | None:
    """Return the recorded state of a copy."""
    copies = ledger.copies([key], all_states=True).get(key, ())
    return next((one.state for one in copies if one.vault == vault.uuid), None)


def test_wrong_bytes_in_a_special_remote_are_replaced_among_many_contents(
    tmp_path: Path, ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # more contents than are looked up one by one
    monkeypatch.setattr("neuromirror.custody.keep._SAMPLE", 1)
    folder = prepared_special_remote()
    vault = special_remote_vault(folder)
    damaged_in(vault, ledger, KEYS[0])
    # these are not recorded
    vault.store_bytes(KEYS[1], memoryview(CONTENTS[1]))
    (stored,) = (path for path in (folder / "remote").rglob(KEYS[1]) if path.is_file())
    stored.chmod(0o644)
    stored.write_bytes(b"wrong bytes"[: len(CONTENTS[1])])
    vault.store_bytes(KEYS[2], memoryview(CONTENTS[2]))
    found = {one.key: one for one in keep(vault, ledger, url)}
    assert {one.status for one in found.values()} == {"ok"}
    methods = [found[key].method for key in KEYS[:3]]
    assert methods == ["git-annex", "git-annex", "full-read"]
    for key in KEYS[:2]:
        assert find_fault(vault, key) is None
        assert state_of(vault, ledger, key) == "present"


def test_files_of_a_lab_replace_a_damaged_copy_in_a_special_remote(
    tmp_path: Path, ledger: Ledger, url: str
) -> None:
    vault = special_remote_vault(prepared_special_remote())
    damaged_in(vault, ledger, KEYS[0])
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "a.bin").write_bytes(CONTENTS[0])
    (found,) = adopt_files(
        find_files(folder), folder, {one.key: one for one in items(url, 1)}, vault, ledger
    )
    assert (found.status, found.method) == ("ok", "git-annex")
    assert find_fault(vault, KEYS[0]) is None
    assert state_of(vault, ledger, KEYS[0]) == "present"


def test_a_damaged_copy_in_a_special_remote_is_replaced_from_another_vault(
    tmp_path: Path, ledger: Ledger
) -> None:
    vault, nas = special_remote_vault(prepared_special_remote()), directory_vault(tmp_path)
    damaged_in(vault, ledger, KEYS[0])
    put(nas, tmp_path, CONTENTS[0])
    ledger.add_vault(nas.uuid, "nas", "directory")
    ledger.record(nas.uuid, [Stored(KEYS[0], len(CONTENTS[0]), "full-read")])
    ledger.wishes.put(Wish("policy", "p", vault.uuid), [(KEYS[0], None)])
    (repaired,) = repair_copies(vault, [nas, vault], ledger, None, KeepOptions())
    assert (repaired.status, repaired.key) == ("ok", KEYS[0])
    assert find_fault(vault, KEYS[0]) is None
    assert state_of(vault, ledger, KEYS[0]) == "present"


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


def test_a_failure_states_why_another_vault_did_not_have_the_content(
    tmp_path: Path, ledger: Ledger, url: str
) -> None:
    source = unreadable(tmp_path, errno.EIO)
    target = directory_vault(tmp_path, "cloud")
    for vault in (source, target):
        ledger.add_vault(vault.uuid, vault.config.name, "directory")
    (item,) = items(url, 1)
    options = KeepOptions(allowed_hosts=frozenset({urlsplit(url).netloc}))
    (found,) = fill_vault([CopyTask(item._replace(urls=()), [source])], target, ledger, options)
    assert (found.status, "nas" in found.message) == ("impossible", True)
    (found,) = fill_vault([CopyTask(item, [source])], target, ledger, options)
    assert (found.status, "nas" in found.message) == ("ok", True)


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
    assert [one.kind for one in ledger.events.latest(9)] == ["damaged"]
    wrong.unlink()
    for _ in range(2):
        found = {one.key: one.status for one in check_vault(vault, ledger)}
        assert found[KEYS[1]] == "error"
        assert state_of(vault, ledger, KEYS[1]) == "missing"
    kinds = [one.kind for one in ledger.events.latest(9)]
    assert kinds == ["missing", "damaged"]


def test_a_check_finds_what_other_machines_stored_in_a_special_remote(
    tmp_path: Path, ledger: Ledger
) -> None:
    folder = prepared_special_remote()
    vault = special_remote_vault(folder)
    vault.store_bytes(KEYS[0], memoryview(CONTENTS[0]))
    ledger.add_vault(vault.uuid, "tape", "special-remote")
    ledger.record(vault.uuid, [Stored(key, 9, "git-annex") for key in KEYS[:2]])
    # the repository of another machine has not recorded the copy
    shutil.rmtree(folder / "private")
    shutil.copytree(prepared_repository(), folder / "private" / "tape.git")
    elsewhere = special_remote_vault(folder)
    found = {one.key: one.status for one in check_vault(elsewhere, ledger)}
    assert found == {KEYS[0]: "notneeded", KEYS[1]: "error"}
    assert state_of(vault, ledger, KEYS[0]) == "present"
    assert state_of(vault, ledger, KEYS[1]) == "missing"


def test_copies_that_cannot_be_read_do_not_keep_others_from_being_read(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.custody.rolling_read._BATCH", 1)
    vault = unreadable(tmp_path, errno.ETIMEDOUT)
    # the copy that cannot be read comes first
    vault.key, other = sorted(KEYS[:2])
    ledger.add_vault(vault.uuid, "nas", "directory")
    ledger.record(vault.uuid, [Stored(key, 9, "listing") for key in KEYS[:2]])
    found = [(one.key, one.status) for one in read_due_copies(vault, ledger, 100, KeepOptions())]
    assert found == [(vault.key, "error"), (other, "ok")]
    assert state_of(vault, ledger, vault.key) == "present"


def test_a_special_remote_that_states_no_size_has_its_copies(
    tmp_path: Path, ledger: Ledger
) -> None:
    vault, nas = special_remote_vault(prepared_special_remote()), directory_vault(tmp_path)
    key = f"SHA256--{hashlib.sha256(CONTENTS[0]).hexdigest()}"
    for one in (vault, nas):
        ledger.add_vault(one.uuid, one.config.name, one.config.settings.kind)
        ledger.record(one.uuid, [one.store_bytes(key, memoryview(CONTENTS[0]))])
    size = len(CONTENTS[0])
    for found in (
        list(audit_copies(vault, ledger, ledger.clock() + 1, 1)),
        list(check_vault(vault, ledger)),
    ):
        assert [one.failed for one in found] == [False]
    item = KeepItem("demo:1", "1", "0.bin", key, size, ())
    assert {one.status for one in run_keep([item], vault, ledger)} == {"notneeded"}
    (copy,) = ledger.copies_in(vault.uuid)
    assert (copy.state, copy.size) == ("present", size)
    plan = plan_drop([item], nas, [vault], ledger, None, DropRules())
    assert plan.items == [item]
    # the size of a file is known
    Path(os.fsdecode(nas.object_path(key))).chmod(0o644)
    Path(os.fsdecode(nas.object_path(key))).write_bytes(b"")
    (lost,) = audit_copies(nas, ledger, ledger.clock() + 1, 1)
    assert lost.failed
    assert state_of(nas, ledger, key) == "damaged"
