"""Pushes from clones: no repository of the store accepts one, over any transport."""

import os
import stat
from pathlib import Path

import pytest

from neuromirror.crawl import rebuild_index
from neuromirror.store.durable_files import is_protected
from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.foreign_pushes import run_checked, run_in, trust_remotes, unprotect
from support.git_http import GitServer
from support.mirror_harness import MirrorHarness

NAME, ALIAS = "demo:000001", "demo--000001"
SIBLING = "datalad create-sibling"


@pytest.fixture
def protected_harness(empty_archive: DemoArchive, tmp_path: Path) -> MirrorHarness:
    """A store of one dandiset."""
    empty_archive.create_dandiset(Description("One"), identifier="000001")
    empty_archive.add_file("000001", "a/one.txt", "one\n")
    mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
    assert mirror_harness.sync()[NAME].status == "ok"
    return mirror_harness


def repository_files(mirror_harness: MirrorHarness) -> dict[str, str]:
    """Return the digests of all files of the dataset's repository."""
    inside = str(mirror_harness.repository(NAME).relative_to(mirror_harness.folder))
    return {
        name: sha for name, sha in mirror_harness.file_digests().items() if name.startswith(inside)
    }


def test_no_client_gets_anything_into_the_store(
    protected_harness: MirrorHarness, tmp_path: Path
) -> None:
    before, clone = repository_files(protected_harness), tmp_path / "clone"
    run_checked(tmp_path, "git", "clone", "-q", str(protected_harness.repository(NAME)), str(clone))
    run_checked(clone, "git", "annex", "init", "-q")
    trust_remotes(clone)
    run_checked(clone, "git", "annex", "get", "a")
    # without local changes there may be nothing to push, and no failure
    result = run_in(clone, "git", "annex", "sync")
    assert repository_files(protected_harness) == before, result.stdout
    (clone / "mine.txt").write_text("mine\n")
    run_checked(clone, "git", "annex", "add", "mine.txt")
    run_checked(clone, "git", "commit", "-q", "-m", "lab")
    pushes: list[tuple[str, ...]] = [
        ("git", "annex", "sync"),
        ("datalad", "push", "--to", "origin"),
        ("git", "annex", "push"),
        ("git", "push", "--no-verify", "origin", "main", "git-annex"),
        ("git", "push", "--no-verify", "-f", "origin", ":main", ":git-annex"),
    ]
    for command in pushes:
        result = run_in(clone, *command)
        assert result.returncode != 0, (command, result.stdout)
        assert repository_files(protected_harness) == before, (command, result.stdout)
        if command[0] == "git":
            assert SIBLING in result.stdout, (command, result.stdout)
    for transfer in (("copy", "--to", "origin"), ("move", "--to", "origin", ".")):
        run_in(clone, "git", "annex", *transfer)
        assert repository_files(protected_harness) == before
    assert protected_harness.sync()[NAME].status == "notneeded"


def test_a_push_over_ssh_is_refused(protected_harness: MirrorHarness, tmp_path: Path) -> None:
    before, clone = repository_files(protected_harness), tmp_path / "clone"
    ssh = tmp_path / "ssh"
    # run the command of git and git-annex as sshd does
    ssh.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    environment = {"GIT_SSH_COMMAND": str(ssh), "GIT_SSH": str(ssh)}
    address = f"ssh://mirror.example.org{protected_harness.folder}/alias/{ALIAS}"
    cloned = run_in(tmp_path, "git", "clone", address, str(clone), environment=environment)
    assert cloned.returncode == 0, cloned.stdout
    (clone / "mine.txt").write_text("mine\n")
    run_checked(clone, "git", "add", "mine.txt")
    run_checked(clone, "git", "commit", "-m", "lab")
    run_checked(clone, "git", "annex", "init")
    for command in (["git", "push", "--no-verify", "origin", "main"], ["git", "annex", "sync"]):
        result = run_in(clone, *command, environment=environment)
        assert result.returncode != 0
        assert repository_files(protected_harness) == before
    assert SIBLING in run_in(clone, "git", "push", "--no-verify", environment=environment).stdout


def test_hooks_of_a_user_allow_no_push(
    protected_harness: MirrorHarness, tmp_path: Path, isolated_home: Path
) -> None:
    clone, refs = tmp_path / "clone", protected_harness.refs()
    run_checked(tmp_path, "git", "clone", str(protected_harness.repository(NAME)), str(clone))
    (tmp_path / "hooks").mkdir()
    run_checked(clone, "git", "config", "--global", "core.hooksPath", str(tmp_path / "hooks"))
    (clone / "mine.txt").write_text("mine\n")
    run_checked(clone, "git", "add", "mine.txt")
    run_checked(clone, "git", "commit", "-m", "lab")
    assert run_in(clone, "git", "push", "origin", "main", "main:more").returncode != 0
    assert protected_harness.refs() == refs


def test_a_push_over_http_is_refused(protected_harness: MirrorHarness, tmp_path: Path) -> None:
    clone, before = tmp_path / "clone", repository_files(protected_harness)
    with GitServer(protected_harness.folder) as server:
        run_checked(tmp_path, "git", "clone", f"{server.url}/alias/{ALIAS}", str(clone))
        (clone / "mine.txt").write_text("mine\n")
        run_checked(clone, "git", "add", "mine.txt")
        run_checked(clone, "git", "commit", "-m", "lab")
        push = ("git", "push", "--no-verify", "origin", "HEAD:refs/heads/mine")
        assert run_in(clone, *push).returncode != 0
        assert repository_files(protected_harness) == before

        unprotect(protected_harness)  # only the protection of the store refuses the push
        assert run_in(clone, *push).returncode == 0


def test_no_local_git_moves_a_ref(protected_harness: MirrorHarness) -> None:
    repository, refs = protected_harness.repository(NAME), protected_harness.refs()
    for command in (
        ("branch", "mine", "main"),
        ("update-ref", "-d", "refs/heads/main"),
        ("fetch", "-q", ".", "main:refs/heads/other"),
        ("annex", "init"),
    ):
        assert run_in(repository, "git", *command).returncode != 0, command
    assert protected_harness.refs() == refs
    assert not (repository / "annex").exists()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_hooks_run_whatever_the_umask(
    empty_archive: DemoArchive, tmp_path: Path, umask: int
) -> None:
    empty_archive.create_dandiset(Description("One"), identifier="000001")
    empty_archive.add_file("000001", "one.txt", "one\n")
    mirror_harness, old = MirrorHarness(empty_archive.mirrors, tmp_path / "store"), os.umask(umask)
    try:
        mirror_harness.sync()
    finally:
        os.umask(old)
    for _, repository in mirror_harness.store.repositories.aliases():
        assert is_protected(repository.path)
        for hook in (repository.path / "hooks").iterdir():
            assert stat.S_IMODE(hook.stat().st_mode) == 0o755


def test_an_unprotected_store_is_protected_by_the_next_sync(
    protected_harness: MirrorHarness,
) -> None:
    protected = repository_files(protected_harness)
    unprotect(protected_harness)
    config = protected_harness.repository(NAME) / "config"
    config.write_text(config.read_text() + "[uploadpack]\n\tallowFilter = true\n")
    assert protected_harness.sync()[NAME].status == "notneeded"
    for _, repository in protected_harness.store.repositories.aliases():
        assert is_protected(repository.path)
    assert "allowFilter = true" in config.read_text()
    changed = {
        name.rpartition("/")[2]
        for name, sha in repository_files(protected_harness).items()
        if protected.get(name) != sha
    }
    assert changed == {"config"}
    rebuild_index(protected_harness.store, protected_harness.store.index_path)
    assert protected_harness.sync()[NAME].status == "notneeded"
