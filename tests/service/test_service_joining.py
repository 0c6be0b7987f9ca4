"""Starting a mirror from another mirror over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import JournalRecorder
from neuromirror.model import VersionMinted
from neuromirror.store import Store
from neuromirror_demo import DemoArchive
from support.loopback_http import DirectoryHandler, serving_directory
from support.mirror_harness import MirrorHarness
from support.running_catalogue import run_catalogue
from support.small_archive import small_archive
from support.stub_server import StubServer
from support.synced_mirror import copy_mirror, serve_few_dandisets, sync_mirror

DATASET = "demo:000002"
Serve = Callable[[Path], str]


@pytest.fixture(scope="module")
def synced(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirrorHarness]:
    """A mirror of a small archive with a published version."""
    folder = tmp_path_factory.mktemp("synced")
    with small_archive(folder / "demo", 2) as archive:
        archive.publish("000002")
        yield sync_mirror(archive, folder)


@pytest.fixture
def origin(synced: MirrorHarness, tmp_path: Path) -> Path:
    """The store of another mirror of this archive."""
    return copy_mirror(synced, tmp_path / "origin").folder


@pytest.fixture
def mine(synced: MirrorHarness, tmp_path: Path) -> MirrorHarness:
    """A mirror of this archive without a store."""
    return MirrorHarness(synced.mirrors, tmp_path / "mine")


def join(mine: MirrorHarness, url: str, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    options = ["--mirrors", str(mine.mirrors), "--store", str(mine.folder), "--json"]
    result = CliRunner().invoke(main, ["sync", "--from", url, *options, *arguments])
    assert result.exit_code == code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def versions(store: Store) -> dict[str, tuple[str, ...]]:
    return {
        f"{one.mirror}:{one.local_id}@{one.label}": (one.commit, one.state, one.kind, one.title)
        for _, one in store.read_entries(0)
        if isinstance(one, VersionMinted)
    }


def test_a_joined_mirror_has_the_ids_of_the_other(
    tmp_path: Path, demo_files: Path, serve_directory: Serve
) -> None:
    with serve_few_dandisets(tmp_path, demo_files, "000002", "000005") as demo:
        origin = sync_mirror(demo, tmp_path / "origin")
        mine = MirrorHarness(demo.mirrors, tmp_path / "mine")
        done = join(mine, serve_directory(origin.folder), "demo")

        assert {one["status"] for one in done} == {"ok"}
        assert versions(mine.store) == versions(origin.store)
        # the next sync finds nothing new, and writes the same superdatasets
        results = mine.sync()
    assert not any(one.versions for one in results.values())
    assert mine.refs() == origin.refs()
    mine.fsck()
    common = ["--mirrors", str(mine.mirrors), "--store", str(mine.folder)]
    for command in (["fsck"], ["rebuild-index"], ["fsck"]):
        assert CliRunner().invoke(main, [*command, *common]).exit_code == 0


def test_a_catalogue_is_a_mirror_to_join(origin: Path, mine: MirrorHarness, tmp_path: Path) -> None:
    with run_catalogue(Store.open(origin)) as catalogue:
        [done] = join(mine, catalogue.address, DATASET)
    assert done["status"] == "ok"
    assert DATASET in {one.partition("@")[0] for one in versions(mine.store)}


def test_a_repeated_join_skips_what_is_there(
    origin: Path, mine: MirrorHarness, serve_directory: Serve
) -> None:
    url = serve_directory(origin)
    join(mine, url, DATASET)
    before = mine.file_digests()

    [second] = join(mine, url, DATASET)

    assert second["status"] == "notneeded"
    assert mine.file_digests() == before


def _change_manifest(origin: Path) -> None:
    for path in (origin / "manifests").rglob("*.zst"):
        path.write_bytes(path.read_bytes()[:-10])


def _remove_manifests(origin: Path) -> None:
    shutil.rmtree(origin / "manifests")


def _git(repository: Path, *arguments: str, stdin: str = "", identity: str = "") -> str:
    name, email = "test", "test@example.org"
    if identity:
        name, _, email = identity.partition(" <")
    who = {"NAME": name, "EMAIL": email.rstrip(">"), "DATE": "1709288799 +0000"}
    environment = {
        f"GIT_{role}_{key}": one for role in ("AUTHOR", "COMMITTER") for key, one in who.items()
    }
    return subprocess.run(
        ["git", "-C", str(repository), "-c", "core.hooksPath=/dev/null", *arguments],
        input=stdin,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def _write(origin: Path, branch: str, path: str, content: str, mode: str = "100644") -> None:
    """Replace the last commit of a branch by one with another file, as neuromirror writes it."""
    repository = Store.open(origin).root / "alias" / "demo--000002"
    folder, _, name = path.rpartition("/")
    blob = _git(repository, "hash-object", "-w", "--stdin", stdin=content)

    def put(tree: str, name: str, entry: str) -> str:
        lines = [
            line
            for line in _git(repository, "ls-tree", tree).splitlines()
            if line.partition("\t")[2] != name
        ]
        return _git(repository, "mktree", stdin="\n".join([*lines, f"{entry}\t{name}", ""]))

    entry = f"{mode} blob {blob}"
    if folder:
        entry, name = f"040000 tree {put(f'{branch}:{folder}', name, entry)}", folder
    tree = put(branch, name, entry)
    parents = _git(repository, "log", "-1", "--format=%P", branch).split()
    message = _git(repository, "log", "-1", "--format=%B", branch)
    commit = _git(
        repository,
        "commit-tree",
        tree,
        *(f"-p{parent}" for parent in parents),
        "-F-",
        stdin=message,
        identity=_git(repository, "log", "-1", "--format=%an <%ae>", branch),
    )
    (repository / "hooks" / "reference-transaction").unlink(missing_ok=True)
    for ref in _git(
        repository, "for-each-ref", f"--points-at={branch}", "--format=%(refname)"
    ).split():
        _git(repository, "update-ref", ref, commit)
    _git(repository, "update-server-info")


FOREIGN_FILES = {
    "file": ("main", "foreign.txt", "foreign"),
    "procedure": ("main", ".datalad/cfg_foreign.py", "print()"),
    "attributes": ("main", ".gitattributes", "* filter=foreign\n"),
    "submodule": ("main", ".gitmodules", '[submodule "x"]\n\tpath = x\n\turl = ../x\n'),
    "remote": (
        "git-annex",
        "remote.log",
        "11111111-2222-5333-8444-555555555555 autoenable=true encryption=none externaltype=foreign "
        "name=foreign type=external timestamp=1709288799s\n",
    ),
    "trust": (
        "git-annex",
        "trust.log",
        "00000000-0000-0000-0000-000000000001 1 timestamp=1709288799s\n",
    ),
    "required content": (
        "git-annex",
        "required-content.log",
        "00000000-0000-0000-0000-000000000001 anything timestamp=1709288799s\n",
    ),
}
"""Branch, path and content of a file that neuromirror does not write."""


def _write_foreign(what: str, origin: Path) -> None:
    _write(origin, *FOREIGN_FILES[what])


def _link_elsewhere(origin: Path) -> None:
    repository = Store.open(origin).root / "alias" / "demo--000002"
    listed = _git(repository, "ls-tree", "-r", "main").splitlines()
    name = next(line.partition("\t")[2] for line in listed if line.startswith("120000"))
    target = _git(repository, "show", f"main:{name}")
    _write(origin, "main", name, target.replace(".git/", "../.git/", 1), "120000")


def _add_datalad_setting(origin: Path) -> None:
    repository = Store.open(origin).root / "alias" / "demo--000002"
    content = _git(repository, "show", "main:.datalad/config")
    setting = '[datalad "get"]\n\tsubdataset-source-candidate-000x = https://evil.example/{id}'
    _write(origin, "main", ".datalad/config", f"{content}\n{setting}\n")


def _commit_to(repository: Path, files: dict[str, str]) -> None:
    """Commit files as the whole tree of ``main``."""
    lines = ""
    for name, content in files.items():
        blob = _git(repository, "hash-object", "-w", "--stdin", stdin=content)
        lines += f"100644 blob {blob}\t{name}\n"
    commit = _git(repository, "commit-tree", _git(repository, "mktree", stdin=lines), "-m", "test")
    _git(repository, "update-ref", "refs/heads/main", commit)
    _git(repository, "update-server-info")


def _serve_from_another_host(origin: Path) -> None:
    """Name another host of the same server in all URLs of files."""
    repository = Store.open(origin).root / "alias" / "demo--000002"
    exported = _git(repository, "fast-export", "git-annex")
    (repository / "hooks" / "reference-transaction").unlink(missing_ok=True)
    # both hosts have nine characters, so that the lengths in the stream stay valid
    changed = exported.replace("127.0.0.1", "localhost")
    _git(repository, "fast-import", "--force", "--quiet", stdin=f"{changed}\n")
    _git(repository, "repack", "-q", "-a", "-d")
    _git(repository, "update-server-info")


def _rename_alias(origin: Path) -> None:
    link = origin / "alias" / "demo--000002"
    link.unlink()
    link.symlink_to((origin / "alias" / "demo--000001").readlink())


@pytest.mark.parametrize(
    "change",
    [
        _change_manifest,
        _remove_manifests,
        _rename_alias,
        _serve_from_another_host,
        _link_elsewhere,
        _add_datalad_setting,
        *(pytest.param(partial(_write_foreign, what), id=what) for what in FOREIGN_FILES),
    ],
)
def test_what_does_not_agree_is_refused(
    origin: Path,
    mine: MirrorHarness,
    serve_directory: Serve,
    change: Callable[[Path], None],
) -> None:
    change(origin)

    [refused] = join(mine, serve_directory(origin), DATASET, code=1)

    assert refused["status"] == "error"
    assert not versions(mine.store)
    assert not list(mine.store.aliases())


def test_a_description_may_lack_the_subdatasets(
    origin: Path, mine: MirrorHarness, serve_directory: Serve
) -> None:
    repository = Store.open(origin).root / "alias" / "demo--000002"
    path = ".neuromirror/dataset.json"
    description = json.loads(_git(repository, "show", f"main:{path}"))
    del description["parts"]
    _write(origin, "main", path, json.dumps(description))

    [done] = join(mine, serve_directory(origin), DATASET)

    assert done["status"] == "ok"


def test_a_file_that_the_archive_has_otherwise_is_refused(
    demo: DemoArchive, tmp_path: Path, serve_directory: Serve
) -> None:
    other = MirrorHarness(demo.mirrors, tmp_path / "other")
    other.sync(DATASET)
    with demo.lock:
        demo._rewrite(demo._blob("000002", "notes.txt"), b"other bytes")
    mine = MirrorHarness(demo.mirrors, tmp_path / "mine")

    [refused] = join(mine, serve_directory(other.folder), DATASET, code=1)
    assert refused["status"] == "error"
    [accepted] = join(mine, serve_directory(other.folder), DATASET, "--sample", "0")
    assert accepted["status"] == "ok"


def test_a_dataset_that_was_taken_down_is_not_brought_back(
    origin: Path, mine: MirrorHarness, serve_directory: Serve
) -> None:
    url = serve_directory(origin)
    join(mine, url, DATASET)
    common = ["--mirrors", str(mine.mirrors), "--store", str(mine.folder)]
    taken = CliRunner().invoke(main, ["takedown", DATASET, "--reason", "test", *common])
    assert taken.exit_code == 0, taken.output

    [refused] = join(mine, url, DATASET, code=1)

    assert refused["status"] == "error"
    assert "demo--000002" not in dict(mine.store.aliases())


def test_files_that_could_not_be_compared_do_not_count(
    demo: DemoArchive, tmp_path: Path, serve_directory: Serve
) -> None:
    other = MirrorHarness(demo.mirrors, tmp_path / "other")
    other.sync(DATASET)
    shutil.copytree(demo.mirrors, tmp_path / "mirrors")
    demo.__exit__(None, None, None)
    mine = MirrorHarness(tmp_path / "mirrors", tmp_path / "mine")

    [refused] = join(mine, serve_directory(other.folder), DATASET, code=1)
    assert refused["status"] == "error"
    assert not versions(mine.store)
    [accepted] = join(mine, serve_directory(other.folder), DATASET, "--sample", "0")
    assert accepted["status"] == "ok"


def test_another_dataset_of_the_same_name_is_not_replaced(
    origin: Path, mine: MirrorHarness, serve_directory: Serve
) -> None:
    mine.sync("demo:000001")
    store = mine.store
    link = store.root / "alias" / "demo--000002"
    link.symlink_to((store.root / "alias" / "demo--000001").readlink())

    [refused] = join(mine, serve_directory(origin), DATASET, code=1)

    assert refused["status"] == "error"
    assert link.readlink() == (store.root / "alias" / "demo--000001").readlink()


def test_a_join_killed_before_its_last_step_is_completed(
    origin: Path, mine: MirrorHarness, serve_directory: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve_directory(origin)
    with monkeypatch.context() as patched:
        patched.setattr(JournalRecorder, "append", _fail)
        join(mine, url, DATASET, code=1)
    assert not versions(mine.store)

    [done] = join(mine, url, DATASET)

    assert done["status"] == "ok"
    assert versions(mine.store)


def _fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_superdatasets_that_name_each_other_end(
    origin: Path, mine: MirrorHarness, serve_directory: Serve
) -> None:
    top = origin / "alias" / "demo"
    modules = '[submodule "a"]\n\tpath = a\n\turl = ../demo\n'
    _commit_to(top.resolve(), {".gitmodules": modules})

    assert join(mine, serve_directory(origin), "demo") == []


def test_another_archive_of_the_same_name_is_refused(
    origin: Path, mine: MirrorHarness, serve_directory: Serve, tmp_path: Path
) -> None:
    mirrors = tmp_path / "elsewhere"
    mirrors.mkdir()
    (mirrors / "demo.toml").write_text(
        'source = "dandi"\n[options]\napi = "https://api.example.org/api"\n'
    )
    elsewhere = MirrorHarness(mirrors, tmp_path / "mine")

    [refused] = join(elsewhere, serve_directory(origin), DATASET, code=1)

    assert refused["status"] == "error"
    assert not versions(elsewhere.store)


@pytest.mark.parametrize("url", ["ext::sh -c true", "file:///etc", "/etc", "https://"])
def test_only_web_servers_are_joined(mine: MirrorHarness, url: str) -> None:
    [refused] = join(mine, url, DATASET, code=2)
    assert refused["status"] == "error"


@pytest.mark.parametrize("redirected", ["/alias/demo--000002/info/refs", "/manifests/"])
def test_a_mirror_cannot_have_an_address_of_this_network_requested(
    origin: Path, mine: MirrorHarness, redirected: str
) -> None:
    with StubServer() as inner:

        class Redirecting(DirectoryHandler):
            def send_head(self) -> Any:
                if self.path.startswith(redirected):
                    self.send_response(302)
                    self.send_header("Location", f"{inner.url}/private?action=x")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
                return super().send_head()

        with serving_directory(origin, Redirecting) as url:
            (done,) = join(mine, url, DATASET, code=1)
    assert done["status"] == "error"
    assert inner.requests == []
    assert not mine.refs()


def test_an_unreachable_mirror_is_one_error(mine: MirrorHarness) -> None:
    [failed] = join(mine, "http://127.0.0.1:9", DATASET, code=1)
    assert failed["status"] == "error"


def test_subdatasets_are_joined_too(
    shared_demo: DemoArchive, tmp_path: Path, serve_directory: Serve
) -> None:
    mirrors = tmp_path / "mirrors"
    mirrors.mkdir()
    text = (shared_demo.mirrors / "demo.toml").read_text("utf-8")
    (mirrors / "demo.toml").write_text(f"{text}\n[zarr]\ninline = 4\n", "utf-8")
    other = MirrorHarness(mirrors, tmp_path / "other")
    other.sync("demo:000005")
    mine = MirrorHarness(other.mirrors, tmp_path / "mine")

    done = join(mine, serve_directory(other.folder), "demo:000005")

    assert {one["status"] for one in done} == {"ok"}, done
    assert {name.partition("@")[0] for name in versions(mine.store)} > {"demo:000005"}
    assert versions(mine.store) == versions(other.store)
    results = mine.sync("demo:000005")
    assert not any(one.versions for one in results.values())
    assert mine.refs() == other.refs()
