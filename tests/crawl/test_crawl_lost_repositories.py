"""What a store lost: visits stop, fsck names it, and repair restores equal ids from the rest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from neuromirror.model import AnnexBranchMoved, VersionMinted
from neuromirror.store import NotAStoreError
from neuromirror.store.superdatasets import log_path
from support.foreign_pushes import problems_of, repair_harness, run_checked
from support.mirror_harness import MirrorHarness, run_git
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedMirror,
    ScriptedSource,
    ScriptedZarr,
    at,
    files,
)
from support.synced_mirror import flip_bit

ZARRS = "[zarr]\ninline_components = 4\n"
Damage = Callable[[Path], object]


def newest(repository: Path, pattern: str) -> Path:
    return max(repository.glob(pattern), key=lambda one: one.stat().st_mtime_ns)


def delete_branch(branch: str) -> Damage:
    return lambda repository: run_git(repository, "update-ref", "-d", f"refs/heads/{branch}")


LOSSES: dict[str, Damage] = {
    "repository": shutil.rmtree,
    "head": lambda repository: (repository / "HEAD").unlink(),
    "refs": lambda repository: (repository / "packed-refs").unlink(),
    "annex": delete_branch("git-annex"),
    "main": delete_branch("main"),
    "published": delete_branch("published"),
    "pack": lambda repository: newest(repository, "objects/pack/*.pack").unlink(),
    "index": lambda repository: newest(repository, "objects/pack/*.idx").unlink(),
}
"""Losses of a repository with which no visit may continue, by the name of the dataset."""
FLIPS = {
    "flipped-pack": "objects/pack/*.pack",
    "flipped-index": "objects/pack/*.idx",
    "flipped-refs": "packed-refs",
    "flipped-config": "config",
    "flipped-list": "objects/info/packs",
    "flipped-info": "info/refs",
    "flipped-hook": "hooks/pre-receive",
    "flipped-layout": "ria-layout-version",
}
STORED = ("lost-records", "flipped-records", "flipped-manifest", "flipped-input", "lost-alias")


@pytest.fixture(scope="module")
def histories(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Histories:
    """Stores with a dataset per damage."""
    names = [*LOSSES, *FLIPS, *STORED, "locked", "older"]
    return Histories(tmp_path_factory.mktemp("histories"), names)


@pytest.fixture(scope="module")
def small(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Histories:
    """Stores with one dataset and its Zarr."""
    return Histories(tmp_path_factory.mktemp("small"), ["older"])


class Histories:
    """Two states of a store, and the refs that it has after the next sync if it is intact."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        source = ScriptedSource()
        today = ScriptedHarness(folder, source, ZARRS)
        for name in names:
            content = files("one.txt", "sub/two.txt", sha256=True)
            first = {"0.1": files("one.txt", sha256=True)}
            source.scripted_datasets[name] = ScriptedDataset(content, published_versions=first)
        source.zarrs["1"] = ScriptedZarr({f"0/{n}": ScriptedFile(b"%d" % n) for n in range(5)})
        source.scripted_datasets["older"].zarrs["z.zarr"] = "1"
        self.folder, self.source, self.today = folder, source, today
        self.yesterday = MirrorHarness(today.mirrors, folder / "yesterday")
        self._change(1)
        shutil.copytree(today.folder, self.yesterday.folder, symlinks=True)
        self._change(2)
        # another URL of the same bytes moves only the git-annex branch
        for dataset in source.scripted_datasets.values():
            dataset.files["one.txt"].host = "elsewhere.example.invalid"
        today.sync(deep=True)
        assert today.entries(AnnexBranchMoved)
        self.refs = today.refs()
        self._change(3, sync=False)
        twin = self.copy("twin")
        assert not [one for one in twin.sync().values() if one.exit_code]
        self.next_refs = twin.refs()

    def _change(self, number: int, *, sync: bool = True) -> None:
        added = files(f"more-{number}.txt", modified=at(number), sha256=True)
        for dataset in self.source.scripted_datasets.values():
            dataset.files |= added
            dataset.published_versions[f"0.{number}.1"] = dict(dataset.files)
        self.source.zarrs["1"].files[f"1/{number}"] = ScriptedFile(b"new", at(number))
        if sync:
            assert not [one for one in self.today.sync().values() if one.exit_code]

    def copy(self, name: str) -> MirrorHarness:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.today.folder, folder, symlinks=True)
        return MirrorHarness(self.today.mirrors, folder, self.today.open_mirror)

    def check_repaired(self, harness: MirrorHarness) -> None:
        """Check that repair restores the ids, and that a clone and the next sync work."""
        repaired = repair_harness(harness)
        assert not [one for one in repaired.values() if one.status == "error"]
        assert harness.refs() == self.refs
        assert problems_of(harness) == []
        clone = harness.folder.with_name("clone")
        shutil.rmtree(clone, ignore_errors=True)
        run_checked(
            self.folder, "git", "clone", "-q", str(harness.repository("box:older")), str(clone)
        )
        assert not [one.message for one in harness.sync().values() if one.exit_code]
        assert harness.refs() == self.next_refs
        harness.fsck(killed=True)


def remedy(name: str) -> str:
    return f"'neuromirror repair {name}'"


def test_visits_of_incomplete_repositories_stop_and_repair_restores_their_ids(
    histories: Histories,
) -> None:
    harness = histories.copy("lost")
    names = {f"box:{name}": loss for name, loss in LOSSES.items()}
    for name, loss in names.items():
        loss(harness.repository(name))
    shutil.rmtree(harness.repository("box:zarr/1"))
    older = histories.yesterday.repository("box:locked")
    shutil.rmtree(harness.repository("box:locked"))
    shutil.copytree(older, harness.repository("box:locked"))
    before = harness.refs()
    results = harness.sync(*names, "box:older", "box:locked")
    assert {one.visit for name, one in results.items() if ":" in name} == {"failed"}
    for name in (*names, "box:locked"):
        assert remedy(name) in results[name].message
    assert remedy("box:zarr/1") in results["box:older"].message
    with harness.index() as index:
        assert {failure.dataset for failure in index.crawl.failures()} >= {
            *names,
            "box:older",
            "box:locked",
        }
    assert harness.refs() == before
    found = problems_of(harness)
    for name in (*names, "box:locked", "box:zarr/1"):
        assert any(remedy(name) in one.message for one in found if one.name == name)
    assert not any("did not write" in one.message for one in found)
    lost_pack = [one.message for one in found if one.name == "box:pack"]
    assert any("which the repository lacks or cannot read" in one for one in lost_pack)
    histories.check_repaired(harness)


def test_flipped_bits_and_stale_locks_are_named_and_repaired(histories: Histories) -> None:
    harness = histories.copy("flipped")
    for name, pattern in FLIPS.items():
        flip_bit(newest(harness.repository(f"box:{name}"), pattern))
    lock, fresh = (
        harness.repository(f"box:{name}") / "packed-refs.lock" for name in ("locked", "older")
    )
    lock.touch()
    os.utime(lock, (0, 0))
    versions = {f"box:{entry.local_id}": entry for entry in harness.entries(VersionMinted)}
    store = harness.store

    def stored(name: str) -> tuple[str, str, str]:
        version = versions[f"box:{name}"]
        return version.dataset_ref.dataset_id, version.commit, version.state

    for path in store.records.files(*stored("lost-records")[:2]):
        path.unlink()
    flip_bit(*store.records.files(*stored("flipped-records")[:2]))
    flip_bit(store.records.mint_input_path(*stored("flipped-input")[:2]))
    flip_bit(store.manifest_path(stored("flipped-manifest")[2]))
    (store.root / "alias" / "box--lost-alias").unlink()
    with fresh.open("w"):
        os.utime(fresh, (0, 0))  # its git is still running
        found = problems_of(harness)
        named = {one.name.partition("@")[0] for one in found}
        states = {entry.local_id for entry in harness.entries(VersionMinted)} - {*LOSSES, "zarr/1"}
        # the manifest of equal states is shared
        assert named >= {f"box:{state}" for state in states - {"older"}}
        assert "box:older" not in {one.name for one in found if one.subject == "refs"}
    fresh.unlink()
    histories.check_repaired(harness)


@pytest.mark.parametrize("what", ["repository", "log", "alias", "aliases"])
def test_a_superdataset_is_never_begun_again(small: Histories, what: str) -> None:
    harness = small.copy("super")
    alias = harness.folder / "alias" / "box"
    if what == "repository":
        shutil.rmtree(harness.repository("box"))
        results = harness.sync()
        assert remedy("box") in results["box"].message
        assert not [one for name, one in results.items() if ":" in name and one.exit_code]
        assert repair_harness(harness)["box"].status == "ok"
        assert harness.refs()["box refs/heads/main"] == small.refs["box refs/heads/main"]
        assert not [one for one in harness.sync().values() if one.exit_code]
        assert harness.refs() == small.next_refs
        return
    if what == "log":
        flip_bit(log_path(harness.store, "box"))
    elif what == "alias":
        alias.unlink()
    else:
        shutil.rmtree(alias.parent)  # a copy without symlinks
    assert any(remedy("box") in problem.message for problem in problems_of(harness))
    small.check_repaired(harness)


@pytest.mark.parametrize("what", ["index", "journal", "line", "cut", "lost"])
def test_journal_and_index_of_another_day_lead_to_the_same_ids(small: Histories, what: str) -> None:
    harness = small.copy("day")
    journal, index = harness.store.journal.path, harness.store.index_path
    if what == "index":
        for path in index.parent.glob("index.sqlite*"):
            path.unlink()
        shutil.copy(small.yesterday.store.index_path, index)
    elif what == "journal":
        shutil.copy(small.yesterday.store.journal.path, journal)
    elif what == "line":
        lines = journal.read_bytes().splitlines(keepends=True)
        lines[2] = b"%" + lines[2][1:]
        journal.write_bytes(b"".join(lines))
        assert any("'neuromirror repair'" in problem.message for problem in problems_of(harness))
    elif what == "cut":
        journal.write_bytes(journal.read_bytes()[:-9])
    else:
        journal.unlink()
    small.check_repaired(harness)


def test_a_lost_journal_is_no_loss_of_mirrors_that_were_not_visited_since(tmp_path: Path) -> None:
    sources = {
        name: ScriptedSource(
            {"1": ScriptedDataset(files("one.txt"))}, mirror=name, uri=f"https://{name}.invalid/"
        )
        for name in ("box", "other")
    }
    harness = ScriptedHarness(tmp_path, sources["box"])
    (harness.mirrors / "other.toml").write_text('source = "scripted"\n')
    harness.open_mirror = lambda mirror: ScriptedMirror(
        mirror.name, mirror.path, mirror.settings, sources[mirror.name]
    )
    harness.sync()
    before = harness.refs()
    harness.store.journal.path.unlink()
    assert not [one.message for one in harness.sync("box:1").values() if one.exit_code]
    assert not [one.message for one in harness.sync().values() if one.exit_code]
    assert harness.refs() == before


def test_without_its_marker_a_store_is_refused_with_what_writes_it_again(small: Histories) -> None:
    harness = small.copy("marker")
    marker = harness.folder / "neuromirror" / "store.json"
    content = marker.read_text()
    for damage in (lambda: flip_bit(marker), marker.unlink):
        damage()
        with pytest.raises(NotAStoreError) as refused:
            harness.sync()
        command = str(refused.value).partition("write it again with: ")[2]
        run_checked(harness.folder, "sh", "-c", command)
        assert marker.read_text() == content
    assert harness.refs() == small.refs


def test_what_cannot_be_minted_again_is_named_exactly(small: Histories) -> None:
    harness = small.copy("both")
    name = "box:older"
    version = [entry for entry in harness.entries(VersionMinted) if entry.local_id == "older"][-1]
    dataset = version.dataset_ref
    (records,) = harness.store.records.files(dataset.dataset_id, version.commit)
    content = records.read_bytes()
    records.unlink()
    shutil.rmtree(harness.repository(name))
    result = repair_harness(harness)[name]
    assert result.status == "error"
    assert records.name.partition(".")[0] in result.message
    assert harness.store.repositories.of(dataset).refs() == {}
    records.write_bytes(content)
    small.check_repaired(harness)
