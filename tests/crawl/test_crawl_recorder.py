"""The recorder's index: brought up to date whatever becomes of its file, or of one version."""

from __future__ import annotations

import json

from click.testing import CliRunner
from scripted import Box, Scripted, Thing, at, files

from neuromirror.cli import main
from neuromirror.crawl import rebuild_index, recording
from neuromirror.index import Index
from neuromirror.model import EventRaised


def status(box: Box) -> tuple[int, list[dict[str, object]]]:
    done = CliRunner().invoke(
        main,
        ["--store", str(box.folder), "--mirrors", str(box.mirrors), "--json", "status"],
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.exit_code, [one for one in lines if one["status"] == "error"]


def test_damaged_records_of_one_version_stop_no_other_dataset(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("one.bin", sha256=True))
    source.things["b"] = Thing(files("two.bin", sha256=True))
    box.sync()
    store = box.store
    with box.index() as index:
        (row,) = index.versions("box:a")
    (records,) = (box.folder / "neuromirror" / "records").rglob(f"*{row.commit}*")
    records.write_bytes(b"damaged")
    store.index_path.unlink()
    with recording(store, store.index_path):
        pass
    with box.index() as index:
        assert len(list(index.versions("box:b"))) == 1
    code, errors = status(box)
    assert code == 1
    assert [(one["task"], one["dataset"]) for one in errors] == [("index", "box:a")]
    assert row.commit in str(errors[0]["message"])

    # the records are read back from git with the next visit
    records.unlink()
    source.things["a"].files |= files("more.bin", modified=at(60), sha256=True)
    assert box.sync()["box:a"].status == "ok"
    assert status(box) == (0, [])
    with box.index() as index:
        assert len(list(index.versions("box:a"))) == 2
    box.fsck()


def test_entries_are_recorded_in_the_index_that_took_the_place_of_another(
    box: Box, source: Scripted
) -> None:
    source.things["a"] = Thing(files("one.bin"))
    box.sync()
    store = box.store
    with recording(store, store.index_path) as recorder:
        rebuild_index(store, store.index_path)
        recorder.record(EventRaised("box", "a", "note", "first", "2026-01-01T00:00:00+00:00", {}))
        with Index.open_readonly(store.index_path) as index:
            assert [one.message for one in index.events(kind="note")] == ["first"]
        store.index_path.unlink()
        recorder.record(EventRaised("box", "a", "note", "second", "2026-01-01T00:00:01+00:00", {}))
        with Index.open_readonly(store.index_path) as index:
            assert [one.message for one in index.events(kind="note")] == ["second", "first"]
