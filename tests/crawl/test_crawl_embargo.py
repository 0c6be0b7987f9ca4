"""Embargoed dandisets: skipped or mirrored privately, never shown, moved when they are opened."""

from __future__ import annotations

import errno
import json
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import Mirror, Result, Sync, load_mirrors, parse_sync_requests
from neuromirror.crawl import embargo as crawl_private
from neuromirror.model import DatasetHint, DatasetRef, EventRaised, VersionMinted, VersionRef
from neuromirror.sources.dandi import DandiSource
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, Store
from neuromirror_demo import DemoArchive
from neuromirror_demo.api import DandiDocuments
from neuromirror_demo.archive_contents import zarr_entries
from neuromirror_demo.faults import Kind
from neuromirror_demo.records import Dandiset, Description
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
from support.list_faults import duplicate_row, empty_list, lost_page
from support.mirror_harness import MirrorHarness, run_git
from support.scripted_source import ScriptedDataset, ScriptedHarness, ScriptedSource, files

# --- skipped by default


@pytest.mark.parametrize("token", ["", None])
def test_by_default_it_is_skipped_and_only_its_name_is_reported(
    embargo: EmbargoHarness, token: str | None
) -> None:
    embargo.write_mirror_file(private=False)
    printed = embargo.run("sync", token=token)
    if token is None:  # the list shows its name to its owners
        assert embargo.embargoed_line(printed) == f"notneeded {NAME} embargoed"
    assert embargo.embargoed_line(embargo.run("sync", NAME, token=token)).endswith(
        f"{NAME} embargoed"
    )
    assert embargo.embargoed_line(embargo.run("sync", NAME, "--dry-run", token=token)).endswith(
        "embargoed"
    )
    embargo.run("--json", "sync", "--deep", token=token)
    embargo.assert_no_canary_outside()
    assert not embargo.private.exists()
    assert entries(embargo, embargo.public) == []


@pytest.mark.parametrize("private", [False, True])
def test_one_that_is_called_open_but_refused_without_a_token_is_not_public(
    embargo: EmbargoHarness, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    """The archive's own word, given to the token, is not enough."""
    reported = DandiDocuments.dandiset_brief

    def called_open(documents: DandiDocuments, dandiset: Dandiset) -> dict[str, Any]:
        return {**reported(documents, dandiset), "embargo_status": "OPEN"}

    monkeypatch.setattr(DandiDocuments, "dandiset_brief", called_open)
    embargo.write_mirror_file(private=private)
    for names in ((), (NAME,)):
        assert embargo.embargoed_line(embargo.sync(*names)).startswith(f"notneeded {NAME}")
    embargo.assert_no_canary_outside()
    assert entries(embargo, embargo.public) == []
    # until it is public
    embargo.demo.unembargo(ID)
    embargo.sync()
    assert set(embargo.commits(embargo.public))


def test_the_canaries_are_found_where_they_are(embargo: EmbargoHarness) -> None:
    embargo.sync()
    missing = set(embargo.canaries()) - embargo.canaries_in(embargo.private)
    # credentials are in no file; the URLs of the API do not contain blob ids
    blobs = {asset.blob.blob_id.encode() for asset in embargo.demo.assets.values() if asset.blob}
    assert missing - blobs == {embargo.demo.token.encode(), b"x-amz-", b"demoaccesskey"}


# --- mirrored privately


def test_with_a_token_it_is_mirrored_into_the_private_store(embargo: EmbargoHarness) -> None:
    printed = embargo.sync()
    assert embargo.embargoed_line(printed) == f"ok {NAME} embargoed: new state in the private store"
    embargo.assert_no_canary_outside()
    assert stat.S_IMODE(embargo.private.stat().st_mode) == 0o700
    assert {
        path for path in embargo.private.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o077
    } == set()  # fmt: skip
    assert f"{FOLDER}/file.txt" in embargo.run_on_private_store("files", NAME)
    assert TITLE in embargo.run_on_private_store("show", NAME)
    assert TITLE in embargo.run_on_private_store("list")
    assert embargo.run_on_private_store("find", embargo.demo.sha256(ID, "notes.txt"))
    assert embargo.run_on_private_store("status")
    assert embargo.run_on_private_store("rebuild-index")
    assert embargo.run_on_private_store("housekeeping")
    embargo.run_on_private_store("holds")
    assert "open.txt" not in str(embargo.locations(embargo.private))
    repeated = embargo.sync()
    assert (
        embargo.embargoed_line(repeated)
        == f"notneeded {NAME} embargoed: the private store is up to date"
    )


def test_its_files_have_only_the_url_of_the_api(embargo: EmbargoHarness) -> None:
    embargo.sync()
    assert set(embargo.locations(embargo.private)) == {("api-private", None)}
    blobs = [
        one.blob.blob_id for one in embargo.demo.dandisets[ID].draft.assets.values() if one.blob
    ]
    assert not any(blob in request for request in embargo.demo.s3_requests for blob in blobs)


def test_an_unchanged_one_costs_no_request_of_its_own(embargo: EmbargoHarness) -> None:
    embargo.sync()
    embargo.demo.clear_requests()
    embargo.sync()
    assert embargo.demo.count_requests(f"dandisets/{ID}") == 0
    assert len(embargo.demo.requests) <= 5


def test_its_changes_are_versions_of_the_private_store(embargo: EmbargoHarness) -> None:
    embargo.sync()
    first = embargo.commits(embargo.private)
    embargo.demo.add_file(ID, f"{FOLDER}/more.txt", "more\n")
    assert "new state" in embargo.embargoed_line(embargo.sync())
    after = embargo.commits(embargo.private)
    assert first.items() < after.items()
    assert len(after) == 2
    embargo.assert_no_canary_outside()


def test_one_that_the_token_may_not_read_is_only_named(embargo: EmbargoHarness) -> None:
    printed = embargo.sync(NAME, token=embargo.demo.other_token, code=1)
    assert embargo.embargoed_line(printed).startswith(f"error {NAME} embargoed: failed")
    assert NAME in embargo.run_on_private_store("events")
    assert NAME not in embargo.sync(token=embargo.demo.other_token)
    embargo.assert_no_canary_outside()


def test_one_that_the_token_may_not_read_any_more_is_kept(embargo: EmbargoHarness) -> None:
    embargo.sync()
    commits = embargo.commits(embargo.private)
    printed = embargo.sync(token=embargo.demo.other_token, code=1)
    assert embargo.embargoed_line(printed).startswith(f"error {NAME} embargoed: failed")
    assert embargo.commits(embargo.private) == commits
    embargo.assert_no_canary_outside()


def test_one_that_is_deleted_upstream_is_kept(embargo: EmbargoHarness) -> None:
    embargo.sync()
    canaries = embargo.canaries()
    embargo.demo.delete_dandiset(ID)
    assert "new state" not in embargo.embargoed_line(embargo.sync(code=0))
    assert embargo.commits(embargo.private)
    assert "tombstone" in embargo.run_on_private_store("events")
    assert not any(canary in "\n".join(embargo.output).lower().encode() for canary in canaries)


def test_a_held_listing_is_released_in_the_private_store(embargo: EmbargoHarness) -> None:
    for number in range(12):
        embargo.demo.add_file(ID, f"{FOLDER}/{number}.txt", f"{number}\n")
    embargo.sync()
    for number in range(12):
        embargo.demo.remove_file(ID, f"{FOLDER}/{number}.txt")
    assert "embargoed: a listing is held" in embargo.embargoed_line(embargo.sync(code=3))
    embargo.assert_no_canary_outside()
    (held,) = [
        json.loads(line)["hold"]
        for line in embargo.run_on_private_store("--json", "holds", code=3).splitlines()
    ]
    embargo.run_on_private_store("release", held)
    assert "new state" in embargo.embargoed_line(embargo.sync())
    embargo.assert_no_canary_outside()


FAULTS = [
    ("status", {"path": r"versions/draft/assets/", "status": 403}),
    ("status", {"path": r"versions/draft/", "status": 404}),
    ("html", {"path": r"versions/"}),
    ("cut", {"keep": 0.7, "lying": True}),
    (duplicate_row, {"page": 2}),
    (lost_page, {"page": 1}),
    (empty_list, {}),
]


@pytest.mark.parametrize(("fault", "options"), FAULTS)
def test_no_failure_reveals_more(
    embargo: EmbargoHarness, no_waits: None, fault: str | Kind, options: dict[str, object]
) -> None:
    for number in range(3):
        embargo.demo.add_file(ID, f"{FOLDER}/{number}.txt", f"{number}\n")
    embargo.write_mirror_file("page_size = 2")
    here = {**options, "path": f"{ID}/.*{options.get('path', 'versions/draft/assets/$')}"}
    with embargo.demo.fault(fault, **here) as struck:
        printed = embargo.run("sync", NAME, code=1, NEUROMIRROR_PRIVATE_STORE=str(embargo.private))
        embargo.run("--json", "sync", code=1, NEUROMIRROR_PRIVATE_STORE=str(embargo.private))
        assert struck.struck
    assert embargo.embargoed_line(printed).startswith(f"error {NAME} embargoed: failed")
    assert NAME in embargo.run_on_private_store("events")
    embargo.assert_no_canary_outside()
    assert "new state" in embargo.embargoed_line(embargo.sync())
    embargo.assert_no_canary_outside()


def test_an_internal_error_reveals_no_more(
    embargo: EmbargoHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"could not cope with {FOLDER}/file.txt")

    monkeypatch.setattr("neuromirror.crawl.sync.visit_dataset", broken)
    printed = embargo.sync(NAME, code=1)
    assert embargo.embargoed_line(printed).startswith(f"error {NAME} embargoed: failed")
    embargo.assert_no_canary_outside()
    assert f"could not cope with {FOLDER}" in embargo.run_on_private_store("events")


# --- configuration


def test_a_private_store_must_be_named(embargo: EmbargoHarness) -> None:
    printed = embargo.run("sync", code=2)
    assert "--private-store" in printed
    assert "NEUROMIRROR_PRIVATE_STORE" in printed
    assert "--private-store" in embargo.run("sync", "--dry-run", code=2)
    assert not embargo.public.exists()


def test_a_token_must_be_set(embargo: EmbargoHarness) -> None:
    assert "DEMO_TOKEN" in embargo.sync(code=2, token="")
    assert not embargo.public.exists()
    assert not embargo.private.exists()


def test_a_token_must_be_named(embargo: EmbargoHarness) -> None:
    file = embargo.demo.mirrors / "demo.toml"
    file.write_text(file.read_text().replace('token_env = "DEMO_TOKEN"\n', ""))
    assert "token_env" in embargo.run("check-config", code=2)


def test_a_private_store_in_the_public_one_is_refused(embargo: EmbargoHarness) -> None:
    path = str(embargo.public / "private")
    assert path in embargo.run("sync", "--private-store", path, code=2)
    assert not embargo.public.exists()


def test_a_private_store_is_not_synced_as_a_public_one(embargo: EmbargoHarness) -> None:
    embargo.sync()
    before = sorted(embargo.private.rglob("*"))
    embargo.write_mirror_file(private=False)
    path = str(embargo.private)
    assert path in embargo.run("--store", path, "sync", code=2)
    assert path in embargo.run("--store", path, "sync", "--dry-run", code=2)
    assert sorted(embargo.private.rglob("*")) == before


def test_a_dry_run_writes_nothing_and_reveals_only_the_name(embargo: EmbargoHarness) -> None:
    path = str(embargo.private)
    printed = embargo.run("sync", "--dry-run", "--private-store", path)
    assert "embargoed: would visit: new" in printed
    assert not embargo.private.exists()
    assert not embargo.public.exists()
    embargo.sync()
    assert "embargoed: unchanged" in embargo.run("sync", "--dry-run", "--private-store", path)
    embargo.assert_no_canary_outside()


def test_a_run_finds_the_private_store_in_use(embargo: EmbargoHarness) -> None:
    embargo.sync()
    store = Store.open(embargo.private)
    with store.lock("run", "a test"):
        printed = embargo.sync(code=1)
    assert str(embargo.private) in printed


# --- Zarrs


def test_a_zarr_under_embargo_is_not_revealed(embargo: EmbargoHarness) -> None:
    zarr = embargo.demo.add_zarr(ID, f"{FOLDER}/img.zarr", zarr_entries())
    for private in (False, True):
        embargo.write_mirror_file("zarrs = true", private=private)
        assert "embargoed" in embargo.sync(f"demo:zarr/{zarr}", code=None if private else 0)
        embargo.sync()
        embargo.output = [one.replace(f"demo:zarr/{zarr}", "") for one in embargo.output]
        embargo.assert_no_canary_outside()
    assert not any("/files/" in request for request in embargo.demo.requests if "GET" in request)


def test_a_zarr_that_was_synced_by_name_is_not_missed_in_the_list(embargo: EmbargoHarness) -> None:
    zarr = embargo.demo.add_zarr("000001", "img.zarr", zarr_entries())
    embargo.write_mirror_file("zarrs = true", private=False)
    embargo.run("sync", f"demo:zarr/{zarr}")
    embargo.run("sync")
    assert zarr not in embargo.run("sync")


def test_the_index_of_the_public_store_is_not_the_private_ones(embargo: EmbargoHarness) -> None:
    index = str(embargo.public.with_name("index.sqlite"))
    embargo.run("sync", NEUROMIRROR_INDEX=index, NEUROMIRROR_PRIVATE_STORE=str(embargo.private))
    options = ("--store", str(embargo.private), "--index", index)
    for command in (("rebuild-index",), ("list",), ("release", "abc")):
        CliRunner().invoke(main, [*options, *command], env=embargo.environment())
    assert embargo.canaries_in(embargo.folder / "public") == set()
    content = Path(index).read_bytes().lower()
    assert not [canary for canary in embargo.canaries() if canary in content]


def test_a_zarr_under_embargo_goes_to_the_private_store_and_moves(embargo: EmbargoHarness) -> None:
    embargo.demo.add_zarr(ID, f"{FOLDER}/large.zarr", zarr_entries())
    small = {"zarr.json": b"{}", "c/0": b"chunk"}
    zarr = embargo.demo.add_zarr(ID, f"{FOLDER}/small.zarr", small)
    embargo.write_mirror_file("zarrs = true")
    file = embargo.demo.mirrors / "demo.toml"
    file.write_text(file.read_text() + "[zarr]\ninline_components = 10\n")
    embargo.sync()
    embargo.assert_no_canary_outside()
    assert f"{FOLDER}/small.zarr/c/0" in embargo.run_on_private_store("files", NAME)
    with embargo.index(embargo.private) as index:
        row = index.versions.last(NAME)
        assert row is not None
        assert row.exceptions == 0
        (part,) = index.versions.subdatasets(row)
        (state,) = index.versions.of(part.dataset)
    kinds = {kind for kind, _ in embargo.locations(embargo.private)}
    assert kinds == {"api-private", "s3"}
    download = f"{embargo.demo.api_url}/zarr/{zarr}/files/?download=true&prefix=c%2F0"
    assert download in str(contents(embargo.private))
    embargo.demo.unembargo(ID)
    assert "moved here" in embargo.embargoed_line(embargo.sync())
    with embargo.index(embargo.public) as index:
        assert next(iter(index.versions.of(part.dataset))).commit == state.commit
    assert embargo.canaries_in(embargo.private) == set()


# --- the end of an embargo

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
    raised = [one for _, one in store.journal.read(0) if isinstance(one, EventRaised)]
    assert [one.kind for one in raised] == ["incident"]
    for folder in (embargo.public, embargo.private):
        assert not any(b"later-canary" in content for content in contents(folder))


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
        return {result.dataset: result for result in run.results(parse_sync_requests((), mirrors))}

    def _mirrors(self) -> dict[str, Mirror]:
        return load_mirrors(self.public.mirrors)

    def refs(self, private_folder: Path) -> dict[str, dict[str, str]]:
        return {
            alias: repository.refs()
            for alias, repository in Store.open(private_folder).repositories.aliases()
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
    for _, entry in store.journal.read(0):
        if hasattr(entry, "commit"):
            versions.setdefault(f"{entry.mirror}:{entry.local_id}", []).append(entry.commit)
    # a superdataset may be outdated after a kill
    refs = {alias: one.refs() for alias, one in store.repositories.aliases() if "--" in alias}
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


# --- hidden Zarrs


def add_hidden_zarr(demo: DemoArchive) -> tuple[str, str]:
    """Add an embargoed dandiset with a Zarr; return both."""
    closed = next(name for name, one in demo.dandisets.items() if one.embargoed)
    zarr = demo.add_zarr(closed, "sub-1/sub-1_secret.ome.zarr", zarr_entries())
    assert requests.get(f"{demo.api_url}/zarr/{zarr}/", timeout=300).status_code == 404
    return closed, zarr


def test_a_hidden_zarr_is_reported_as_embargoed_and_not_as_missing(
    demo: DemoArchive, mirror_harness: MirrorHarness
) -> None:
    _, zarr = add_hidden_zarr(demo)
    result = mirror_harness.sync(f"demo:zarr/{zarr}")[f"demo:zarr/{zarr}"]
    assert (result.exit_code, result.message) == (0, "embargoed")
    assert mirror_harness.entries(EventRaised) == []
    assert mirror_harness.refs() == {}
    missing = f"demo:zarr/{uuid.uuid4()}"
    result = mirror_harness.sync(missing)[missing]
    assert (result.exit_code, result.visit) == (1, "not_found")
    assert "no such Zarr" in result.message


def test_a_hidden_zarr_in_an_open_dandiset_is_a_named_exception_and_stops_nothing(
    demo: DemoArchive, mirror_harness: MirrorHarness
) -> None:
    _, zarr = add_hidden_zarr(demo)
    demo.share_zarr("000001", "sub-1/sub-1_shared.ome.zarr", zarr)
    result = mirror_harness.sync("demo:000001")["demo:000001"]
    assert result.exit_code == 0
    assert "1 listed upstream but not mirrored" in result.message
    with mirror_harness.index() as index:
        row = index.versions.resolve("demo:000001", "draft")
        (exception,) = index.versions.exceptions(row)
        assert row.files == len(demo.paths("000001")) - 1
    assert (exception["reason"], exception["path"]) == ("embargoed", "sub-1/sub-1_shared.ome.zarr")
    assert "under embargo" in exception["detail"]


def test_a_zarr_that_is_hidden_between_its_row_and_its_files_keeps_its_state(
    demo: DemoArchive, mirror_harness: MirrorHarness
) -> None:
    """The row still has it as open; the archive does not find it, nor its files."""
    path = "sub-1/sub-1_img.ome.zarr"
    zarr = demo.add_zarr("000003", path, zarr_entries())
    demo.share_zarr("000001", path, zarr)
    (mirror_harness.mirrors / "demo.toml").write_text(
        f'source = "dandi"\n[options]\napi = "{demo.api_url}"\n[zarr]\ninline_components = 0\n'
    )
    assert mirror_harness.sync("demo:000001")["demo:000001"].exit_code == 0
    refs = mirror_harness.refs()
    with demo.fault("status", path=f"/zarr/{zarr}/$", status=404):
        result = mirror_harness.sync("demo:000001", deep=True)["demo:000001"]
    assert (result.exit_code, result.visit) == (1, "failed")
    assert f"demo:zarr/{zarr}" in result.message
    assert mirror_harness.refs() == refs
    assert [entry.kind for entry in mirror_harness.entries(EventRaised)] == []
    assert {entry.local_id for entry in mirror_harness.entries(VersionMinted)} == {
        "000001",
        f"zarr/{zarr}",
    }
