"""Special remotes of the sender of a dataset are not enabled, and run no program."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.annex import sha256e_key, special_remote, web_remote
from neuromirror.cli import main
from neuromirror.transfer import get
from neuromirror.transfer.annex_clone import AnnexClone
from neuromirror.transfer.outcomes import Outcome
from neuromirror.volume.files import AnnexGet
from support.crafted_repositories import FILE, FOLDER, CraftedRepository
from support.lock_folders import PUBLISHED, LockFolder, replace_beside, restore_lock
from support.web_clone import API, STAMP, File, WebClone, git, make_dataset

UUID = "{:08x}-0000-4000-8000-000000000000"
VOLUMES = UUID.format(77)
OWN = special_remote("neuromirror", "neuromirror", VOLUMES, STAMP).decode()


class Trap:
    """A sender's remotes; ``sprung`` lists the programs that ran."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.marks = folder / "marks"
        self.marks.mkdir(parents=True)
        programs = folder / "programs"
        programs.mkdir()
        for name in ("git-annex-remote-evil", "evil", "yt-dlp", "youtube-dl"):
            program = programs / name
            program.write_text(f'#!/bin/sh\ntouch "{self.marks}/$(basename "$0")"\nexit 1\n')
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        self.victim = folder / "victim"
        self.victim.mkdir()

    def lines(self) -> str:
        """Return lines of ``remote.log``, each of a remote with autoenable."""
        touch = f"touch&32;{self.marks}/"
        configs = [
            "encryption=none externaltype=evil name=ext type=external",
            f"directory={self.victim} encryption=none name=dir type=directory",
            f"encryption=none name=rs rsyncurl=x:/y&32;-e&32;{self.marks}/rsync type=rsync",
            "encryption=none hooktype=evil name=hook type=hook",
            f"location=ext::sh&32;-c&32;{touch}ext name=git1 type=git",
            f"location=ssh://-oProxyCommand={touch}ssh/x name=git2 type=git",
            f"location={self.victim} name=git3 type=git",
            f"externaltype=evil sameas={API} sameas-name=same type=external encryption=none",
            "encryption=none externaltype=neuromirror host=evil.invalid name=more type=external",
            "encryption=none externaltype=evil name=neuromirror type=external",
            # the name of one is the UUID of another
            f"encryption=none externaltype=evil name={API} type=external",
            f"encryption=none externaltype=evil name={VOLUMES} type=external",
            "cost=100 name=origin type=web urlinclude=*",
            "cost=100 name=../up type=web urlinclude=*",
            "cost=100 name=-c type=web urlinclude=*",
            "cost=100 name=two urlinclude=* type=web typ&101;=external externaltype=evil",
        ]
        lines = [f"{UUID.format(n)} autoenable=true {one}" for n, one in enumerate(configs)]
        # a newer line replaces the web remote of neuromirror
        lines.append(
            f"{API} autoenable=true encryption=none externaltype=evil type=external name=a"
        )
        return "".join(f"{line} timestamp={STAMP + 9}s\n" for line in lines)

    def executed(self) -> list[str]:
        return sorted(path.name for path in self.marks.iterdir())


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    return Trap(tmp_path / "trap", monkeypatch)


def add_to_annex(repository: Path, name: str, more: str) -> None:
    """Append lines to a file of a repository's git-annex branch."""
    before = git(repository, "show", f"git-annex:{name}") if name != "config.log" else ""
    data = (before + more).encode()
    who = b"Sender <sender@example.invalid> %d +0000" % STAMP
    lines = b"commit refs/heads/git-annex\ncommitter %s\ndata 1\nx\n" % who
    lines += b"from refs/heads/git-annex^0\nM 100644 inline %s\n" % name.encode()
    lines += b"data %d\n%s\n" % (len(data), data)
    git(repository, "fast-import", "--quiet", given=lines)


def copy_of(world: WebClone, folder: Path) -> Path:
    """A writable repository that the clone could have been cloned from."""
    origin = git(world.clone, "config", "remote.origin.url").strip()
    repository = folder / "sent.git"
    git(folder, "clone", "-q", "--bare", origin, str(repository))
    return repository


def clone_to(repository: Path, target: Path) -> Path:
    git(target.parent, "clone", "-q", str(repository), str(target))
    return target


def remotes(clone: Path) -> set[str]:
    """Return the remotes of a repository, of git and of git-annex."""
    names = git(clone, "config", "--name-only", "--get-regexp", r"^remote\.").split()
    return {name[7:].rpartition(".")[0] for name in names}


def statuses(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.path: outcome.status for outcome in outcomes}


def test_get_sets_up_none_of_a_senders_remotes(
    web_clone: WebClone, trap: Trap, tmp_path: Path
) -> None:
    repository = copy_of(web_clone, tmp_path)
    add_to_annex(repository, "remote.log", trap.lines())
    clone = clone_to(repository, tmp_path / "got")
    found = statuses(list(get(clone, ["small/1.dat"])))
    assert trap.executed() == []
    assert found == {"small/1.dat": "ok"}
    assert remotes(clone) == {"origin"}
    # commands of git-annex enable none later, and find nothing amiss
    git(clone, "annex", "fsck", "-q", "--fast")
    git(clone, "annex", "merge", "-q")
    assert (trap.executed(), remotes(clone)) == ([], {"origin"})


def test_get_sets_up_none_that_only_the_journal_names(
    web_clone: WebClone, trap: Trap, tmp_path: Path
) -> None:
    clone = clone_to(copy_of(web_clone, tmp_path), tmp_path / "got")
    journal = clone / ".git" / "annex" / "journal"
    journal.mkdir(parents=True)
    (journal / "remote.log").write_text(trap.lines())
    found = statuses(list(get(clone, ["small/1.dat"])))
    assert (trap.executed(), found) == ([], {"small/1.dat": "ok"})


def test_skipped_remotes_are_named_and_own_remotes_are_enabled(
    web_clone: WebClone, trap: Trap, tmp_path: Path
) -> None:
    repository = copy_of(web_clone, tmp_path)
    lines = trap.lines().splitlines(keepends=True)
    add_to_annex(repository, "remote.log", "".join([*lines[:4], OWN]))
    clone = AnnexClone.at(clone_to(repository, tmp_path / "got"))
    assert {remote.name for remote in clone.skipped_remotes} == {"ext", "dir", "rs", "hook"}
    assert {remote.kind for remote in clone.skipped_remotes} >= {"external, evil", "directory"}
    assert remotes(clone.top) == {"origin", "api", "neuromirror"}
    assert trap.executed() == []


def test_two_remotes_of_one_name_are_both_left_out(web_clone: WebClone, tmp_path: Path) -> None:
    repository = copy_of(web_clone, tmp_path)
    remote = web_remote("api", 300, STAMP, uuid=UUID.format(1), urlinclude="*").decode()
    add_to_annex(repository, "remote.log", remote)
    clone = AnnexClone.at(clone_to(repository, tmp_path / "got"))
    # two remotes with one name are ambiguous
    assert [skipped_remote.name for skipped_remote in clone.skipped_remotes] == ["api", "api"]
    assert remotes(clone.top) == {"origin"}


@pytest.mark.parametrize(
    "names", [["x" * (2 << 20)], ["\0\n\n \n", "&" + "9" * 5000 + "; a=&99999999;"]]
)
def test_no_remote_log_breaks_it(web_clone: WebClone, tmp_path: Path, names: list[str]) -> None:
    repository = copy_of(web_clone, tmp_path)
    lines = (f"{UUID.format(n)} autoenable=true name={one}\n" for n, one in enumerate(names))
    add_to_annex(repository, "remote.log", "".join(lines))
    clone = clone_to(repository, tmp_path / "got")
    assert statuses(list(get(clone, ["small/1.dat"]))) == {"small/1.dat": "ok"}


def test_a_volumes_files_are_got_without_them(
    web_clone: WebClone, trap: Trap, tmp_path: Path
) -> None:
    repository = copy_of(web_clone, tmp_path)
    lines = trap.lines().splitlines(keepends=True)[:-1]
    # git-annex assigns URLs to a web remote that claims them, enabled or not
    add_to_annex(repository, "remote.log", "".join(line for line in lines if "urlinc" not in line))
    clone = clone_to(repository, tmp_path / "got")
    getting = AnnexGet(clone)
    outcomes = getting.get("small/1.dat")
    getting.close()
    assert (outcomes, trap.executed(), remotes(clone)) == ("", [], {"origin", "api"})
    assert (clone / "small/1.dat").exists()


def test_restore_sets_up_none_and_names_them(
    lock_folder: LockFolder, trap: Trap, tmp_path: Path
) -> None:
    (bundle,) = lock_folder.folder.rglob("*.bundle")
    refs = git(tmp_path, "bundle", "list-heads", str(bundle)).splitlines()
    repository = tmp_path / "sent.git"
    git(tmp_path, "init", "-q", "--bare", str(repository))
    git(repository, "fetch", "-q", str(bundle), "+refs/*:refs/*")
    add_to_annex(repository, "remote.log", trap.lines())
    sent = tmp_path / "sent.bundle"
    git(repository, "bundle", "create", "-q", str(sent), *(ref.split()[1] for ref in refs))
    replace_beside(lock_folder, bundle, sent.read_bytes())
    found = restore_lock(lock_folder.lock, tmp_path / "data", offline=True)
    done = found.only()
    assert (done.status, trap.executed()) == ("ok", [])
    assert remotes(found.folder(PUBLISHED)) <= {"origin", "demo-api"}
    for name in ("ext (external, evil)", "dir (directory)", "git2 (git)", "same (external, evil)"):
        assert name in done.message


@pytest.mark.parametrize("label", [None, "1.0"])
def test_clone_from_a_mirror_enables_none_and_names_them(
    web_clone: WebClone,
    trap: Trap,
    tmp_path: Path,
    serve_directory: Callable[[Path], str],
    label: str | None,
) -> None:
    (tmp_path / "site" / "alias").mkdir(parents=True)
    repository = copy_of(web_clone, tmp_path).rename(tmp_path / "site" / "alias" / "demo--1")
    lines = trap.lines().splitlines(keepends=True)
    add_to_annex(repository, "remote.log", "".join([*lines[:4], OWN]))
    git(repository, "tag", "1.0", "HEAD")
    git(repository, "update-server-info")
    clone = tmp_path / "new" / "clone"
    command = ["clone", "demo:1" + (f"@{label}" if label else ""), str(clone), "--get", "small/*"]
    done = CliRunner().invoke(
        main, ["--json", *command, "--from", serve_directory(tmp_path / "site")]
    )
    assert trap.executed() == []
    made, *got = map(json.loads, done.stdout.splitlines())
    assert "ext (external, evil), dir (directory), rs (rsync), hook (hook)" in made["message"]
    assert remotes(clone) == {"origin", "api", "neuromirror"}
    assert (done.exit_code, {one["status"] for one in got}) == (0, {"ok"})
    branch = git(clone, "rev-parse", "--abbrev-ref", "HEAD").strip()
    assert (branch == "HEAD") == (label is not None)
    assert [one.name for one in clone.parent.iterdir()] == ["clone"]


def test_a_repository_that_git_refuses_is_not_cloned(
    tmp_path: Path, serve_directory: Callable[[Path], str]
) -> None:
    crafted = CraftedRepository(tmp_path / "site" / "alias" / "demo--1")
    inner = crafted.tree((FILE, b"config", crafted.blob(b"[core]")))
    crafted.refs(crafted.commit(crafted.tree((FOLDER, b".git", inner))))
    crafted.git("update-server-info")
    address = serve_directory(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        done = CliRunner().invoke(
            main, ["clone", "demo:1", str(tmp_path / name), "--from", address]
        )
        assert done.exit_code == 1
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def received_with_subdatasets(
    world: WebClone, folder: Path, module: str, settings: str = "", names: Sequence[str] = ("part",)
) -> Path:
    """A clone with subdatasets, all of whose files a sender wrote."""
    commit = git(world.clone, "rev-parse", "HEAD").strip()
    more = {".gitmodules": ("100644", module.encode()), ".datalad/config": ("100644", b"")}
    more[".datalad/config"] = ("100644", settings.encode())
    clone = clone_to(make_dataset(folder / "above", [], more), folder / "super")
    entries = (("--cacheinfo", f"160000,{commit},{name}") for name in names)
    git(clone, "update-index", "--add", *chain.from_iterable(entries))
    git(clone, "commit", "-q", "-m", "part")
    return clone


def test_remotes_of_a_subdataset_are_not_enabled(
    web_clone: WebClone, trap: Trap, tmp_path: Path
) -> None:
    repository = copy_of(web_clone, tmp_path)
    add_to_annex(repository, "remote.log", trap.lines())
    module = f'[submodule "part"]\n\tpath = part\n\turl = {repository}\n'
    clone = received_with_subdatasets(web_clone, tmp_path, module)
    found = statuses(list(get(clone, ["part/small/1.dat"])))
    assert trap.executed() == []
    assert found == {"part/small/1.dat": "ok"}
    assert remotes(clone / "part") == {"origin"}


def test_no_gitmodules_runs_a_program(web_clone: WebClone, trap: Trap, tmp_path: Path) -> None:
    repository = copy_of(web_clone, tmp_path)
    fields = {
        "ext": f"url = ext::sh -c touch% {trap.marks}/ext",
        "ssh": f"url = ssh://-oProxyCommand=touch%20{trap.marks}/ssh/x",
        "option": f"url = -u./{trap.marks}",
        "ria": f"url = ria+ssh://-oProxyCommand=touch%20{trap.marks}/ria/x",
        "update": f"url = {repository}\n\tupdate = !touch {trap.marks}/update",
        "datalad": f"url = ./nothing\n\tdatalad-url = ext::sh -c touch% {trap.marks}/url",
    }
    settings = (
        '[datalad "get"]\n\tsubdataset-source-candidate-000evil = "ext::sh -c touch% '
        f'{trap.marks}/candidate"\n[protocol "ext"]\n\tallow = always\n'
    )
    module = "".join(
        f'[submodule "{name}"]\n\tpath = {name}\n\t{lines}\n' for name, lines in fields.items()
    )
    clone = received_with_subdatasets(web_clone, tmp_path, module, settings, names=[*fields])
    found = statuses(list(get(clone, [f"{name}/small/1.dat" for name in fields])))
    assert trap.executed() == []
    # each of them was tried
    assert {name.partition("/")[0] for name in found} == fields.keys()


def test_a_dataset_from_elsewhere_gets_no_repository_of_this_machine(
    web_clone: WebClone, tmp_path: Path
) -> None:
    repository = copy_of(web_clone, tmp_path)
    module = f'[submodule "part"]\n\tpath = part\n\turl = {repository}\n'
    clone = received_with_subdatasets(web_clone, tmp_path, module)
    git(clone, "remote", "set-url", "origin", "http://127.0.0.1:9/dataset")
    assert statuses(list(get(clone, ["part/small/1.dat"]))) == {"part": "impossible"}
    assert not (clone / "part/small").exists()


def test_no_url_reads_a_file_or_runs_a_program_and_no_setting_comes_along(
    web_clone: WebClone, trap: Trap, tmp_path: Path
) -> None:
    secret = trap.victim / "secret"
    secret.write_bytes(b"secret")
    key = sha256e_key(6, hashlib.sha256(b"secret").hexdigest(), b"x.dat")
    urls = {
        "file.dat": f"file://{secret}",
        "yt.dat": "yt:http://127.0.0.1:9/video",
        "ytdlp.dat": "yt-dlp:http://127.0.0.1:9/video",
        "option.dat": f"-K{secret}",
        "out.dat": f"http://127.0.0.1:9/x -o {trap.marks}/out",
        "quvi.dat": "quvi:http://127.0.0.1:9/",
        "metadata.dat": "http://100.100.100.200/latest/",
        "other.dat": "http://192.168.255.254:9/x",
    }
    files = [
        File(name, key.replace(".dat", f".{number}"), [url], b"secret")
        for number, (name, url) in enumerate(urls.items())
    ]
    repository = make_dataset(tmp_path / "sent", files)
    settings = {
        "annex.security.allowed-url-schemes": "http https file",
        "annex.security.allowed-ip-addresses": "all",
        "annex.web-options": f"-o {trap.marks}/web",
        "annex.youtube-dl-command": str(trap.marks.parent / "programs" / "evil"),
    }
    lines = "".join(f"{STAMP}s {name} {value}\n" for name, value in settings.items())
    add_to_annex(repository, "config.log", lines)
    clone = clone_to(repository, tmp_path / "got")
    found = list(get(clone))
    assert {one.path for one in found if one.failed} == set(urls)
    assert trap.executed() == []
    assert not any((clone / name).exists() for name in urls)


def test_git_annex_requests_no_metadata_service_and_its_messages_have_no_signature(
    web_clone: WebClone, tmp_path: Path
) -> None:
    # only git-annex can request the second URLs
    inner = ["http://100.100.100.200/x", "dweb:x"]
    signed = ["http://127.0.0.1:9/x?X-Amz-Credential=c0ffee123&X-Amz-Signature=5ec2e7bad", "dweb:x"]
    files = [
        File("inner.dat", "URL--http&c%%100.100.100.200%x", inner, b""),
        File("signed.dat", sha256e_key(6, "0" * 64, b"x.dat"), signed, b"secret"),
    ]
    clone = clone_to(make_dataset(tmp_path / "sent", files), tmp_path / "got")
    found = {one.path: one for one in get(clone)}
    assert all(one.failed for one in found.values())
    assert "metadata" in found["inner.dat"].message
    message = found["signed.dat"].message
    assert "git annex get" in message
    assert "5ec2e7bad" not in message
    assert "c0ffee123" not in message
