"""Chores: slices that go on where the last one stopped, and looks that find what is broken."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from crawl_place import Place, git
from service_store import flip

from neuromirror.crawl import recording
from neuromirror.index import Index, Schedule
from neuromirror.lab.audit import Asking
from neuromirror.model import EventRaised, PlacesAsked, VersionMinted
from neuromirror.service.checks import Checked
from neuromirror.service.chores import ChoreFailed, ChoreSettings, chores
from neuromirror.service.rounds import Integrity, look
from neuromirror.store import StoreBusy, dataset_of

LOCAL = Asking(allowed=("127.0.0.1",), per_second=1000.0)


def looked(place: Place, **how: object) -> list[Checked]:
    store = place.store
    return list(look(store, store.index_path, **how))  # type: ignore[arg-type]


def broken(place: Place) -> dict[tuple[str, str], str]:
    """What is broken, by what and name."""
    return {(one.what, one.name): one.message for one in looked(place) if one.status != "ok"}


def version(place: Place, local_id: str = "000002") -> VersionMinted:
    """The version of a dataset that was minted last."""
    return [one for one in place.entries(VersionMinted) if one.local_id == local_id][-1]


def run(place: Place, name: str, **settings: object) -> str:
    store = place.store
    with (
        recording(store, store.index_path) as recorder,
        Schedule.open(store.schedule_path) as schedule,
    ):
        how = ChoreSettings(**{"asking": LOCAL, **settings})  # type: ignore[arg-type]
        every = {one.name: one for one in chores(store, store.index_path, recorder, schedule, how)}
        return every[name].run()


# --- integrity


def test_a_whole_store_is_found_whole_and_nothing_is_changed_but_the_chores_own_notes(
    copied: Place,
) -> None:
    before = copied.content()
    assert broken(copied) == {}
    after = copied.content()
    assert {name for name in after if after[name] != before.get(name)} <= {
        "neuromirror/chores/integrity.json",
        "neuromirror/locks/integrity.lock",
    }


def test_a_bit_that_turned_in_a_pack_is_found_and_named(copied: Place) -> None:
    pack = next((copied.repository("demo:000002") / "objects" / "pack").glob("*.pack"))
    flip(pack)
    found = broken(copied)
    assert list(found) == [("git", "demo:000002")]
    assert "git fsck: " in found["git", "demo:000002"]
    assert "from a backup" in found["git", "demo:000002"]


def test_a_bit_that_turned_in_the_records_is_found_and_named(copied: Place) -> None:
    last = version(copied)
    name = dataset_of(last).dataset_id
    folder = copied.folder / "neuromirror" / "records" / name[:3] / name[3:]
    flip(next(folder.glob(f"{last.commit}.*")))
    found = broken(copied)
    assert ("records", f"demo:000002@{last.label}") in found
    assert {what for what, _ in found} == {"records"}
    assert "restore" in found["records", f"demo:000002@{last.label}"]


def test_records_of_another_state_are_found_though_they_can_be_read(copied: Place) -> None:
    first, last = (
        one
        for one in copied.entries(VersionMinted)
        if one.local_id == "000002" and one.kind == "published"
    )
    assert first.files == last.files
    name = dataset_of(last).dataset_id
    folder = copied.folder / "neuromirror" / "records" / name[:3] / name[3:]
    lines = list(copied.store.record_lines(name, first.commit))
    for path in folder.glob(f"{last.commit}.*"):
        path.unlink()
    copied.store.keep_records(name, last.commit, lines)
    found = broken(copied)
    assert f"not of {last.files} and {last.state}" in found["records", f"demo:000002@{last.label}"]


def test_a_bit_that_turned_in_a_manifest_is_found_and_named(copied: Place) -> None:
    last = version(copied)
    flip(copied.store.manifest_path(last.state))
    found = broken(copied)
    assert list(found) == [("manifest", f"demo:000002@{last.label}")]
    assert last.state.removeprefix("sha256:")[2:] in next(iter(found.values()))


def test_a_word_of_paths_that_the_index_lost_is_missed(copied: Place) -> None:
    with closing(sqlite3.connect(copied.store.index_path)) as db, db:
        rows = db.execute(
            "SELECT rowid FROM path_text WHERE path_text MATCH 'ecephys' ORDER BY rowid"
        ).fetchall()
        db.execute(
            "INSERT INTO path_text (path_text, rowid, words) VALUES ('delete', ?, 'ecephys')",
            rows[0],
        )
    found = broken(copied)
    assert {one for one, _ in found} == {"index"}
    assert all("other words for the paths" in message for message in found.values())


def test_a_bit_that_turned_in_the_index_is_found_and_named(copied: Place) -> None:
    path = copied.store.index_path
    content = path.read_bytes()
    for what in (b"SHA256E-s", b"_ses-01_ecephys.nwb", version(copied).commit.encode()):
        damaged = bytearray(content)
        damaged[content.rindex(what) + len(what) - 2] ^= 1
        path.write_bytes(damaged)
        found = broken(copied)
        assert {one for one, _ in found} == {"index"}, (what, found)
        assert all("rebuild-index" in message for message in found.values())
    page = int.from_bytes(content[16:18], "big")
    path.write_bytes(content[: page * 3] + b"\xff" * 8 + content[page * 3 + 8 :])
    assert ("index", "index") in broken(copied)
    path.unlink()
    assert "rebuild-index" in broken(copied)["index", "index"]


def test_a_bit_that_turned_in_the_journal_is_found_and_named(copied: Place) -> None:
    path, content = copied.store.journal_path, copied.store.journal_path.read_bytes()
    commit = version(copied).commit.encode()
    path.write_bytes(content.replace(b'{"annex_commit"', b'{"annex_commiu"', 1))
    assert list(broken(copied)) == [("journal", "journal")]
    # what is JSON as before is known by what git and the index say
    path.write_bytes(content.replace(commit, commit[:-1] + (b"1" if commit[-1:] == b"0" else b"0")))
    assert {("git", "demo:000002"), ("index", "demo:000002")} <= set(broken(copied))
    path.write_bytes(content[:-5])
    assert "has no entry that ends there" in broken(copied)["index", "index"]


def test_a_lost_alias_ref_or_repository_is_found_and_named(copied: Place) -> None:
    alias = copied.folder / "alias" / "demo--000001"
    repository = copied.repository("demo:000001")
    alias.unlink()
    message = broken(copied)["alias", "demo:000001"]
    assert message.endswith(f"'ln -sfn ../{repository.parent.name}/{repository.name} {alias}'")
    alias.symlink_to("../wrong/place")
    assert "leads to ../wrong/place" in broken(copied)["alias", "demo:000001"]
    alias.unlink()
    alias.symlink_to(f"../{repository.parent.name}/{repository.name}")
    last = version(copied, "000001")
    git(repository, "update-ref", "-d", "refs/heads/main")
    assert ("refs", "demo:000001") in broken(copied)
    git(repository, "update-ref", "-d", "refs/heads/draft")
    git(repository, "tag", "-d", last.label)
    assert f"leads to {last.commit}" in broken(copied)["git", "demo:000001"]
    shutil.rmtree(repository)
    assert "there is no repository" in broken(copied)["git", "demo:000001"]


def test_what_comes_while_a_look_is_under_way_is_no_damage(copied: Place) -> None:
    store = copied.store
    looking = look(store, store.index_path)
    found = [next(looking)]
    name = version(copied, "000001")
    with recording(store, store.index_path) as recorder:
        recorder.record(
            EventRaised("demo", "000001", "unavailable", "a test", "2026-01-01T00:00:00+00:00")
        )
    found += looking
    assert [one for one in found if one.status != "ok"] == []
    assert name


def test_slices_go_round_the_store_and_two_looks_do_not_meet(copied: Place) -> None:
    store = copied.store
    whole = [(one.what, one.name) for one in looked(copied) if one.mark.alias]
    met: list[tuple[str, str]] = []
    for _ in whole:
        met += [(one.what, one.name) for one in looked(copied, seconds=1e-6) if one.mark.alias]
    assert met == whole
    assert Integrity.of(store).mark.alias == whole[-1][1]
    words = run(copied, "integrity", seconds=30)
    assert words.endswith("the round is over")
    assert "the round is over" not in run(copied, "integrity", seconds=1e-6)
    with (
        store.lock("integrity", "a test"),
        pytest.raises(StoreBusy, match="integrity"),
    ):
        looked(copied)


def test_what_a_slice_found_broken_fails_the_chore_until_it_is_mended(copied: Place) -> None:
    path = copied.store.manifest_path(version(copied).state)
    whole = path.read_bytes()
    flip(path)
    with pytest.raises(ChoreFailed, match="demo:000002"):
        run(copied, "integrity", seconds=30)
    # a slice that looks elsewhere does not forget it
    with pytest.raises(ChoreFailed, match="demo:000002"):
        run(copied, "integrity", seconds=1e-6)
    path.write_bytes(whole)
    assert looked(copied, wanted={"demo--000002"})
    assert "things are whole" in run(copied, "integrity", seconds=1e-6)


def test_a_repository_that_takes_git_too_long_is_told_and_the_slice_goes_on(copied: Place) -> None:
    found = looked(copied, git_seconds=1e-4)
    late = [one for one in found if one.status == "impossible"]
    assert {one.what for one in late} == {"git"}
    assert "neuromirror fsck demo:000001" in " ".join(one.message for one in late)
    assert [one for one in found if one.what == "records"]
    assert Integrity.of(copied.store).broken == {}


# --- the other chores


def test_housekeeping_goes_on_where_the_last_slice_stopped(copied: Place) -> None:
    names = [alias for alias, _ in copied.store.aliases()]
    for _ in names[:-1]:
        words = run(copied, "housekeeping", seconds=0)
        assert words.startswith("1 repositories looked at")
        assert not words.endswith("the round is over")
    run(copied, "housekeeping", seconds=0)
    assert run(copied, "housekeeping", seconds=30).endswith("the round is over")
    words = run(copied, "housekeeping", seconds=30)
    assert words.startswith(f"{len(names)} repositories looked at")


def test_the_backup_chore_fills_the_folder_that_is_named_and_there_is_none_without(
    copied: Place, tmp_path: Path
) -> None:
    words = run(copied, "backup", backup=tmp_path / "kept", keep=1)
    run(copied, "backup", backup=tmp_path / "kept", keep=1)
    assert len(list((tmp_path / "kept").glob("2*/index.sqlite"))) == 1
    assert "bytes" in words
    with pytest.raises(KeyError):
        run(copied, "backup")


def test_the_audit_chore_asks_each_place_once_in_so_many_days(copied: Place) -> None:
    with copied.index() as index:
        count = len(index.places_due(10_000, "2000"))
    assert count > 20
    assert (
        run(copied, "audit", seconds=60) == f"{count} places asked, 0 of them do not have the bytes"
    )
    assert run(copied, "audit", seconds=60).startswith("0 places asked")
    with copied.index() as index:
        assert index.asked_since()[0] is True
        assert index.places_due(10, "2000") == []
    asked = sum(len(urls) for one in copied.entries(PlacesAsked) for urls in one.found.values())
    assert asked == count
    # the index that is made anew knows it, too
    store = copied.store
    with Index.open_readonly(store.index_path) as index:
        before = list(index.dump())
    from neuromirror.crawl import rebuild_index

    rebuild_index(store, store.index_path)
    with Index.open_readonly(store.index_path) as index:
        assert list(index.dump()) == before
    assert timedelta(days=ChoreSettings().audit_days) > timedelta(days=1)


def test_a_service_that_ends_does_not_wait_for_a_slice(copied: Place) -> None:
    store = copied.store
    with (
        recording(store, store.index_path) as recorder,
        Schedule.open(store.schedule_path) as schedule,
    ):
        settings = ChoreSettings(asking=LOCAL)
        found = chores(store, store.index_path, recorder, schedule, settings, lambda: True)
        said = {one.name: one.run() for one in found}
    assert said["integrity"].startswith("1 things are whole")
    assert said["housekeeping"].startswith("1 repositories")
    assert said["audit"].startswith("1 places asked")
    # what was asked before it ended is known
    assert copied.entries(PlacesAsked)


def test_a_slice_of_the_audit_ends_with_its_time(copied: Place) -> None:
    assert run(copied, "audit", seconds=0).startswith("0 places asked")
