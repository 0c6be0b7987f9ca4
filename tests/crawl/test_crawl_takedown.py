"""A dataset taken down is shown nowhere, is lost nowhere, and comes back as it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from crawl_place import Place, git

from neuromirror.crawl import load_mirrors, rebuild_index, recording
from neuromirror.crawl.requests import Planner
from neuromirror.crawl.takedown import reinstate, take_down
from neuromirror.index import DatasetWithheld, Index, UnknownDataset
from neuromirror.model import ConfigurationError, VersionMinted
from neuromirror.store import dataset_of
from neuromirror.store.withheld import withheld_folder
from neuromirror_demo import DemoArchive

NAME, WHY = "demo:000002", "the owner asked for it"


@pytest.fixture(scope="session")
def takedown_store(still_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(still_demo.mirrors, tmp_path_factory.mktemp("takedown") / "store")
    assert {one.exit_code for one in place.sync().values()} == {0}
    return place


@pytest.fixture
def still(takedown_store: Place, tmp_path: Path) -> Place:
    """A copy of a store that was synced once."""
    shutil.copytree(takedown_store.folder, tmp_path / "store", symlinks=True)
    return Place(takedown_store.mirrors, tmp_path / "store")


def down(place: Place, name: str = NAME) -> dict[str, str]:
    store = place.store
    with recording(store, store.index_path) as recorder:
        done = take_down(store, recorder, name, WHY, "me", load_mirrors(place.mirrors))
        return {one.dataset: one.status for one in done}


def back(place: Place, name: str = NAME) -> dict[str, str]:
    store = place.store
    with recording(store, store.index_path) as recorder:
        done = reinstate(store, recorder, name, "me", load_mirrors(place.mirrors))
        return {one.dataset: one.status for one in done}


def dump(place: Place) -> list[str]:
    with place.index() as index:
        return list(index.dump())


def without_takedowns(rows: list[str]) -> list[str]:
    """Rows but those that tell of takedowns, and of how much of the journal is applied."""
    return [one for one in rows if "'takedown'" not in one and not one.startswith("progress ")]


def everything_kept(place: Place) -> dict[str, str]:
    """Digests of all packs, records and manifests, wherever they are, by their names."""
    found = {}
    for folder in (place.folder, withheld_folder(place.store)):
        for path in folder.rglob("*.*"):
            if path.suffix in (".pack", ".idx", ".zst") and path.is_file():
                found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def secrets(place: Place) -> list[bytes]:
    """What only this dataset has: its commits, names of its files, keys."""
    last = [one for one in place.entries(VersionMinted) if f"demo:{one.local_id}" == NAME][-1]
    files = list(place.store.records(dataset_of(last).dataset_id, last.commit))
    assert len(files) > 3
    return [one.git_path for one in files if b"/" in one.git_path] + [
        one.key.encode() for one in files
    ]


def test_nothing_of_it_is_shown_but_that_it_was_taken_down(still: Place) -> None:
    hidden, dataset_id = secrets(still), still.repository(NAME)
    assert down(still) == {NAME: "ok"}
    with still.index() as index:
        assert NAME not in [one.name for one in index.datasets()]
        assert [(one.dataset, one.reason) for one in index.withheld()] == [(NAME, WHY)]
        for asked in (index.dataset, index.versions, index.resolve, index.holders):
            with pytest.raises(DatasetWithheld, match=f"taken down on 20.*{WHY}"):
                list(asked(NAME))  # type: ignore[call-overload]
        assert [
            one for word in ("000002", "demo") for one in index.search(word) if one.name == NAME
        ] == []
        for secret in hidden[-3:]:
            assert [one for one in index.find(secret.decode()) if one.dataset == NAME] == []
        assert [one.kind for one in index.events() if one.dataset == NAME] == ["takedown"]
        (status,) = index.mirror_status()
        assert status.datasets == len(list(index.datasets()))
    # neither in the index's file nor anywhere else in the tree that is served
    served = [path for path in still.folder.rglob("*") if path.is_file()]
    others = {
        one.key.encode()
        for entry in still.entries(VersionMinted)
        if f"demo:{entry.local_id}" != NAME
        for one in still.store.records(dataset_of(entry).dataset_id, entry.commit)
    }
    paths = [one for one in hidden if one not in others and b"README" not in one]
    content = still.store.index_path.read_bytes()
    assert [one for one in paths if one.startswith(b"SHA256E") and one in content] == []
    assert not dataset_id.exists()
    assert not (still.folder / "alias" / "demo--000002").is_symlink()
    assert not [path for path in served if "demo--000002" in path.name and path.suffix != ".json"]
    stone = json.loads((still.folder / "tombstones" / "demo--000002.json").read_bytes())
    assert (stone["dataset"], stone["reason"]) == (NAME, WHY)


def test_the_super_datasets_lose_it_and_the_others_stay(still: Place) -> None:
    before = still.refs()
    down(still)
    modules = git(still.repository("demo"), "show", "main:.gitmodules")
    assert "demo--000001" in modules
    assert "000002" not in modules
    after = still.refs()
    gone = {name for name in before if name not in after}
    assert {name.split()[0] for name in gone} == {"demo--000002"}
    same = {name for name in before if after.get(name) == before[name]}
    assert {name.split()[0] for name in after} - {name.split()[0] for name in same} == {
        "demo", "neuromirror",
    }  # fmt: skip
    still.fsck()


def test_a_mirror_with_a_private_store_needs_none_to_lose_a_dataset(
    still: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors = tmp_path / "mirrors"
    mirrors.mkdir()
    (mirrors / "demo.toml").write_text(
        (still.mirrors / "demo.toml").read_text()
        + 'token_env = "DEMO_TOKEN"\nembargoed = "private"\n'
    )
    monkeypatch.delenv("DEMO_TOKEN", raising=False)
    place = Place(mirrors, still.folder)
    assert set(down(place).values()) == {"ok"}
    assert "000002" not in git(place.repository("demo"), "show", "main:.gitmodules")
    assert set(back(place).values()) == {"ok"}
    assert "000002" in git(place.repository("demo"), "show", "main:.gitmodules")


def test_nothing_is_deleted_and_only_its_owner_may_look(still: Place) -> None:
    before = everything_kept(still)
    repository = still.repository(NAME).name
    down(still)
    after = everything_kept(still)
    assert {name: after[name] for name in before} == before
    folder = withheld_folder(still.store)
    assert folder.stat().st_mode & 0o077 == 0
    assert still.folder not in folder.parents
    (kept,) = folder.iterdir()
    assert kept.name.endswith(repository)
    assert git(kept / "repository", "fsck", "--full", "--strict").strip() == ""


def test_the_index_made_anew_is_the_same_without_what_was_moved_out(still: Place) -> None:
    down(still)
    before = dump(still)
    shutil.rmtree(withheld_folder(still.store))
    rebuild_index(still.store, still.store.index_path)
    assert dump(still) == before


def test_what_was_deleted_for_good_stays_down_and_the_index_can_be_made(still: Place) -> None:
    down(still)
    before = dump(still)
    shutil.rmtree(withheld_folder(still.store))
    with pytest.raises(ConfigurationError, match=r"is not in .*-withheld any more"):
        back(still)
    rebuild_index(still.store, still.store.index_path)
    assert dump(still) == before


def test_the_crawl_never_visits_it_until_it_is_shown_again(still: Place) -> None:
    down(still)
    content = dump(still)
    for names in ((), (NAME,)):
        for deep in (False, True):
            result = still.sync(*names, deep=deep)[NAME]
            assert (result.status, result.exit_code) == ("notneeded", 0)
            assert WHY in result.message
    assert not (still.folder / "alias" / "demo--000002").exists()
    assert [one for one in dump(still) if one not in content and "000002" in one] == []
    back(still)
    assert still.sync(NAME)[NAME].status == "notneeded"
    still.fsck()


def test_a_visit_that_was_planned_before_it_was_taken_down_finds_that_out(
    still: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    down(still)
    before = dump(still)
    monkeypatch.setattr(Planner, "_down", lambda self, mirror: {})
    result = still.sync(NAME, deep=True)[NAME]
    assert (result.status, result.visit) == ("notneeded", "")
    assert WHY in result.message
    assert not (still.folder / "alias" / "demo--000002").exists()
    assert dump(still) == before


def test_undone_everything_is_as_if_it_had_never_been(still: Place) -> None:
    refs, rows, kept = still.refs(), dump(still), everything_kept(still)
    down(still)
    assert back(still) == {NAME: "ok"}
    assert without_takedowns(dump(still)) == without_takedowns(rows)
    mine = {name: sha for name, sha in refs.items() if name.startswith("demo--")}
    assert {name: sha for name, sha in still.refs().items() if name in mine} == mine
    trees = [
        git(still.repository("demo"), "rev-parse", f"{one}^{{tree}}")
        for one in (refs["demo refs/heads/main"], "main")
    ]
    assert trees[0] == trees[1]
    after = everything_kept(still)
    assert {name: after[name] for name in kept} == kept
    assert list(withheld_folder(still.store).iterdir()) == []
    assert not (still.folder / "tombstones" / "demo--000002.json").exists()
    with still.index() as index:
        assert index.dataset(NAME).versions > 0
    still.fsck()


def test_what_others_have_too_stays_where_it_is(still: Place) -> None:
    """A manifest of a state that another dataset has, and a content of theirs."""
    versions = still.entries(VersionMinted)
    other = next(one for one in versions if f"demo:{one.local_id}" != NAME)
    shared = still.store.manifest_path(other.state)
    last = [one for one in versions if f"demo:{one.local_id}" == NAME][-1]
    copy = replace(last, state=other.state, commit="a" * 40, label="same", metadata_only=True)
    still.store.keep_records(
        dataset_of(last).dataset_id,
        copy.commit,
        still.store.record_lines(dataset_of(last).dataset_id, last.commit),
    )
    still.store.append(copy)
    down(still)
    assert shared.exists()


def test_the_parts_that_only_it_has_go_and_come_with_it(
    takedown_store: Place, tmp_path: Path
) -> None:
    mirrors = tmp_path / "mirrors"
    shutil.copytree(takedown_store.mirrors, mirrors)
    with (mirrors / "demo.toml").open("a") as file:
        file.write("\n[zarr]\ninline_parts = 0\n")
    place = Place(mirrors, tmp_path / "store")
    place.sync()
    with place.index() as index:
        (part,) = [one.name for one in index.datasets() if one.within]
        (whole,) = index.holders(part)
        rows = list(index.dump())
    with pytest.raises(ConfigurationError, match=f"{part} is a part of {whole}"):
        down(place, part)
    refs = place.refs()
    assert down(place, whole) == {part: "ok", whole: "ok"}
    with place.index() as index:
        assert {one.dataset for one in index.withheld()} == {part, whole}
    assert not place.repository(part).exists()
    before = dump(place)
    rebuild_index(place.store, place.store.index_path)
    assert dump(place) == before
    assert place.sync(whole)[whole].status == "notneeded"
    assert back(place, whole) == {part: "ok", whole: "ok"}
    assert without_takedowns(dump(place)) == without_takedowns(rows)
    mine = {name: sha for name, sha in refs.items() if name.startswith("demo--")}
    assert {name: sha for name, sha in place.refs().items() if name in mine} == mine
    place.fsck()


def test_two_of_the_same_state_come_back_one_by_one(still: Place) -> None:
    other = "demo:000001"
    versions = {f"demo:{one.local_id}": one for one in still.entries(VersionMinted)}
    same = replace(versions[other], state=versions[NAME].state, commit="b" * 40, label="same")
    still.store.keep_records(
        dataset_of(same).dataset_id,
        same.commit,
        still.store.record_lines(dataset_of(versions[NAME]).dataset_id, versions[NAME].commit),
    )
    still.store.append(replace(same, files=versions[NAME].files))
    manifest = still.store.manifest_path(same.state)
    down(still)
    assert manifest.exists()
    down(still, other)
    assert not manifest.exists()
    back(still)
    assert manifest.exists()
    back(still, other)
    assert manifest.exists()


def test_what_cannot_be_taken_down_or_shown_again_is_said(still: Place) -> None:
    with pytest.raises(UnknownDataset, match="demo:000099"):
        down(still, "demo:000099")
    with pytest.raises(ConfigurationError, match="not taken down"):
        back(still)
    down(still)
    assert down(still) == {NAME: "notneeded"}


def test_a_store_on_another_disk_is_copied_before_it_is_removed(
    still: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, kept = os.rename, everything_kept(still)

    def rename(source: object, target: object) -> None:
        apart = [str(one).startswith(str(still.folder) + "-withheld") for one in (source, target)]
        if apart[0] != apart[1]:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        down(still)
    after = everything_kept(still)
    assert {name: after[name] for name in kept} == kept
    back(still)
    still.fsck()


@pytest.mark.slow
def test_killed_anywhere_and_repeated_it_comes_to_the_same(still: Place, tmp_path: Path) -> None:
    program = str(Path(__file__).with_name("killed_takedown.py"))
    whole = Place(still.mirrors, tmp_path / "whole")
    shutil.copytree(still.folder, whole.folder, symlinks=True)
    down(whole)
    trees = git(whole.repository("demo"), "rev-parse", "main^{tree}")
    deaths = 0
    for steps in (2, 6, 9, 15, 20):
        place = Place(still.mirrors, tmp_path / f"killed-{steps}")
        shutil.copytree(still.folder, place.folder, symlinks=True)
        command = [sys.executable, program, str(place.folder), str(place.mirrors)]
        done = subprocess.run([*command, "down", NAME, str(steps)], check=False)
        assert done.returncode in (7, -signal.SIGKILL)
        deaths += done.returncode != 7
        down(place)
        assert not (place.folder / "alias" / "demo--000002").is_symlink()
        before = dump(place)
        rebuild_index(place.store, place.store.index_path)
        assert dump(place) == before
        assert git(place.repository("demo"), "rev-parse", "main^{tree}") == trees
        undone = subprocess.run([*command, "back", NAME, str(steps)], check=False)
        if undone.returncode != 7:
            try:
                back(place)
            except ConfigurationError:
                # all of it was done, but for the super-datasets
                place.sync()
        with place.index() as index:
            assert index.dataset(NAME).versions == 3
        assert set(place.refs()) >= {name for name in still.refs() if name.startswith("demo--")}
        place.fsck(killed=True)
        with Index.open_readonly(place.store.index_path) as index:
            assert [one.name for one in index.datasets()] == [
                one.name for one in still.index().datasets()
            ]
        shutil.rmtree(place.folder)
        shutil.rmtree(withheld_folder(place.store), ignore_errors=True)
    assert deaths == 5
