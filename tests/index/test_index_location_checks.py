"""What places answered when they were asked, by the journal's entries."""

from __future__ import annotations

from pathlib import Path

from neuromirror.index import Index, rebuild_from_journal
from neuromirror.model import EventRaised, LocationsChecked, dump_entry, load_entry
from support.disk_journal import DiskJournal, placed_file
from support.index_dump import dump_index

FIRST, LATER = "2026-03-01T12:00:00+00:00", "2026-03-02T12:00:00+00:00"


def urls(index: Index, path: str, label: str = "latest") -> list[str]:
    files = {one.path: one for one in index.files(index.resolve("dandi:000001", label))}
    return [location.url for location in index.locations(files[path].content)]


def probe_results(index: Index, url: str) -> list[tuple[str | None, str | None]]:
    return [(one.result, one.checked_at) for one in index.url_locations(url)]


def probe_entry(found: dict[str, list[str]], at: str) -> LocationsChecked:
    return LocationsChecked("dandi", "000001", found, at)


def test_an_entry_comes_back_from_its_line() -> None:
    entry = probe_entry({"ok": ["https://a.invalid/é"], "not-found": []}, FIRST)
    assert load_entry(dump_entry(entry)) == entry


def test_last_probe_of_each_location_counts(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed_file("a", 1), placed_file("b", 2)])
    index.catch_up(journal)
    exact, address = urls(index, "a")
    assert probe_results(index, exact) == [(None, None)]
    journal.append(probe_entry({"ok": [exact], "refused": [address]}, FIRST))
    journal.append(probe_entry({"not-found": [exact]}, LATER))
    index.catch_up(journal)
    assert probe_results(index, exact) == [("not-found", LATER)]
    assert probe_results(index, address) == [("refused", FIRST)]
    for url in urls(index, "b"):
        assert probe_results(index, url) == [(None, None)]
    # it belongs to the location, wherever that is recorded
    (row, _) = index.locations(next(index.files(index.resolve("dandi:000001"))).content)
    assert (row.url, row.result, row.checked_at) == (exact, "not-found", LATER)


def test_probe_of_an_unknown_location_changes_nothing(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed_file("a", 1)])
    index.catch_up(journal)
    exact, _ = urls(index, "a")
    before = dump_index(index)
    plain = exact.partition("?")[0]
    journal.append(probe_entry({"not-found": ["https://elsewhere.invalid/", plain]}, FIRST))
    index.catch_up(journal)
    assert [one for one in dump_index(index) if not one.startswith("progress")] == [
        one for one in before if not one.startswith("progress")
    ]
    assert index.url_locations(plain) == []


def test_rebuilt_index_has_the_same_probe_results(
    journal: DiskJournal, index: Index, tmp_path: Path
) -> None:
    journal.mint([placed_file("a", 1)])
    index.catch_up(journal)
    exact, address = urls(index, "a")
    journal.append(probe_entry({"ok": [exact], "changed": [address]}, FIRST))
    journal.mint([placed_file("a", 1), placed_file("c", 1)])
    data = {"url": exact, "result": "unreachable"}
    journal.append(EventRaised("dandi", "000001", "unavailable", "gone", LATER, data))
    index.catch_up(journal)
    assert probe_results(index, exact) == [("unreachable", LATER)]
    rebuilt = tmp_path / "again.sqlite"
    rebuild_from_journal(rebuilt, journal)
    with Index.open_readonly(rebuilt) as other:
        assert dump_index(other) == dump_index(index)


def test_one_address_may_have_had_several_contents(journal: DiskJournal, index: Index) -> None:
    one, other = placed_file("a", 1), placed_file("a", 2)
    shared = one.record.locations[1]
    journal.mint([one])
    journal.mint([placed_file("a", 2, locations=(*other.record.locations, shared))])
    journal.append(probe_entry({"changed": [shared.url]}, FIRST))
    index.catch_up(journal)
    assert probe_results(index, shared.url) == [("changed", FIRST)] * 2
