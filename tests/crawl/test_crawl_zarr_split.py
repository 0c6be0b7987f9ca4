"""Large Zarrs of a dataset: mirrored as subdatasets, compared file by file."""

from pathlib import Path

import pytest

from neuromirror.crawl import open_recorder, release_hold
from neuromirror.model import VersionMinted
from support.mirror_harness import run_git
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    at,
    files,
)

INLINE, MANIFEST = 4, 12
LIMITS = f"[zarr]\ninline = {INLINE}\nmanifest = {MANIFEST}\n"


def zarr(name: str, chunks: int) -> dict[str, ScriptedFile]:
    return files(f"{name}/.zarray", *(f"{name}/{number}" for number in range(chunks)))


@pytest.fixture
def zarr_harness(tmp_path: Path, source: ScriptedSource) -> ScriptedHarness:
    """A store whose mirror splits off Zarrs of five files or more."""
    return ScriptedHarness(tmp_path / "zarrs", source, LIMITS)


def versions(box: ScriptedHarness, dataset: str) -> int:
    with box.index() as index:
        return len(list(index.versions.of(dataset)))


def parts(box: ScriptedHarness) -> dict[str, tuple[str, int]]:
    """Return dataset and number of files of the components of the newest state, by path."""
    with box.index() as index:
        found = list(index.versions.subdatasets(index.versions.resolve("box:a")))
    return {one.path: (one.dataset, one.files) for one in found}


def test_a_large_zarr_becomes_a_dataset_of_its_own(zarr_harness: ScriptedHarness) -> None:
    zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin") | zarr("small.zarr", 2) | zarr("deep/large.zarr", 9) | zarr("huge.zarr", 20)
    )
    result = zarr_harness.sync()["box:a"]
    assert (result.status, result.visit, len(result.versions)) == ("ok", "full", 1)
    found = parts(zarr_harness)
    assert {path: count for path, (_, count) in found.items()} == {
        "deep/large.zarr": 10,
        "huge.zarr": 21,
    }
    tree = run_git(zarr_harness.repository("box:a"), "ls-tree", "-r", "main")
    links = {line.split("\t")[1]: line.split()[2] for line in tree.splitlines() if "commit" in line}
    for path, (name, _) in found.items():
        assert links[path] == run_git(zarr_harness.repository(name), "rev-parse", "main").strip()
    inner = run_git(
        zarr_harness.repository(found["deep/large.zarr"][0]), "ls-tree", "--name-only", "main"
    )
    assert {".zarray", "0", "8"} <= set(inner.split())
    huge = run_git(
        zarr_harness.repository(found["huge.zarr"][0]), "ls-tree", "--name-only", "main"
    ).split()
    assert ".zarray" in huge
    assert "0" not in huge
    within = {entry.local_id: entry.within for entry in zarr_harness.entries(VersionMinted)}
    assert within.pop("a") == ""
    assert set(within.values()) == {"a"}
    top = run_git(zarr_harness.folder / "alias" / "box", "ls-tree", "--name-only", "main").split()
    assert "a" in top
    assert not {one for one in top if "zarr" in one}
    zarr_harness.fsck()
    refs = zarr_harness.refs()
    zarr_harness.source.memos = False
    (zarr_harness.folder / "neuromirror" / "memos").rename(zarr_harness.folder / "forgotten")
    assert zarr_harness.sync()["box:a"].status == "notneeded"
    assert zarr_harness.refs() == refs


def test_files_lost_in_a_component_are_held_like_others(zarr_harness: ScriptedHarness) -> None:
    scripted_dataset = zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin") | zarr("one.zarr", 40)
    )
    zarr_harness.sync()
    refs = zarr_harness.refs()
    scripted_dataset.files = files("x.bin") | zarr("one.zarr", 20)
    result = zarr_harness.sync()["box:a"]
    assert result.visit == "held"
    assert zarr_harness.refs() == refs
    with zarr_harness.index() as index:
        (hold,) = index.crawl.open_holds()
    assert (hold.files_removed, hold.files_before) == (20, 42)
    store = zarr_harness.store
    with open_recorder(store, store.index_path) as recorder:
        release_hold(recorder, hold.hold)
    assert zarr_harness.sync()["box:a"].status == "ok"
    assert [count for _, count in parts(zarr_harness).values()] == [21]


def test_a_chunk_that_a_listing_dropped_is_not_deleted(zarr_harness: ScriptedHarness) -> None:
    scripted_dataset = zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin") | zarr("one.zarr", 9)
    )
    zarr_harness.sync()
    scripted_dataset.dropped_from_listing = {"one.zarr/3"}
    result = zarr_harness.sync()["box:a"]
    assert (result.visit, "'one.zarr/3'" in result.message) == ("failed", True)


def test_an_overwritten_chunk_is_an_incident(zarr_harness: ScriptedHarness) -> None:
    scripted_dataset = zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin") | zarr("one.zarr", 9)
    )
    zarr_harness.sync()
    refs = zarr_harness.refs()
    scripted_dataset.files["one.zarr/3"] = ScriptedFile(b"other", at(3), "one.zarr/3")
    result = zarr_harness.sync()["box:a"]
    assert (result.exit_code, "'one.zarr/3'" in result.message) == (1, True)
    assert zarr_harness.refs() == refs


def test_a_component_that_git_has_and_the_journal_lacks_is_recorded(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin") | zarr("one.zarr", 9))
    zarr_harness.sync()
    refs = zarr_harness.refs()
    ((name, _),) = parts(zarr_harness).values()
    # as after a kill between the component's refs and its journal entry
    (zarr_harness.folder / "neuromirror" / "journal.jsonl").unlink()
    zarr_harness.store.index_path.unlink()
    for path in zarr_harness.folder.glob("alias/box--a"):
        (path.resolve() / "packed-refs").unlink()
    zarr_harness.sync()
    assert (versions(zarr_harness, "box:a"), versions(zarr_harness, name)) == (1, 1)
    assert {one: sha for one, sha in zarr_harness.refs().items() if "box--a" in one} == {
        one: sha for one, sha in refs.items() if "box--a" in one
    }
    assert {entry.within for entry in zarr_harness.entries(VersionMinted)} == {"", "a"}
