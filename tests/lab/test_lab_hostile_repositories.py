"""Programs named in received repositories are not run."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.store import UnsafePathError
from neuromirror.transfer.repository_check import RepositoryRefusedError
from support.lab_store import LabStore
from support.lock_folders import PUBLISHED, LockFolder, restore_lock, run


def _configured(*settings: tuple[str, str]) -> Callable[[Path, str], None]:
    def change(folder: Path, program: str) -> None:
        for name, value in settings:
            run(folder, "git", "config", name, value.replace("PROGRAM", program))

    return change


def _included(folder: Path, program: str) -> None:
    (folder / "more").write_text(f"[annex]\n\tfreezecontent-command = {program}\n")
    run(folder, "git", "config", "include.path", "../more")


def _hooked(folder: Path, program: str) -> None:
    hook = folder / ".git" / "hooks" / "post-update-annex"
    hook.write_text(f"#!/bin/sh\n{program}\n")
    hook.chmod(0o755)


def _changed_hook(folder: Path, program: str) -> None:
    with (folder / ".git" / "hooks" / "post-checkout").open("a") as hook:
        hook.write(f"\n{program}\n")


def _borrowing(folder: Path, program: str) -> None:
    (folder / ".git" / "objects" / "info").mkdir(exist_ok=True)
    (folder / ".git" / "objects" / "info" / "alternates").write_text("/elsewhere/objects\n")


def _common(folder: Path, program: str) -> None:
    shutil.copytree(folder / ".git", folder / "common", symlinks=True)
    setting = ("annex.freezecontent-command", program)
    run(folder, "git", f"--git-dir={folder}/common", "config", *setting)
    (folder / ".git" / "commondir").write_text("../common\n")


def _linked(name: str) -> Callable[[Path, str], None]:
    def change(folder: Path, program: str) -> None:
        git_path, away = folder / ".git" / name, folder.parent.parent / "away"
        if git_path.exists():
            git_path.rename(away)
        else:
            away.mkdir()
        git_path.symlink_to(away)

    return change


def _gitfile(folder: Path, program: str) -> None:
    (folder / ".git").rename(folder.parent / "elsewhere")
    (folder / ".git").write_text("gitdir: ../elsewhere\n")


HOSTILE: dict[str, Callable[[Path, str], object]] = {
    "core.fsmonitor": _configured(("core.fsmonitor", "PROGRAM")),
    "core.hooksPath": _configured(("core.hooksPath", "evil")),
    "core.sshCommand": _configured(("core.sshCommand", "PROGRAM")),
    "core.worktree": _configured(("core.worktree", "../../..")),
    "filter": _configured(("filter.annex.process", "PROGRAM"), ("filter.annex.smudge", "PROGRAM")),
    "other filter": _configured(("filter.x.clean", "PROGRAM")),
    "freezecontent": _configured(("annex.freezecontent-command", "PROGRAM")),
    "post-update": _configured(("annex.post-update-command", "PROGRAM")),
    "web options": _configured(("annex.web-options", "--config=/elsewhere")),
    "rsync": _configured(("remote.x.annex-rsync-transport", "PROGRAM")),
    "uploadpack": _configured(("remote.x.uploadpack", "PROGRAM")),
    "ext": _configured(("remote.x.url", "ext::PROGRAM")),
    "option": _configured(("remote.x.url", "ssh://-oProxyCommand=PROGRAM/x")),
    "relative": _configured(("remote.x.url", "../evil.git")),
    "beside": lambda folder, _: run(
        folder, "git", "config", "remote.x.url", str(folder.parent.parent / "x" / "evil.git")
    ),
    "external": _configured(("remote.x.annex-externaltype", "evil")),
    "update": _configured(("submodule.x.update", "!PROGRAM")),
    "alias": _configured(("alias.annex", "!PROGRAM")),
    "insteadof": _configured(("url.ext::PROGRAM.insteadOf", "https://")),
    "include": _included,
    "includeIf": _configured(("includeIf.gitdir:/.path", "/elsewhere")),
    "lazy": _configured(("core.repositoryformatversion", "1"), ("extensions.partialClone", "x")),
    "hook": _hooked,
    "changed hook": _changed_hook,
    "alternates": _borrowing,
    "commondir": _common,
    "annex elsewhere": _linked("annex"),
    "objects elsewhere": _linked("annex/objects"),
    "config elsewhere": _linked("config"),
    "hooks elsewhere": _linked("hooks"),
    "gitfile": _gitfile,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_restore_runs_nothing_of_a_repository_that_came_with_a_lock(
    restored_lock_folder: LockFolder, tmp_path: Path, name: str
) -> None:
    folder = restored_lock_folder.folder / "data" / "demo--000002"
    marker = tmp_path / "marker"
    HOSTILE[name](folder, f"touch {marker}; false")
    before = sorted(restored_lock_folder.folder.rglob("*"))
    with pytest.raises(ConfigurationError) as refused:
        restore_lock(restored_lock_folder.lock, restored_lock_folder.folder / "data")
    assert not marker.exists()
    assert sorted(restored_lock_folder.folder.rglob("*")) == before
    if name != "gitfile":
        assert isinstance(refused.value, (RepositoryRefusedError, UnsafePathError))


def test_settings_that_run_nothing_are_the_owner_s(restored_lock_folder: LockFolder) -> None:
    folder = restored_lock_folder.folder / "data" / "demo--000002"
    for name, value in (
        ("user.email", "me@neuromirror.invalid"),
        ("annex.security.allowed-ip-addresses", "127.0.0.1"),
        ("remote.gin.url", "git@gin.g-node.org:/me/data.git"),
        ("remote.gin.annex-ignore", "true"),
        ("remote.disk.url", "/elsewhere/copy.git"),
        ("branch.main.remote", "gin"),
        ("datalad.dataset.id", "x"),
    ):
        run(folder, "git", "config", name, value)
    found = restore_lock(restored_lock_folder.lock, folder.parent, offline=True)
    assert found.only().status == "notneeded"


def _without_objects(folder: Path, program: str) -> None:
    """A partial clone without objects, whose remote names a program to get them."""
    settings = {
        "core.repositoryformatversion": "1",
        "extensions.partialClone": "evil",
        "remote.evil.promisor": "true",
        "remote.evil.url": str(folder),
        "remote.evil.uploadpack": program,
    }
    for name, value in settings.items():
        run(folder, "git", "config", name, value)
    shutil.rmtree(folder / ".git" / "objects")
    (folder / ".git" / "objects").mkdir()


def test_reading_a_repository_fetches_nothing(
    restored_lock_folder: LockFolder, tmp_path: Path
) -> None:
    folder = restored_lock_folder.folder / "data" / "demo--000002"
    marker = tmp_path / "marker"
    _without_objects(folder, f"touch {marker}; false")
    clone = str(folder)
    for arguments in (
        ("verify", str(restored_lock_folder.file), "--in", str(folder.parent)),
        ("verify", clone),
        ("cite", clone),
        ("diff", clone, clone),
        ("pin", "-o", "new.lock", clone),
    ):
        with suppress(NeuromirrorError):
            assert restored_lock_folder.command(*arguments).exit_code != 0
        assert not marker.exists()


def test_a_store_beside_the_lock_is_an_origin(still_lab: LabStore, tmp_path: Path) -> None:
    paper = LockFolder(
        still_lab.mirror_harness, still_lab.mirror_harness.folder.parent, f"{tmp_path.name}.lock"
    )
    paper.pin(PUBLISHED)
    for status in ("ok", "notneeded"):
        found = restore_lock(
            paper.lock, tmp_path / "data", still_lab.mirror_harness.store, offline=True
        )
        assert found.only().status == status
