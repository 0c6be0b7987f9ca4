"""Folders are listed with the totals of their subfolders, in small and in large versions."""

from __future__ import annotations

import pytest

from neuromirror.index import Index, browse_queries
from support.disk_journal import DiskJournal, placed_file

_PATHS = ("a-b.nwb", "a/é/1.nwb", "a/é/2.nwb", "a/z.nwb", "a0/1.nwb", "b.nwb", "zebra/𝄞/1.nwb")


@pytest.mark.parametrize("is_small", [True, False])
def test_a_folder_is_listed_alike_in_versions_of_any_size(
    journal: DiskJournal, index: Index, monkeypatch: pytest.MonkeyPatch, *, is_small: bool
) -> None:
    monkeypatch.setattr(browse_queries, "_MAX_GROUPED", 100 if is_small else -1)
    files = [placed_file(path, number) for number, path in enumerate(_PATHS, 1)]
    journal.mint(files, label="one")
    journal.mint([*files[:2], *files[3:]], label="two")
    index.catch_up(journal)

    def listed(label: str, under: str = "", start: str = "") -> list[tuple[str, int | None]]:
        found = list(index.folder_entries(index.resolve("dandi:000001", label), under, start))
        for one in found:
            assert (one.file is None) is (one.bytes is not None)
            assert one.file is None or one.file.path == one.path
        return [(one.path, one.files) for one in found]

    whole = [("a-b.nwb", None), ("a", 3), ("a0", 1), ("b.nwb", None), ("zebra", 1)]
    assert listed("one") == whole
    assert listed("two") == [whole[0], ("a", 2), *whole[2:]]
    assert listed("one", "a") == [("a/z.nwb", None), ("a/é", 2)]
    assert listed("one", "a/é") == [("a/é/1.nwb", None), ("a/é/2.nwb", None)]
    assert listed("one", "missing") == []
    entries = list(index.folder_entries(index.resolve("dandi:000001", "one")))
    for number, one in enumerate(entries, 1):
        assert listed("one", start=one.next) == whole[number:]
    assert listed("one", start="a/é/2.nwb")[:2] == [("a", 3), ("a0", 1)]
