"""The recorder's index: up to date even after damage to its file or to a version's records."""

from __future__ import annotations

import json

from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import open_recorder, rebuild_index
from neuromirror.index import Index
from neuromirror.model import EventRaised
from support.scripted_source import ScriptedDataset, ScriptedHarness, at, files


def status(box: ScriptedHarness) -> tuple[int, list[dict[str, object]]]:
    done = CliRunner().invoke(
        main,
        ["--store", str(box.folder), "--mirrors", str(box.mirrors), "--json", "status"],
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.exit_code, [one for one in lines if one["status"] == "error"]


def test_damaged_records_of_one_version_stop_no_other_dataset(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("one.bin", sha256=True))
    harness.datasets["b"] = ScriptedDataset(files("two.bin", sha256=True))
    harness.sync()
    store = harness.store
    with harness.index() as index:
        (row,) = index.versions("box:a")
    (records,) = (harness.folder / "neuromirror" / "records").rglob(f"*{row.commit}*")
    records.write_bytes(b"damaged")
    store.index_path.unlink()
    with open_recorder(store, store.index_path):
        pass
    with harness.index() as index:
        assert len(list(index.versions("box:b"))) == 1
    code, errors = status(harness)
    assert code == 1
    assert [(one["task"], one["dataset"]) for one in errors] == [("index", "box:a")]
    assert row.commit in str(errors[0]["message"])

    # the next visit reads the records back from git
    records.unlink()
    harness.datasets["a"].files |= files("more.bin", modified=at(60), sha256=True)
    assert harness.sync()["box:a"].status == "ok"
    assert status(harness) == (0, [])
    with harness.index() as index:
        assert len(list(index.versions("box:a"))) == 2
    harness.fsck()


def test_entries_are_recorded_in_an_index_that_replaced_another(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("one.bin"))
    harness.sync()
    store = harness.store
    with open_recorder(store, store.index_path) as recorder:
        rebuild_index(store, store.index_path)
        recorder.record(EventRaised("box", "a", "note", "first", "2026-01-01T00:00:00+00:00", {}))
        with Index.open_readonly(store.index_path) as index:
            assert [one.message for one in index.events(kind="note")] == ["first"]
        store.index_path.unlink()
        recorder.record(EventRaised("box", "a", "note", "second", "2026-01-01T00:00:01+00:00", {}))
        with Index.open_readonly(store.index_path) as index:
            assert [one.message for one in index.events(kind="note")] == ["second", "first"]
