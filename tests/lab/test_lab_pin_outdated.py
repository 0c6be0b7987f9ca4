"""Which pins have newer versions in the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from lab_again import Lab
from lab_pins import DRAFT, PUBLISHED, Paper

from neuromirror.cli import main
from neuromirror.lab.outdated import outdated
from neuromirror_demo import DemoArchive


@pytest.fixture
def paper(still_lab: Lab, tmp_path: Path) -> Paper:
    """A place for a lock of datasets that stand still."""
    return Paper(still_lab.place, tmp_path / "paper")


def told(paper: Paper) -> dict[str, tuple[str, str]]:
    """Status and message by dataset."""
    with paper.place.index() as index:
        return {one.path: (one.status, one.message) for one in outdated(paper.lock, index)}


def test_a_newer_published_version_is_told(paper: Paper, still_lab: Lab) -> None:
    old, new = still_lab.labels(PUBLISHED)
    paper.pin(f"{PUBLISHED}@{old}", DRAFT)
    found = told(paper)
    assert [status for status, _ in found.values()] == ["ok", "notneeded"]
    assert f"{old} is pinned, {new} of 2024" in found[PUBLISHED][1]
    assert "other files" in found[PUBLISHED][1]
    paper.pin(PUBLISHED)
    assert told(paper)[PUBLISHED][0] == "notneeded"


def test_a_draft_is_compared_with_the_draft(lab: Lab, demo: DemoArchive, tmp_path: Path) -> None:
    lab.place.sync(PUBLISHED)
    paper = Paper(lab.place, tmp_path / "paper")
    other = Paper(lab.place, tmp_path / "other")
    paper.pin(f"{PUBLISHED}@draft")
    other.pin(PUBLISHED)
    assert told(paper)[PUBLISHED][0] == "notneeded"
    demo.set_metadata("000002", title="Another title")
    lab.place.sync(PUBLISHED)
    status, message = told(paper)[PUBLISHED]
    assert (status, message.endswith("the same files, other metadata")) == ("ok", True)
    # who pins what is published does not care for the draft
    assert told(other)[PUBLISHED][0] == "notneeded"


def test_what_the_index_does_not_know_is_said(paper: Paper) -> None:
    paper.pin(DRAFT)
    paper.edit(DRAFT, "nowhere:000099")
    status, message = told(paper)["nowhere:000099"]
    assert (status, "nowhere" in message) == ("impossible", True)


def test_the_command_exits_with_0_unless_it_could_not_compare(paper: Paper, still_lab: Lab) -> None:
    old, new = still_lab.labels(PUBLISHED)
    paper.pin(f"{PUBLISHED}@{old}", DRAFT)
    common = ["--mirrors", str(paper.place.mirrors), "--store", str(paper.place.folder)]
    command = [*common, "outdated", str(paper.file)]
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
    assert [(one["status"], one["version"]) for one in records[:1]] == [("ok", new)]
    paper.edit(DRAFT, "nowhere:1")
    assert CliRunner().invoke(main, command).exit_code == 1
    assert CliRunner().invoke(main, [*common, "outdated", "no.lock"]).exit_code == 2
