"""Places to be asked next, and those that do not have what they should; copies of the index."""

from __future__ import annotations

from pathlib import Path

import pytest
from journal_on_disk import URI, DiskJournal, placed

from neuromirror.index import (
    DatasetWithheld,
    Index,
    IndexMissing,
    IndexUnusable,
    Schedule,
    UnknownDataset,
    UnknownMirror,
    rebuild,
)
from neuromirror.index.backup import (
    copy_database,
    flaws,
    flaws_by_table,
    position_of,
    restore,
    sqlite_lacks,
)
from neuromirror.model import (
    Location,
    MirrorSeen,
    PlacesAsked,
    Reinstated,
    VersionMinted,
    Withheld,
)


def asked(journal: DiskJournal, found: dict[str, list[str]], at: str) -> None:
    journal.append(PlacesAsked("dandi", "000001", found, at))


def urls(index: Index, before: str = "9", **where: str) -> list[str]:
    return [one.url for one in index.places_due(1000, before, **where)]


def test_places_never_asked_come_first_then_those_asked_longest_ago(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed("a", 1), placed("b", 2)])
    index.catch_up(journal)
    first = urls(index)
    assert len(first) == 4
    asked(journal, {"ok": [first[0]]}, "2025-02-01")
    asked(journal, {"gone": [first[1]]}, "2025-01-01")
    index.catch_up(journal)
    assert urls(index) == [first[2], first[3], first[1], first[0]]
    assert urls(index, "2025-01-15") == [first[2], first[3], first[1]]
    assert [one.url for one in index.places_due(3, "9")] == [first[2], first[3], first[1]]
    told = {one.url: one for one in index.places_due(9, "9")}
    assert (told[first[1]].result, told[first[1]].checked_at) == ("gone", "2025-01-01")
    assert (told[first[0]].dataset, told[first[0]].path) == ("dandi:000001", "a")
    assert {one.algorithm for one in told[first[0]].digests} == {"sha256", "etag"}
    assert not told[first[0]].alone
    assert index.asked_since() == (False, "2025-01-01")


def test_what_brought_other_bytes_since_is_no_place_of_the_older_ones(
    journal: DiskJournal, index: Index
) -> None:
    place = (Location("https://bucket.example.invalid/x", "s3"),)
    journal.mint([placed("x", 1, locations=place)])
    journal.mint([placed("x", 2, locations=place)])
    index.catch_up(journal)
    (due,) = index.places_due(9, "9")
    assert due.key == placed("x", 2).key
    assert due.alone
    asked(journal, {"changed": [due.url]}, "2025")
    index.catch_up(journal)
    assert index.ailing() == {"dandi": {"changed": 1}}
    old, new = index.versions("dandi:000001")
    assert (index.ailing_in(old), index.ailing_in(new)) == ({}, {"changed": 1})


def test_of_one_mirror_or_dataset_only_its_own_places_are_due(
    journal: DiskJournal, index: Index
) -> None:
    journal.append(MirrorSeen("else", "dandi", "https://else.example.invalid/", "2024"))
    journal.mint([placed("a", 1), placed("b", 2)])
    journal.mint([placed("c", 3)], "000002")
    journal.mint([placed("d", 4)], "7", mirror="else")
    # a file that is no more counts too: a version that was pinned has it
    journal.mint([placed("b", 2)])
    index.catch_up(journal)
    assert len(urls(index)) == 8
    assert {one.path for one in index.places_due(9, "9", dataset="dandi:000001")} == {"a", "b"}
    assert {one.path for one in index.places_due(9, "9", mirror="else")} == {"d"}
    assert {one.path for one in index.places_due(9, "9", mirror="dandi")} == {"a", "b", "c"}
    with pytest.raises(UnknownDataset):
        urls(index, dataset="dandi:9")
    with pytest.raises(UnknownMirror):
        urls(index, mirror="nosuch")


def test_the_next_places_are_found_without_a_look_at_the_others(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed("a", 1)])
    index.catch_up(journal)
    plans: list[str] = []
    real = index._rows

    def explained(sql: str, parameters: object = ()) -> object:
        if "FROM locations l" in sql:
            plan = real(f"EXPLAIN QUERY PLAN {sql}", parameters)  # type: ignore[arg-type]
            plans.extend(str(row[3]) for row in plan)
        return real(sql, parameters)  # type: ignore[arg-type]

    index._rows = explained  # type: ignore[method-assign, assignment]
    index.places_due(10, "9")
    index.places_due(10, "9", mirror="dandi")
    index.ailing()
    assert sum("SEARCH l USING INDEX locations_checked" in one for one in plans) == 4
    assert not [one for one in plans if one.startswith("SCAN l") and "ailing" not in one]
    assert not [one for one in plans if "TEMP B-TREE FOR ORDER BY" in one]


def test_of_a_small_mirror_beside_a_large_one_the_same_places_are_due(
    journal: DiskJournal, index: Index
) -> None:
    journal.append(MirrorSeen("small", "dandi", "https://else.example.invalid/", "2024"))
    journal.mint([placed(f"{number:03d}", number) for number in range(50)])
    journal.mint([placed("d", "its own")], "7", mirror="small")
    index.catch_up(journal)
    assert [one.path for one in index.places_due(9, "9", mirror="small")] == ["d", "d"]
    first = urls(index, mirror="small")[0]
    asked(journal, {"ok": [first]}, "2025-01-01")
    index.catch_up(journal)
    assert len(urls(index, "2024", mirror="small")) == 1
    assert urls(index, mirror="small")[1] == first


# --- what was taken down


def taken(local_id: str, within: str = "") -> Withheld:
    return Withheld("dandi", local_id, URI.format(local_id), "why", "me", "2025-01-01", within)


def test_an_index_made_anew_has_nothing_of_what_was_taken_down_and_reads_nothing_of_it(
    journal: DiskJournal, index: Index, path: Path
) -> None:
    first = journal.mint([placed("a", 1)], title="Secret")
    journal.mint([placed("b", 2)], "000002")
    journal.append(taken("000001"))
    index.catch_up(journal)
    with pytest.raises(DatasetWithheld, match="taken down on 2025-01-01: why"):
        index.dataset("dandi:000001")
    index.close()
    (journal.root / first.commit).unlink()
    rebuild(path, journal)
    with Index.open_readonly(path) as anew:
        assert not [row for row in anew.dump() if "Secret" in row or placed("a", 1).key in row]
        assert anew.is_bare("dandi:000001")
        assert not anew.is_bare("dandi:000002")
        assert [one.path for one in anew.places_due(9, "9")] == ["b", "b"]


def test_shown_again_it_is_there_as_before(journal: DiskJournal, path: Path) -> None:
    journal.mint([placed("a", 1)], title="Secret")
    rebuild(path, journal)
    with Index.open_readonly(path) as before:
        rows = [row for row in before.dump() if not row.startswith("progress ")]
    journal.append(taken("000001"))
    journal.append(Reinstated("dandi", "000001", URI.format("000001"), "me", "2025-01-02"))
    rebuild(path, journal)
    with Index.open_readonly(path) as after:
        found = [row for row in after.dump() if not row.startswith(("progress ", "events "))]
        assert found == [row for row in rows if not row.startswith("events ")]
        assert [one.kind for one in after.events()] == ["takedown", "takedown"]


# --- copies


def test_a_copy_is_one_file_and_is_brought_up_to_date_where_it_is_put(
    journal: DiskJournal, path: Path, tmp_path: Path
) -> None:
    entry: VersionMinted = journal.mint([placed("a", 1)])
    copy = tmp_path / "copy.sqlite"
    with Index.open(path) as index:
        index.catch_up(journal)
        copy_database(path, copy)
        journal.mint([placed("b", 2)])
        index.catch_up(journal)
        wanted = list(index.dump())
    assert not list(tmp_path.glob("copy.sqlite?*"))
    assert position_of(copy) < journal.file.stat().st_size
    assert flaws(copy, deep=True) == []
    with Index.open_readonly(path) as old:
        assert restore(path, copy, journal) == 1
        assert old.replaced
    with Index.open_readonly(path) as index:
        assert list(index.dump()) == wanted
    assert entry.commit


def test_only_our_own_files_are_copied(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing):
        copy_database(tmp_path / "nothing", tmp_path / "copy")
    (tmp_path / "text").write_bytes(b"no database at all" * 100)
    with pytest.raises(IndexUnusable):
        copy_database(tmp_path / "text", tmp_path / "copy")
    Schedule.open(tmp_path / "schedule").close()
    copy_database(tmp_path / "schedule", tmp_path / "ours")
    with pytest.raises(IndexUnusable, match="not an index"):
        position_of(tmp_path / "ours")


def test_tables_are_looked_at_one_after_the_other(journal: DiskJournal, path: Path) -> None:
    journal.mint([placed(f"{number:04d}", number) for number in range(300)])
    rebuild(path, journal)
    every = [table for table, _ in flaws_by_table(path, "", 60)]
    assert {"contents", "files", "locations", "versions"} <= set(every)
    assert every == sorted(every)
    assert [table for table, _ in flaws_by_table(path, "files", 60)] == [
        one for one in every if one > "files"
    ]
    assert all(found == [] for _, found in flaws_by_table(path, "", 60))
    damaged = bytearray(path.read_bytes())
    page = int.from_bytes(damaged[16:18], "big")
    at = damaged.index(b"0150") // page * page
    damaged[at : at + 8] = b"\xff" * 8
    path.write_bytes(damaged)
    assert [table for table, found in flaws_by_table(path, "", 60) if found]
    assert flaws(path)


def test_this_python_has_what_the_index_needs() -> None:
    version, lacking = sqlite_lacks()
    assert version
    assert lacking == ""
