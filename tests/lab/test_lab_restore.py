"""Datasets of a lock brought back: by every way, with those before it gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from crawl_place import Place
from lab_again import Lab
from lab_pins import DRAFT, PUBLISHED, ZARR, Paper, bring_back, run

from neuromirror.cli import main
from neuromirror.lab.results import Outcome
from neuromirror.store import StoreBusy, locked
from neuromirror_demo.bucket_contents import RAW

NOBODY = "http://127.0.0.1:9/alias/{alias}"
BUCKET = f"demo-aind:{RAW}"
SPLIT = "demo-aind-benchmark:ephys-compression/aind-np1/625749_2022-08-03_15-15-06_ProbeA"


@pytest.fixture(scope="session")
def written(still_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Paper:
    """A lock of a published version with a bundle, whose clone URL nobody serves; to read only."""
    paper = Paper(still_lab.place, tmp_path_factory.mktemp("written"))
    paper.pin(PUBLISHED, bundle=True, clones=(NOBODY,))
    return paper


@pytest.fixture
def paper(written: Paper, tmp_path: Path) -> Paper:
    """A copy of the lock, to be changed."""
    return written.copied(tmp_path / "paper")


@pytest.fixture(scope="session")
def zarrs(parted: Place, tmp_path_factory: pytest.TempPathFactory) -> Paper:
    """A lock of a dataset with a sub-dataset, and bundles of both; to read only."""
    paper = Paper(parted, tmp_path_factory.mktemp("zarrs"))
    paper.pin(ZARR, bundle=True)
    return paper


def check_whole(folder: Path, paper: Paper, name: str) -> None:
    """It is a DataLad dataset at the pinned commit, with all content, and nothing is amiss."""
    pinned = paper.pinned(name)
    assert run(folder, "git", "rev-parse", "HEAD").strip() == pinned.commit
    assert run(folder, "git", "rev-parse", "HEAD^{tree}").strip() == pinned.tree
    assert run(folder, "git", "status", "--porcelain") == ""
    assert run(folder, "git", "annex", "find", "--not", "--in=here") == ""
    assert run(folder, "git", "annex", "fsck", "-q") == ""
    assert run(folder, "git", "fsck", "--no-dangling", "--no-progress").strip() == ""


def origin(folder: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "config", "remote.origin.url"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


# --- the ways


def test_the_store_comes_first(written: Paper, tmp_path: Path) -> None:
    found = bring_back(written.lock, tmp_path / "data", written.place.store)
    done = found.only()
    assert (done.status, done.message) == ("ok", "from the store; 5 files proved by sha256")
    assert (done.version, done.size) == ("0.240301.1055", written.pinned(PUBLISHED).bytes)
    folder = found.folder(PUBLISHED)
    check_whole(folder, written, PUBLISHED)
    # the store is on this machine, and its place nobody else's business
    assert origin(folder) == NOBODY.format(alias="demo--000002")
    assert sorted(path.name for path in found.into.iterdir()) == ["demo--000002"]


@pytest.mark.parametrize("form", ["{address}/alias/{{alias}}", "ria+{address}/"])
def test_then_clone_urls_those_of_the_lock_first(
    written: Paper, tmp_path: Path, serve: Callable[[Path], str], form: str
) -> None:
    address = serve(written.place.folder)
    clone = form.format(address=address)
    found = bring_back(written.lock, tmp_path / "data", clones=[clone])
    done = found.only()
    assert (done.status, (done.url or "").startswith(clone.partition("{")[0])) == ("ok", True)
    assert f"not from {NOBODY.format(alias='demo--000002')}: it cannot be reached" in done.message
    check_whole(found.folder(PUBLISHED), written, PUBLISHED)
    assert origin(found.folder(PUBLISHED)).startswith(address)


def test_then_the_bundle(written: Paper, tmp_path: Path) -> None:
    found = bring_back(written.lock, tmp_path / "data")
    done = found.only()
    assert (done.status, done.message.startswith("from the bundle; 5 files proved")) == ("ok", True)
    folder = found.folder(PUBLISHED)
    check_whole(folder, written, PUBLISHED)
    # the versions before it are there
    assert len(run(folder, "git", "rev-list", "HEAD").split()) == 2
    assert origin(folder) == NOBODY.format(alias="demo--000002")
    assert run(folder, "git", "config", "remote.origin.annex-ignore").strip() == "true"


def test_then_the_manifest_alone(paper: Paper, tmp_path: Path) -> None:
    paper.without(".bundle")
    found = bring_back(paper.lock, tmp_path / "data")
    done = found.only()
    assert done.status == "ok"
    assert done.message.startswith("from the manifest; 5 files proved by sha256")
    assert "not from the bundle" in done.message
    folder = found.folder(PUBLISHED)
    # the very same commit, made again
    check_whole(folder, paper, PUBLISHED)
    assert run(folder, "git", "describe", "--tags").strip() == "0.240301.1055"


def test_with_every_way_gone_it_is_said_of_each_why(paper: Paper, tmp_path: Path) -> None:
    paper.without(".bundle")
    paper.without(".zst")
    found = bring_back(paper.lock, tmp_path / "data")
    done = found.only()
    assert done.status == "error"
    assert "no way leads to commit" in done.message
    assert "Failed to connect" in done.message
    assert done.message.count("is missing") == 2
    assert done.message.endswith("is there a network?")
    assert not found.folder(PUBLISHED).exists()
    assert list(found.into.iterdir()) == []


def test_nothing_is_asked_of_a_network_offline(
    paper: Paper, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    address = serve(paper.place.folder)
    clones = [f"ria+{address}/"]
    found = bring_back(paper.lock, tmp_path / "data", clones=clones, offline=True)
    done = found.only()
    assert (done.status, done.message) == (
        "ok",
        "from the bundle; content of 5 files was not asked for (offline)",
    )
    assert run(found.folder(PUBLISHED), "git", "annex", "find", "--in=here") == ""
    # and later, with a network
    again = bring_back(paper.lock, tmp_path / "data")
    assert again.only().message == "was there; 5 files proved by sha256"
    paper.without(".bundle")
    paper.without(".zst")
    shutil.rmtree(found.folder(PUBLISHED))
    done = bring_back(paper.lock, tmp_path / "data", clones=clones, offline=True).only()
    assert (done.status, "--offline" in done.message) == ("error", True)


def test_a_host_that_does_not_answer_is_asked_once(still_lab: Lab, tmp_path: Path) -> None:
    paper = Paper(still_lab.place, tmp_path / "paper")
    paper.pin(PUBLISHED, DRAFT, clones=(NOBODY,))
    found = bring_back(paper.lock, tmp_path / "data", still_lab.place.store, offline=True)
    shutil.rmtree(found.into)
    done = bring_back(paper.lock, tmp_path / "data").datasets
    assert "Failed to connect" in done[PUBLISHED].message
    assert "did not answer before" in done[DRAFT].message
    assert {one.status for one in done.values()} == {"ok"}


# --- what leads to something else


def test_a_clone_url_that_serves_something_else_is_not_taken(
    paper: Paper, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    other = paper.place.repository(DRAFT)
    shutil.copytree(other, tmp_path / "served" / "alias" / "demo--000002")
    address = serve(tmp_path / "served")
    paper.edit("http://127.0.0.1:9", address)
    done = bring_back(paper.lock, tmp_path / "data").only()
    assert (done.status, done.message.startswith("from the bundle")) == ("ok", True)
    assert "leads to something else: it has no commit" in done.message
    paper.without(".bundle")
    paper.without(".zst")
    shutil.rmtree(tmp_path / "data")
    assert bring_back(paper.lock, tmp_path / "data").only().status == "error"


def test_a_repository_without_places_is_not_taken(
    paper: Paper, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    served = tmp_path / "served" / "alias" / "demo--000002"
    shutil.copytree(paper.place.repository(PUBLISHED), served)
    run(served, "git", "-c", "core.hooksPath=/dev/null", "update-ref", "-d", "refs/heads/git-annex")
    run(served, "git", "update-server-info")
    paper.edit("http://127.0.0.1:9", serve(tmp_path / "served"))
    done = bring_back(paper.lock, tmp_path / "data", offline=False).only()
    assert "no git-annex branch" in done.message
    assert done.message.startswith("from the bundle")


def test_a_page_of_html_is_no_clone(
    paper: Paper, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    (tmp_path / "served").mkdir()
    paper.edit("http://127.0.0.1:9", serve(tmp_path / "served"))
    done = bring_back(paper.lock, tmp_path / "data").only()
    assert (done.status, "git cannot clone from it" in done.message) == ("ok", True)


@pytest.mark.parametrize("what", ["another", "damaged", "no bundle"])
def test_a_bundle_that_is_not_right_is_not_taken(paper: Paper, tmp_path: Path, what: str) -> None:
    bundle = paper.lock.bundle_path(paper.pinned(PUBLISHED))
    assert bundle is not None
    if what == "another":
        other = Paper(paper.place, tmp_path / "other")
        other.pin(DRAFT, bundle=True)
        shutil.copy(str(other.lock.bundle_path(other.pinned(DRAFT))), bundle)
    elif what == "damaged":
        content = bytearray(bundle.read_bytes())
        content[-200] ^= 1
        bundle.write_bytes(content)
    else:
        bundle.write_bytes(b"<html>")
    done = bring_back(paper.lock, tmp_path / "data").only()
    assert (done.status, done.message.startswith("from the manifest")) == ("ok", True)
    assert "not from the bundle" in done.message


def test_a_manifest_of_something_else_is_not_taken(paper: Paper, tmp_path: Path) -> None:
    other = Paper(paper.place, tmp_path / "other")
    other.pin(DRAFT)
    paper.without(".bundle")
    manifest = paper.lock.manifest_path(paper.pinned(PUBLISHED))
    shutil.copy(other.lock.manifest_path(other.pinned(DRAFT)), manifest)
    done = bring_back(paper.lock, tmp_path / "data").only()
    assert (done.status, "is of commit" in done.message) == ("error", True)
    manifest.write_bytes(b"no manifest")
    done = bring_back(paper.lock, tmp_path / "data").only()
    assert (done.status, "cannot be used" in done.message) == ("error", True)


# --- a lock that was edited


@pytest.mark.parametrize("key", ["tree", "state", "files", "paths"])
def test_a_lock_that_says_what_is_not_so_is_refused(paper: Paper, tmp_path: Path, key: str) -> None:
    pinned = paper.pinned(PUBLISHED)
    if key == "tree":
        paper.edit(f'tree = "{pinned.tree}"', f'tree = "{pinned.commit}"')
    elif key == "state":
        paper.edit(pinned.state, f"sha256:{'0' * 64}")
    elif key == "files":
        paper.edit("files = 5", "files = 4")
        paper.edit("claimed = 5", "claimed = 4")
    else:
        paper.edit("durability =", 'paths = ["sub-201"]\ndurability =')
    found = bring_back(paper.lock, tmp_path / "data")
    done = found.only()
    assert done.status == "error"
    assert "the lock says" in done.message
    assert "edited by hand" in done.message
    assert "already" not in done.message
    # nothing is got for a lock that cannot be believed
    assert [one.action for one in found.outcomes] == ["restore"]


def test_a_commit_and_a_state_of_two_versions_do_not_go_together(
    paper: Paper, still_lab: Lab, tmp_path: Path
) -> None:
    old, new = still_lab.labels(PUBLISHED)
    with paper.place.index() as index:
        ids = [index.resolve(PUBLISHED, label) for label in (old, new)]
    paper.edit(f'\ncommit = "{ids[1].commit}"', f'\ncommit = "{ids[0].commit}"')
    paper.edit(f"rev:{ids[1].commit}", f"rev:{ids[0].commit}")
    paper.edit(ids[1].tree, ids[0].tree)
    done = bring_back(paper.lock, tmp_path / "data", paper.place.store).only()
    assert (done.status, ids[0].state in done.message) == ("error", True)
    assert not (tmp_path / "data" / "demo--000002").exists()


# --- going on


def test_a_second_run_finds_all_there(written: Paper, tmp_path: Path) -> None:
    into = tmp_path / "data"
    bring_back(written.lock, into)
    found = bring_back(written.lock, into)
    done = found.only()
    assert done.status == "notneeded"
    assert done.message == "was there; 5 files here already, and not read again"
    assert {one.status for one in found.outcomes} == {"notneeded"}


def test_what_is_missing_is_got_later(written: Paper, tmp_path: Path) -> None:
    into = tmp_path / "data"
    folder = bring_back(written.lock, into).folder(PUBLISHED)
    run(folder, "git", "annex", "drop", "--force", "-q", "sub-201")
    done = bring_back(written.lock, into).only()
    assert (done.status, "2 files proved by sha256; 3 files here" in done.message) == ("ok", True)


def test_what_a_killed_restore_left_is_swept_away(written: Paper, tmp_path: Path) -> None:
    into = tmp_path / "data"
    left = into / ".neuromirror-restore" / written.pinned(PUBLISHED).commit
    (left / ".git").mkdir(parents=True)
    (left / ".git" / "HEAD").write_text("half")
    found = bring_back(written.lock, into)
    assert found.only().status == "ok"
    assert [path.name for path in into.iterdir()] == ["demo--000002"]


def test_two_restores_do_not_meet_in_a_folder(written: Paper, tmp_path: Path) -> None:
    scratch = tmp_path / "data" / ".neuromirror-restore"
    scratch.mkdir(parents=True)
    with locked(scratch / "lock", "a test"), pytest.raises(StoreBusy, match="restoring into"):
        bring_back(written.lock, tmp_path / "data")
    assert scratch.is_dir()


def test_only_what_is_pinned_is_got(still_lab: Lab, tmp_path: Path) -> None:
    paper = Paper(still_lab.place, tmp_path / "paper")
    paper.pin(PUBLISHED, paths=("sub-20*", "*.txt"))
    found = bring_back(paper.lock, tmp_path / "data", paper.place.store)
    count = paper.pinned(PUBLISHED).files
    assert 1 < count < 5
    assert f"{count} files proved by sha256" in found.only().message
    here = run(found.folder(PUBLISHED), "git", "annex", "find", "--in=here").splitlines()
    assert len(here) == count
    assert all(path.startswith("sub-20") or path.endswith(".txt") for path in here)
    assert bring_back(paper.lock, tmp_path / "data").only().status == "notneeded"


# --- sub-datasets


@pytest.mark.parametrize("way", ["the store", "the bundle", "the manifest"])
def test_a_zarr_comes_with_the_dataset_that_it_is_in(
    zarrs: Paper, tmp_path: Path, way: str
) -> None:
    paper = zarrs.copied(tmp_path / "paper")
    if way == "the manifest":
        paper.without(".bundle")
    store = paper.place.store if way == "the store" else None
    found = bring_back(paper.lock, tmp_path / "data", store)
    done = found.only()
    assert done.status == "ok"
    assert f"from {way}; with 1 sub-dataset; 2 files proved by sha256; 36 files proved by md5" in (
        done.message
    )
    folder = found.folder(ZARR)
    check_whole(folder, paper, ZARR)
    (zarr,) = folder.rglob("*.zarr")
    assert run(zarr, "git", "annex", "find", "--not", "--in=here") == ""
    assert run(folder, "git", "submodule", "status")[0] == " "
    assert str(tmp_path) not in (folder / ".gitmodules").read_text()
    assert bring_back(paper.lock, tmp_path / "data").only().status == "notneeded"


def test_a_zarr_without_its_bundle_comes_of_its_manifest(zarrs: Paper, tmp_path: Path) -> None:
    paper = zarrs.copied(tmp_path / "paper")
    top = paper.lock.bundle_path(paper.pinned(ZARR))
    (other,) = [path for path in paper.folder.rglob("*.bundle") if path != top]
    other.unlink()
    assert bring_back(paper.lock, tmp_path / "data").only().status == "ok"
    # nor that: the rest is restored, and the failure told
    shutil.rmtree(tmp_path / "data")
    other.with_name(other.name.replace(".bundle", ".jsonl.zst")).unlink()
    found = bring_back(paper.lock, tmp_path / "data")
    done = found.only()
    assert (done.status, ".zarr: no way leads to commit" in done.message) == ("error", True)
    assert "2 files proved by sha256" in done.message
    check_whole(found.folder(ZARR), paper, ZARR)


def test_a_part_of_a_zarr_can_be_pinned(parted: Place, tmp_path: Path) -> None:
    paper = Paper(parted, tmp_path / "paper")
    paper.pin(ZARR, paths=("**/.z*",))
    count = paper.pinned(ZARR).files
    assert 0 < count < 36
    found = bring_back(paper.lock, tmp_path / "data", parted.store)
    assert f"{count} files proved by md5" in found.only().message
    # a Zarr of which nothing is pinned stays where it is
    paper.pin(ZARR, paths=("*.json",))
    found = bring_back(paper.lock, tmp_path / "other", parted.store)
    assert "sub-dataset" not in found.only().message


def test_chunks_that_git_has_no_place_for_are_named_not_forgotten(
    bucketed: Place, tmp_path: Path
) -> None:
    paper = Paper(bucketed, tmp_path / "paper")
    paper.pin(BUCKET)
    found = bring_back(paper.lock, tmp_path / "data")
    done = found.only()
    assert done.status == "impossible"
    (told,) = found.failed
    assert (told.status, told.path.endswith(".zarr")) == ("impossible", True)
    assert "chunks of this Zarr have no place in git" in told.message
    # what is not asked for is not missed
    paper.pin(BUCKET, paths=("si_*",))
    assert bring_back(paper.lock, tmp_path / "data").only().status == "notneeded"


# --- what is proved


def test_what_proves_a_file_is_told(bucketed: Place, tmp_path: Path) -> None:
    paper = Paper(bucketed, tmp_path / "paper")
    paper.pin(SPLIT)
    found = bring_back(paper.lock, tmp_path / "data", bucketed.store)
    assert found.only().message == ("from the store; 3 files proved by md5; 1 file proved by etag")


def test_content_that_is_gone_is_named(
    paper: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # places that nobody serves: in the manifest they are only hints
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "annex.security.allowed-ip-addresses")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "")
    found = bring_back(paper.lock, tmp_path / "data")
    done = found.only()
    assert (done.status, "5 files could not be had" in done.message) == ("error", True)
    assert len(found.failed) == 5
    assert all(isinstance(one, Outcome) and one.message for one in found.failed)


# --- names


def test_hostile_names_come_back(bucketed: Place, tmp_path: Path) -> None:
    paper = Paper(bucketed, tmp_path / "paper")
    name = "hostile:demo-hostile"
    paper.pin(name)
    found = bring_back(paper.lock, tmp_path / "data")
    done = found.only()
    assert (done.status, done.message.startswith("from the manifest")) == ("ok", True), done.message
    check_whole(found.folder(name), paper, name)


# --- the place


def test_what_stands_in_the_way_is_left_alone(written: Paper, tmp_path: Path) -> None:
    into = tmp_path / "data"
    (into / "demo--000002").mkdir(parents=True)
    # an empty folder is nothing
    assert bring_back(written.lock, into, offline=True).only().status == "ok"
    folder = into / "demo--000002"
    run(folder, "git", "commit", "-q", "--allow-empty", "-m", "mine")
    done = command(written, "restore", str(written.file), "--into", str(into))
    assert (done.exit_code, "a repository at commit" in done.stderr) == (2, True)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    done = command(written, "restore", str(written.file), "--into", str(into))
    assert (done.exit_code, "holds something else" in done.stderr) == (2, True)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    assert sorted(path.name for path in into.iterdir()) == ["demo--000002"]
    done = command(written, "restore", str(written.file), "--into", str(folder / "thesis.tex"))
    assert (done.exit_code, "not a folder" in done.stderr) == (2, True)


def test_git_annex_is_needed_and_asked_for_first(
    written: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(programs))
    done = command(written, "restore", str(written.file), "--into", str(tmp_path / "data"))
    assert (done.exit_code, "git-annex is not installed" in done.stderr) == (2, True)
    assert not (tmp_path / "data").exists()


def test_a_git_hook_that_calls_it_does_no_harm(
    written: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "git", "init", "-q", "mine")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "mine" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "mine" / ".git" / "index"))
    assert bring_back(written.lock, tmp_path / "data").only().status == "ok"
    assert not (tmp_path / "mine" / ".git" / "annex").exists()


# --- the command


def command(paper: Paper, *arguments: str, store: Path | None = None) -> Result:
    common = ["--store", str(store or paper.folder / "no store")]
    return CliRunner().invoke(main, [*common, *arguments], catch_exceptions=False)


def test_the_command_restores_and_tells(written: Paper, tmp_path: Path) -> None:
    arguments = ("restore", str(written.file), "--into", str(tmp_path / "data"))
    done = command(written, *arguments, store=written.place.folder)
    assert (done.exit_code, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.split()[0] == "ok"
    assert line.endswith("from the store; 5 files proved by sha256")
    done = command(written, "--json", *arguments)
    records = [json.loads(one) for one in done.stdout.splitlines()]
    assert {one["status"] for one in records} == {"notneeded"}
    assert (records[-1]["action"], records[-1]["dataset"]) == ("restore", PUBLISHED)


@pytest.mark.parametrize(
    ("old", "new", "code", "told"),
    [
        ("lock-version = 1", "lock-version = 9", 2, "install a newer neuromirror"),
        ("durability", "mine = 1\ndurability", 2, "unknown key 'mine'"),
        ("http://127.0.0.1:9", "ext::sh -c true", 2, "clone URL"),
        ("files = 5", "files = 6", 2, "evidence"),
        ("sha256:", "sha256:0", 2, "in state"),
    ],
)
def test_the_command_refuses_a_lock_in_words(
    paper: Paper, tmp_path: Path, old: str, new: str, code: int, told: str
) -> None:
    paper.edit(old, new)
    done = command(paper, "restore", str(paper.file), "--into", str(tmp_path / "data"))
    assert (done.exit_code, told in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "data").exists()


def test_a_failure_is_an_exit_code(paper: Paper, tmp_path: Path) -> None:
    paper.without(".bundle")
    paper.without(".zst")
    done = command(paper, "restore", str(paper.file), "--into", str(tmp_path / "data"))
    assert (done.exit_code, "no way leads" in done.stderr) == (1, True)
    done = command(paper, "restore", "no.lock", "--into", str(tmp_path / "data"))
    assert (done.exit_code, "there is no lock" in done.stderr) == (2, True)


def test_datalad_takes_it_for_one_of_its_own(zarrs: Paper, tmp_path: Path) -> None:
    found = bring_back(zarrs.lock, tmp_path / "data")
    folder = found.folder(ZARR)
    (zarr,) = folder.rglob("*.zarr")
    file = next(path for path in zarr.rglob("0") if path.is_symlink())
    run(zarr, "git", "annex", "drop", "--force", "-q", str(file.relative_to(zarr)))
    code = (
        "import sys, datalad.api as dl\n"
        "folder, file = sys.argv[1:]\n"
        "states = dl.status(dataset=folder, recursive=True, result_renderer='disabled')\n"
        "assert {one['state'] for one in states} == {'clean'}, states\n"
        "got = dl.get(file, dataset=folder, result_renderer='disabled')\n"
        "assert [one['status'] for one in got if one['path'] == file] == ['ok'], got\n"
        "(sub,) = dl.subdatasets(dataset=folder, result_renderer='disabled')\n"
        "assert sub['state'] == 'present', sub\n"
    )
    run(tmp_path, sys.executable, "-c", code, str(folder), str(file))
    assert os.path.exists(file)
