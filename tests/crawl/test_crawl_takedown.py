"""A dataset that was taken down is not shown, not lost, and can be reinstated unchanged."""

import errno
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from neuromirror.crawl import load_mirrors, open_recorder, plan, rebuild_index
from neuromirror.crawl.plan import Result
from neuromirror.crawl.takedown import reinstate, take_down
from neuromirror.git import ObjectMissingError
from neuromirror.index import DatasetWithdrawnError, UnknownDatasetError
from neuromirror.model import LEAF_SIZE, ConfigurationError, ContentsDigested, VersionMinted
from neuromirror.store.block_digests import BlockDigestsFolder, digested_content
from neuromirror.store.withdrawn_datasets import withdrawn_folder
from neuromirror.transfer.annex_objects import BlockDigestsRecorder
from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.block_digests import claimed_digests, digests_of
from support.index_dump import dump_index
from support.killed_takedown import kill_takedown
from support.mirror_harness import MirrorHarness, run_git
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, ScriptedSource

NAME, REASON = "demo:000002", "the owner asked for it"


@pytest.fixture(scope="session")
def takedown_store(
    demo_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MirrorHarness]:
    """A store of three dandisets: one with three versions, and one with a Zarr."""
    folder = tmp_path_factory.mktemp("takedown")
    with DemoArchive(folder / "small", cache=demo_files, empty=True) as archive:
        for number in (1, 2, 3):
            dandiset = archive.create_dandiset(Description(f"Number {number}"))
            for name in ("notes.txt", "sub-1/a.txt", "sub-1/b.txt", "sub-2/c.txt"):
                archive.add_file(dandiset, name, f"{name} of {number}\n")
        for _ in range(2):
            archive.publish("000002")
            archive.change_file("000002", "sub-1/a.txt")
        archive.add_zarr("000003", "z.zarr", {".zgroup": b"{}", "0/0": b"chunk"})
        mirror_harness = MirrorHarness(archive.mirrors, folder / "store")
        assert {one.exit_code for one in mirror_harness.sync().values()} == {0}
        yield mirror_harness


@pytest.fixture
def synced_harness(takedown_store: MirrorHarness, tmp_path: Path) -> MirrorHarness:
    """A copy of a store after a sync."""
    shutil.copytree(takedown_store.folder, tmp_path / "store", symlinks=True)
    return MirrorHarness(takedown_store.mirrors, tmp_path / "store")


def take_dataset_down(mirror_harness: MirrorHarness, name: str = NAME) -> dict[str, str]:
    store = mirror_harness.store
    with open_recorder(store, store.index_path) as recorder:
        done = take_down(store, recorder, name, REASON, "me", load_mirrors(mirror_harness.mirrors))
        return {one.dataset: one.status for one in done}


def reinstate_dataset(mirror_harness: MirrorHarness, name: str = NAME) -> dict[str, str]:
    store = mirror_harness.store
    with open_recorder(store, store.index_path) as recorder:
        done = reinstate(store, recorder, name, "me", load_mirrors(mirror_harness.mirrors))
        return {one.dataset: one.status for one in done}


def dump(mirror_harness: MirrorHarness) -> list[str]:
    with mirror_harness.index() as index:
        return dump_index(index)


def without_takedowns(rows: list[str]) -> list[str]:
    """Return rows without takedowns and without the position in the journal."""
    return [row for row in rows if "'takedown'" not in row and not row.startswith("progress ")]


def stored_digests(mirror_harness: MirrorHarness) -> dict[str, str]:
    """Return the digests of packs, records and manifests, by file name."""
    found = {}
    for folder in (mirror_harness.folder, withdrawn_folder(mirror_harness.store)):
        for path in folder.rglob("*.*"):
            is_log = path.parent.name == "superdatasets"  # grows with each commit
            if path.suffix in (".pack", ".idx", ".zst") and path.is_file() and not is_log:
                found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def secrets(mirror_harness: MirrorHarness) -> list[bytes]:
    """Return the data that only this dataset has: commits, file names, keys."""
    last = [one for one in mirror_harness.entries(VersionMinted) if f"demo:{one.local_id}" == NAME][
        -1
    ]
    files = list(mirror_harness.store.records.read(last.dataset_ref.dataset_id, last.commit))
    assert len(files) > 3
    return [file.git_path for file in files if b"/" in file.git_path] + [
        file.key.encode() for file in files
    ]


def test_only_its_takedown_is_shown(synced_harness: MirrorHarness) -> None:
    hidden, dataset_id = secrets(synced_harness), synced_harness.repository(NAME)
    assert take_dataset_down(synced_harness) == {NAME: "ok"}
    with synced_harness.index() as index:
        assert NAME not in [one.name for one in index.datasets.select()]
        assert [(one.dataset, one.reason) for one in index.datasets.tombstones()] == [
            (NAME, REASON)
        ]
        for query in (
            index.datasets.get,
            index.versions.of,
            index.versions.resolve,
            index.datasets.superdatasets,
        ):
            with pytest.raises(DatasetWithdrawnError, match=REASON):
                list(query(NAME))  # type: ignore[call-overload]
        assert [
            dataset
            for term in ("000002", "demo")
            for dataset in index.search.all_datasets(term)
            if dataset.name == NAME
        ] == []
        for secret in hidden[-3:]:
            assert [one for one in index.files.find(secret.decode()) if one.dataset == NAME] == []
        assert [one.kind for one in index.crawl.events() if one.dataset == NAME] == ["takedown"]
        (status,) = index.crawl.mirrors()
        assert status.datasets == len(list(index.datasets.select()))
    # neither in the index file nor elsewhere in the served tree
    served = [path for path in synced_harness.folder.rglob("*") if path.is_file()]
    others = {
        record.key.encode()
        for entry in synced_harness.entries(VersionMinted)
        if f"demo:{entry.local_id}" != NAME
        for record in synced_harness.store.records.read(entry.dataset_ref.dataset_id, entry.commit)
    }
    paths = [one for one in hidden if one not in others and b"README" not in one]
    content = synced_harness.store.index_path.read_bytes()
    assert [one for one in paths if one.startswith(b"SHA256E") and one in content] == []
    assert not dataset_id.exists()
    assert not (synced_harness.folder / "alias" / "demo--000002").is_symlink()
    assert not [path for path in served if "demo--000002" in path.name and path.suffix != ".json"]
    stone = json.loads((synced_harness.folder / "tombstones" / "demo--000002.json").read_bytes())
    assert (stone["dataset"], stone["reason"]) == (NAME, REASON)


def test_the_superdatasets_lose_it_and_the_others_stay(synced_harness: MirrorHarness) -> None:
    before = synced_harness.refs()
    take_dataset_down(synced_harness)
    modules = run_git(synced_harness.repository("demo"), "show", "main:.gitmodules")
    assert "demo--000001" in modules
    assert "000002" not in modules
    after = synced_harness.refs()
    gone = {name for name in before if name not in after}
    assert {name.split()[0] for name in gone} == {"demo--000002"}
    same = {name for name in before if after.get(name) == before[name]}
    assert {name.split()[0] for name in after} - {name.split()[0] for name in same} == {
        "demo", "neuromirror",
    }  # fmt: skip
    synced_harness.fsck()


def test_a_mirror_with_a_private_store_needs_none_to_lose_a_dataset(
    synced_harness: MirrorHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors = tmp_path / "mirrors"
    mirrors.mkdir()
    (mirrors / "demo.toml").write_text(
        (synced_harness.mirrors / "demo.toml").read_text()
        + 'token_env = "DEMO_TOKEN"\nembargoed = "private"\n'
    )
    monkeypatch.delenv("DEMO_TOKEN", raising=False)
    mirror_harness = MirrorHarness(mirrors, synced_harness.folder)
    assert set(take_dataset_down(mirror_harness).values()) == {"ok"}
    assert "000002" not in run_git(mirror_harness.repository("demo"), "show", "main:.gitmodules")
    assert set(reinstate_dataset(mirror_harness).values()) == {"ok"}
    assert "000002" in run_git(mirror_harness.repository("demo"), "show", "main:.gitmodules")


def test_nothing_is_deleted_and_only_its_owner_may_look(synced_harness: MirrorHarness) -> None:
    before = stored_digests(synced_harness)
    repository = synced_harness.repository(NAME).name
    take_dataset_down(synced_harness)
    after = stored_digests(synced_harness)
    assert {name: after[name] for name in before} == before
    folder = withdrawn_folder(synced_harness.store)
    assert folder.stat().st_mode & 0o077 == 0
    assert synced_harness.folder not in folder.parents
    (kept,) = folder.iterdir()
    assert kept.name.endswith(repository)
    assert run_git(kept / "repository", "fsck", "--full", "--strict").strip() == ""


def test_a_deleted_dataset_stays_down_and_the_index_can_be_rebuilt(
    synced_harness: MirrorHarness,
) -> None:
    take_dataset_down(synced_harness)
    before = dump(synced_harness)
    shutil.rmtree(withdrawn_folder(synced_harness.store))
    with pytest.raises(ConfigurationError, match="-withdrawn"):
        reinstate_dataset(synced_harness)
    rebuild_index(synced_harness.store, synced_harness.store.index_path)
    assert dump(synced_harness) == before


def test_the_crawl_never_visits_it_until_it_is_reinstated(synced_harness: MirrorHarness) -> None:
    take_dataset_down(synced_harness)
    content = dump(synced_harness)
    for names in ((), (NAME,)):
        for deep in (False, True):
            result = synced_harness.sync(*names, deep=deep)[NAME]
            assert (result.status, result.exit_code) == ("notneeded", 0)
            assert REASON in result.message
    assert not (synced_harness.folder / "alias" / "demo--000002").exists()
    assert [one for one in dump(synced_harness) if one not in content and "000002" in one] == []
    reinstate_dataset(synced_harness)
    assert synced_harness.sync(NAME)[NAME].status == "notneeded"
    synced_harness.fsck()


def test_a_visit_planned_before_the_takedown_is_skipped(
    synced_harness: MirrorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_dataset_down(synced_harness)
    before = dump(synced_harness)
    monkeypatch.setattr(plan, "takedown_messages", lambda index, mirror: {})
    result = synced_harness.sync(NAME, deep=True)[NAME]
    assert (result.status, result.visit) == ("notneeded", "")
    assert REASON in result.message
    assert not (synced_harness.folder / "alias" / "demo--000002").exists()
    assert dump(synced_harness) == before


def test_a_reinstated_dataset_is_as_if_never_taken_down(synced_harness: MirrorHarness) -> None:
    refs, rows, kept = synced_harness.refs(), dump(synced_harness), stored_digests(synced_harness)
    take_dataset_down(synced_harness)
    assert reinstate_dataset(synced_harness) == {NAME: "ok"}
    assert without_takedowns(dump(synced_harness)) == without_takedowns(rows)
    mine = {name: sha for name, sha in refs.items() if name.startswith("demo--")}
    assert {name: sha for name, sha in synced_harness.refs().items() if name in mine} == mine
    trees = [
        run_git(synced_harness.repository("demo"), "rev-parse", f"{one}^{{tree}}")
        for one in (refs["demo refs/heads/main"], "main")
    ]
    assert trees[0] == trees[1]
    after = stored_digests(synced_harness)
    assert {name: after[name] for name in kept} == kept
    assert list(withdrawn_folder(synced_harness.store).iterdir()) == []
    assert not (synced_harness.folder / "tombstones" / "demo--000002.json").exists()
    with synced_harness.index() as index:
        assert index.datasets.get(NAME).versions > 0
    synced_harness.fsck()


def test_data_shared_with_other_datasets_stays(synced_harness: MirrorHarness) -> None:
    """The manifest of a state that another dataset has, and a content of another dataset."""
    versions = synced_harness.entries(VersionMinted)
    other = next(version for version in versions if f"demo:{version.local_id}" != NAME)
    shared = synced_harness.store.manifest_path(other.state)
    last = [version for version in versions if f"demo:{version.local_id}" == NAME][-1]
    copy = replace(last, state=other.state, commit="a" * 40, label="same", metadata_only=True)
    synced_harness.store.records.write(
        last.dataset_ref.dataset_id,
        copy.commit,
        synced_harness.store.records.lines(last.dataset_ref.dataset_id, last.commit),
    )
    synced_harness.store.journal.append(copy)
    take_dataset_down(synced_harness)
    assert shared.exists()


def test_components_that_only_it_has_are_taken_down_and_reinstated_with_it(
    takedown_store: MirrorHarness, tmp_path: Path
) -> None:
    mirrors = tmp_path / "mirrors"
    shutil.copytree(takedown_store.mirrors, mirrors)
    with (mirrors / "demo.toml").open("a") as file:
        file.write("\n[zarr]\ninline_components = 0\n")
    mirror_harness = MirrorHarness(mirrors, tmp_path / "store")
    mirror_harness.sync()
    with mirror_harness.index() as index:
        (part,) = [one.name for one in index.datasets.select() if one.within]
        (whole,) = index.datasets.superdatasets(part)
        rows = dump_index(index)
    with pytest.raises(ConfigurationError, match=f"{part}.*{whole}"):
        take_dataset_down(mirror_harness, part)
    refs = mirror_harness.refs()
    assert take_dataset_down(mirror_harness, whole) == {part: "ok", whole: "ok"}
    with mirror_harness.index() as index:
        assert {tombstone.dataset for tombstone in index.datasets.tombstones()} == {part, whole}
    assert not mirror_harness.repository(part).exists()
    before = dump(mirror_harness)
    rebuild_index(mirror_harness.store, mirror_harness.store.index_path)
    assert dump(mirror_harness) == before
    assert mirror_harness.sync(whole)[whole].status == "notneeded"
    assert reinstate_dataset(mirror_harness, whole) == {part: "ok", whole: "ok"}
    assert without_takedowns(dump(mirror_harness)) == without_takedowns(rows)
    mine = {name: sha for name, sha in refs.items() if name.startswith("demo--")}
    assert {name: sha for name, sha in mirror_harness.refs().items() if name in mine} == mine
    mirror_harness.fsck()


def test_two_of_the_same_state_come_back_one_by_one(synced_harness: MirrorHarness) -> None:
    other = "demo:000001"
    versions = {f"demo:{entry.local_id}": entry for entry in synced_harness.entries(VersionMinted)}
    same = replace(versions[other], state=versions[NAME].state, commit="b" * 40, label="same")
    synced_harness.store.records.write(
        same.dataset_ref.dataset_id,
        same.commit,
        synced_harness.store.records.lines(
            versions[NAME].dataset_ref.dataset_id, versions[NAME].commit
        ),
    )
    synced_harness.store.journal.append(replace(same, files=versions[NAME].files))
    manifest = synced_harness.store.manifest_path(same.state)
    take_dataset_down(synced_harness)
    assert manifest.exists()
    take_dataset_down(synced_harness, other)
    assert not manifest.exists()
    reinstate_dataset(synced_harness)
    assert manifest.exists()
    reinstate_dataset(synced_harness, other)
    assert manifest.exists()


def test_an_impossible_takedown_or_reinstatement_is_reported(synced_harness: MirrorHarness) -> None:
    with pytest.raises(UnknownDatasetError, match="demo:000099"):
        take_dataset_down(synced_harness, "demo:000099")
    with pytest.raises(ConfigurationError, match="not taken down"):
        reinstate_dataset(synced_harness)
    take_dataset_down(synced_harness)
    assert take_dataset_down(synced_harness) == {NAME: "notneeded"}


def test_a_store_on_another_disk_is_copied_before_it_is_removed(
    synced_harness: MirrorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, kept = os.rename, stored_digests(synced_harness)

    def rename(source: object, target: object) -> None:
        apart = [
            str(one).startswith(str(synced_harness.folder) + "-withdrawn")
            for one in (source, target)
        ]
        if apart[0] != apart[1]:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        take_dataset_down(synced_harness)
    after = stored_digests(synced_harness)
    assert {name: after[name] for name in kept} == kept
    reinstate_dataset(synced_harness)
    synced_harness.fsck()


@pytest.mark.slow
def test_a_killed_takedown_can_be_repeated(synced_harness: MirrorHarness, tmp_path: Path) -> None:
    whole = MirrorHarness(synced_harness.mirrors, tmp_path / "whole")
    shutil.copytree(synced_harness.folder, whole.folder, symlinks=True)
    take_dataset_down(whole)
    trees = run_git(whole.repository("demo"), "rev-parse", "main^{tree}")
    for steps in (2, 9, 20):
        mirror_harness = MirrorHarness(synced_harness.mirrors, tmp_path / f"killed-{steps}")
        shutil.copytree(synced_harness.folder, mirror_harness.folder, symlinks=True)
        place = mirror_harness.folder, mirror_harness.mirrors
        assert kill_takedown(*place, "down", NAME, steps)
        take_dataset_down(mirror_harness)
        assert not (mirror_harness.folder / "alias" / "demo--000002").is_symlink()
        before = dump(mirror_harness)
        rebuild_index(mirror_harness.store, mirror_harness.store.index_path)
        assert dump(mirror_harness) == before
        assert run_git(mirror_harness.repository("demo"), "rev-parse", "main^{tree}") == trees
        if kill_takedown(*place, "back", NAME, steps):
            try:
                reinstate_dataset(mirror_harness)
            except ConfigurationError:
                # everything was done except for the superdatasets
                mirror_harness.sync()
        with mirror_harness.index() as index:
            assert index.datasets.get(NAME).versions == 3
        assert set(mirror_harness.refs()) >= {
            name for name in synced_harness.refs() if name.startswith("demo--")
        }
        mirror_harness.fsck(killed=True)
        with mirror_harness.index() as index, synced_harness.index() as expected:
            names = [one.name for one in expected.datasets.select()]
            assert [one.name for one in index.datasets.select()] == names


def test_block_digests_of_its_own_contents_are_withdrawn(synced_harness: MirrorHarness) -> None:
    own, others = (
        {
            one.key
            for entry in synced_harness.entries(VersionMinted)
            if (f"demo:{entry.local_id}" == NAME) is is_own
            for one in synced_harness.store.records.read(entry.dataset_ref.dataset_id, entry.commit)
            if one.key.startswith("SHA256E")
        }
        for is_own in (True, False)
    )
    assert own - others
    folder = BlockDigestsFolder.of_store(synced_harness.store)
    for key in own | others:
        folder.write(key, claimed_digests(key))
    rebuild_index(synced_harness.store, synced_harness.store.index_path)
    before = dump(synced_harness)
    assert sum(row.startswith("block_digests ") for row in before) == len(own | others)

    take_dataset_down(synced_harness)
    assert {key for key in own | others if folder.has(key)} == others
    assert sum(row.startswith("block_digests ") for row in dump(synced_harness)) == len(others)

    reinstate_dataset(synced_harness)
    assert all(folder.read(key) == claimed_digests(key) for key in own | others)
    assert without_takedowns(dump(synced_harness)) == without_takedowns(before)


# --- block digests


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
    return {entry.local_id: entry for entry in harness.entries(VersionMinted)}


def keys(harness: ScriptedHarness) -> dict[str, str]:
    with harness.index() as index:
        return {
            one.path: one.key
            for one in index.files.of(index.versions.resolve("box:a"))
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
        return {one.dataset for one in index.files.find(f"btv2:{root}")}


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
    name = versions(harness)["a"].dataset_ref.dataset_id
    records = harness.store.root / "neuromirror" / "records" / name[:3] / name[3:]
    for path in records.glob("*.zst"):
        path.write_bytes(b"damaged")
    assert withdraw(harness, "box:a") == []
    assert not stored(harness).has(key["own"])


def test_a_takedown_names_versions_whose_files_are_unknown(harness: ScriptedHarness) -> None:
    version, key = versions(harness)["a"], keys(harness)
    lost = replace(version, commit="b" * 40, label="lost", files=0, indexed=False)
    harness.store.journal.append(lost)
    (problem,) = withdraw(harness, "box:a")
    assert "lost" in problem
    assert not stored(harness).has(key["own"])


def test_a_dataset_whose_files_are_not_in_the_index_keeps_its_digests(
    harness: ScriptedHarness,
) -> None:
    key, version = keys(harness), versions(harness)
    store = harness.store
    entry = replace(version["b"], commit="b" * 40, label="large", indexed=False)
    lines = list(store.records.lines(version["a"].dataset_ref.dataset_id, version["a"].commit))
    store.records.write(entry.dataset_ref.dataset_id, entry.commit, lines)
    store.journal.append(replace(entry, files=version["a"].files))
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
    name = versions(harness)[dataset].dataset_ref.dataset_id
    return harness.store.root / "neuromirror" / "records" / name[:3] / name[3:]


def leave_to_git(harness: ScriptedHarness) -> None:
    """Remove the files of b from records and index, as of a version that is not in the index."""
    store = harness.store
    store.journal.append(replace(versions(harness)["b"], label="large", indexed=False))
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
    harness.store.journal.append(lost)
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
    repository = harness.store.repositories.of(versions(harness)["a"].dataset_ref).path
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
