"""``neuromirror keep`` and ``neuromirror vault``: what is kept, what counts, and what is found."""

import os
import shutil
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from neuromirror.index.ledger import Ledger
from neuromirror.lab.lockfile import load_lock
from neuromirror.store import Store
from neuromirror.vault.directory import DirectoryVault
from neuromirror_demo import DemoArchive
from support.command_shell import Shell, folder_snapshot
from support.vaults import directory_vault, write_vault

NAME = "demo:000004"


@pytest.fixture
def keeper(copied: Shell, tmp_path: Path) -> Shell:
    """A store with a vault ``nas`` in it."""
    write_vault(tmp_path / "vaults", kind="directory")
    return copied.with_changes(variables={"NEUROMIRROR_VAULTS": str(tmp_path / "vaults")})


def split(records: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    *files, summary = records
    assert summary["kind"] == "summary"
    return files, summary


def vault_of(shell: Shell, tmp_path: Path) -> DirectoryVault:
    config = write_vault(tmp_path / "vaults", kind="directory")
    return DirectoryVault(config, shell.store / "vaults" / "nas")


def ledger_counts(shell: Shell) -> tuple[int, int, int]:
    with Ledger.open(Store.open(shell.store).ledger_path) as ledger:
        (found,) = ledger.vaults()
        return found.copies, found.damaged, found.missing


def damage(vault: DirectoryVault, key: str) -> None:
    """Change a byte of a copy."""
    path = Path(os.fsdecode(vault.object_path(key)))
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_version_is_kept_once_and_every_copy_has_the_bytes_of_its_key(
    keeper: Shell, tmp_path: Path
) -> None:
    files, summary = split(keeper.records("keep", NAME, "--in", "nas"))
    assert {one["status"] for one in files} == {"ok"}
    assert (summary["kept"], summary["failed"]) == (3, 0)
    vault = vault_of(keeper, tmp_path)
    for file in files:
        with vault.open(file["key"]) as copy, urlopen(file["url"]) as original:
            assert copy.read() == original.read()
        assert (file["vault"], file["method"]) == ("nas", "full-read")
    # clones find the copies
    repository = keeper.store / "alias" / "demo--000004"
    assert "custody/git-annex" in (repository / "packed-refs").read_text()
    before = folder_snapshot(keeper.store)
    _, second = split(keeper.records("keep", NAME, "--in", "nas"))
    assert (second["kept"], second["notneeded"]) == (0, 3)
    after = folder_snapshot(keeper.store)
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {
        "neuromirror/custody.sqlite"
    }


def test_a_dry_run_names_the_files_and_changes_nothing(keeper: Shell) -> None:
    before = folder_snapshot(keeper.store)
    before.pop("neuromirror/custody.sqlite", None)
    files, summary = split(keeper.records("keep", NAME, "**/*.nwb", "--in", "nas", "--dry-run"))
    assert summary["planned"] == len(files) > 0
    after = folder_snapshot(keeper.store)
    after.pop("neuromirror/custody.sqlite", None)
    assert after == before


def test_a_lock_is_kept_without_a_store(
    keeper: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lab" / "datasets.lock"
    lock.parent.mkdir()
    keeper.run("pin", NAME, "--output", str(lock))
    url = "https://vault.example.org/nas"
    write_vault(tmp_path / "vaults", kind="directory", path=str(tmp_path / "own"), url=url)
    monkeypatch.chdir(lock.parent)
    without_store = keeper.with_changes(variables={**keeper.variables, "NEUROMIRROR_STORE": ""})
    _files, summary = split(without_store.records("keep", str(lock), "--in", "nas"))
    assert summary["kept"] == 3
    assert not (lock.parent / "store").exists()
    assert [[copy.name for copy in pin.copies] for pin in load_lock(lock).datasets] == [["nas"]]
    assert split(without_store.records("keep", str(lock), "--in", "nas"))[1]["notneeded"] == 3


def test_what_upstream_does_not_provide_is_copied_from_another_vault_and_verified(
    copied: Shell, shared_demo: DemoArchive, tmp_path: Path
) -> None:
    nas, cloud = directory_vault(tmp_path), directory_vault(tmp_path, "cloud")
    directory_vault(tmp_path, "spare", private=True)
    write_vault(tmp_path / "vaults", "away", kind="directory", path=str(tmp_path / "away"))
    shell = copied.with_changes(variables={"NEUROMIRROR_VAULTS": str(tmp_path / "vaults")})
    lock = tmp_path / "datasets.lock"
    shell.run("pin", NAME, "--output", str(lock))
    for vault in ("nas", "spare"):
        files, _ = split(shell.records("keep", NAME, "--in", vault))
    first, second, third = (file["key"] for file in files)
    damage(nas, first)
    nas.remove(second)
    alone = shell.with_changes(variables={**shell.variables, "NEUROMIRROR_STORE": ""})
    with (
        shared_demo.fault("status", server="s3", status=403),
        shared_demo.fault("status", status=403),
    ):
        files, summary = split(alone.records("keep", str(lock), "--in", "cloud", code=1))
        messages = {file["key"]: (file["status"], file["message"]) for file in files}
        assert messages[third] == ("ok", "from nas")
        assert "403" in messages[first][1]
        assert "nas: " in messages[first][1]
        assert "away" in messages[second][1]
        assert (summary["kept"], summary["failed"]) == (1, 2)
        assert [key for key, _ in list(cloud.keys())] == [third]

        # contents of a lock file may be private: those of a private vault are not published
        nas.path.rename(tmp_path / "unmounted")
        assert split(alone.records("keep", str(lock), "--in", "cloud", code=1))[1]["kept"] == 0
    assert split(alone.records("keep", str(lock), "--in", "cloud"))[1]["kept"] == 2


def test_an_unmounted_vault_is_one_error_and_nothing_is_created(
    keeper: Shell, tmp_path: Path
) -> None:
    write_vault(tmp_path / "vaults", kind="directory", path=str(tmp_path / "disk" / "vault"))
    keeper.run("keep", NAME, "--in", "nas")
    shutil.move(tmp_path / "disk", tmp_path / "unmounted")
    done = keeper.run("vault", "show", "nas", code=1)
    assert "mounted" in done.err
    assert not (tmp_path / "disk").exists()


def test_a_vault_with_copies_is_not_replaced_and_the_next_one_is_tried(
    keeper: Shell, tmp_path: Path
) -> None:
    mounted = tmp_path / "disk"
    write_vault(tmp_path / "vaults", kind="directory", path=str(mounted))
    keeper.run("keep", NAME, "--in", "nas")
    shutil.move(mounted, tmp_path / "unmounted")
    mounted.mkdir()
    directory_vault(tmp_path, "other")
    records = keeper.records("keep", NAME, "--in", "nas", "--in", "other", code=1)
    assert [(record["vault"], record["status"], record["path"]) for record in records[:1]] == [
        ("nas", "error", ".")
    ]
    summaries = {record["vault"]: record for record in records if record.get("kind") == "summary"}
    assert (summaries["nas"]["failed"], summaries["nas"]["kept"]) == (1, 0)
    assert (summaries["other"]["failed"], summaries["other"]["kept"]) == (0, 3)
    (tmp_path / "files").mkdir()
    keeper.run("vault", "import", "nas", str(tmp_path / "files"), code=1)
    assert list(mounted.iterdir()) == []


def test_a_keep_goes_on_for_files_whose_manifest_is_missing(keeper: Shell, tmp_path: Path) -> None:
    lock = tmp_path / "datasets.lock"
    keeper.run("pin", NAME, "--output", str(lock))
    files, _summary = split(keeper.records("keep", str(lock), "--in", "nas"))
    keys = {file["key"] for file in files}
    shutil.rmtree(tmp_path / "datasets.lock.d")
    keeper.run("keep", str(lock), "--in", "nas", code=1)
    with Ledger.open(Store.open(keeper.store).ledger_path) as ledger:
        assert ledger.wishes.needed(sorted(keys)) == keys


def test_the_ledger_is_restored_from_the_vault(keeper: Shell, tmp_path: Path) -> None:
    keeper.run("keep", NAME, "--in", "nas")
    for path in (keeper.store / "neuromirror").glob("custody.sqlite*"):
        path.unlink()
    files, _summary = split(keeper.records("vault", "check", "nas"))
    assert [file["method"] for file in files] == ["full-read"] * 3
    assert ledger_counts(keeper) == (3, 0, 0)
    assert split(keeper.records("keep", NAME, "--in", "nas"))[1]["notneeded"] == 3


def test_content_that_is_there_is_read_and_adopted(keeper: Shell, tmp_path: Path) -> None:
    keeper.run("keep", NAME, "--in", "nas")
    vault = vault_of(keeper, tmp_path)
    key, _ = next(iter(vault.keys()))
    path = Path(os.fsdecode(vault.object_path(key)))
    path.chmod(0o644)
    path.write_bytes(b"not the content")
    for found in (keeper.store / "neuromirror").glob("custody.sqlite*"):
        found.unlink()
    files, _summary = split(keeper.records("keep", NAME, "--in", "nas"))
    assert sorted(file["message"] for file in files) == ["", "was in the vault", "was in the vault"]
    with vault.open(key) as copy:
        assert copy.read() != b"not the content"


def test_the_list_of_vaults_has_their_totals(keeper: Shell, tmp_path: Path) -> None:
    directory_vault(tmp_path, "other")
    keeper.run("keep", NAME, "--in", "nas")
    found = {record["vault"]: record for record in keeper.records("vault")}
    assert (found["nas"]["contents"], found["nas"]["missing"]) == (3, 0)
    assert "contents" not in found["other"]
    assert "nas" in keeper.run("vault").out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("keep", NAME, "--in", "nowhere"), "nas"),
        (("keep", "demo:999999", "--in", "nas"), "999999"),
        (("keep", NAME, "--in", "nas", "--limit-rate", "fast"), "--limit-rate"),
        (("vault", "show"), "name the vault"),
        (("vault", "show", "nowhere"), "nas"),
        (("vault", "list", "--full"), "--full"),
    ],
)
def test_wrong_usage_is_one_message(keeper: Shell, arguments: tuple[str, ...], named: str) -> None:
    assert named in keeper.run(*arguments, code=2).err


def test_wrong_bytes_from_upstream_are_never_stored(
    keeper: Shell, shared_demo: DemoArchive, tmp_path: Path
) -> None:
    with shared_demo.fault("wrong_bytes", server="s3"):
        _files, summary = split(keeper.records("keep", NAME, "--in", "nas", code=1))
    assert (summary["kept"], summary["failed"]) == (0, 3)
    assert ledger_counts(keeper) == (0, 0, 0)
    assert list(vault_of(keeper, tmp_path).keys()) == []
    assert split(keeper.records("keep", NAME, "--in", "nas"))[1]["kept"] == 3
