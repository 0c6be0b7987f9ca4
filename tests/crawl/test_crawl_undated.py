"""States of which upstream gives no time: names and dates follow from the states alone."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from crawl_place import git
from scripted import START, Box, File, Scripted, Thing, Zarr, files

from neuromirror.cli import main
from neuromirror.crawl import rebuild_index
from neuromirror.index import UnknownVersion, VersionRow
from neuromirror.model import Document, VersionMinted, parse_time_label

A = files("one.bin", "two.bin", modified=None)
B = {**files("one.bin", modified=None), "two.bin": File(b"other", None, "other")}


def versions(box: Box, name: str = "box:a") -> list[VersionRow]:
    with box.index() as index:
        return list(index.versions(name))


def alias_label(row: VersionRow) -> str:
    return row.minted.replace(":", "").removesuffix("+0000") + "Z"


def run(box: Box, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    """The JSON records of a command."""
    with pytest.raises(SystemExit) as ended:
        main([*words, "--store", str(box.folder), "--json"])
    out = capsys.readouterr().out
    assert ended.value.code == 0, (words, out)
    return [json.loads(line) for line in out.splitlines()]


def test_a_state_that_returns_is_a_version_of_its_own_and_dates_count_the_chain(
    box: Box, source: Scripted
) -> None:
    labels = []
    for content in (A, B, A):
        source.things["a"] = Thing(content)
        labels += box.sync()["box:a"].versions
    first, second, third = versions(box)
    assert first.state == third.state != second.state
    assert labels == [
        f"state-{first.state[7:15]}",
        f"state-{second.state[7:15]}",
        f"state-{first.state[7:15]}-2",
    ]
    repository = box.repository("box:a")
    log = git(repository, "log", "--format=%H %at %ct", "main").splitlines()
    assert log == [f"{third.commit} 3 3", f"{second.commit} 2 2", f"{first.commit} 1 1"]
    refs = box.store.repository(source.dataset("a")).refs()
    tags = {name.removeprefix("refs/tags/"): commit for name, commit in refs.items()}
    assert [tags[label] for label in labels] == [first.commit, second.commit, third.commit]
    logs = git(repository, "grep", "-h", "", "git-annex", "--", "*.log", "*.web").splitlines()
    assert {line.split()[0] for line in logs if line.endswith("0001")} == {"1s", "2s"}
    box.fsck()


def test_two_stores_that_saw_the_same_states_have_the_same_refs(
    box: Box, another_box: Box, source: Scripted
) -> None:
    documents = [Document(b"about.json", b"{}\n")]
    states = [
        Thing(A),
        Thing(A, documents=documents),
        Thing({"t.bin": File(b"t", START)}),
        Thing(B),
    ]
    for state in states:
        source.things["a"] = state
        box.sync()
        if state is states[0]:
            time.sleep(1.1)  # times are in seconds
        another_box.sync()
    assert len(versions(box)) == len(states)
    assert versions(box)[0].minted != versions(another_box)[0].minted
    assert [row.upstream_time is None for row in versions(box)] == [True, True, False, True]
    assert box.refs() == another_box.refs()


def test_a_time_of_observation_never_dates_what_a_part_is_linked_in(
    zarrs: Box, source: Scripted
) -> None:
    source.zarrs["z"] = Zarr(files(*(f"0/{number}" for number in range(6)), modified=None))
    source.things["a"] = Thing(A, zarrs={"a.zarr": "z"})
    zarrs.sync()
    (row,), (part,) = versions(zarrs), versions(zarrs, "box:zarr/z")
    assert row.upstream_time is part.upstream_time is None
    for name in ("box:a", "box:zarr/z"):
        assert git(zarrs.repository(name), "log", "--format=%ct", "main").split() == ["1"]


def test_the_time_of_observation_is_a_label_wherever_labels_are_taken(
    box: Box, source: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.things["a"] = Thing(A)
    box.sync()
    (row,) = versions(box)
    alias = alias_label(row)
    assert parse_time_label(alias) is not None
    named = f"box:a@{alias}"
    with box.index() as index:
        assert index.resolve("box:a", alias) == row
        found = index.named(named)
        assert found is not None
        assert (found.dataset, found.label) == ("box:a", row.label)
        with pytest.raises(UnknownVersion):
            index.resolve("box:a", "2001-01-01T000000Z")
    (shown,) = run(box, capsys, "show", named)
    assert (shown["version"], shown["time"], shown["observed_at"]) == (row.label, None, row.minted)
    assert {one["path"] for one in run(box, capsys, "files", named)} == set(A)
    assert run(box, capsys, "diff", named, f"box:a@{row.label}")[-1]["status"] in (
        "ok",
        "notneeded",
    )
    lock = tmp_path / "datasets.lock"
    (pinned, *_) = run(box, capsys, "pin", named, "-o", str(lock))
    assert pinned["version"] == row.label
    with pytest.raises(SystemExit) as ended:
        main(["cite", named, "--store", str(box.folder)])
    assert ended.value.code == 0
    assert row.label in capsys.readouterr().out


def test_the_index_and_git_alone_give_such_versions_back(box: Box, source: Scripted) -> None:
    for content in (A, B, A):
        source.things["a"] = Thing(content)
        box.sync()
    before = versions(box)
    (box.folder / "neuromirror" / "index.sqlite").rename(box.folder / "old.sqlite")
    rebuild_index(box.store, box.store.index_path)
    assert versions(box) == before
    box.store.index_path.unlink()
    (box.folder / "neuromirror" / "journal.jsonl").unlink()
    rebuild_index(box.store, box.store.index_path)
    after = versions(box)
    wanted = [(row.label, row.commit, row.state) for row in before]
    assert [(row.label, row.commit, row.state) for row in after] == wanted
    assert {row.upstream_time for row in after} == {None}
    assert all(row.time == row.minted >= before[0].minted for row in after)
    with contextlib.closing(sqlite3.connect(box.store.index_path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert box.entries(VersionMinted)
    assert {entry.time for entry in box.entries(VersionMinted)} == {None}


def test_what_a_clone_recorded_later_counts_and_so_does_the_mirrors_next_state(
    box: Box, source: Scripted, tmp_path: Path
) -> None:
    source.things["a"] = Thing(A)
    box.sync()
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(box.repository("box:a")), str(clone))
    git(clone, "annex", "init", "-q")
    web = "00000000-0000-0000-0000-000000000001"
    key = git(clone, "annex", "lookupkey", "one.bin").strip()
    git(clone, "annex", "setpresentkey", key, web, "0")
    source.things["a"] = Thing(B)
    box.sync()
    git(clone, "pull", "-q", "--ff-only")
    git(clone, "annex", "merge", "-q")

    def holders(path: str) -> list[str]:
        told = json.loads(git(clone, "annex", "find", "--anything", "--json", path) or "{}")
        keys = git(clone, "annex", "whereis", "--json", "--key", told["key"])
        return [one["uuid"] for one in json.loads(keys)["whereis"]]

    assert web in holders("two.bin")
    with pytest.raises(AssertionError):
        git(clone, "annex", "whereis", "one.bin")
