"""Pushes from clones: no repository of the store takes one, by whichever way it comes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from crawl_place import Place
from pushed import done, run, trust_remotes, unprotect

from neuromirror.crawl import rebuild_index
from neuromirror.store.protection import is_protected
from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description

NAME, ALIAS = "demo:000001", "demo--000001"
SIBLING = "datalad create-sibling"


@pytest.fixture
def mirrored(small: DemoArchive, tmp_path: Path) -> Place:
    """A store of one dandiset."""
    small.create_dandiset(Description("One"), identifier="000001")
    small.add_file("000001", "a/one.txt", "one\n")
    place = Place(small.mirrors, tmp_path / "store")
    assert place.sync()[NAME].status == "ok"
    return place


def repository_files(place: Place) -> dict[str, str]:
    """All files of the dataset's repository, with their digests."""
    inside = str(place.repository(NAME).relative_to(place.folder))
    return {name: sha for name, sha in place.content().items() if name.startswith(inside)}


@pytest.mark.parametrize("form", ["ria", "path", "file"])
def test_no_client_gets_anything_into_the_store(mirrored: Place, tmp_path: Path, form: str) -> None:
    address = {
        "ria": f"ria+file://{mirrored.folder}#~{ALIAS}",
        "path": str(mirrored.folder / "alias" / ALIAS),
        "file": f"file://{mirrored.folder}/alias/{ALIAS}",
    }[form]
    before, clone = repository_files(mirrored), tmp_path / "clone"
    done(tmp_path, "datalad", "clone", address, str(clone))
    trust_remotes(clone)
    pushes: list[tuple[str, ...]] = [
        ("git", "annex", "sync"),
        ("datalad", "push", "--to", "origin"),
        ("git", "annex", "push"),
        ("git", "push", "--no-verify", "origin", "main", "git-annex"),
        ("git", "push", "--no-verify", "-f", "origin", ":main", ":git-annex"),
    ]
    done(clone, "git", "annex", "get", "a")
    for own in (False, True):
        if own:
            (clone / "mine.txt").write_text("mine\n")
            done(clone, "datalad", "save", "-m", "lab")
        for command in pushes:
            result = run(clone, *command)
            # with nothing of one's own there may be nothing to push, and no failure
            assert result.returncode != 0 or not own, (command, result.stdout)
            assert repository_files(mirrored) == before, (command, result.stdout)
            if own and command[0] == "git":
                assert SIBLING in result.stdout, (command, result.stdout)
        for command in (("copy", "--to", "origin"), ("move", "--to", "origin", ".")):
            run(clone, "git", "annex", *command)
            assert repository_files(mirrored) == before
    assert mirrored.sync()[NAME].status == "notneeded"


def test_a_push_over_ssh_is_refused(mirrored: Place, tmp_path: Path) -> None:
    before, clone = repository_files(mirrored), tmp_path / "clone"
    ssh = tmp_path / "ssh"
    # what sshd does with the command that git and git-annex send
    ssh.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    environment = {"GIT_SSH_COMMAND": str(ssh), "GIT_SSH": str(ssh)}
    address = f"ssh://mirror.example.org{mirrored.folder}/alias/{ALIAS}"
    cloned = run(tmp_path, "git", "clone", address, str(clone), environment=environment)
    assert cloned.returncode == 0, cloned.stdout
    (clone / "mine.txt").write_text("mine\n")
    done(clone, "git", "add", "mine.txt")
    done(clone, "git", "commit", "-m", "lab")
    done(clone, "git", "annex", "init")
    for command in (["git", "push", "--no-verify", "origin", "main"], ["git", "annex", "sync"]):
        result = run(clone, *command, environment=environment)
        assert result.returncode != 0
        assert repository_files(mirrored) == before
    assert SIBLING in run(clone, "git", "push", "--no-verify", environment=environment).stdout


def test_hooks_of_a_person_s_own_let_no_push_through(
    mirrored: Place, tmp_path: Path, isolated_home: Path
) -> None:
    clone, refs = tmp_path / "clone", mirrored.refs()
    done(tmp_path, "git", "clone", str(mirrored.repository(NAME)), str(clone))
    (tmp_path / "hooks").mkdir()
    done(clone, "git", "config", "--global", "core.hooksPath", str(tmp_path / "hooks"))
    (clone / "mine.txt").write_text("mine\n")
    done(clone, "git", "add", "mine.txt")
    done(clone, "git", "commit", "-m", "lab")
    assert run(clone, "git", "push", "origin", "main", "main:more").returncode != 0
    assert mirrored.refs() == refs


def test_a_push_over_http_is_refused(
    mirrored: Place, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    clone, before = tmp_path / "clone", repository_files(mirrored)
    done(tmp_path, "git", "clone", f"{serve(mirrored.folder)}/alias/{ALIAS}", str(clone))
    (clone / "mine.txt").write_text("mine\n")
    done(clone, "git", "add", "mine.txt")
    done(clone, "git", "commit", "-m", "lab")
    assert run(clone, "git", "push", "origin", "main").returncode != 0
    assert repository_files(mirrored) == before


def test_no_local_git_moves_a_ref(mirrored: Place) -> None:
    repository, refs = mirrored.repository(NAME), mirrored.refs()
    for command in (
        ("branch", "mine", "main"),
        ("update-ref", "-d", "refs/heads/main"),
        ("fetch", "-q", ".", "main:refs/heads/other"),
        ("annex", "init"),
    ):
        assert run(repository, "git", *command).returncode != 0, command
    assert mirrored.refs() == refs
    assert not (repository / "annex").exists()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_hooks_run_whatever_the_umask(small: DemoArchive, tmp_path: Path, umask: int) -> None:
    small.create_dandiset(Description("One"), identifier="000001")
    small.add_file("000001", "one.txt", "one\n")
    place, old = Place(small.mirrors, tmp_path / "store"), os.umask(umask)
    try:
        place.sync()
    finally:
        os.umask(old)
    for _, repository in place.store.aliases():
        assert is_protected(repository.path)
        for hook in (repository.path / "hooks").iterdir():
            assert stat.S_IMODE(hook.stat().st_mode) == 0o755


def test_a_store_of_before_is_protected_by_the_next_sync(mirrored: Place) -> None:
    protected = repository_files(mirrored)
    unprotect(mirrored)
    config = mirrored.repository(NAME) / "config"
    config.write_text(config.read_text() + "[uploadpack]\n\tallowFilter = true\n")
    assert mirrored.sync()[NAME].status == "notneeded"
    for _, repository in mirrored.store.aliases():
        assert is_protected(repository.path)
    assert "allowFilter = true" in config.read_text()
    changed = {
        name.rpartition("/")[2]
        for name, sha in repository_files(mirrored).items()
        if protected.get(name) != sha
    }
    assert changed == {"config"}
    rebuild_index(mirrored.store, mirrored.store.index_path)
    assert mirrored.sync()[NAME].status == "notneeded"
