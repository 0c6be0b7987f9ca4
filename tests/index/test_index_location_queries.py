"""Locations that are due for a check, what they answered, and copies of the index."""

from pathlib import Path

import pytest

from neuromirror.index import (
    DatasetWithdrawnError,
    Index,
    IndexMissingError,
    IndexUnusableError,
    Schedule,
    UnknownDatasetError,
    UnknownMirrorError,
    rebuild_from_journal,
)
from neuromirror.index.backup import (
    copy_database,
    integrity_errors,
    integrity_errors_by_table,
    read_position,
    restore_copy,
)
from neuromirror.model import (
    DatasetReinstated,
    DatasetWithdrawn,
    EventRaised,
    Location,
    LocationsChecked,
    MirrorSeen,
    VersionMinted,
    dump_entry,
    load_entry,
)
from support.disk_journal import URI, DiskJournal, placed_file
from support.index_dump import dump_index


def append_probe(journal: DiskJournal, found: dict[str, list[str]], at: str) -> None:
    journal.append(LocationsChecked("dandi", "000001", found, at))


def due_urls(index: Index, before: str = "9", **where: str) -> list[str]:
    return [one.url for one in index.locations.due(1000, before, **where)]


def test_locations_never_probed_come_first_then_the_longest_unprobed(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1), placed_file("b", 2)])
    index.catch_up(journal)
    first = due_urls(index)
    assert len(first) == 4
    append_probe(journal, {"ok": [first[0]]}, "2025-02-01")
    append_probe(journal, {"not-found": [first[1]]}, "2025-01-01")
    index.catch_up(journal)
    assert due_urls(index) == [first[2], first[3], first[1], first[0]]
    assert due_urls(index, "2025-01-15") == [first[2], first[3], first[1]]
    assert [one.url for one in index.locations.due(3, "9")] == [first[2], first[3], first[1]]
    due = {one.url: one for one in index.locations.due(9, "9")}
    assert (due[first[1]].result, due[first[1]].checked_at) == ("not-found", "2025-01-01")
    assert (due[first[0]].dataset, due[first[0]].path) == ("dandi:000001", "a")
    assert {digest.algorithm for digest in due[first[0]].digests} == {"sha256", "etag"}
    assert not due[first[0]].is_only_location
    assert index.locations.probe_coverage() == (False, "2025-01-01")


def test_location_that_later_served_other_bytes_is_not_due_for_the_older_ones(
    journal: DiskJournal, index: Index
) -> None:
    locations = (Location("https://bucket.example.invalid/x", "s3"),)
    journal.mint([placed_file("x", 1, locations=locations)])
    journal.mint([placed_file("x", 2, locations=locations)])
    index.catch_up(journal)
    (due,) = index.locations.due(9, "9")
    assert due.key == placed_file("x", 2).key
    assert due.is_only_location
    append_probe(journal, {"changed": [due.url]}, "2025")
    index.catch_up(journal)
    assert index.locations.failing() == {"dandi": {"changed": 1}}
    old, new = index.versions.of("dandi:000001")
    assert (index.locations.failing_of(old), index.locations.failing_of(new)) == (
        {},
        {"changed": 1},
    )


def test_due_locations_can_be_limited_to_a_mirror_or_dataset(
    journal: DiskJournal, index: Index
) -> None:
    journal.append(MirrorSeen("else", "dandi", "https://else.example.invalid/", "2024"))
    journal.mint([placed_file("a", 1), placed_file("b", 2)])
    journal.mint([placed_file("c", 3)], "000002")
    journal.mint([placed_file("d", 4)], "7", mirror="else")
    # a file that is no more counts too: a version that was pinned has it
    journal.mint([placed_file("b", 2)])
    index.catch_up(journal)
    assert len(due_urls(index)) == 8
    assert {one.path for one in index.locations.due(9, "9", dataset="dandi:000001")} == {"a", "b"}
    assert {one.path for one in index.locations.due(9, "9", mirror="else")} == {"d"}
    assert {one.path for one in index.locations.due(9, "9", mirror="dandi")} == {"a", "b", "c"}
    with pytest.raises(UnknownDatasetError):
        due_urls(index, dataset="dandi:9")
    with pytest.raises(UnknownMirrorError):
        due_urls(index, mirror="nosuch")


def test_due_locations_are_found_by_an_index(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed_file("a", 1)])
    index.catch_up(journal)
    plans: list[str] = []
    real = index.reader.rows

    def explained(sql: str, parameters: object = ()) -> object:
        if "FROM locations l" in sql:
            plan = real(f"EXPLAIN QUERY PLAN {sql}", parameters)  # type: ignore[arg-type]
            plans.extend(str(row[3]) for row in plan)
        return real(sql, parameters)  # type: ignore[arg-type]

    index.reader.rows = explained  # type: ignore[method-assign, assignment]
    index.locations.due(10, "9")
    index.locations.due(10, "9", mirror="dandi")
    index.locations.failing()
    assert sum("SEARCH l USING INDEX locations_probed" in one for one in plans) == 4
    assert not [one for one in plans if one.startswith("SCAN l") and "failing" not in one]
    assert not [one for one in plans if "TEMP B-TREE FOR ORDER BY" in one]


def test_due_locations_of_a_small_mirror_beside_a_large_one_are_the_same(
    journal: DiskJournal, index: Index
) -> None:
    journal.append(MirrorSeen("small", "dandi", "https://else.example.invalid/", "2024"))
    journal.mint([placed_file(f"{number:03d}", number) for number in range(50)])
    journal.mint([placed_file("d", "its own")], "7", mirror="small")
    index.catch_up(journal)
    assert [one.path for one in index.locations.due(9, "9", mirror="small")] == ["d", "d"]
    first = due_urls(index, mirror="small")[0]
    append_probe(journal, {"ok": [first]}, "2025-01-01")
    index.catch_up(journal)
    assert len(due_urls(index, "2024", mirror="small")) == 1
    assert due_urls(index, mirror="small")[1] == first


# --- withdrawn datasets


def withdrawn_entry(local_id: str, within: str = "") -> DatasetWithdrawn:
    return DatasetWithdrawn(
        "dandi", local_id, URI.format(local_id), "why", "me", "2025-01-01", within
    )


def test_rebuilt_index_neither_has_nor_reads_a_withdrawn_dataset(
    journal: DiskJournal, index: Index, path: Path
) -> None:
    first = journal.mint([placed_file("a", 1)], title="Secret")
    journal.mint([placed_file("b", 2)], "000002")
    journal.append(withdrawn_entry("000001"))
    index.catch_up(journal)
    with pytest.raises(DatasetWithdrawnError, match="2025-01-01: why"):
        index.datasets.get("dandi:000001")
    index.close()
    (journal.root / first.commit).unlink()
    rebuild_from_journal(path, journal)
    with Index.open_readonly(path) as anew:
        assert not [
            row for row in dump_index(anew) if "Secret" in row or placed_file("a", 1).key in row
        ]
        assert anew.datasets.has_only_version_ids("dandi:000001")
        assert not anew.datasets.has_only_version_ids("dandi:000002")
        assert [one.path for one in anew.locations.due(9, "9")] == ["b", "b"]


def test_reinstated_dataset_is_indexed_as_before(journal: DiskJournal, path: Path) -> None:
    journal.mint([placed_file("a", 1)], title="Secret")
    rebuild_from_journal(path, journal)
    with Index.open_readonly(path) as before:
        rows = [row for row in dump_index(before) if not row.startswith("progress ")]
    journal.append(withdrawn_entry("000001"))
    journal.append(DatasetReinstated("dandi", "000001", URI.format("000001"), "me", "2025-01-02"))
    rebuild_from_journal(path, journal)
    with Index.open_readonly(path) as after:
        found = [row for row in dump_index(after) if not row.startswith(("progress ", "events "))]
        assert found == [row for row in rows if not row.startswith("events ")]
        assert [event.kind for event in after.crawl.events()] == ["takedown", "takedown"]


# --- copies


def test_backup_is_one_file_and_is_updated_when_restored(
    journal: DiskJournal, path: Path, tmp_path: Path
) -> None:
    entry: VersionMinted = journal.mint([placed_file("a", 1)])
    copy = tmp_path / "copy.sqlite"
    with Index.open(path) as index:
        index.catch_up(journal)
        copy_database(path, copy)
        journal.mint([placed_file("b", 2)])
        index.catch_up(journal)
        expected = dump_index(index)
    assert not list(tmp_path.glob("copy.sqlite?*"))
    assert read_position(copy) < journal.file.stat().st_size
    assert integrity_errors(copy, deep=True) == []
    with Index.open_readonly(path) as old:
        assert restore_copy(path, copy, journal) == 1
        assert old.is_replaced
    with Index.open_readonly(path) as index:
        assert dump_index(index) == expected
    assert entry.commit


def test_only_our_own_files_are_copied(tmp_path: Path) -> None:
    with pytest.raises(IndexMissingError):
        copy_database(tmp_path / "nothing", tmp_path / "copy")
    (tmp_path / "text").write_bytes(b"no database at all" * 100)
    with pytest.raises(IndexUnusableError):
        copy_database(tmp_path / "text", tmp_path / "copy")
    Schedule.open(tmp_path / "schedule").close()
    copy_database(tmp_path / "schedule", tmp_path / "ours")
    with pytest.raises(IndexUnusableError, match="not an index"):
        read_position(tmp_path / "ours")


def test_tables_are_looked_at_one_after_the_other(journal: DiskJournal, path: Path) -> None:
    journal.mint([placed_file(f"{number:04d}", number) for number in range(300)])
    rebuild_from_journal(path, journal)
    every = [table for table, _ in integrity_errors_by_table(path, "", 60)]
    assert {"contents", "files", "locations", "versions"} <= set(every)
    assert every == sorted(every)
    assert [table for table, _ in integrity_errors_by_table(path, "files", 60)] == [
        one for one in every if one > "files"
    ]
    assert all(found == [] for _, found in integrity_errors_by_table(path, "", 60))
    damaged = bytearray(path.read_bytes())
    page = int.from_bytes(damaged[16:18], "big")
    at = damaged.index(b"0150") // page * page
    damaged[at : at + 8] = b"\xff" * 8
    path.write_bytes(damaged)
    assert [table for table, found in integrity_errors_by_table(path, "", 60) if found]
    assert integrity_errors(path)


FIRST, LATER = "2026-03-01T12:00:00+00:00", "2026-03-02T12:00:00+00:00"


def urls(index: Index, path: str, label: str = "latest") -> list[str]:
    files = {one.path: one for one in index.files.of(index.versions.resolve("dandi:000001", label))}
    return [location.url for location in index.locations.of(files[path].content)]


def probe_results(index: Index, url: str) -> list[tuple[str | None, str | None]]:
    return [(one.result, one.checked_at) for one in index.locations.of_url(url)]


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
    (row, _) = index.locations.of(
        next(index.files.of(index.versions.resolve("dandi:000001"))).content
    )
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
    assert index.locations.of_url(plain) == []


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
