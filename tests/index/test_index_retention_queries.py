"""Files of all versions with their retention, and when upstream was last seen with them."""

from __future__ import annotations

import pytest

from neuromirror.index import Index, RetainedFile, UnknownDatasetError
from neuromirror.model import Retention
from support.disk_journal import DiskJournal, placed_file, published_fields

DATASET = "dandi:000001"


def day(number: int, hour: int = 0) -> str:
    """Return a time in January."""
    return f"2024-01-{number:02d}T{hour:02d}:00:00+00:00"


def visit(journal: DiskJournal, number: int, status: str = "full") -> None:
    """Record a visit of one hour."""
    journal.visit(status=status, started=day(number), ended=day(number, 1))


def retained(index: Index, **options: bool) -> dict[tuple[str, str], RetainedFile]:
    """Return the files by path and key."""
    return {(one.path, one.key): one for one in index.retained_files(DATASET, **options)}


def test_replaced_content_was_last_seen_in_the_visit_before_the_version_without_it(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1), placed_file("b", 2)], at=day(1, 1))
    visit(journal, 1)
    visit(journal, 5)
    visit(journal, 6, "failed")
    journal.mint([placed_file("a", 3), placed_file("b", 2)], at=day(9, 1))
    visit(journal, 9)
    index.catch_up(journal)
    found = retained(index)
    old, new = (found["a", placed_file("a", number).key] for number in (1, 3))
    same = found["b", placed_file("b", 2).key]
    assert (old.is_current, old.last_seen) == (False, day(5))
    assert (new.is_current, new.last_seen) == (True, day(9, 1))
    assert (same.is_current, same.last_seen, same.retention) == (True, day(9), Retention.DRAFT)
    assert same.size == len(repr(2))


def test_only_files_of_published_versions(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed_file("a", 1), placed_file("b", 2)])
    published = [placed_file("b", 2, retention=Retention.PUBLISHED)]
    journal.mint(published, **published_fields("0.1"))
    journal.mint([placed_file("b", 2), placed_file("c", 3)])
    index.catch_up(journal)
    assert set(retained(index)) == {
        (path, placed_file(path, number).key) for path, number in (("a", 1), ("b", 2), ("c", 3))
    }
    (only,) = retained(index, published_only=True).values()
    assert (only.path, only.retention) == ("b", Retention.PUBLISHED)


def test_without_a_visit_a_file_was_last_seen_when_its_version_was_recorded(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1)], at=day(3))
    index.catch_up(journal)
    assert [one.last_seen for one in index.retained_files(DATASET)] == [day(3)]
    with pytest.raises(UnknownDatasetError):
        list(index.retained_files("dandi:000002"))


def test_sources_of_contents(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed_file("a", 1), placed_file("b", 2)])
    journal.mint([placed_file("x", 2, retention=Retention.PUBLISHED)], "000002")
    index.catch_up(journal)
    one, two = placed_file("a", 1), placed_file("b", 2)
    found = index.content_sources([one.key, two.key, "SHA256E-s1--0"])
    assert set(found) == {one.key, two.key}
    assert found[one.key].urls == tuple(location.url for location in one.record.locations)
    assert (found[one.key].is_promised, found[two.key].is_promised) == (False, True)
    assert {ref.local_id for ref in found[two.key].datasets} == {"000001", "000002"}
