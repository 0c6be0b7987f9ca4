"""A repository that was received as files runs nothing, and sends and writes nothing elsewhere."""

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from neuromirror.annex import hash_mixed
from neuromirror.lab import get, verify
from neuromirror.model import NeuromirrorError
from neuromirror.store.durable_files import protect
from neuromirror.transfer.repository_check import RepositoryRefusedError
from support.loopback_http import DirectoryHandler, serving_directory
from support.web_clone import ATTIC, WebClone, git

FILE = "small/1.dat"
Change = Callable[[Path, str], object]


def _configured(*settings: tuple[str, str], file: str = "") -> Change:
    def change(folder: Path, program: str) -> None:
        for name, value in settings:
            git_dir = folder / ".git" / file
            git(folder, "--git-dir", str(git_dir), "config", name, value.replace("PROG", program))

    return change


def _written(path: str, content: str) -> Change:
    def change(folder: Path, program: str) -> None:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as out:
            out.write(content.replace("PROG", program))

    return change


def _program(path: Path, program: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    return path


def _linked(name: str) -> Change:
    def change(folder: Path, program: str) -> None:
        path, away = folder / name, folder.parent / "away"
        if path.exists():
            path.rename(away)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(away)

    return change


def _hook(name: str) -> Change:
    return lambda folder, program: _program(folder / ".git" / "hooks" / name, program)


def _changed_hook(folder: Path, program: str) -> None:
    _program(folder / ".git/hooks/post-checkout", "git annex smudge --update")
    _written(".git/hooks/post-checkout", "PROG\n")(folder, program)


def _worktree_config(folder: Path, program: str) -> None:
    git(folder, "config", "extensions.worktreeConfig", "true")
    git(folder, "config", "--worktree", "core.sshCommand", program)


def _common(folder: Path, program: str) -> None:
    shutil.copytree(folder / ".git", folder / "common", symlinks=True)
    _configured(("annex.freezecontent-command", program), file="../common")(folder, program)
    (folder / ".git" / "commondir").write_text("../common\n")


def _elsewhere(folder: Path, program: str) -> None:
    (folder / ".git").rename(folder / "elsewhere")
    (folder / ".git").write_text("gitdir: elsewhere\n")


def _beside(url: str) -> Change:
    """Add a remote that came with the repository; git-annex runs commands in it."""

    def change(folder: Path, program: str) -> None:
        beside = folder.parent / "beside.git"
        git(folder.parent, "clone", "-q", "--bare", str(folder), str(beside))
        git(beside, "config", "annex.freezecontent-command", program)
        git(folder, "config", "remote.x.url", url.format(folder.parent))

    return change


def _at_home(folder: Path, program: str) -> None:
    _beside(f"~/{folder.parent.name}/beside.git")(folder, program)
    (Path.home() / folder.parent.name).symlink_to(folder.parent)


def _fifo(folder: Path, program: str) -> None:
    (folder / ".git/config").unlink()
    os.mkfifo(folder / ".git/config")


HOSTILE: dict[str, Change] = {
    name: _configured((name, value))
    for name, value in {
        "core.fsmonitor": "PROG",
        "core.hooksPath": "evil",
        "core.sshCommand": "PROG",
        "core.alternateRefsCommand": "PROG",
        "core.attributesFile": "/elsewhere",
        "core.worktree": "..",
        "Core.GitProxy": "PROG",
        "diff.external": "PROG",
        "filter.annex.process": "PROG",
        "filter.other.clean": "PROG",
        "alias.annex": "!PROG",
        "annex.verify": "false",
        "annex.security.allowed-ip-addresses": "all",
        "annex.freezecontent-command": "PROG",
        "annex.http-headers-command": "PROG",
        "annex.post-update-command": "PROG",
        "annex.evil-retrieve-hook": "PROG",
        "annex.web-options": "--config=/elsewhere",
        "annex.ssh-options": "-o ProxyCommand=PROG",
        "annex.security.allowed-compute-programs": "evil",
        "remote.origin.annex-cost-command": "PROG",
        "remote.origin.annex-verify": "false",
        "remote.x.annex-rsync-transport": "PROG",
        "remote.x.annex-externaltype": "evil",
        "remote.x.annex-webdav": "true",
        "remote.x.uploadpack": "PROG",
        "remote.x.vcs": "ext",
        "remote.x.proxy": "http://127.0.0.1:9",
        "remote.x.url": "ext::PROG",
        "remote.y.url": "ssh://-oProxyCommand=PROG/x",
        "remote.z.url": "ssh://me@-oProxyCommand=PROG/x",
        "remote.x.annexUrl": "ext::PROG",
        "remote.x.promisor": "true",
        "extensions.partialClone": "x",
        "extensions.relativeWorktrees": "x y",
        "url.ext::PROG.insteadOf": "https://",
        "submodule.x.update": "!PROG",
        "credential.https://x.helper": "cache; PROG",
        "http.cookieFile": "/elsewhere",
        "http.proxy": "http://127.0.0.1:9",
        "init.templateDir": "/elsewhere",
        "gpg.program": "PROG",
        "lfs.customtransfer.x.path": "PROG",
        "datalad.result-hook.x.call-json": "run",
        "neuromirror.evil.example.instance": "dandi",
        "include.path": "../more",
        "includeIf.gitdir:/.path": "/elsewhere",
    }.items()
} | {
    "config.worktree": _worktree_config,
    "settings after 1 MiB": _written(
        ".git/config", "#\n" * (1 << 19) + "\n[core]\n\tsshCommand = PROG\n"
    ),
    "a pipe": _fifo,
    "commondir": _common,
    "gitfile": _elsewhere,
    "link": _linked(".git"),
    "alternates": _written(".git/objects/info/alternates", "/elsewhere/objects\n"),
    "grafts": _written(".git/info/grafts", "x y\n"),
    "relative remote": _beside("../beside.git"),
    "remote at a path": _beside("{}/beside"),
    "remote at a URL": _beside("file://{}/beside%2Egit"),
    "remote at a URL with a query": _beside("file://{}/clone?x"),
    "remote in the home folder": _at_home,
    "reference-transaction": _hook("reference-transaction"),
    "post-index-change": _hook("post-index-change"),
    "post-update-annex": _hook("post-update-annex"),
    "changed hook": _changed_hook,
    **{
        name: _linked(f".git/{name}")
        for name in ("config", "hooks", "index", "modules", "objects/aa", "refs/heads/x", "annex")
    },
    **{name: _linked(f".git/{name}") for name in ("annex/objects", "annex/objects/aa", "HEAD")},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_git_and_git_annex_do_not_write_is_refused(
    web_clone: WebClone, tmp_path: Path, name: str
) -> None:
    marker = tmp_path / "marker"
    HOSTILE[name](web_clone.clone, f"touch {marker}; false")
    with pytest.raises(RepositoryRefusedError, match="git clone"):
        list(get(web_clone.clone, [FILE]))
    assert not marker.exists()
    assert not web_clone.clone.joinpath(FILE).exists()


def _get(folder: Path, *paths: str, recursive: bool = False) -> list[tuple[str, str]]:
    with suppress(NeuromirrorError):
        return [(one.status, one.path) for one in get(folder, paths or None, recursive=recursive)]
    return []


def test_a_url_that_is_rewritten_to_a_repository_within(
    web_clone: WebClone, tmp_path: Path
) -> None:
    marker, hidden = tmp_path / "marker", web_clone.clone / ".git/hid/r"
    hidden.parent.mkdir()
    git(tmp_path, "clone", "-q", "--bare", str(web_clone.clone), str(hidden))
    git(hidden, "config", "core.fsmonitor", f"touch {marker}; false")
    _program(hidden / "hooks/reference-transaction", f"touch {marker}")
    for name, value in {
        "remote.x.url": "foo:r",
        "remote.x.annex-uuid": ATTIC,
        "url..git/hid/.insteadOf": "foo:",
    }.items():
        git(web_clone.clone, "config", name, value)
    assert _get(web_clone.clone, "nowhere.dat", FILE) == []
    assert not marker.exists()


@pytest.mark.parametrize("program", ["datalad", "datalad-archives", "ora"])
def test_programs_of_datalad_are_not_started(
    web_clone: WebClone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    marker = tmp_path / "marker"
    _program(tmp_path / f"bin/git-annex-remote-{program}", f"touch {marker}")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    git(web_clone.clone, "config", "remote.x.annex-externaltype", program)
    git(web_clone.clone, "config", "remote.x.annex-uuid", ATTIC)
    remote = f"{ATTIC} encryption=none externaltype={program} name=x type=external timestamp=1s\n"
    _written(".git/annex/journal/remote.log", remote)(web_clone.clone, "")
    web_clone.annex("unlock", FILE)
    assert _get(web_clone.clone, "nowhere.dat", FILE) == [
        ("impossible", "nowhere.dat"),
        ("ok", FILE),
    ]
    assert not marker.exists()


@pytest.fixture
def above(web_clone: WebClone, tmp_path: Path) -> Path:
    """A dataset whose subdataset ``part`` is in ``.git/modules`` and not checked out."""
    folder = tmp_path / "above"
    git(tmp_path, "init", "-q", str(folder))
    git(
        folder,
        "-c",
        "protocol.file.allow=always",
        *("submodule", "-q", "add"),
        str(web_clone.clone),
        "part",
    )
    git(folder, "commit", "-q", "-m", "part")
    git(folder, "submodule", "-q", "deinit", "-f", "part")
    return folder


def _hidden(folder: Path, program: str) -> Path:
    hidden = folder / ".git/hid"
    (folder / ".git/modules/part").rename(hidden)
    _program(hidden / "hooks/post-checkout", program)
    return hidden


def _linked_module(folder: Path, program: str) -> None:
    _hidden(folder, program)
    (folder / ".git/modules/part").symlink_to("../hid")


def _common_module(folder: Path, program: str) -> None:
    hidden, module = _hidden(folder, program), folder / ".git/modules/part"
    module.mkdir()
    shutil.copy(hidden / "HEAD", module)
    (module / "commondir").write_text("../../hid\n")


MODULES: dict[str, Change] = {
    "link": _linked_module,
    "commondir": _common_module,
    "hook": lambda folder, program: _program(
        folder / ".git/modules/part/hooks/post-checkout", program
    ),
    "proxy": _configured(("http.proxy", "http://127.0.0.1:9"), file="modules/part"),
    "work tree": _configured(("core.worktree", "../../../../x"), file="modules/part"),
    "deeper": lambda folder, program: shutil.copytree(
        _hidden(folder, program), folder / ".git/modules/a/b/modules/c"
    ),
    "file": _written(".git/modules/x", ""),
}


@pytest.mark.parametrize("name", MODULES)
def test_the_repository_of_a_subdataset_that_is_not_checked_out(
    above: Path, tmp_path: Path, name: str
) -> None:
    marker = tmp_path / "marker"
    MODULES[name](above, f"touch {marker}")
    assert _get(above, recursive=True) == []
    assert not marker.exists()


class _CookieHandler(DirectoryHandler):
    def end_headers(self) -> None:
        self.send_header("Set-Cookie", "a=$(touch x); Max-Age=10000")
        super().end_headers()


def test_cookies_of_a_server_are_not_saved(
    above: Path, web_clone: WebClone, tmp_path: Path
) -> None:
    profile, module = tmp_path / "profile", above / ".git/modules/part"
    profile.write_text("mine")
    git(web_clone.clone, "update-server-info")
    with serving_directory(web_clone.clone / ".git", _CookieHandler) as url:
        for name, value in {
            "http.cookieFile": str(profile),
            "http.saveCookies": "true",
            "remote.origin.url": url,
        }.items():
            git(module, "config", name, value)
        git(above, "config", "submodule.part.url", url)
        shutil.rmtree(module / "objects")
        (module / "objects").mkdir()
        assert _get(above, recursive=True) == []
    assert profile.read_text() == "mine"


class _PrivateHandler(DirectoryHandler):
    """Asks for a password, and records what it gets."""

    received: ClassVar[set[tuple[str | None, str | None]]] = set()

    def do_GET(self) -> None:
        sent = self.headers["Authorization"]
        self.received.add((sent, self.headers["X-Key"]))
        if sent:
            super().do_GET()
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()


@pytest.mark.parametrize("is_for_url", [False, True])
def test_secrets_of_the_user_reach_only_the_hosts_that_they_are_set_for(
    above: Path, web_clone: WebClone, monkeypatch: pytest.MonkeyPatch, is_for_url: bool
) -> None:
    received: set[tuple[str | None, str | None]] = set()
    monkeypatch.setattr(_PrivateHandler, "received", received)
    git(web_clone.clone, "update-server-info")
    with serving_directory(web_clone.clone / ".git", _PrivateHandler) as url:
        place = f".{url}" * is_for_url
        helper = "!f() { echo username=me; echo password=secret; }; f"
        git(above, "config", "--global", f"credential{place}.helper", helper)
        git(above, "config", "--global", "--add", "credential.helper", "!echo password=other")
        git(above, "config", "--global", f"http{place}.extraHeader", "X-Key: secret")
        git(above, "config", "submodule.part.url", url)
        shutil.rmtree(above / ".git/modules/part")
        done = _get(above, f"part/{FILE}")
    if is_for_url:
        assert done == [("ok", f"part/{FILE}")]
        assert received == {(None, "secret"), ("Basic bWU6c2VjcmV0", "secret")}
    else:
        assert received == {(None, None)}


def test_a_subdataset_is_checked_before_its_files_are_read(above: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    assert _get(above, f"part/{FILE}") == [("ok", f"part/{FILE}")]
    # by now git-annex has replaced the file part/.git by a symlink
    assert (above / "part/.git").is_symlink()
    assert _get(above / "part", FILE) == [("notneeded", FILE)]
    git(above / "part", "config", "core.fsmonitor", f"touch {marker}; false")
    assert _get(above / "part", FILE) == []
    assert _get(above, f"part/{FILE}") == []
    assert not marker.exists()


USUAL = """
core.fsmonitor false
remote.gin.url git@gin.g-node.org:/me/data.git
remote.ria.url ssh://me@server.example.org/store/abc/def
remote.ria.datalad-publish-depends ria-storage
remote.ria-storage.annex-externaltype ora
remote.disk.url /elsewhere/copy.git
remote.stick.annex-directory /elsewhere/annex
remote.beside.url ../copy.git
remote.tars.annex-externaltype datalad-archives
submodule.x.update checkout
branch.main.remote gin
branch.main.vscode-merge-base origin/main
datalad.dataset.id x
datalad.get.subdataset-source-candidate-000x ria+file:///store#{id}
user.email me@example.org
"""


def test_usual_settings_and_files_are_accepted(web_clone: WebClone, tmp_path: Path) -> None:
    folder = web_clone.clone
    for line in USUAL.strip().splitlines():
        name, _, value = line.partition(" ")
        git(folder, "config", name, value)
    git(folder, "stash", "list")
    git(folder, "sparse-checkout", "set", "small", "kinds")
    git(folder, "gc", "-q")
    assert _get(folder, FILE) == [("ok", FILE)]


@pytest.fixture
def linked(web_clone: WebClone, tmp_path: Path) -> Path:
    """A linked work tree of the clone, in which git-annex has replaced the file ``.git``."""
    git(web_clone.clone, "worktree", "add", "-q", "--detach", str(tmp_path / "linked"))
    git(tmp_path / "linked", "annex", "find", "--in=here")
    return tmp_path / "linked"


def test_a_linked_work_tree_of_a_clone(linked: Path, web_clone: WebClone) -> None:
    assert (linked / ".git").is_symlink()
    git(linked, "sparse-checkout", "set", "small")
    assert _get(linked, FILE) == [("ok", FILE)]
    assert (linked / FILE).read_bytes() == (web_clone.clone / FILE).read_bytes()
    assert _get(linked, FILE) == [("notneeded", FILE)]
    git_dir = (linked / ".git").resolve()
    (linked / ".git").unlink()
    (linked / ".git").write_text(f"gitdir: {git_dir}\n")
    (git_dir / "annex").unlink()
    assert _get(linked, "small/2.dat") == [("ok", "small/2.dat")]
    assert {one.status for one in verify(linked) if one.path in (FILE, "small/2.dat")} == {"ok"}


def _set_worktree_program(linked: Path, program: str) -> None:
    git(linked, "config", "extensions.worktreeConfig", "true")
    git(linked, "config", "--worktree", "core.sshCommand", program)


def _lead_elsewhere(linked: Path, program: str) -> None:
    """Make another repository that git uses for the work tree, with a program."""
    _common(linked.parent / "clone", program)
    (linked / ".git/commondir").write_text("../../../common\n")


def _move_link(linked: Path, program: str) -> None:
    (linked / ".git/gitdir").write_text(f"{linked.parent}/other/.git\n")


def _move_folder(linked: Path, program: str) -> None:
    moved = linked.parent / "clone/.git/annex/tmp/linked"
    moved.parent.mkdir(exist_ok=True)
    (linked / ".git").resolve().rename(moved)
    (linked / ".git").unlink()
    (linked / ".git").symlink_to(moved)


FORGED: dict[str, Change] = {
    "settings of the repository": lambda linked, program: git(
        linked, "config", "core.fsmonitor", program
    ),
    "hook of the repository": lambda linked, program: _program(
        (linked / ".git").resolve().parent.parent / "hooks/post-index-change", program
    ),
    "settings of the work tree": _set_worktree_program,
    "another repository": _lead_elsewhere,
    "another work tree": _move_link,
    "elsewhere": _move_folder,
    "another link": lambda linked, program: (linked / ".git/info").symlink_to(linked),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_link_between_work_tree_and_repository_is_refused(
    linked: Path, tmp_path: Path, name: str
) -> None:
    marker = tmp_path / "marker"
    FORGED[name](linked, f"touch {marker}; false")
    marker.unlink(missing_ok=True)
    with pytest.raises(RepositoryRefusedError, match="git clone"):
        list(get(linked, [FILE]))
    assert not marker.exists()


def test_a_clone_with_a_ria_sibling_and_its_clone_are_accepted(
    web_clone: WebClone, tmp_path: Path
) -> None:
    store = f"ria+file://{tmp_path}/ria"
    for command in (
        ("datalad", "create", "--force"),
        ("datalad", "create-sibling-ria", "-s", "ria", "--new-store-ok", "--alias", "x", store),
        ("git", "push", "-q", "--no-verify", "ria", "HEAD", "git-annex"),
        ("datalad", "clone", f"{store}#~x", str(tmp_path / "again")),
    ):
        done = subprocess.run(
            command, cwd=web_clone.clone, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for folder in (web_clone.clone, tmp_path / "again"):
        settings = git(folder, "config", "--get-regexp", "annex-externaltype")
        assert settings.strip() == "remote.ria-storage.annex-externaltype ora"
        assert _get(folder, FILE) == [("ok", FILE)]


def test_a_store_on_this_machine_is_a_remote(web_clone: WebClone, tmp_path: Path) -> None:
    store = tmp_path / "store.git"
    git(tmp_path, "clone", "-q", "--bare", str(web_clone.clone), str(store))
    protect(store)
    git(web_clone.clone, "remote", "set-url", "origin", str(store))
    assert _get(web_clone.clone, FILE) == [("ok", FILE)]
    _written("hooks/pre-init-annex", "touch marker\n")(store, "")
    assert _get(web_clone.clone, "small/2.dat") == []


@pytest.mark.parametrize("is_key", [False, True])
def test_git_annex_writes_no_object_through_a_link(
    web_clone: WebClone, tmp_path: Path, is_key: bool
) -> None:
    (outside := tmp_path / "outside").mkdir()
    key = web_clone.files[FILE].key
    folder = web_clone.clone / ".git/annex/objects" / hash_mixed(key).decode() / (key * is_key)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(outside)
    # git-annex itself gets the content
    git(web_clone.clone, "config", "core.sharedRepository", "group")
    assert set(_get(web_clone.clone, FILE, "small/2.dat")) == {
        ("error", FILE),
        ("ok", "small/2.dat"),
    }
    assert list(outside.iterdir()) == []


def test_git_annex_does_not_initialize_a_remote(web_clone: WebClone, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    git(tmp_path, "clone", "-q", str(web_clone.clone), str(mine))
    git(web_clone.clone, "config", "remote.x.url", str(mine))
    git(web_clone.clone, "config", "remote.x.annex-uuid", ATTIC)
    before = git(mine, "config", "--local", "--list")
    assert ("impossible", "nowhere.dat") in _get(web_clone.clone, "nowhere.dat", FILE)
    assert git(mine, "config", "--local", "--list") == before


def test_the_users_own_configuration_is_trusted(web_clone: WebClone, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for name, value in {
        "core.sshCommand": "ssh -4",
        "filter.other.clean": "cat",
        "annex.freezecontent-command": f"touch {marker}",
    }.items():
        git(web_clone.clone, "config", "--global", name, value)
    assert _get(web_clone.clone, FILE) == [("ok", FILE)]
    assert marker.exists()
