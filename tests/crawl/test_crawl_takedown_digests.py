"""Block digests of contents that a withdrawn dataset shares with others."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from neuromirror.crawl import open_recorder, rebuild_index
from neuromirror.crawl.plan import Result
from neuromirror.crawl.takedown import reinstate, take_down
from neuromirror.git import ObjectMissingError
from neuromirror.model import LEAF_SIZE, ContentsDigested, VersionMinted
from neuromirror.store import dataset_ref_of
from neuromirror.store.block_digests import BlockDigestsFolder, digested_content
from neuromirror.transfer.annex_objects import BlockDigestsRecorder
from support.block_digests import digests_of
from support.index_dump import dump_index
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
)


@pytest.fixture
def harness(tmp_path: Path, source: ScriptedSource) -> ScriptedHarness:
    """Two datasets that share a content; that of a was digested before b was mirrored."""
    harness = ScriptedHarness(tmp_path / "box", source)
    files = {name: ScriptedFile(name.encode(), sha256=True) for name in ("shared", "own")}
    source.scripted_datasets["a"] = ScriptedDataset(files)
    harness.sync()
    digest(harness, keys(harness))
    source.scripted_datasets["b"] = ScriptedDataset({"shared": files["shared"]})
    harness.sync()
    return harness


def versions(harness: ScriptedHarness) -> dict[str, VersionMinted]:
    return {one.local_id: one for one in harness.entries(VersionMinted)}


def keys(harness: ScriptedHarness) -> dict[str, str]:
    with harness.index() as index:
        return {
            one.path: one.key
            for one in index.files(index.resolve("box:a"))
            if one.path in ("shared", "own")
        }


def digest(
    harness: ScriptedHarness,
    keys: Mapping[str, str],
    piece_size: int = LEAF_SIZE,
    part_size: int | None = None,
) -> None:
    """Record the block digests of contents, which are the names of their files."""
    store = harness.store
    with (
        open_recorder(store, store.index_path) as journal,
        BlockDigestsRecorder(store, journal) as recorder,
    ):
        for path, key in keys.items():
            assert recorder.write(key, digests_of(path.encode(), piece_size, part_size)) == ""


def withdraw(harness: ScriptedHarness, dataset: str) -> list[str]:
    """Take a dataset down; return the failures that concern it."""
    store = harness.store
    with open_recorder(store, store.index_path) as recorder:
        done = list(take_down(store, recorder, dataset, "a test", "me", {}))
    return [one.message for one in done if one.dataset == dataset and one.status == "error"]


def bring_back(harness: ScriptedHarness, dataset: str) -> None:
    store = harness.store
    with open_recorder(store, store.index_path) as recorder:
        list(reinstate(store, recorder, dataset, "me", {}))


def found(harness: ScriptedHarness, path: str) -> set[str]:
    """Return the datasets in which the index finds a content by its block digests."""
    root = digests_of(path.encode(), LEAF_SIZE).root.hex()
    with harness.index() as index:
        return {one.dataset for one in index.find(f"btv2:{root}")}


def stored(harness: ScriptedHarness) -> BlockDigestsFolder:
    return BlockDigestsFolder.of_store(harness.store)


def rows(harness: ScriptedHarness) -> list[str]:
    with harness.index() as index:
        return dump_index(index)


def test_the_index_keeps_the_digests_of_a_content_that_another_dataset_has(
    harness: ScriptedHarness,
) -> None:
    key = keys(harness)
    assert found(harness, "shared") == {"box:a", "box:b"}
    assert withdraw(harness, "box:a") == []
    assert stored(harness).has(key["shared"])
    assert not stored(harness).has(key["own"])
    assert found(harness, "shared") == {"box:b"}
    before = rows(harness)
    rebuild_index(harness.store, harness.store.index_path)
    assert rows(harness) == before


def test_shared_digests_come_back_with_the_first_dataset(harness: ScriptedHarness) -> None:
    key = keys(harness)
    withdraw(harness, "box:a")
    withdraw(harness, "box:b")
    assert not stored(harness).has(key["shared"])
    bring_back(harness, "box:a")
    for path, name in key.items():
        assert stored(harness).read(name) == digests_of(path.encode(), LEAF_SIZE)
        assert found(harness, path) == {"box:a"}
    bring_back(harness, "box:b")
    assert found(harness, "shared") == {"box:a", "box:b"}
    withdraw(harness, "box:b")
    assert stored(harness).has(key["shared"])


def test_digests_of_a_version_with_damaged_records_are_withdrawn(harness: ScriptedHarness) -> None:
    key = keys(harness)
    name = dataset_ref_of(versions(harness)["a"]).dataset_id
    records = harness.store.root / "neuromirror" / "records" / name[:3] / name[3:]
    for path in records.glob("*.zst"):
        path.write_bytes(b"damaged")
    assert withdraw(harness, "box:a") == []
    assert not stored(harness).has(key["own"])


def test_a_takedown_names_versions_whose_files_are_unknown(harness: ScriptedHarness) -> None:
    version, key = versions(harness)["a"], keys(harness)
    lost = replace(version, commit="b" * 40, label="lost", files=0, indexed=False)
    harness.store.append_entries(lost)
    (problem,) = withdraw(harness, "box:a")
    assert "lost" in problem
    assert not stored(harness).has(key["own"])


def test_a_dataset_whose_files_are_not_in_the_index_keeps_its_digests(
    harness: ScriptedHarness,
) -> None:
    key, version = keys(harness), versions(harness)
    store = harness.store
    entry = replace(version["b"], commit="b" * 40, label="large", indexed=False)
    lines = list(store.record_lines(dataset_ref_of(version["a"]).dataset_id, version["a"].commit))
    store.write_records(dataset_ref_of(entry).dataset_id, entry.commit, lines)
    store.append_entries(replace(entry, files=version["a"].files))
    withdraw(harness, "box:a")
    assert stored(harness).has(key["own"])


def test_the_journal_has_the_digests_that_were_written(harness: ScriptedHarness) -> None:
    key = keys(harness)["own"]
    # larger pieces than the recorded ones, with the MD5s of parts
    digest(harness, {"own": key}, piece_size=2 * LEAF_SIZE, part_size=2)
    written = stored(harness).read(key)
    assert written is not None
    assert (written.piece_size, written.part_size) == (LEAF_SIZE, 2)
    (last,) = harness.entries(ContentsDigested)[-1].contents
    assert last == digested_content(key, written)


def records_folder(harness: ScriptedHarness, dataset: str) -> Path:
    name = dataset_ref_of(versions(harness)[dataset]).dataset_id
    return harness.store.root / "neuromirror" / "records" / name[:3] / name[3:]


def leave_to_git(harness: ScriptedHarness) -> None:
    """Remove the files of b from records and index, as of a version that is not in the index."""
    store = harness.store
    store.append_entries(replace(versions(harness)["b"], label="large", indexed=False))
    shutil.rmtree(records_folder(harness, "b"))
    with closing(sqlite3.connect(store.index_path)) as index, index:
        index.execute(
            "DELETE FROM files WHERE dataset = (SELECT id FROM datasets WHERE local_id = 'b')"
        )


def test_digests_of_a_dataset_that_only_git_describes_stay(harness: ScriptedHarness) -> None:
    key = keys(harness)
    leave_to_git(harness)
    assert withdraw(harness, "box:a") == []
    assert stored(harness).has(key["shared"])
    assert not stored(harness).has(key["own"])


def test_all_digests_stay_if_files_of_another_dataset_are_unknown(harness: ScriptedHarness) -> None:
    key = keys(harness)
    lost = replace(versions(harness)["b"], commit="b" * 40, label="lost", files=0, indexed=False)
    harness.store.append_entries(lost)
    store, done = harness.store, list[Result]()
    with open_recorder(store, store.index_path) as recorder, suppress(ObjectMissingError):
        for one in take_down(store, recorder, "box:a", "a test", "me", {}):
            done.append(one)  # until the index cannot be rebuilt
    (failed,) = [one for one in done if one.visit == "failed"]
    assert "box:b@lost" in failed.message
    assert stored(harness).has(key["shared"])
    assert stored(harness).has(key["own"])


def test_a_killed_takedown_without_records_withdraws_digests(
    harness: ScriptedHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys(harness)
    repository = harness.store.repository(dataset_ref_of(versions(harness)["a"])).path
    shutil.rmtree(records_folder(harness, "a"))
    rename = os.rename

    def rename_and_die(source: Path, target: Path) -> None:
        rename(source, target)
        if source == repository:
            raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(os, "rename", rename_and_die)
        with pytest.raises(KeyboardInterrupt):
            withdraw(harness, "box:a")
    assert not repository.exists()
    withdraw(harness, "box:a")
    assert not stored(harness).has(key["own"])
