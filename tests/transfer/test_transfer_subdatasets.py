"""Subdatasets: installed and downloaded if they are named, or all of them with ``recursive``."""

import hashlib
import shutil
from pathlib import Path

import pytest

from neuromirror.annex import sha256e_key
from neuromirror.lab import Outcome
from neuromirror.transfer import get
from support.stub_server import StubServer, responds_with
from support.web_clone import File, WebClone, content_of, git, make_dataset


@pytest.fixture(scope="module")
def superdataset_template(
    web_clone_template: WebClone, module_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A clone of a dataset with one file and two subdatasets, of which one is not installed."""
    part, folder = web_clone_template.clone, tmp_path_factory.mktemp("superdataset")
    content = content_of("above")
    web_clone_template.web.contents["/above"] = content
    key = sha256e_key(len(content), hashlib.sha256(content).hexdigest(), b"own.dat")
    origin = git(part, "config", "remote.origin.url").strip()
    commit = git(part, "rev-parse", "HEAD").strip()
    modules = "".join(
        f'[submodule "{name}"]\n\tpath = {name}\n\turl = {origin}\n' for name in ("here", "there")
    )
    repository = make_dataset(
        folder / "above",
        [File("own.dat", key, [f"{web_clone_template.web.url}/above"], content)],
        {".gitmodules": ("100644", modules.encode())},
    )
    clone = folder / "super"
    git(folder, "clone", "-q", str(repository), str(clone))
    for name in ("here", "there"):
        git(clone, "update-index", "--add", "--cacheinfo", f"160000,{commit},{name}")
    git(clone, "commit", "-q", "-m", "parts")
    git(clone, "annex", "init", "-q")
    shutil.copytree(part, clone / "here", symlinks=True, dirs_exist_ok=True)
    return clone


@pytest.fixture
def superdataset_clone(superdataset_template: Path, tmp_path: Path) -> Path:
    """A copy of the clone."""
    return Path(shutil.copytree(superdataset_template, tmp_path / "super", symlinks=True))


def by_path(outcomes: list[Outcome]) -> dict[str, Outcome]:
    return {outcome.path: outcome for outcome in outcomes}


def test_without_recursive_only_the_datasets_own_files_are_fetched(
    superdataset_clone: Path,
) -> None:
    assert [one.path for one in get(superdataset_clone)] == ["own.dat"]


def test_a_path_in_a_subdataset_is_downloaded(superdataset_clone: Path) -> None:
    got = by_path(
        list(get(superdataset_clone, ["here/small/1.dat", "here/small/2.dat", "own.dat"]))
    )
    assert {path: one.status for path, one in got.items()} == dict.fromkeys(
        ("here/small/1.dat", "here/small/2.dat", "own.dat"), "ok"
    )
    assert (superdataset_clone / "here/small/1.dat").exists()
    assert not (superdataset_clone / "here/small/3.dat").exists()


def test_a_subdataset_is_installed_without_datalad(
    superdataset_clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    annex = shutil.which("git-annex")
    assert annex is not None
    (programs / "git-annex").symlink_to(annex)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    assert shutil.which("datalad") is None
    got = by_path(list(get(superdataset_clone, ["there/small/1.dat", "own.dat"])))
    assert {path: one.status for path, one in got.items()} == dict.fromkeys(
        ("there/small/1.dat", "own.dat"), "ok"
    )


def test_a_subdataset_without_a_url_is_named_and_blocks_nothing(superdataset_clone: Path) -> None:
    commit = git(superdataset_clone / "here", "rev-parse", "HEAD").strip()
    git(superdataset_clone, "update-index", "--add", "--cacheinfo", f"160000,{commit},lost")
    got = by_path(list(get(superdataset_clone, ["lost", "there/small/1.dat"])))
    assert got["lost"].status == "impossible"
    assert got["there/small/1.dat"].status == "ok"


def test_a_redirect_of_a_subdatasets_server_is_not_followed(superdataset_clone: Path) -> None:
    with StubServer() as inner, StubServer() as server:
        target = f"{inner.url}/private?action=x"
        server.answers["/part/info/refs"] = responds_with(302, Location=target)
        git(superdataset_clone, "config", "submodule.there.url", f"{server.url}/part")
        got = by_path(list(get(superdataset_clone, ["there/small/1.dat", "own.dat"])))
        assert len(server.requests) >= 1
        assert inner.requests == []
    assert got["there"].status == "impossible"
    assert "the server redirects" in got["there"].message
    assert got["own.dat"].status == "ok"


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "../part", "https://metadata.google.internal/x"]
)
def test_no_subdataset_is_cloned_from_a_metadata_service(
    superdataset_clone: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    proxy = StubServer()
    with proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        modules = superdataset_clone / ".gitmodules"
        modules.unlink()  # the content of a locked file of git-annex is not writable
        modules.write_text(f'[submodule "there"]\n\tpath = there\n\turl = {url}\n')
        if url.startswith("."):
            git(superdataset_clone, "config", "remote.origin.url", "http://100.100.100.200/a")
        got = by_path(list(get(superdataset_clone, ["there/small/1.dat"])))
        assert proxy.requests == []
    assert got["there"].status == "impossible"
    assert "its host is " in got["there"].message


def test_recursive_installs_and_downloads_all_subdatasets(superdataset_clone: Path) -> None:
    got = by_path(list(get(superdataset_clone, recursive=True)))
    for part in ("here", "there"):
        assert got[f"{part}/small/1.dat"].status == "ok"
        assert (superdataset_clone / part / "large/1.dat").exists()
    assert got["own.dat"].status == "ok"


def test_a_repository_without_git_annex_may_contain_datasets(
    superdataset_clone: Path, tmp_path: Path
) -> None:
    paper = tmp_path / "paper"
    git(tmp_path, "init", "-q", str(paper))
    shutil.move(superdataset_clone, paper / "data")
    git(paper, "add", "data")
    got = by_path(list(get(paper, ["data/here/small/1.dat", "data/own.dat"])))
    assert {path: one.status for path, one in got.items()} == {
        "data/here/small/1.dat": "ok",
        "data/own.dat": "ok",
    }


def test_a_broken_subdataset_does_not_stop_the_others(superdataset_clone: Path) -> None:
    shutil.rmtree(superdataset_clone / "here" / ".git" / "objects")
    got = by_path(list(get(superdataset_clone, ["here", "own.dat"])))
    assert got["here"].status == "error"
    assert str(superdataset_clone / "here") in got["here"].message
    assert got["own.dat"].status == "ok"
