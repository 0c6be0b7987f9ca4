"""Clones of a store of this machine are those that DataLad makes."""

import os
import re
import shlex
from pathlib import Path

import pytest

from neuromirror.lab.clone import clone_dataset, remote_url, store_url
from neuromirror.lab.restore import StrategyFailedError, fill_from_url
from neuromirror.model import ConfigurationError, NeuromirrorError
from support.foreign_pushes import run_checked
from support.lab_store import LabStore
from support.mirror_harness import MirrorHarness
from support.stub_server import StubServer, responds_with

ALIAS = "demo--000002"


_OWN_SETTINGS = r"annex.uuid=|core.autocrlf=|.*\.skipfetchall="


def described(clone: Path) -> tuple[list[str], list[str], str, set[str]]:
    """Return the settings of a clone but its UUID, its refs, HEAD, and the files with a status."""
    settings = run_checked(clone, "git", "config", "--local", "--list").splitlines()
    refs = run_checked(clone, "git", "for-each-ref", "--format=%(objectname) %(refname)")
    own = "refs/heads/git-annex"  # has the UUID of the clone
    return (
        # DataLad lets git convert line endings, and fetch from special remotes, which fails
        sorted(setting for setting in settings if not re.match(_OWN_SETTINGS, setting)),
        [line for line in refs.splitlines() if not line.endswith(own)],
        (clone / ".git" / "HEAD").read_text(),
        set(run_checked(clone, "git", "status", "--porcelain").splitlines()),
    )


def test_a_clone_of_a_stored_version_is_that_of_datalad(
    subdataset_harness: MirrorHarness, tmp_path: Path
) -> None:
    folder = tmp_path / "a folder"  # also of a store whose URL has escapes
    folder.mkdir()
    os.symlink(subdataset_harness.folder, folder / "store")
    url = store_url(folder / "store", "demo--000005", "draft")
    clone = tmp_path / "ours"
    clone_dataset(url, clone)
    run_checked(tmp_path, "datalad", "clone", url, str(tmp_path / "theirs"))
    assert described(clone) == described(tmp_path / "theirs")
    uuid = run_checked(clone, "git", "config", "annex.uuid").strip()
    assert uuid in run_checked(clone, "git", "show", "git-annex:uuid.log")
    # it knows where its subdatasets are
    (zarr,) = clone.rglob("*.zarr")
    run_checked(clone, "datalad", "get", str(zarr / ".zattrs"))
    assert (zarr / ".zattrs").is_symlink()
    assert (zarr / ".zattrs").read_bytes()


def test_a_clone_that_fails_leaves_nothing_and_a_used_folder_is_kept(
    still_lab: LabStore, tmp_path: Path
) -> None:
    root = still_lab.mirror_harness.folder
    for url in (store_url(root, ALIAS, "none"), store_url(root, "demo--999999", "draft")):
        with pytest.raises(NeuromirrorError):
            clone_dataset(url, tmp_path / "new")
        assert not (tmp_path / "new").exists()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError):
        clone_dataset(store_url(root, ALIAS, "draft"), tmp_path / "used")
    assert os.listdir(tmp_path / "used") == ["mine.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_git_refuses_is_named_with_its_remedy(
    copied_harness: MirrorHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, clone = store_url(copied_harness.folder, ALIAS, "draft"), tmp_path / "clone"
    config = tmp_path / "gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    config.write_text("[broken\n")
    with pytest.raises(NeuromirrorError, match=r"fatal: bad config line 1 in file .*gitconfig"):
        clone_dataset(url, clone)
    config.write_text("")
    for path in (copied_harness.folder, *copied_harness.folder.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    with pytest.raises(NeuromirrorError, match="belongs to another user") as caught:
        clone_dataset(url, clone)
    run_checked(tmp_path, *shlex.split(str(caught.value).partition("trust it: ")[2]))
    clone_dataset(url, clone)
    run_checked(clone, "git", "fetch", "--all")


def test_a_mirror_cannot_have_git_request_an_address_of_this_network(tmp_path: Path) -> None:
    with StubServer() as inner, StubServer() as mirror:
        target = f"{inner.url}/private?action=x"
        mirror.answers[f"/alias/{ALIAS}/info/refs"] = responds_with(302, Location=target)
        with pytest.raises(NeuromirrorError, match="error: 302; the server redirects"):
            clone_dataset(remote_url(mirror.url, ALIAS, None), tmp_path / "clone")
        run_checked(tmp_path, "git", "init", "-q", "restored")
        with pytest.raises(StrategyFailedError, match="the server redirects"):
            fill_from_url(f"{mirror.url}/alias/{ALIAS}", tmp_path / "restored")
        assert len(mirror.requests) >= 2
        assert inner.requests == []
