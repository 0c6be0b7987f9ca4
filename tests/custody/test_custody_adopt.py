"""Files that a lab has already downloaded are stored in a vault."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.model import DatasetRef
from neuromirror.store import Store
from neuromirror.store.custody import published_locations
from neuromirror.vault import open_ledger
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.vaults import write_vault

DATASET = "demo:000002"


@pytest.fixture
def mirrored(demo: DemoArchive, tmp_path: Path) -> MirrorHarness:
    """A store with one dataset, a vault file, and a folder of plain downloads."""
    found = MirrorHarness(demo.mirrors, tmp_path / "store")
    found.sync(DATASET)
    write_vault(tmp_path / "vaults", "nas")
    done = CliRunner().invoke(
        main,
        [
            *("get", DATASET, "--into", str(tmp_path / "downloads")),
            *("--store", str(found.folder), "--mirrors", str(found.mirrors)),
        ],
    )
    assert done.exit_code == 0, done.output
    return found


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
    mirrored: MirrorHarness, demo: DemoArchive, tmp_path: Path
) -> None:
    files = sorted(path for path in (tmp_path / "downloads").rglob("*.nwb"))
    for number, path in enumerate(files):
        path.rename(path.with_name(f"renamed {number}.dat"))
    digests = {path: path.read_bytes() for path in (tmp_path / "downloads").rglob("*.dat")}

    summary = import_folder(mirrored, tmp_path / "downloads")

    assert summary["contents"] == len(stored_keys(mirrored)) >= len(files)
    assert {path: path.read_bytes() for path in digests} == digests
    # a clone gets them from the vault, although the archive is away
    demo.__exit__(None, None, None)
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
    again = import_folder(mirrored, tmp_path / "downloads")

    assert first["contents"] > 0
    assert again["contents"] == 0
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
        for row in index.datasets(subdatasets=True):
            present = {one.key for one in index.retained_files(row.name)} & keys
            dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
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
