"""Local ids that a source should not return: two with one source URI, and ids that it refuses."""

import os

import pytest

from neuromirror.crawl import Mirror, dry_run, load_mirrors, open_recorder, parse_sync_requests
from neuromirror.crawl.takedown import reinstate, take_down
from neuromirror.model import DatasetRef, NeuromirrorError
from neuromirror.sources import MalformedIdError
from neuromirror.store.withdrawn_datasets import withdrawn_folder
from support.mirror_harness import run_git
from support.scripted_source import ScriptedDataset, ScriptedHarness, ScriptedSource, files

URI = "https://bucket.example.invalid/one/"


class OneUriSource(ScriptedSource):
    """A source with the same URI for ``a`` and ``b``, and for no other dataset."""

    refused = ""

    def dataset(self, local_id: str) -> DatasetRef:
        if local_id == self.refused:
            raise MalformedIdError(f"{local_id!r} is not an id")
        own = super().dataset(local_id)
        return DatasetRef(self.mirror, local_id, URI) if local_id in ("a", "b") else own


@pytest.fixture
def source() -> OneUriSource:
    return OneUriSource({"a": ScriptedDataset(files("a.bin"))}, fingerprint="one")


def statuses(harness: ScriptedHarness) -> dict[str, str]:
    """Sync, and return the status of each visit."""
    done = harness.sync()
    assert {one.status for one in done.values()} <= {"ok", "notneeded", "error"}, done
    return {name: one.status for name, one in done.items()}


def opened_mirrors(harness: ScriptedHarness) -> dict[str, Mirror]:
    mirrors = load_mirrors(harness.mirrors)
    return {name: harness.open_mirror(mirror) for name, mirror in mirrors.items()}


def take_dataset_down(harness: ScriptedHarness, name: str) -> dict[str, str]:
    store = harness.store
    with open_recorder(store, store.index_path) as recorder:
        mirrors = opened_mirrors(harness)
        done = list(take_down(store, recorder, name, "a test", "me", mirrors))
    assert {one.exit_code for one in done} == {0}, done
    return {one.dataset: one.message for one in done}


def reinstate_dataset(harness: ScriptedHarness, name: str) -> dict[str, str]:
    store = harness.store
    with open_recorder(store, store.index_path) as recorder:
        mirrors = opened_mirrors(harness)
        return {one.dataset: one.status for one in reinstate(store, recorder, name, "me", mirrors)}


def planned(harness: ScriptedHarness) -> dict[str, tuple[str, int]]:
    mirrors = opened_mirrors(harness)
    with harness.index() as index:
        done = list(dry_run(parse_sync_requests((), mirrors), index, deep=False))
    return {one.dataset: (one.status, one.exit_code) for one in done}


def check_served(harness: ScriptedHarness, name: str = "box:a") -> None:
    """Check that a dataset is complete in the store."""
    repository = harness.repository(name)
    assert run_git(repository, "cat-file", "-t", "main").strip() == "commit"
    with harness.index() as index:
        assert harness.store.records.has(
            index.datasets.get(name).dataset_id, index.versions.resolve(name).commit
        )
    assert run_git(repository, "fsck", "--strict", "--full") == ""


def test_a_second_local_id_with_the_same_dataset_id_is_refused(harness: ScriptedHarness) -> None:
    assert statuses(harness) == {"box:a": "ok"}
    refs = harness.refs()
    harness.datasets.update(b=ScriptedDataset(files("b.bin")), c=ScriptedDataset(files("c")))
    for expected in ("ok", "notneeded"):
        done = harness.sync()
        assert {name: one.status for name, one in done.items()} == {
            "box:a": "notneeded", "box:b": "error", "box:c": expected,
        }  # fmt: skip
        assert (done["box:b"].visit, done["box:b"].exit_code) == ("failed", 1)
        assert "is that of box:a" in done["box:b"].message
        assert "takedown box:b --reason" in done["box:b"].message
    assert harness.sync("box:b")["box:b"].exit_code == 1
    assert planned(harness)["box:b"] == ("error", 1)
    assert {name: harness.refs()[name] for name in refs if name.startswith("box--a ")} == {
        name: commit for name, commit in refs.items() if name.startswith("box--a ")
    }
    with harness.index() as index:
        assert index.crawl.has_failures("box")
        assert len(list(index.crawl.visits("box:b"))) == 1


def test_of_two_new_local_ids_with_one_dataset_id_one_is_mirrored(harness: ScriptedHarness) -> None:
    harness.datasets["b"] = ScriptedDataset(files("b.bin"))
    assert statuses(harness) == {"box:a": "ok", "box:b": "error"}
    check_served(harness)


def test_the_takedown_of_a_dataset_without_versions_touches_no_other(
    harness: ScriptedHarness,
) -> None:
    one = harness.datasets.pop("a")
    harness.datasets["b"] = ScriptedDataset(files("b.bin"), error=NeuromirrorError("refused"))
    assert statuses(harness) == {"box:b": "error"}
    harness.datasets["a"] = one
    assert statuses(harness)["box:a"] == "ok"
    assert "box:a has the same dataset id" in take_dataset_down(harness, "box:b")["box:b"]
    check_served(harness)
    assert not os.listdir(withdrawn_folder(harness.store))
    assert statuses(harness) == {"box:a": "notneeded", "box:b": "notneeded"}
    assert (harness.folder / "tombstones" / "box--b.json").exists()
    assert not (harness.folder / "alias" / "box--b").is_symlink()

    assert reinstate_dataset(harness, "box:b") == {"box:b": "ok"}
    check_served(harness)
    assert not (harness.folder / "alias" / "box--b").is_symlink()
    assert not (harness.folder / "tombstones" / "box--b.json").exists()


@pytest.mark.parametrize("first", ["box:a", "box:b"])
def test_both_are_withdrawn_and_reinstated(harness: ScriptedHarness, first: str) -> None:
    statuses(harness)
    harness.datasets["b"] = ScriptedDataset(files("b.bin"))
    statuses(harness)
    refs = harness.refs()
    (second,) = {"box:a", "box:b"} - {first}
    for name in (first, second):
        take_dataset_down(harness, name)
    assert not (harness.folder / "alias" / "box--a").is_symlink()
    (folder,) = withdrawn_folder(harness.store).iterdir()
    assert (folder / "repository").is_dir()
    assert reinstate_dataset(harness, "box:b") == {"box:b": "ok"}
    assert (folder / "repository").is_dir()
    # the id of a withdrawn dataset cannot be used, either
    assert statuses(harness) == {"box:a": "notneeded", "box:b": "error"}
    assert reinstate_dataset(harness, "box:a") == {"box:a": "ok"}
    check_served(harness)
    alias = "box--a "
    assert [one for one in harness.refs().items() if one[0].startswith(alias)] == [
        one for one in refs.items() if one[0].startswith(alias)
    ]


def test_an_id_that_the_source_refuses_fails_alone(
    harness: ScriptedHarness, source: OneUriSource
) -> None:
    harness.datasets["c"] = ScriptedDataset(files("c"))
    assert statuses(harness) == {"box:a": "ok", "box:c": "ok"}
    del harness.datasets["c"]
    source.refused = "c"
    harness.datasets["d"] = ScriptedDataset(files("d"))
    assert planned(harness)["box:c"] == ("error", 1)
    done = harness.sync()
    assert {name: one.status for name, one in done.items()} == {
        "box:a": "notneeded", "box:c": "error", "box:d": "ok",
    }  # fmt: skip
    assert (done["box:c"].visit, done["box:c"].exit_code) == ("failed", 1)
    assert "'c' is not an id" in done["box:c"].message
    assert "neuromirror takedown box:c" in done["box:c"].message
    with harness.index() as index:
        assert index.crawl.has_failures("box")
    assert statuses(harness)["box:c"] == "error"
    take_dataset_down(harness, "box:c")
    assert set(statuses(harness).values()) == {"notneeded"}
