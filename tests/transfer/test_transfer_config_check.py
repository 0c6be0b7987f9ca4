"""``get`` runs no programs that a received repository names."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.lab import get
from neuromirror.store.durable_files import protect
from neuromirror.transfer.repository_check import RepositoryRefusedError
from support.web_clone import WebClone, git

FILE = "small/1.dat"


def _configured(*settings: tuple[str, str]) -> Callable[[Path, str], None]:
    def change(folder: Path, program: str) -> None:
        for name, value in settings:
            git(folder, "config", name, value.replace("PROGRAM", program))

    return change


def _program(folder: Path, name: str, program: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    return path


def _included(folder: Path, program: str) -> None:
    (folder / "more").write_text(f'[core]\n\tfsmonitor = "{program}"\n')
    git(folder, "config", "include.path", "../more")


def _worktree_config(folder: Path, program: str) -> None:
    git(folder, "config", "extensions.worktreeConfig", "true")
    git(folder, "config", "--worktree", "core.fsmonitor", program)


def _hooks_path(folder: Path, program: str) -> None:
    for name in ("post-index-change", "reference-transaction", "post-update-annex"):
        _program(folder / "evil", name, program)
    git(folder, "config", "core.hooksPath", "evil")


def _hook(name: str) -> Callable[[Path, str], object]:
    return lambda folder, program: _program(folder / ".git" / "hooks", name, program)


def _changed_hook(folder: Path, program: str) -> None:
    hook = _program(folder / ".git" / "hooks", "post-checkout", "git annex smudge --update")
    with hook.open("a") as file:
        file.write(f"{program}\n")


def _lfs_hook(folder: Path, program: str) -> None:
    hook = _program(folder / ".git" / "hooks", "post-checkout", "")
    hook.write_text(
        '#!/bin/sh\ncommand -v git-lfs >/dev/null 2>&1 || { printf >&2 "\\" "; '
        f'{program}; echo "a"; exit 2; }}\ngit lfs post-checkout "$@"\n'
    )


def _promisor(folder: Path, program: str) -> None:
    """Make a partial clone that lacks an object, which git would get with a program."""
    for name, value in {
        "core.repositoryformatversion": "1",
        "extensions.partialClone": "evil",
        "protocol.ext.allow": "always",
        "remote.evil.promisor": "true",
        "remote.evil.url": f"ext::sh -c {program.replace(' ', '% ')}",
    }.items():
        git(folder, "config", name, value)
    shutil.rmtree(folder / ".git" / "objects")
    (folder / ".git" / "objects").mkdir()


def _remote(folder: Path, program: str) -> None:
    """Add a remote that came with the repository; git-annex runs commands in it."""
    beside = folder.parent / "beside.git"
    git(folder.parent, "clone", "-q", "--bare", str(folder), str(beside))
    git(beside, "config", "annex.freezecontent-command", program)
    git(folder, "config", "remote.origin.url", "../beside.git")


HOSTILE: dict[str, Callable[[Path, str], object]] = {
    "core.fsmonitor": _configured(("core.fsmonitor", "PROGRAM")),
    "core.hooksPath": _hooks_path,
    "core.sshCommand": _configured(("core.sshCommand", "PROGRAM")),
    "core.worktree": lambda folder, _: git(folder, "config", "core.worktree", str(folder.parent)),
    "filter.annex": _configured(("filter.annex.process", "PROGRAM"), ("filter.annex.clean", "x")),
    "filter.other": _configured(("filter.other.clean", "PROGRAM")),
    "freezecontent": _configured(("annex.freezecontent-command", "PROGRAM")),
    "headers": _configured(("annex.http-headers-command", "PROGRAM")),
    "post-update": _configured(("annex.post-update-command", "PROGRAM")),
    "message": _configured(("annex.commitmessage-command", "PROGRAM")),
    "hook type": _configured(("annex.evil-retrieve-hook", "PROGRAM")),
    "web options": _configured(("annex.web-options", "--config=/elsewhere")),
    "ssh options": _configured(("annex.ssh-options", "-o ProxyCommand=PROGRAM")),
    "compute": _configured(("annex.security.allowed-compute-programs", "evil")),
    "cost": _configured(("remote.origin.annex-cost-command", "PROGRAM")),
    "start": _configured(("remote.origin.annex-start-command", "PROGRAM")),
    "rsync": _configured(("remote.x.annex-rsync-transport", "PROGRAM")),
    "external": _configured(("remote.x.annex-externaltype", "evil")),
    "uploadpack": _configured(("remote.x.uploadpack", "PROGRAM")),
    "vcs": _configured(("remote.x.vcs", "ext")),
    "ext": _configured(("remote.x.url", "ext::PROGRAM")),
    "annexUrl": _configured(("remote.x.annexUrl", "ext::PROGRAM")),
    "option": _configured(("remote.x.url", "ssh://-oProxyCommand=PROGRAM/x")),
    "option of a user": _configured(("remote.x.url", "ssh://me@-oProxyCommand=PROGRAM/x")),
    "rewritten": _configured(("url.ext::PROGRAM.insteadOf", "https://")),
    "update": _configured(("submodule.x.update", "!PROGRAM")),
    "credential": _configured(("credential.helper", "!PROGRAM")),
    "credential of the shell": _configured(("credential.https://x.helper", "cache; PROGRAM")),
    "template": _configured(("init.templateDir", "/elsewhere")),
    "gpg": _configured(("gpg.program", "PROGRAM")),
    "git-lfs": _configured(("lfs.customtransfer.x.path", "PROGRAM")),
    "DataLad": _configured(("datalad.result-hook.x.call-json", "run")),
    "include": _included,
    "config.worktree": _worktree_config,
    "promisor": _promisor,
    "remote": _remote,
    "reference-transaction": _hook("reference-transaction"),
    "post-index-change": _hook("post-index-change"),
    "post-update-annex": _hook("post-update-annex"),
    "pre-commit": _hook("pre-commit"),
    "changed hook": _changed_hook,
    "hook like git-lfs's": _lfs_hook,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_repository_that_names_programs_is_refused(
    web_clone: WebClone, tmp_path: Path, name: str
) -> None:
    marker = tmp_path / "marker"
    HOSTILE[name](web_clone.clone, f"touch {marker}; false")
    with pytest.raises(RepositoryRefusedError):
        list(get(web_clone.clone, [FILE]))
    assert not marker.exists()
    assert not web_clone.clone.joinpath(FILE).exists()


@pytest.mark.parametrize("name", ["core.fsmonitor", "freezecontent", "reference-transaction"])
def test_a_trusted_configuration_is_obeyed(web_clone: WebClone, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    HOSTILE[name](web_clone.clone, f"touch {marker}")
    assert [one.status for one in get(web_clone.clone, [FILE], trust_config=True)] == ["ok"]
    assert marker.exists() or name == "core.fsmonitor"


COMMON = """
core.fsmonitor false
core.editor vim
alias.st !git status
filter.lfs.process git-lfs filter-process
filter.lfs.smudge git-lfs smudge -- %f
filter.lfs.clean git-lfs clean -- %f
lfs.repositoryformatversion 0
diff.jupyternotebook.command git-nbdiffdriver diff
credential.helper cache --timeout=3600
annex.ssh-options -p 2222 -i ~/.ssh/lab
remote.gin.url git@gin.g-node.org:/me/data.git
remote.ria.url ssh://me@server.example.org/store/abc/def
remote.disk.url /elsewhere/copy.git
remote.disk.annex-directory /elsewhere/annex
remote.beside.url ../copy.git
remote.ora.annex-externaltype ora
remote.tars.annex-externaltype datalad-archives
url.git@github.com:.insteadOf https://github.com/
submodule.x.update checkout
datalad.dataset.id x
datalad.get.subdataset-source-candidate-000x ria+file:///store#{id}
"""


def test_common_settings_are_accepted(web_clone: WebClone) -> None:
    git(web_clone.clone, "config", "annex.web-options", "")
    for line in COMMON.strip().splitlines():
        name, _, value = line.partition(" ")
        git(web_clone.clone, "config", name, value)
    assert [one.status for one in get(web_clone.clone, [FILE])] == ["ok"]


def test_hooks_of_git_annex_and_git_lfs_are_accepted(web_clone: WebClone) -> None:
    assert [one.status for one in get(web_clone.clone, [FILE])] == ["ok"]
    hooks = web_clone.clone / ".git" / "hooks"
    assert (hooks / "post-checkout").exists()
    message = (
        "This repository is configured for Git LFS but 'git-lfs' was not found on your path. If "
        "you no longer wish to use Git LFS, remove this hook by deleting the 'post-commit' file"
    )
    for name, text in {
        "post-commit": f'printf >&2 "\\n%s\\n\\n" "{message}"',
        "post-merge": f'echo >&2 "\\n{message}\\n"',
    }.items():
        (hooks / name).write_text(
            f"#!/bin/sh\ncommand -v git-lfs >/dev/null 2>&1 || {{ {text}; exit 2; }}\n"
            f'git lfs {name} "$@"\n'
        )
        (hooks / name).chmod(0o755)
    _program(hooks, "pre-push", "exit 1")
    assert [one.status for one in get(web_clone.clone, ["small/2.dat"])] == ["ok"]


def test_a_store_on_this_machine_is_a_remote_without_programs(
    web_clone: WebClone, tmp_path: Path
) -> None:
    store = tmp_path / "store.git"
    git(tmp_path, "clone", "-q", "--bare", str(web_clone.clone), str(store))
    protect(store)
    git(web_clone.clone, "remote", "set-url", "origin", str(store))
    assert [one.status for one in get(web_clone.clone, [FILE])] == ["ok"]
    with (store / "hooks" / "pre-init-annex").open("a") as file:
        file.write("touch marker\n")
    with pytest.raises(RepositoryRefusedError):
        list(get(web_clone.clone, ["small/2.dat"]))


def test_the_users_own_configuration_is_trusted(
    web_clone: WebClone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "gitconfig"
    before = os.environ.get("GIT_CONFIG_GLOBAL") or Path.home() / ".gitconfig"
    own.write_text(f"[include]\n\tpath = {before}\n")
    with own.open("a") as file:
        file.write('[core]\n\tsshCommand = ssh -4\n[filter "other"]\n\tclean = cat\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(own))
    assert [one.status for one in get(web_clone.clone, [FILE])] == ["ok"]


def _with_part(world: WebClone, folder: Path) -> Path:
    """Return a clone with a subdataset ``part``, whose repository is in ``.git/modules``."""
    above = folder / "above"
    git(folder, "init", "-q", str(above))
    git(
        above,
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "-q",
        "add",
        str(world.clone),
        "part",
    )
    git(above, "commit", "-q", "-m", "part")
    return above


@pytest.mark.parametrize("arguments", [((), True), ((f"part/{FILE}",), False)])
def test_a_subdataset_that_names_programs_is_refused(
    web_clone: WebClone, tmp_path: Path, arguments: tuple[tuple[str, ...], bool]
) -> None:
    above, marker = _with_part(web_clone, tmp_path), tmp_path / "marker"
    paths, recursive = arguments
    assert [one.status for one in get(above, [f"part/{FILE}"])] == ["ok"]
    git(above / "part", "config", "core.fsmonitor", f"touch {marker}; false")
    (found,) = get(above, paths or None, recursive=recursive)
    assert (found.status, found.path) == ("error", "part")
    assert not marker.exists()


def test_a_subdataset_s_repository_without_work_tree_is_refused_too(
    web_clone: WebClone, tmp_path: Path
) -> None:
    above, marker = _with_part(web_clone, tmp_path), tmp_path / "marker"
    git(above, "submodule", "-q", "deinit", "-f", "part")
    _program(above / ".git/modules/part/hooks", "post-checkout", f"touch {marker}")
    with pytest.raises(RepositoryRefusedError):
        list(get(above, [f"part/{FILE}"]))
    assert not marker.exists()


def test_the_command_refuses_in_one_line_without_trust_config(
    web_clone: WebClone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    git(web_clone.clone, "config", "annex.freezecontent-command", f"touch {marker}")
    monkeypatch.chdir(web_clone.clone)
    done = CliRunner().invoke(main, ["get", FILE])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "annex.freezecontent-command" in done.stderr
    assert not marker.exists()
    assert CliRunner().invoke(main, ["get", "--trust-config", FILE]).exit_code == 0
    assert marker.exists()
