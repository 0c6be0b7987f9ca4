"""States without upstream times: labels and dates depend on the states alone."""

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from neuromirror.cli import main
from neuromirror.crawl import rebuild_index
from neuromirror.index import UnknownVersionError, VersionRow
from neuromirror.model import Document, VersionMinted, parse_time_label
from support.mirror_harness import run_git
from support.scripted_source import (
    START,
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    ScriptedZarr,
    files,
)

FIRST_FILES = files("one.bin", "two.bin", modified=None)
SECOND_FILES = {**files("one.bin", modified=None), "two.bin": ScriptedFile(b"other", None, "other")}


def versions(box: ScriptedHarness, name: str = "box:a") -> list[VersionRow]:
    with box.index() as index:
        return list(index.versions.of(name))


def alias_label(row: VersionRow) -> str:
    return row.recorded_at.replace(":", "").removesuffix("+0000") + "Z"


def run(
    box: ScriptedHarness, capsys: pytest.CaptureFixture[str], *arguments: str
) -> list[dict[str, Any]]:
    """Return the JSON records of a command."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--store", str(box.folder), "--json"])
    out = capsys.readouterr().out
    assert ended.value.code == 0, (arguments, out)
    return [json.loads(line) for line in out.splitlines()]


def test_a_state_that_returns_is_a_version_of_its_own_and_dates_count_the_chain(
    harness: ScriptedHarness,
) -> None:
    labels = []
    for content in (FIRST_FILES, SECOND_FILES, FIRST_FILES):
        harness.datasets["a"] = ScriptedDataset(content)
        labels += harness.sync()["box:a"].versions
    first, second, third = versions(harness)
    assert first.state == third.state != second.state
    assert labels == [
        f"state-{first.state[7:15]}",
        f"state-{second.state[7:15]}",
        f"state-{first.state[7:15]}-2",
    ]
    repository = harness.repository("box:a")
    log = run_git(repository, "log", "--format=%H %at %ct", "main").splitlines()
    assert log == [f"{third.commit} 3 3", f"{second.commit} 2 2", f"{first.commit} 1 1"]
    refs = harness.store.repositories.of(harness.source.dataset("a")).refs()
    tags = {name.removeprefix("refs/tags/"): commit for name, commit in refs.items()}
    assert [tags[label] for label in labels] == [first.commit, second.commit, third.commit]
    logs = run_git(repository, "grep", "-h", "", "git-annex", "--", "*.log", "*.web").splitlines()
    assert {line.split()[0] for line in logs if line.endswith("0001")} == {"1s", "2s"}
    harness.fsck()


def test_two_stores_that_saw_the_same_states_have_the_same_refs(
    harness: ScriptedHarness, other_harness: ScriptedHarness, source: ScriptedSource
) -> None:
    documents = [Document(b"about.json", b"{}\n")]
    states = [
        ScriptedDataset(FIRST_FILES),
        ScriptedDataset(FIRST_FILES, documents=documents),
        ScriptedDataset({"t.bin": ScriptedFile(b"t", START)}),
        ScriptedDataset(SECOND_FILES),
    ]
    for state in states:
        source.scripted_datasets["a"] = state
        harness.sync()
        if state is states[0]:
            time.sleep(1.1)  # times are in seconds
        other_harness.sync()
    assert len(versions(harness)) == len(states)
    assert versions(harness)[0].recorded_at != versions(other_harness)[0].recorded_at
    assert [row.upstream_time is None for row in versions(harness)] == [True, True, False, True]
    assert harness.refs() == other_harness.refs()


def test_the_observation_time_never_dates_a_dataset_that_links_a_component(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs["z"] = ScriptedZarr(
        files(*(f"0/{number}" for number in range(6)), modified=None)
    )
    zarr_harness.datasets["a"] = ScriptedDataset(FIRST_FILES, zarrs={"a.zarr": "z"})
    zarr_harness.sync()
    (row,), (part,) = versions(zarr_harness), versions(zarr_harness, "box:zarr/z")
    assert row.upstream_time is part.upstream_time is None
    for name in ("box:a", "box:zarr/z"):
        assert run_git(zarr_harness.repository(name), "log", "--format=%ct", "main").split() == [
            "1"
        ]


def test_the_observation_time_is_accepted_wherever_labels_are(
    harness: ScriptedHarness, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.datasets["a"] = ScriptedDataset(FIRST_FILES)
    harness.sync()
    (row,) = versions(harness)
    alias = alias_label(row)
    assert parse_time_label(alias) is not None
    named = f"box:a@{alias}"
    with harness.index() as index:
        assert index.versions.resolve("box:a", alias) == row
        found = index.names.match(named)
        assert found is not None
        assert (found.dataset, found.label) == ("box:a", row.label)
        with pytest.raises(UnknownVersionError):
            index.versions.resolve("box:a", "2001-01-01T000000Z")
    (shown,) = run(harness, capsys, "show", named)
    assert (shown["version"], shown["time"], shown["observed_at"]) == (
        row.label,
        None,
        row.recorded_at,
    )
    assert {one["path"] for one in run(harness, capsys, "files", named)} == set(FIRST_FILES)
    assert run(harness, capsys, "diff", named, f"box:a@{row.label}")[-1]["status"] in (
        "ok",
        "notneeded",
    )
    lock = tmp_path / "datasets.lock"
    (pinned, *_) = run(harness, capsys, "pin", named, "-o", str(lock))
    assert pinned["version"] == row.label
    with pytest.raises(SystemExit) as ended:
        main(["cite", named, "--store", str(harness.folder)])
    assert ended.value.code == 0
    assert row.label in capsys.readouterr().out


def test_such_versions_are_rebuilt_from_the_index_or_from_git(harness: ScriptedHarness) -> None:
    for content in (FIRST_FILES, SECOND_FILES, FIRST_FILES):
        harness.datasets["a"] = ScriptedDataset(content)
        harness.sync()
    before = versions(harness)
    (harness.folder / "neuromirror" / "index.sqlite").rename(harness.folder / "old.sqlite")
    rebuild_index(harness.store, harness.store.index_path)
    assert versions(harness) == before
    harness.store.index_path.unlink()
    (harness.folder / "neuromirror" / "journal.jsonl").unlink()
    rebuild_index(harness.store, harness.store.index_path)
    after = versions(harness)
    expected = [(row.label, row.commit, row.state) for row in before]
    assert [(row.label, row.commit, row.state) for row in after] == expected
    assert {row.upstream_time for row in after} == {None}
    assert all(row.time == row.recorded_at >= before[0].recorded_at for row in after)
    with contextlib.closing(sqlite3.connect(harness.store.index_path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert harness.entries(VersionMinted)
    assert {entry.time for entry in harness.entries(VersionMinted)} == {None}


def test_later_records_of_a_clone_and_of_the_mirror_both_count(
    harness: ScriptedHarness, tmp_path: Path
) -> None:
    harness.datasets["a"] = ScriptedDataset(FIRST_FILES)
    harness.sync()
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", str(harness.repository("box:a")), str(clone))
    run_git(clone, "annex", "init", "-q")
    web = "00000000-0000-0000-0000-000000000001"
    key = run_git(clone, "annex", "lookupkey", "one.bin").strip()
    run_git(clone, "annex", "setpresentkey", key, web, "0")
    harness.datasets["a"] = ScriptedDataset(SECOND_FILES)
    harness.sync()
    run_git(clone, "pull", "-q", "--ff-only")
    run_git(clone, "annex", "merge", "-q")

    def holders(path: str) -> list[str]:
        record = json.loads(run_git(clone, "annex", "find", "--anything", "--json", path) or "{}")
        keys = run_git(clone, "annex", "whereis", "--json", "--key", record["key"])
        return [load["uuid"] for load in json.loads(keys)["whereis"]]

    assert web in holders("two.bin")
    with pytest.raises(AssertionError):
        run_git(clone, "annex", "whereis", "one.bin")
