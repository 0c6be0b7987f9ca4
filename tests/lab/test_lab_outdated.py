"""Pins that have newer versions in the store."""

import json
from pathlib import Path

from neuromirror.lab.pin import find_outdated
from neuromirror_demo import DemoArchive
from support.lab_store import LabStore
from support.lock_folders import DRAFT, PUBLISHED, LockFolder


def outcomes_by_dataset(paper: LockFolder) -> dict[str, tuple[bool | None, str]]:
    """Return whether there is a newer version, and the message, by dataset."""
    with paper.mirror_harness.index() as index:
        return {one.path: (one.newer, one.message) for one in find_outdated(paper.lock, index)}


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


def test_a_dataset_unknown_to_the_index_is_reported(new_lock_folder: LockFolder) -> None:
    new_lock_folder.pin(DRAFT)
    new_lock_folder.edit(DRAFT, "nowhere:000099")
    newer, message = outcomes_by_dataset(new_lock_folder)["nowhere:000099"]
    assert (newer, "nowhere" in message) == (None, True)


def test_the_command_exits_with_0_or_on_request_with_4_if_a_pin_has_a_newer_version(
    new_lock_folder: LockFolder, still_lab: LabStore
) -> None:
    old, new = still_lab.labels(PUBLISHED)
    new_lock_folder.pin(f"{PUBLISHED}@{old}", DRAFT)
    command = ("outdated", str(new_lock_folder.file))
    done = new_lock_folder.command(*command)
    assert done.exit_code == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["newer", PUBLISHED],
        ["newest", DRAFT],
    ]
    assert new_lock_folder.command(*command, "--exit-code").exit_code == 4
    lines = new_lock_folder.command("--json", *command).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert [(one["status"], one["newer"]) for one in records] == [("ok", True), ("ok", False)]
    assert records[0]["version"] == new
    new_lock_folder.pin(PUBLISHED)
    assert new_lock_folder.command(*command, "--exit-code").exit_code == 0
    new_lock_folder.edit(DRAFT, "nowhere:1")
    assert new_lock_folder.command(*command).exit_code == 1
    assert new_lock_folder.command("outdated", "no.lock").exit_code == 2
