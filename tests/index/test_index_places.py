"""What places answered when they were asked, by the journal's entries."""

from __future__ import annotations

from pathlib import Path

from journal_on_disk import DiskJournal, placed

from neuromirror.index import Index, rebuild
from neuromirror.model import EventRaised, PlacesAsked, dump_entry, load_entry

FIRST, LATER = "2026-03-01T12:00:00+00:00", "2026-03-02T12:00:00+00:00"


def urls(index: Index, path: str, label: str = "latest") -> list[str]:
    files = {one.path: one for one in index.files(index.resolve("dandi:000001", label))}
    return [place.url for place in index.locations(files[path].content)]


def known(index: Index, url: str) -> list[tuple[str | None, str | None]]:
    return [(one.result, one.checked_at) for one in index.places(url)]


def asked(found: dict[str, list[str]], at: str) -> PlacesAsked:
    return PlacesAsked("dandi", "000001", found, at)


def test_an_entry_comes_back_from_its_line() -> None:
    entry = asked({"ok": ["https://a.invalid/é"], "gone": []}, FIRST)
    assert load_entry(dump_entry(entry)) == entry


def test_the_last_answer_of_each_place_counts(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed("a", 1), placed("b", 2)])
    index.catch_up(journal)
    exact, address = urls(index, "a")
    assert known(index, exact) == [(None, None)]
    journal.append(asked({"ok": [exact], "refused": [address]}, FIRST))
    journal.append(asked({"gone": [exact]}, LATER))
    index.catch_up(journal)
    assert known(index, exact) == [("gone", LATER)]
    assert known(index, address) == [("refused", FIRST)]
    for url in urls(index, "b"):
        assert known(index, url) == [(None, None)]
    # it goes with the place, wherever that is told
    (row, _) = index.locations(next(index.files(index.resolve("dandi:000001"))).content)
    assert (row.url, row.result, row.checked_at) == (exact, "gone", LATER)


def test_a_place_that_is_not_known_changes_nothing(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed("a", 1)])
    index.catch_up(journal)
    exact, _ = urls(index, "a")
    before = list(index.dump())
    plain = exact.partition("?")[0]
    journal.append(asked({"gone": ["https://elsewhere.invalid/", plain]}, FIRST))
    index.catch_up(journal)
    assert [one for one in index.dump() if not one.startswith("progress")] == [
        one for one in before if not one.startswith("progress")
    ]
    assert index.places(plain) == []


def test_an_index_made_anew_knows_the_same(
    journal: DiskJournal, index: Index, tmp_path: Path
) -> None:
    journal.mint([placed("a", 1)])
    index.catch_up(journal)
    exact, address = urls(index, "a")
    journal.append(asked({"ok": [exact], "changed": [address]}, FIRST))
    journal.mint([placed("a", 1), placed("c", 1)])
    data = {"url": exact, "result": "unreachable"}
    journal.append(EventRaised("dandi", "000001", "unavailable", "gone", LATER, data))
    index.catch_up(journal)
    assert known(index, exact) == [("unreachable", LATER)]
    again = tmp_path / "again.sqlite"
    rebuild(again, journal)
    with Index.open_readonly(again) as other:
        assert list(other.dump()) == list(index.dump())


def test_one_address_may_have_had_several_contents(journal: DiskJournal, index: Index) -> None:
    one, other = placed("a", 1), placed("a", 2)
    shared = one.record.locations[1]
    journal.mint([one])
    journal.mint([placed("a", 2, locations=(*other.record.locations, shared))])
    journal.append(asked({"changed": [shared.url]}, FIRST))
    index.catch_up(journal)
    assert known(index, shared.url) == [("changed", FIRST)] * 2
