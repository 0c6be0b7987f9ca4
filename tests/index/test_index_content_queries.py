"""The contents of all versions of a dataset, and the datasets that have one."""

from __future__ import annotations

import pytest

from neuromirror.index import Index, UnknownDatasetError
from support.disk_journal import DiskJournal, placed_file


def test_contents_of_all_versions_and_the_datasets_that_have_them(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1), placed_file("b", 2)])
    journal.mint([placed_file("b", 2), placed_file("a", 3)])
    journal.mint([placed_file("x", 2)], "000002")
    index.catch_up(journal)
    assert [(one.path, one.key, one.size) for one in index.file_contents("dandi:000001")] == [
        (path, placed_file(path, number).key, len(repr(number)))
        for path, number in (("a", 1), ("a", 3), ("b", 2))
    ]
    with pytest.raises(UnknownDatasetError):
        list(index.file_contents("dandi:000003"))
    one, two = placed_file("a", 1), placed_file("b", 2)
    found = index.datasets_with([one.key, two.key, "SHA256E-s1--0"])
    assert set(found) == {one.key, two.key}
    assert {ref.local_id for ref in found[two.key]} == {"000001", "000002"}
