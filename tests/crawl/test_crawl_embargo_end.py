"""Dandisets whose embargo ends: moved to the public store completely, in any case."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from neuromirror.crawl import Mirror, Result, Sync, load_mirrors, parse_sync_requests
from neuromirror.crawl import embargo as crawl_private
from neuromirror.model import DatasetHint, DatasetRef, EventRaised, VersionRef
from neuromirror.sources.dandi import DandiSource
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, Store
from neuromirror_demo.records import Description
from support.embargo_harness import (
    FOLDER,
    ID,
    NAME,
    TITLE,
    EmbargoHarness,
    contents,
    entries,
    refs,
    refs_or_none,
)
from support.killed_move import kill_move
from support.mirror_harness import run_git
from support.scripted_source import ScriptedDataset, ScriptedHarness, ScriptedSource, files

KILLED_EVERY = 25


# --- the embargo ends


def test_an_opened_dandiset_moves_with_its_history(embargo: EmbargoHarness) -> None:
    embargo.sync()
    embargo.demo.add_file(ID, f"{FOLDER}/more.txt", "more\n")
    embargo.sync()
    commits, old = embargo.commits(embargo.private), refs(embargo.private)
    journal_entries = entries(embargo, embargo.private)
    embargo.assert_no_canary_outside()
    embargo.demo.unembargo(ID)
    printed = embargo.sync()
    assert "ok demo:000006 opened upstream and moved here from the private store" in (
        embargo.embargoed_line(printed)
    )
    new = embargo.commits(embargo.public)
    assert list(new.items())[:2] == list(commits.items())
    assert len(new) == 3  # its metadata state that it is open
    assert entries(embargo, embargo.public)[: len(journal_entries)] == journal_entries
    repository = (embargo.public / "alias" / f"demo--{ID}").resolve()
    run_git(
        repository,
        "merge-base",
        "--is-ancestor",
        old[MAIN_BRANCH],
        refs(embargo.public)[MAIN_BRANCH],
    )
    run_git(
        repository,
        "merge-base",
        "--is-ancestor",
        old[ANNEX_BRANCH],
        refs(embargo.public)[ANNEX_BRANCH],
    )
    kinds = embargo.locations(embargo.public)
    assert [kind for kind, _ in kinds] == ["s3", "api"] * 3
    assert all(version for kind, version in kinds if kind == "s3")
    # the private store has nothing of it any more
    assert embargo.canaries_in(embargo.private) == set()
    assert entries(embargo, embargo.private) == []
    assert NAME not in embargo.run_on_private_store("list")
    # and nothing is left to do
    repeated = embargo.sync()
    assert NAME not in repeated
    assert embargo.demo.token not in "".join(embargo.output)
    embargo.run("rebuild-index")
    assert embargo.commits(embargo.public) == new
    assert f"{ID}" in run_git(embargo.public / "alias" / "demo", "show", "main:.gitmodules")
    assert f"{ID}" not in run_git(embargo.private / "alias" / "demo", "show", "main:.gitmodules")


def test_an_opened_dandiset_moves_whatever_the_mirror_file_says(embargo: EmbargoHarness) -> None:
    embargo.sync()
    commits = embargo.commits(embargo.private)
    embargo.demo.unembargo(ID)
    embargo.write_mirror_file(private=False)
    printed = embargo.sync(token="")
    assert "moved here" in embargo.embargoed_line(printed)
    assert commits.items() <= embargo.commits(embargo.public).items()


def test_an_opened_dandiset_moves_when_requested_by_name(embargo: EmbargoHarness) -> None:
    embargo.sync()
    embargo.demo.unembargo(ID)
    printed = embargo.run("sync", NAME, "--dry-run", "--private-store", str(embargo.private))
    assert "would visit: opened upstream" in printed
    assert "moved here" in embargo.embargoed_line(embargo.sync(NAME))


def test_a_dataset_that_is_not_public_is_not_moved(
    embargo: EmbargoHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    embargo.sync()
    commits = embargo.commits(embargo.private)
    embargo.demo.dandisets[ID].embargoed = False  # according to the list
    monkeypatch.setattr(DandiSource, "is_open", lambda self, dataset: False)
    printed = embargo.sync()
    assert embargo.embargoed_line(printed).startswith(f"notneeded {NAME}")
    embargo.assert_no_canary_outside()
    assert embargo.commits(embargo.private) == commits
    monkeypatch.undo()


def test_public_access_is_checked_without_the_token(embargo: EmbargoHarness) -> None:
    source = load_mirrors(embargo.demo.mirrors)["demo"].open()
    assert isinstance(source, DandiSource)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEMO_TOKEN", embargo.demo.token)
        assert not source.is_open(source.dataset(ID))
        embargo.demo.unembargo(ID)
        assert source.is_open(source.dataset(ID))


def test_two_histories_are_reported_and_both_kept(embargo: EmbargoHarness) -> None:
    embargo.sync()
    commits = embargo.commits(embargo.private)
    embargo.demo.unembargo(ID)
    embargo.write_mirror_file(private=False)
    embargo.run("sync", token="")  # without a private store on the command line
    own = embargo.commits(embargo.public)
    assert not commits.items() & own.items()
    printed = embargo.sync(code=1)
    assert str(embargo.public) in embargo.embargoed_line(printed)
    assert embargo.commits(embargo.private) == commits
    assert embargo.commits(embargo.public) == own


def test_an_open_dandiset_that_is_embargoed_later_is_an_incident(embargo: EmbargoHarness) -> None:
    embargo.demo.unembargo(ID)
    embargo.sync()
    commits = embargo.commits(embargo.public)
    embargo.demo.dandisets[ID].embargoed = True
    embargo.demo.add_file(ID, "later-canary.txt", "later\n")
    line = embargo.embargoed_line(embargo.sync(code=1))
    assert line.startswith(f"error {NAME}")
    assert "is embargoed" in line
    assert "known incident" in embargo.embargoed_line(embargo.sync())
    assert "known incident" in embargo.embargoed_line(embargo.sync(NAME))
    assert "known incident" in embargo.embargoed_line(embargo.sync(token=embargo.demo.other_token))
    assert embargo.commits(embargo.public) == commits
    store = Store.open(embargo.public)
    raised = [one for _, one in store.read_entries(0) if isinstance(one, EventRaised)]
    assert [one.kind for one in raised] == ["incident"]
    for folder in (embargo.public, embargo.private):
        assert not any(b"later-canary" in one for one in contents(folder))


def test_one_closed_while_it_is_visited_is_not_published(
    embargo: EmbargoHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    embargo.demo.unembargo(ID)
    embargo.write_mirror_file(private=False)
    versions = DandiSource.versions

    def closing(source: DandiSource, dataset: DatasetRef) -> list[VersionRef]:
        embargo.demo.dandisets[dataset.local_id].embargoed = dataset.local_id == ID
        return versions(source, dataset)

    monkeypatch.setattr(DandiSource, "versions", closing)
    assert "embargoed" in embargo.embargoed_line(embargo.run("sync", code=1))
    assert not refs_or_none(embargo.public)
    # the list contained its title while it was open
    assert embargo.canaries_in(embargo.public) <= {TITLE.lower().encode()}


# --- components


@dataclass
class EmbargoedSource(ScriptedSource):
    """A scripted source whose datasets are embargoed until they are opened."""

    is_closed: bool = True
    sees_all: bool = False
    is_private_only: bool = False

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        found = super().hint(dataset)
        if self.is_closed and not self.sees_all:
            return DatasetHint(dataset, "embargoed", unavailable="embargoed")
        return found

    def datasets(self) -> Iterator[DatasetHint]:
        return iter(()) if self.sees_all and not self.is_closed else super().datasets()

    def private(self) -> EmbargoedSource | None:
        return None if self.sees_all else replace(self, sees_all=True)

    def is_open(self, dataset: DatasetRef) -> bool:
        return not self.is_closed

    def may_be_public(self, dataset: DatasetRef) -> bool:
        return self.is_open(dataset)


class StorePair:
    """A public and a private store of such a source, with a Zarr that is a component."""

    def __init__(self, private_folder: Path) -> None:
        self.source = EmbargoedSource()
        paths = ("a.bin", "z.zarr/.zgroup", *(f"z.zarr/{number}" for number in range(5)))
        self.source.scripted_datasets["x/y"] = ScriptedDataset(files(*paths))
        self.public = ScriptedHarness(private_folder / "box", self.source, "[zarr]\ninline = 3\n")
        self.private_folder = private_folder / "private"

    def sync(self) -> dict[str, Result]:
        mirrors = {name: self.public.open_mirror(one) for name, one in self._mirrors().items()}
        store = self.public.store
        run = Sync(store, store.index_path, private=self.private_folder)
        return {one.dataset: one for one in run.results(parse_sync_requests((), mirrors))}

    def _mirrors(self) -> dict[str, Mirror]:
        return load_mirrors(self.public.mirrors)

    def refs(self, private_folder: Path) -> dict[str, dict[str, str]]:
        return {
            alias: repository.refs()
            for alias, repository in Store.open(private_folder).aliases()
            if "--" in alias
        }


PARTS = {"box--x--y", "box--x--y--z.zarr"}


def test_the_components_of_a_dataset_move_with_it(tmp_path: Path) -> None:
    pair = StorePair(tmp_path)
    assert pair.sync()["box:x/y"].message.startswith("embargoed: ")
    before = pair.refs(pair.private_folder)
    assert before.keys() == PARTS
    assert pair.refs(pair.public.folder) == {}
    pair.source.is_closed = False
    assert "moved here" in pair.sync()["box:x/y"].message
    assert pair.refs(pair.public.folder) == before
    assert pair.refs(pair.private_folder) == {}
    assert not list(pair.private_folder.rglob("*.pack"))[2:]  # the superdataset's entries stay
    pair.public.fsck()
    assert pair.sync()["box:x/y"].status == "notneeded"


def test_components_are_dropped_even_after_an_interrupted_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = StorePair(tmp_path)
    pair.sync()
    before = pair.refs(pair.private_folder)
    pair.source.is_closed = False

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(crawl_private, "remove_files", full)
    failed = pair.sync()["box:x/y"]
    assert failed.status == "error"
    monkeypatch.undo()
    assert "moved here" in pair.sync()["box:x/y"].message
    assert pair.refs(pair.public.folder) == before
    assert pair.refs(pair.private_folder) == {}
    assert not list((pair.private_folder / "neuromirror" / "records").rglob("*.zst"))
    assert not list((pair.private_folder / "manifests").rglob("*.zst"))


# --- killed during a move


def store_state(folder: Path) -> dict[str, Any]:
    """Return the versions in the journal and the refs, by dataset."""
    store = Store.open(folder)
    versions: dict[str, list[str]] = {}
    for _, entry in store.read_entries(0):
        if hasattr(entry, "commit"):
            versions.setdefault(f"{entry.mirror}:{entry.local_id}", []).append(entry.commit)
    # a superdataset may be outdated after a kill
    refs = {alias: one.refs() for alias, one in store.aliases() if "--" in alias}
    return {"versions": versions, "refs": refs}


def test_a_killed_move_is_completed_by_the_next_sync(
    embargo: EmbargoHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills at each step of the functions that move are tested in tests/store."""
    closed = embargo.demo.create_dandiset(
        Description("Stays closed: Othercanary"), identifier="000009", embargoed=True
    )
    embargo.demo.add_file(closed, "othercanary/file.txt", "still closed\n")
    embargo.sync()
    expected = set(embargo.commits(embargo.private).values())
    embargo.demo.unembargo(ID)
    monkeypatch.setenv("DEMO_TOKEN", embargo.demo.token)
    finals, killed = [], True
    while killed:
        step = 1 + len(finals) * KILLED_EVERY
        copy = replace(embargo, folder=tmp_path / f"killed-{step}")
        copytree(embargo.folder, copy.folder, symlinks=True)
        killed = kill_move(embargo.demo.mirrors, copy.public, copy.private, step)
        # at any time, one of the stores has the whole history
        kept = [store_state(one)["versions"] for one in (copy.private, copy.public)]
        assert any(expected <= set(versions.get(NAME, [])) for versions in kept), step
        copy.sync()
        finals.append([store_state(one) for one in (copy.private, copy.public)])
    assert len(finals) > 4
    for private, public in finals:
        assert [private, public] == finals[-1]
        assert NAME not in private["versions"]
        assert "demo:000009" in private["versions"]
        assert expected < set(public["versions"][NAME])
    assert not any(b"othercanary" in content.lower() for content in contents(copy.public))
    assert any(b"othercanary" in one.lower() for one in contents(embargo.private))


# --- clones


def test_a_private_clone_gets_files_without_a_token_after_the_embargo(
    embargo: EmbargoHarness, tmp_path: Path
) -> None:
    embargo.sync()
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", str(embargo.private / "alias" / f"demo--{ID}"), str(clone))
    run_git(clone, "annex", "init", "-q")
    embargo.demo.unembargo(ID)
    embargo.sync()
    run_git(clone, "remote", "set-url", "origin", str(embargo.public / "alias" / f"demo--{ID}"))
    run_git(clone, "pull", "-q", "--ff-only")
    run_git(clone, "annex", "merge")
    embargo.demo.clear_requests()
    run_git(clone, "annex", "get", f"{FOLDER}/file.txt")
    assert (clone / FOLDER / "file.txt").read_text() == f"bytes of {FOLDER}\n"
    assert embargo.demo.count_requests("GET .*versionId=") == 1
