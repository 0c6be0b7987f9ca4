"""Files that a lab has already downloaded are stored in a vault."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.custody.copies import KeepItem, KeepOutcome
from neuromirror.custody.vaults import adopt_files, find_files
from neuromirror.index.ledger import Ledger
from neuromirror.store import Store
from neuromirror.store.custody import published_locations
from neuromirror.vault.opening import open_ledger
from neuromirror.vault.protocol import VaultError
from neuromirror.vault.s3 import S3Vault
from support.mirror_harness import MirrorHarness
from support.vaults import CONTENTS, KEYS, directory_vault, key_of, write_vault

DATASET = "demo:000002"


@pytest.fixture
def mirrored(mirror: MirrorHarness, tmp_path: Path) -> MirrorHarness:
    """A store, a vault file, and a folder of plain downloads of one dataset."""
    write_vault(tmp_path / "vaults", "nas")
    done = CliRunner().invoke(
        main,
        [
            *("get", DATASET, "--into", str(tmp_path / "downloads")),
            *("--store", str(mirror.folder), "--mirrors", str(mirror.mirrors)),
        ],
    )
    assert done.exit_code == 0, done.output
    return mirror


def run(mirrored: MirrorHarness, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    folder = mirrored.folder.parent
    options = ["--store", str(mirrored.folder), "--vaults", str(folder / "vaults"), "--json"]
    result = CliRunner().invoke(main, [*arguments, *options])
    assert result.exit_code == code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def stored_keys(mirrored: MirrorHarness) -> set[str]:
    store = Store.open(mirrored.folder)
    with open_ledger(store) as ledger:
        return {
            copy.key
            for vault in ledger.vaults()
            for copy in ledger.copies_in(vault.uuid)
            if copy.state == "present"
        }


def import_folder(mirrored: MirrorHarness, folder: Path, code: int = 0) -> dict[str, Any]:
    return run(mirrored, "vault", "import", "nas", str(folder), code=code)[-1]


def test_downloads_are_stored_whatever_their_names_are(
    mirrored: MirrorHarness, tmp_path: Path
) -> None:
    files = sorted(path for path in (tmp_path / "downloads").rglob("*.nwb"))
    for number, path in enumerate(files):
        path.rename(path.with_name(f"renamed {number}.dat"))
    digests = {path: path.read_bytes() for path in (tmp_path / "downloads").rglob("*.dat")}

    summary = import_folder(mirrored, tmp_path / "downloads")

    assert summary["contents"] == len(stored_keys(mirrored)) >= len(files)
    assert {path: path.read_bytes() for path in digests} == digests
    # a clone gets them from the vault
    clone = tmp_path / "clone"
    source = str(mirrored.folder / "alias" / "demo--000002")
    subprocess.run(["datalad", "clone", source, str(clone)], check=True)
    subprocess.run(["git", "annex", "get", "--from", "nas", "."], cwd=clone, check=True)
    checked = subprocess.run(["git", "annex", "fsck", "-q", "."], cwd=clone, check=False)
    assert checked.returncode == 0


def test_a_clone_with_content_is_imported(mirrored: MirrorHarness, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    source = str(mirrored.folder / "alias" / "demo--000002")
    subprocess.run(["datalad", "clone", source, str(clone)], check=True)
    subprocess.run(["datalad", "get", "."], cwd=clone, check=True)

    summary = import_folder(mirrored, clone)

    assert summary["contents"] == len(stored_keys(mirrored)) > 0
    assert summary["failed"] == 0


def test_files_with_other_bytes_are_left_alone(mirrored: MirrorHarness, tmp_path: Path) -> None:
    for path in (tmp_path / "downloads").rglob("*"):
        if path.is_file():
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)

    summary = import_folder(mirrored, tmp_path / "downloads")

    assert summary["contents"] == 0
    assert not stored_keys(mirrored)


def test_a_second_import_finds_nothing_new(mirrored: MirrorHarness, tmp_path: Path) -> None:
    first = import_folder(mirrored, tmp_path / "downloads")
    second = import_folder(mirrored, tmp_path / "downloads")

    assert first["contents"] > 0
    assert second["contents"] == 0
    # keep has nothing to copy
    kept = run(mirrored, "keep", DATASET, "--in", "nas")
    assert {one["status"] for one in kept if one.get("key")} == {"notneeded"}


def test_each_dataset_with_a_content_names_the_vault(
    mirrored: MirrorHarness, tmp_path: Path
) -> None:
    mirrored.sync()
    import_folder(mirrored, tmp_path / "downloads")
    keys = stored_keys(mirrored)
    with mirrored.index() as index:
        for row in index.datasets.select(subdatasets=True):
            present = {content.key for content in index.files.contents(row.name)} & keys
            dataset = row.dataset_ref
            published = published_locations(Store.open(mirrored.folder), dataset)
            assert {key for key, _ in published} == present, row.name


def test_what_cannot_be_imported_is_one_error(mirrored: MirrorHarness, tmp_path: Path) -> None:
    run(mirrored, "vault", "import", "nas", str(tmp_path / "nowhere"), code=2)
    run(mirrored, "vault", "import", "nas", code=2)
    run(mirrored, "vault", "show", "nas", str(tmp_path), code=2)
    # pipes and dangling links do not block
    odd = tmp_path / "odd"
    odd.mkdir()
    os.mkfifo(odd / "pipe")
    (odd / "dangling").symlink_to("nowhere")
    assert import_folder(mirrored, odd)["contents"] == 0


def test_a_disk_that_is_full_keeps_what_was_stored(
    mirrored: MirrorHarness, tmp_path: Path, mount_disk: Any
) -> None:
    disk = mount_disk("200k")
    shutil.rmtree(tmp_path / "vaults")
    write_vault(tmp_path / "vaults", "nas", kind="directory", path=str(disk / "vault"))

    result = import_folder(mirrored, tmp_path / "downloads", code=1)

    assert result["status"] == "error"
    there = {path.name for path in (disk / "vault" / "annex" / "objects").rglob("SHA256E*.nwb")}
    assert stored_keys(mirrored)
    assert {key for key in stored_keys(mirrored) if key.endswith(".nwb")} <= there


def test_a_copy_is_reported_after_it_is_recorded(tmp_path: Path) -> None:
    folder, chosen = downloads(tmp_path)
    vault = directory_vault(tmp_path)
    with Ledger.open(tmp_path / "custody.sqlite") as ledger:
        for outcome in adopt_files(find_files(folder), folder, chosen, vault, ledger):
            assert outcome.status == "ok"
            assert ledger.missing(vault.uuid, [outcome.key or ""]) == []
        assert ledger.missing(vault.uuid, KEYS) == []


def test_copies_that_may_not_be_on_the_disk_are_not_reported(tmp_path: Path) -> None:
    folder, chosen = downloads(tmp_path)
    vault = directory_vault(tmp_path)
    reported: list[KeepOutcome] = []

    def unmount(done: int, total: int) -> None:
        if done == total:
            vault.path.rename(tmp_path / "unmounted")

    with Ledger.open(tmp_path / "custody.sqlite") as ledger:
        outcomes = adopt_files(find_files(folder), folder, chosen, vault, ledger, unmount)
        with pytest.raises(VaultError):
            reported.extend(outcomes)
        assert reported == []
        assert ledger.missing(vault.uuid, KEYS) == list(KEYS)


def test_a_second_import_publishes_what_the_first_one_could_not(
    mirrored: MirrorHarness, tmp_path: Path
) -> None:
    busy = mirrored.repository(DATASET) / "packed-refs.lock"
    busy.write_text("git is running")
    import_folder(mirrored, tmp_path / "downloads", code=1)
    keys = stored_keys(mirrored)
    busy.unlink()
    import_folder(mirrored, tmp_path / "downloads")
    with mirrored.index() as index:
        row = next(one for one in index.datasets.select() if one.name == DATASET)
    dataset = row.dataset_ref
    published = published_locations(Store.open(mirrored.folder), dataset)
    assert {key for key, _ in published} == keys != set()


def downloads(tmp_path: Path) -> tuple[Path, dict[str, KeepItem]]:
    """Return a folder with files, and their contents by key."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    for number, content in enumerate(CONTENTS):
        (folder / f"{number}.bin").write_bytes(content)
    items = [KeepItem("demo:1", "1", "a", key_of(one), len(one), ()) for one in CONTENTS]
    return folder, {item.key: item for item in items}


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_a_file_that_is_swapped_after_it_was_hashed_is_not_stored(
    tmp_path: Path, bucket: S3Vault, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Somebody who writes in the folder replaces the bytes, and nothing else, in between."""
    monkeypatch.setattr("neuromirror.vault.s3._SINGLE", 1)
    folder, chosen = downloads(tmp_path)
    vault = directory_vault(tmp_path) if kind == "directory" else bucket
    store = vault.store

    def swap_and_store(key: str, path: Path, *test: Any) -> Any:
        before = path.stat()
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return store(key, path, *test)

    monkeypatch.setattr(vault, "store", swap_and_store)
    with Ledger.open(tmp_path / "custody.sqlite") as ledger:
        outcomes = list(adopt_files(find_files(folder), folder, chosen, vault, ledger))
        assert {(outcome.status, "changed while" in outcome.message) for outcome in outcomes} == {
            ("error", True)
        }
        assert len(outcomes) == len(KEYS)
        assert ledger.missing(vault.uuid, KEYS) == list(KEYS)
    assert list(vault.keys()) == []
