"""All facts about a dataset are those of one version: the one that its name means."""

from __future__ import annotations

from typing import Any

import pytest

from neuromirror.index import Index
from support.disk_journal import DiskJournal, placed_file

NAME = "dandi:000001"
PUBLISHED: dict[str, Any] = {
    "label": "0.1",
    "upstream": "0.1",
    "kind": "published",
    "title": "As published",
    "license": ["spdx:CC0-1.0"],
    "doi": "10.48324/dandi.000001/0.1",
    "attributes": {"species": ["mouse"]},
}
DRAFT: dict[str, Any] = {
    "title": "As drafted",
    "doi": None,
    "attributes": {"species": ["rat"]},
}


def dataset_facts(index: Index) -> tuple[Any, ...]:
    row = index.dataset(NAME)
    return row.version, row.time, row.files, row.bytes, row.title, row.license, row.doi


def current_label(index: Index) -> tuple[Any, ...]:
    row = index.resolve(NAME)
    return row.label, row.time, row.files, row.bytes, row.title, row.license, row.doi


def found_by(index: Index, species: str) -> list[str]:
    return [row.name for row in index.datasets(where=[("species", species)])]


@pytest.mark.parametrize("draft_first", [True, False])
def test_later_draft_does_not_change_the_published_description(
    journal: DiskJournal, index: Index, draft_first: bool
) -> None:
    files = [placed_file("a", 1), placed_file("b", 2)]
    if draft_first:
        journal.mint(files[:1], **DRAFT)
        index.catch_up(journal)
        assert dataset_facts(index) == current_label(index)
        assert index.dataset(NAME).version != "0.1"
        assert found_by(index, "rat") == [NAME]
    journal.mint(files, **PUBLISHED)
    later = journal.mint([*files, placed_file("c", 3)], **DRAFT)
    index.catch_up(journal)
    row = index.dataset(NAME)
    assert dataset_facts(index) == current_label(index)
    assert (row.version, row.files, row.title, row.doi) == (
        "0.1",
        2,
        "As published",
        PUBLISHED["doi"],
    )
    assert row.newest == later.label
    assert found_by(index, "mouse") == [NAME]
    assert found_by(index, "rat") == []
    [found] = index.find_datasets("published").rows
    assert (found.dataset.version, found.dataset.files) == ("0.1", 2)
    assert index.find_datasets("drafted").rows == ()
    [status] = index.mirror_status()
    assert (status.files, status.bytes) == (row.files, row.bytes)


def test_next_published_version_replaces_the_last(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed_file("a", 1)], **PUBLISHED)
    journal.mint([placed_file("a", 1), placed_file("b", 2)], **DRAFT)
    changed = {"label": "0.2", "upstream": "0.2", "title": "Once more"}
    journal.mint(
        [placed_file("a", 1), placed_file("b", 2), placed_file("c", 3)], **(PUBLISHED | changed)
    )
    index.catch_up(journal)
    assert dataset_facts(index) == current_label(index)
    row = index.dataset(NAME)
    assert (row.version, row.files, row.title) == ("0.2", 3, "Once more")
