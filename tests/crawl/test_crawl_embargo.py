"""Dandisets under embargo: skipped, kept apart, moved over when they are opened; never shown."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from crawl_place import git
from embargo_place import FOLDER, ID, NAME, TITLE, Embargo, contents, prepared
from scripted import Box, Scripted, Thing, files

from neuromirror.crawl import Mirror, Result, Sync, load_mirrors, parse_requests, visit
from neuromirror.crawl import private as crawl_private
from neuromirror.demo import DemoArchive
from neuromirror.demo.contents import zarr_entries
from neuromirror.demo.records import Description
from neuromirror.model import DatasetHint, DatasetRef, Entry, EventRaised, VersionRef
from neuromirror.net import Limits, Session
from neuromirror.sources.dandi import DandiSource
from neuromirror.sources.dandi import source as dandi
from neuromirror.store import ANNEX, MAIN, Store
from neuromirror.store.moving import entries_of

KILLED = Path(__file__).with_name("killed_move.py")


@pytest.fixture
def embargo(small: DemoArchive, tmp_path: Path) -> Embargo:
    """An archive of an open and an embargoed dandiset, with canaries, and places for stores."""
    open_one = small.create_dandiset(Description("An open one"), identifier="000001")
    small.add_file(open_one, "open.txt", "open\n")
    small.create_dandiset(Description("Closed"), identifier=ID, embargoed=True)
    small.add_file(ID, "notes.txt", "not yet public\n")
    return prepared(small, tmp_path / "stores")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts are short."""
    limits = Limits(attempts=2, wait=0.01, wait_max=0.01, retry_after_max=5, connect=2, read=2)
    monkeypatch.setattr(dandi, "Session", partial(Session, limits=limits))


def entries(embargo: Embargo, folder: Path) -> list[Entry]:
    """The journal's entries about the dandiset in a store."""
    uri = f"{embargo.demo.api_url}/dandisets/{ID}/"
    return entries_of(Store.open(folder), DatasetRef("demo", ID, uri))


def refs_or_none(folder: Path) -> dict[str, str]:
    """The same, where there may be none."""
    return refs(folder) if (folder / "alias" / f"demo--{ID}").exists() else {}


def refs(folder: Path) -> dict[str, str]:
    """The refs of the dandiset's repository."""
    repository = (folder / "alias" / f"demo--{ID}").resolve()
    lines = git(repository, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split(" ") for line in lines)


# --- skipped


@pytest.mark.parametrize("token", ["", None])
def test_by_default_it_is_skipped_and_only_its_name_is_told(
    embargo: Embargo, token: str | None
) -> None:
    embargo.mirror(private=False)
    printed = embargo.run("sync", token=token)
    if token is None:  # the list names it to those who may read it
        assert embargo.line(printed) == f"notneeded {NAME} embargoed"
    assert embargo.line(embargo.run("sync", NAME, token=token)).endswith(f"{NAME} embargoed")
    assert embargo.line(embargo.run("sync", NAME, "--dry-run", token=token)).endswith("embargoed")
    embargo.run("--json", "sync", "--deep", token=token)
    embargo.assert_silent()
    assert not embargo.private.exists()
    assert entries(embargo, embargo.public) == []


def test_the_canaries_are_found_where_they_are(embargo: Embargo) -> None:
    embargo.sync()
    missing = set(embargo.canaries()) - embargo.found_in(embargo.private)
    # credentials are nowhere at all; blobs are named in no address of the API
    blobs = {one.blob.blob_id.encode() for one in embargo.demo.assets.values() if one.blob}
    assert missing - blobs == {embargo.demo.token.encode(), b"x-amz-", b"demoaccesskey"}


# --- kept apart


def test_with_a_token_it_is_mirrored_into_the_private_store(embargo: Embargo) -> None:
    printed = embargo.sync()
    assert embargo.line(printed) == f"ok {NAME} embargoed: the private store has a new state of it"
    embargo.assert_silent()
    assert stat.S_IMODE(embargo.private.stat().st_mode) == 0o700
    assert {
        path for path in embargo.private.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o077
    } == set()  # fmt: skip
    assert f"{FOLDER}/file.txt" in embargo.inside("files", NAME)
    assert TITLE in embargo.inside("show", NAME)
    assert TITLE in embargo.inside("list")
    assert embargo.inside("find", embargo.demo.sha256(ID, "notes.txt"))
    assert embargo.inside("status")
    assert embargo.inside("rebuild-index")
    assert embargo.inside("housekeeping")
    embargo.inside("holds")
    assert "open.txt" not in str(embargo.locations(embargo.private))
    again = embargo.sync()
    assert embargo.line(again) == f"notneeded {NAME} embargoed: the private store has it as it is"


def test_its_files_have_the_apis_address_and_no_other(embargo: Embargo) -> None:
    embargo.sync()
    assert set(embargo.locations(embargo.private)) == {("api", None)}
    blobs = [
        one.blob.blob_id for one in embargo.demo.dandisets[ID].draft.assets.values() if one.blob
    ]
    assert not any(blob in request for request in embargo.demo.s3_requests for blob in blobs)


def test_an_unchanged_one_costs_no_request_of_its_own(embargo: Embargo) -> None:
    embargo.sync()
    embargo.demo.clear_requests()
    embargo.sync()
    assert embargo.demo.count_requests(f"dandisets/{ID}") == 0
    assert len(embargo.demo.requests) <= 5


def test_its_changes_are_versions_of_the_private_store(embargo: Embargo) -> None:
    embargo.sync()
    first = embargo.commits(embargo.private)
    embargo.demo.add_file(ID, f"{FOLDER}/more.txt", "more\n")
    assert "a new state" in embargo.line(embargo.sync())
    after = embargo.commits(embargo.private)
    assert first.items() < after.items()
    assert len(after) == 2
    embargo.assert_silent()


def test_one_that_the_token_may_not_read_is_named_alone(embargo: Embargo) -> None:
    printed = embargo.sync(NAME, token=embargo.demo.other_token, code=1)
    assert embargo.line(printed).startswith(f"error {NAME} embargoed: failed")
    assert "may not read" in embargo.inside("events")
    assert NAME not in embargo.sync(token=embargo.demo.other_token)
    embargo.assert_silent()


def test_one_that_the_token_may_not_read_any_more_is_kept(embargo: Embargo) -> None:
    embargo.sync()
    commits = embargo.commits(embargo.private)
    printed = embargo.sync(token=embargo.demo.other_token, code=1)
    assert embargo.line(printed).startswith(f"error {NAME} embargoed: failed")
    assert embargo.commits(embargo.private) == commits
    embargo.assert_silent()


def test_one_that_is_deleted_upstream_is_kept(embargo: Embargo) -> None:
    embargo.sync()
    canaries = embargo.canaries()
    embargo.demo.delete_dandiset(ID)
    assert "embargoed: failed" in embargo.line(embargo.sync(code=1))
    assert embargo.commits(embargo.private)
    assert "tombstone" in embargo.inside("events")
    assert not any(word in "\n".join(embargo.said).lower().encode() for word in canaries)


def test_a_held_listing_is_released_in_the_private_store(embargo: Embargo) -> None:
    for number in range(12):
        embargo.demo.add_file(ID, f"{FOLDER}/{number}.txt", f"{number}\n")
    embargo.sync()
    for number in range(12):
        embargo.demo.remove_file(ID, f"{FOLDER}/{number}.txt")
    assert "embargoed: a listing is held" in embargo.line(embargo.sync(code=3))
    embargo.assert_silent()
    (held,) = [
        json.loads(line)["hold"] for line in embargo.inside("--json", "holds", code=3).splitlines()
    ]
    embargo.inside("release", held)
    assert "a new state" in embargo.line(embargo.sync())
    embargo.assert_silent()


FAULTS = [
    ("status", {"path": r"versions/draft/assets/", "status": 403}),
    ("status", {"path": r"versions/draft/", "status": 404}),
    ("html", {"path": r"versions/"}),
    ("cut", {"keep": 0.7, "lying": True}),
    ("duplicate_rows", {}),
    ("lost_page", {}),
    ("empty_list", {}),
]


@pytest.mark.parametrize(("fault", "options"), FAULTS)
def test_no_failure_tells_more(
    embargo: Embargo, impatient: None, fault: str, options: dict[str, object]
) -> None:
    for number in range(3):
        embargo.demo.add_file(ID, f"{FOLDER}/{number}.txt", f"{number}\n")
    embargo.mirror("page_size = 2")
    here = {**options, "path": f"{ID}/.*{options.get('path', 'versions/draft/assets/$')}"}
    with embargo.demo.fault(fault, **here) as struck:
        printed = embargo.run("sync", NAME, code=1, NEUROMIRROR_PRIVATE_STORE=str(embargo.private))
        embargo.run("--json", "sync", code=1, NEUROMIRROR_PRIVATE_STORE=str(embargo.private))
        assert struck.struck
    assert embargo.line(printed).startswith(f"error {NAME} embargoed: failed")
    assert NAME in embargo.inside("events")
    embargo.assert_silent()
    assert "a new state" in embargo.line(embargo.sync())
    embargo.assert_silent()


def test_a_defect_of_ours_tells_no_more(embargo: Embargo, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"could not cope with {FOLDER}/file.txt")

    monkeypatch.setattr(visit.Visit, "run", broken)
    printed = embargo.sync(NAME, code=1)
    assert embargo.line(printed).startswith(f"error {NAME} embargoed: failed")
    embargo.assert_silent()
    assert f"could not cope with {FOLDER}" in embargo.inside("events")


# --- what is to be said and set


def test_a_private_store_must_be_named(embargo: Embargo) -> None:
    printed = embargo.run("sync", code=2)
    assert "--private-store" in printed
    assert "NEUROMIRROR_PRIVATE_STORE" in printed
    assert "--private-store" in embargo.run("sync", "--dry-run", code=2)
    assert not embargo.public.exists()


def test_a_token_must_be_set(embargo: Embargo) -> None:
    assert "DEMO_TOKEN" in embargo.sync(code=2, token="")
    assert not embargo.public.exists()
    assert not embargo.private.exists()


def test_a_token_must_be_named(embargo: Embargo) -> None:
    file = embargo.demo.mirrors / "demo.toml"
    file.write_text(file.read_text().replace('token_env = "DEMO_TOKEN"\n', ""))
    assert "token_env" in embargo.run("check-config", code=2)


def test_a_private_store_in_the_public_one_is_refused(embargo: Embargo) -> None:
    place = str(embargo.public / "private")
    assert "must not be in one another" in embargo.run("sync", "--private-store", place, code=2)
    assert not embargo.public.exists()


def test_a_private_store_is_not_synced_as_a_public_one(embargo: Embargo) -> None:
    embargo.sync()
    before = sorted(embargo.private.rglob("*"))
    embargo.mirror(private=False)
    place = str(embargo.private)
    assert "is a private store" in embargo.run("--store", place, "sync", code=2)
    assert "is a private store" in embargo.run("--store", place, "sync", "--dry-run", code=2)
    assert sorted(embargo.private.rglob("*")) == before


def test_a_dry_run_says_and_writes_nothing_of_it(embargo: Embargo) -> None:
    place = str(embargo.private)
    printed = embargo.run("sync", "--dry-run", "--private-store", place)
    assert "embargoed: would visit: new" in printed
    assert not embargo.private.exists()
    assert not embargo.public.exists()
    embargo.sync()
    assert "embargoed: unchanged" in embargo.run("sync", "--dry-run", "--private-store", place)
    embargo.assert_silent()


def test_a_run_finds_the_private_store_in_use(embargo: Embargo) -> None:
    embargo.sync()
    store = Store.open(embargo.private)
    with store.lock("run", "a test"):
        printed = embargo.sync(code=1)
    assert "in use by another" in printed


# --- opened


def test_opened_it_moves_over_with_its_history(embargo: Embargo) -> None:
    embargo.sync()
    embargo.demo.add_file(ID, f"{FOLDER}/more.txt", "more\n")
    embargo.sync()
    commits, old = embargo.commits(embargo.private), refs(embargo.private)
    told = entries(embargo, embargo.private)
    embargo.assert_silent()
    embargo.demo.unembargo(ID)
    printed = embargo.sync()
    assert "ok demo:000006 opened upstream, and moved here from the private store" in (
        embargo.line(printed)
    )
    new = embargo.commits(embargo.public)
    assert list(new.items())[:2] == list(commits.items())
    assert len(new) == 3  # its metadata say that it is open
    assert entries(embargo, embargo.public)[: len(told)] == told
    repository = (embargo.public / "alias" / f"demo--{ID}").resolve()
    git(repository, "merge-base", "--is-ancestor", old[MAIN], refs(embargo.public)[MAIN])
    git(repository, "merge-base", "--is-ancestor", old[ANNEX], refs(embargo.public)[ANNEX])
    kinds = embargo.locations(embargo.public)
    assert [kind for kind, _ in kinds] == ["s3", "api"] * 3
    assert all(version for kind, version in kinds if kind == "s3")
    # the private store has nothing of it
    assert embargo.found_in(embargo.private) == set()
    assert entries(embargo, embargo.private) == []
    assert NAME not in embargo.inside("list")
    # and that is that
    again = embargo.sync()
    assert NAME not in again
    assert embargo.demo.token not in "".join(embargo.said)
    embargo.run("rebuild-index")
    assert embargo.commits(embargo.public) == new
    assert f"{ID}" in git(embargo.public / "alias" / "demo", "show", "main:.gitmodules")
    assert f"{ID}" not in git(embargo.private / "alias" / "demo", "show", "main:.gitmodules")


def test_opened_it_moves_whatever_the_mirror_says_now(embargo: Embargo) -> None:
    embargo.sync()
    commits = embargo.commits(embargo.private)
    embargo.demo.unembargo(ID)
    embargo.mirror(private=False)
    printed = embargo.sync(token="")
    assert "moved here" in embargo.line(printed)
    assert commits.items() <= embargo.commits(embargo.public).items()


def test_opened_it_moves_when_it_is_named(embargo: Embargo) -> None:
    embargo.sync()
    embargo.demo.unembargo(ID)
    printed = embargo.run("sync", NAME, "--dry-run", "--private-store", str(embargo.private))
    assert "would visit: opened upstream" in printed
    assert "moved here" in embargo.line(embargo.sync(NAME))


def test_what_strangers_cannot_read_is_not_moved(
    embargo: Embargo, monkeypatch: pytest.MonkeyPatch
) -> None:
    embargo.sync()
    commits = embargo.commits(embargo.private)
    embargo.demo.dandisets[ID].embargoed = False  # says the list
    monkeypatch.setattr(DandiSource, "is_open", lambda self, dataset: False)
    printed = embargo.sync()
    assert "embargoed for those who ask without a token" in embargo.line(printed)
    embargo.assert_silent()
    assert embargo.commits(embargo.private) == commits
    monkeypatch.undo()


def test_strangers_are_asked_without_the_token(embargo: Embargo) -> None:
    source = load_mirrors(embargo.demo.mirrors)["demo"].open()
    assert isinstance(source, DandiSource)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEMO_TOKEN", embargo.demo.token)
        assert not source.is_open(source.dataset(ID))
        embargo.demo.unembargo(ID)
        assert source.is_open(source.dataset(ID))


def test_two_histories_are_told_and_both_kept(embargo: Embargo) -> None:
    embargo.sync()
    commits = embargo.commits(embargo.private)
    embargo.demo.unembargo(ID)
    embargo.mirror(private=False)
    embargo.run("sync", token="")  # nobody named the private store
    own = embargo.commits(embargo.public)
    assert not commits.items() & own.items()
    printed = embargo.sync(code=1)
    assert "history of its own" in embargo.line(printed)
    assert embargo.commits(embargo.private) == commits
    assert embargo.commits(embargo.public) == own


def test_an_open_one_that_is_closed_again_is_an_incident(embargo: Embargo) -> None:
    embargo.demo.unembargo(ID)
    embargo.sync()
    commits = embargo.commits(embargo.public)
    embargo.demo.dandisets[ID].embargoed = True
    embargo.demo.add_file(ID, "later-canary.txt", "later\n")
    line = embargo.line(embargo.sync(code=1))
    assert line.startswith(f"error {NAME}")
    assert "is embargoed, and was open before" in line
    assert "known incident" in embargo.line(embargo.sync())
    assert "known incident" in embargo.line(embargo.sync(NAME))
    assert "known incident" in embargo.line(embargo.sync(token=embargo.demo.other_token))
    assert embargo.commits(embargo.public) == commits
    store = Store.open(embargo.public)
    raised = [one for _, one in store.journal_from(0) if isinstance(one, EventRaised)]
    assert [one.kind for one in raised] == ["incident"]
    for folder in (embargo.public, embargo.private):
        assert not any(b"later-canary" in one for one in contents(folder))


def test_one_closed_while_it_is_visited_is_not_published(
    embargo: Embargo, monkeypatch: pytest.MonkeyPatch
) -> None:
    embargo.demo.unembargo(ID)
    embargo.mirror(private=False)
    versions = DandiSource.versions

    def closing(source: DandiSource, dataset: DatasetRef) -> list[VersionRef]:
        embargo.demo.dandisets[dataset.local_id].embargoed = dataset.local_id == ID
        return versions(source, dataset)

    monkeypatch.setattr(DandiSource, "versions", closing)
    assert "embargoed" in embargo.line(embargo.run("sync", code=1))
    assert not refs_or_none(embargo.public)
    # the list showed its title while it was open
    assert embargo.found_in(embargo.public) <= {TITLE.lower().encode()}


# --- parts


def test_a_zarr_under_embargo_is_told_to_nobody(embargo: Embargo) -> None:
    zarr = embargo.demo.add_zarr(ID, f"{FOLDER}/img.zarr", zarr_entries())
    for private in (False, True):
        embargo.mirror("zarrs = true", private=private)
        assert "embargoed" in embargo.sync(f"demo:zarr/{zarr}", code=None if private else 0)
        embargo.sync()
        embargo.said = [one.replace(f"demo:zarr/{zarr}", "") for one in embargo.said]
        embargo.assert_silent()
    assert not any("/files/" in request for request in embargo.demo.requests if "GET" in request)


def test_a_zarr_that_was_synced_by_name_is_not_missed_in_the_list(embargo: Embargo) -> None:
    zarr = embargo.demo.add_zarr("000001", "img.zarr", zarr_entries())
    embargo.mirror("zarrs = true", private=False)
    embargo.run("sync", f"demo:zarr/{zarr}")
    embargo.run("sync")
    assert zarr not in embargo.run("sync")


@dataclass
class Closing(Scripted):
    """A scripted source whose datasets are under embargo until they are opened."""

    is_closed: bool = True
    sees_all: bool = False

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        found = super().hint(dataset)
        if self.is_closed and not self.sees_all:
            return DatasetHint(dataset, "embargoed", unavailable="embargoed")
        return found

    def datasets(self) -> Iterator[DatasetHint]:
        return iter(()) if self.sees_all and not self.is_closed else super().datasets()

    def private(self) -> Closing | None:
        return None if self.sees_all else replace(self, sees_all=True)

    def is_open(self, dataset: DatasetRef) -> bool:
        return not self.is_closed


class Pair:
    """A public and a private store of such a source, with a Zarr that is a part."""

    def __init__(self, folder: Path) -> None:
        self.source = Closing()
        paths = ("a.bin", "z.zarr/.zgroup", *(f"z.zarr/{number}" for number in range(5)))
        self.source.things["x/y"] = Thing(files(*paths))
        self.box = Box(folder / "box", self.source, "[zarr]\ninline = 3\n")
        self.folder = folder / "private"

    def sync(self) -> dict[str, Result]:
        mirrors = {name: self.box.open_mirror(one) for name, one in self._mirrors().items()}
        store = self.box.store
        run = Sync(store, store.index_path, private=self.folder)
        return {one.dataset: one for one in run.results(parse_requests((), mirrors))}

    def _mirrors(self) -> dict[str, Mirror]:
        return load_mirrors(self.box.mirrors)

    def refs(self, folder: Path) -> dict[str, dict[str, str]]:
        return {
            alias: repository.refs()
            for alias, repository in Store.open(folder).aliases()
            if "--" in alias
        }


PARTS = {"box--x--y", "box--x--y--z.zarr"}


def test_the_parts_of_a_dataset_move_with_it(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    assert pair.sync()["box:x/y"].message.startswith("embargoed: ")
    before = pair.refs(pair.folder)
    assert before.keys() == PARTS
    assert pair.refs(pair.box.folder) == {}
    pair.source.is_closed = False
    assert "moved here" in pair.sync()["box:x/y"].message
    assert pair.refs(pair.box.folder) == before
    assert pair.refs(pair.folder) == {}
    assert not list(pair.folder.rglob("*.pack"))[2:]  # those of the super-dataset stay
    pair.box.fsck()
    assert pair.sync()["box:x/y"].status == "notneeded"


def test_parts_are_forgotten_even_after_a_move_that_broke_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path)
    pair.sync()
    before = pair.refs(pair.folder)
    pair.source.is_closed = False

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(crawl_private, "forget_files", full)
    failed = pair.sync()["box:x/y"]
    assert failed.status == "error"
    monkeypatch.undo()
    assert "moved here" in pair.sync()["box:x/y"].message
    assert pair.refs(pair.box.folder) == before
    assert pair.refs(pair.folder) == {}
    assert not list((pair.folder / "neuromirror" / "records").rglob("*.zst"))
    assert not list((pair.folder / "manifests").rglob("*.zst"))


# --- killed while it moves


def test_a_sync_killed_while_it_moves_is_made_good_by_the_next(embargo: Embargo) -> None:
    closed = embargo.demo.create_dandiset(
        Description("Stays closed: Othercanary"), identifier="000009", embargoed=True
    )
    embargo.demo.add_file(closed, "othercanary/file.txt", "still closed\n")
    embargo.sync()
    expected = embargo.commits(embargo.private)
    embargo.demo.unembargo(ID)
    environment = {**os.environ, **embargo.environment()}
    done = subprocess.run(
        [
            *(sys.executable, str(KILLED), str(embargo.demo.mirrors)),
            *(str(embargo.public), str(embargo.private), "7"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tries = [json.loads(line) for line in done.stdout.splitlines()]
    killed = [one for one in tries if one["killed"]]
    assert len(killed) > 8, [one["step"] for one in tries]
    final = tries[-1]["ended"]
    assert set(expected.values()) < set(final["public"]["versions"][NAME])
    for one in killed:
        # at no time is there a place where the history is not whole
        kept = [one["after"][name]["versions"].get(NAME, []) for name in ("private", "public")]
        assert any(set(expected.values()) <= set(versions) for versions in kept), one["step"]
        assert one["ended"] == final, one["step"]
    copy = embargo.public.with_name("public-copy")
    assert not any(b"othercanary" in content.lower() for content in contents(copy))
    assert any(b"othercanary" in one.lower() for one in contents(embargo.private))
    assert embargo.demo.token not in done.stdout + done.stderr
    assert NAME not in final["private"]["versions"]
    assert "demo:000009" in final["private"]["versions"]


# --- what a clone can get


def test_a_private_clone_gets_files_with_the_token(embargo: Embargo, tmp_path: Path) -> None:
    embargo.sync()
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(embargo.private / "alias" / f"demo--{ID}"), str(clone))
    file = f"{FOLDER}/file.txt"
    refused = subprocess.run(
        ["git", "-C", str(clone), "annex", "get", file],
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true"},
        capture_output=True,
        check=False,
    )
    assert refused.returncode
    # curl keeps the header to the API; git-annex itself would send it on to the bucket
    header = tmp_path / "header"
    header.write_text(f"Authorization: token {embargo.demo.token}\n")
    git(clone, "config", "annex.security.allowed-ip-addresses", "all")
    git(clone, "config", "annex.web-options", f"-H @{header}")
    git(clone, "annex", "get", file)
    assert (clone / file).read_text() == f"bytes of {FOLDER}\n"
    # after it was opened, the same clone goes on with the public store, and needs no token
    embargo.demo.unembargo(ID)
    embargo.sync()
    git(clone, "config", "--unset", "annex.web-options")
    git(clone, "remote", "set-url", "origin", str(embargo.public / "alias" / f"demo--{ID}"))
    git(clone, "pull", "-q", "--ff-only")
    git(clone, "annex", "merge")
    git(clone, "annex", "drop", "--force", file)
    embargo.demo.clear_requests()
    git(clone, "annex", "get", file)
    assert embargo.demo.count_requests("GET .*versionId=") == 1
