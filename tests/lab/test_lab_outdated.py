"""Pins that have newer versions in the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.lab.outdated import find_outdated
from neuromirror_demo import DemoArchive
from support.lab_store import LabStore
from support.lock_folders import DRAFT, PUBLISHED, LockFolder


@pytest.fixture
def lock_folder(still_lab: LabStore, tmp_path: Path) -> LockFolder:
    """A folder for a lock file of unchanging datasets."""
    return LockFolder(still_lab.mirror_harness, tmp_path / "paper")


def outcomes_by_dataset(paper: LockFolder) -> dict[str, tuple[bool | None, str]]:
    """Return whether there is a newer version, and the message, by dataset."""
    with paper.mirror_harness.index() as index:
        return {one.path: (one.newer, one.message) for one in find_outdated(paper.lock, index)}


def test_a_newer_published_version_is_reported(
    lock_folder: LockFolder, still_lab: LabStore
) -> None:
    old, new = still_lab.labels(PUBLISHED)
    lock_folder.pin(f"{PUBLISHED}@{old}", DRAFT)
    found = outcomes_by_dataset(lock_folder)
    assert [newer for newer, _ in found.values()] == [True, False]
    assert f"{old} is pinned, {new} from 2024" in found[PUBLISHED][1]
    assert "other files" in found[PUBLISHED][1]
    lock_folder.pin(PUBLISHED)
    assert outcomes_by_dataset(lock_folder)[PUBLISHED][0] is False


def test_a_draft_is_compared_with_the_draft(
    lab: LabStore, demo: DemoArchive, tmp_path: Path
) -> None:
    lab.mirror_harness.sync(PUBLISHED)
    paper = LockFolder(lab.mirror_harness, tmp_path / "paper")
    other = LockFolder(lab.mirror_harness, tmp_path / "other")
    paper.pin(f"{PUBLISHED}@draft")
    other.pin(PUBLISHED)
    assert outcomes_by_dataset(paper)[PUBLISHED][0] is False
    demo.set_metadata("000002", title="Another title")
    lab.mirror_harness.sync(PUBLISHED)
    assert outcomes_by_dataset(paper)[PUBLISHED][0] is True
    # a new draft does not make a published pin outdated
    assert outcomes_by_dataset(other)[PUBLISHED][0] is False


def test_a_dataset_unknown_to_the_index_is_reported(lock_folder: LockFolder) -> None:
    lock_folder.pin(DRAFT)
    lock_folder.edit(DRAFT, "nowhere:000099")
    newer, message = outcomes_by_dataset(lock_folder)["nowhere:000099"]
    assert (newer, "nowhere" in message) == (None, True)


def test_the_command_exits_with_0_unless_it_could_not_compare(
    lock_folder: LockFolder, still_lab: LabStore
) -> None:
    old, new = still_lab.labels(PUBLISHED)
    lock_folder.pin(f"{PUBLISHED}@{old}", DRAFT)
    common = [
        "--mirrors",
        str(lock_folder.mirror_harness.mirrors),
        "--store",
        str(lock_folder.mirror_harness.folder),
    ]
    command = [*common, "outdated", str(lock_folder.file)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["newer", PUBLISHED],
        ["newest", DRAFT],
    ]
    records = [
        json.loads(line)
        for line in CliRunner().invoke(main, ["--json", *command]).stdout.splitlines()
    ]
    assert [(one["status"], one["newer"]) for one in records] == [("ok", True), ("ok", False)]
    assert records[0]["version"] == new
    lock_folder.edit(DRAFT, "nowhere:1")
    assert CliRunner().invoke(main, command).exit_code == 1
    assert CliRunner().invoke(main, [*common, "outdated", "no.lock"]).exit_code == 2
