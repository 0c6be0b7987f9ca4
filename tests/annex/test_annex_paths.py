"""The mapping of upstream names to git paths is injective, reversible and accepted by git."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuromirror.annex import (
    fits_path_limits,
    git_path,
    link_target,
    mark_clash,
    sha256e_key,
    upstream_path,
)
from support.annex_helpers import path_components, run, upstream_names

LARGE = settings(max_examples=60)
IN_GIT = settings(
    max_examples=5,
    # examples may share the repository, to which only trees are added
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def mktree(repo: Path, trees: list[bytes]) -> list[str]:
    """Return the ids of trees with one file each, written without checks of the name."""
    blob = run("git", "hash-object", "-w", "--stdin", cwd=repo).stdout.strip().encode()
    stream = b"\0\0".join(b"120000 blob %s\t%s" % (blob, name) for name in trees) + b"\0"
    made = subprocess.run(
        ["git", "mktree", "-z", "--batch"], input=stream, cwd=repo, check=True, capture_output=True
    )
    return made.stdout.decode().split()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """An empty repository with protectHFS and protectNTFS."""
    return protecting(tmp_path)


def protecting(path: Path) -> Path:
    """Create a repository that refuses names that HFS+ and NTFS equate with .git."""
    run("git", "init", "-q", cwd=path)
    run("git", "config", "core.protectHFS", "true", cwd=path)
    run("git", "config", "core.protectNTFS", "true", cwd=path)
    return path


def fsck_complaints(repo: Path, trees: list[str]) -> set[str]:
    """Return the trees that ``git fsck --strict`` complains about."""
    done = run("git", "fsck", "--strict", "--no-dangling", *set(trees), cwd=repo, check=False)
    return {tree for tree in trees if tree in done.stdout + done.stderr}


@pytest.mark.parametrize(
    "name",
    [
        b"sub-01/sub-01_ses-20220405T101010_behavior+ecephys.nwb",
        b"a.zarr/.zattrs",
        b"a.zarr/0/.zarray",
        b".bidsignore",
        b".gitter/.github/.git-foo",
        b"git/gitmodules/gitignore~/mailmap/datalad",
        b"...",
        b"..a/.b.",
        b"a file (1) #2 [x] {y} & $z; 'q' \"p\" *?<>|",
        b"100%/50%2",
        b"%/a%b/%zz/%2e",
        "données/\u65e5\u672c/\U0001f9e0.nwb".encode(),
        b"x" * 255,
        b"/".join([b"y" * 255] * 5),
        b"a~1/~b/~",
    ],
)
def test_an_ordinary_name_maps_to_itself(name: bytes) -> None:
    assert git_path(name) == name
    assert upstream_path(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"", b"%_"),
        (b"/", b"%_/%_"),
        (b"a//b", b"a/%_/b"),
        (b"/a", b"%_/a"),
        (b"a/", b"a/%_"),
        (b".", b"%2E"),
        (b"..", b"%2E%2E"),
        (b"a/../b", b"a/%2E%2E/b"),
        (b".git/config", b"%2Egit/config"),
        (b"x/.GitModules", b"x/%2EGitModules"),
        (b".git . ", b"%2Egit . "),
        (b".git::$INDEX_ALLOCATION", b"%2Egit::$INDEX_ALLOCATION"),
        (b"GIT~1", b"%47IT~1"),
        (b"gi7eba~1", b"%67i7eba~1"),
        ("\u200c.g\u200dit".encode(), b"%E2%80%8C.g\xe2\x80\x8dit"),
        (b".datalad/config", b"%2Edatalad/config"),
        (b".noannex", b"%2Enoannex"),
        (b"a\nb\x7f", b"a%0Ab%7F"),
        ("a\x85".encode(), b"a%C2%85"),
        (b"a\\b", b"a%5Cb"),
        (b"a\xffb", b"a%FFb"),
        (b"%41", b"%2541"),
        (b"%_%+%", b"%25_%25+%"),
    ],
)
def test_escapes_by_example(name: bytes, expected: bytes) -> None:
    assert git_path(name) == expected
    assert upstream_path(expected) == name


@LARGE
@given(upstream_names)
def test_every_name_has_a_path_and_comes_back(name: bytes) -> None:
    path = git_path(name)
    path.decode("utf-8")
    assert upstream_path(path) == name
    assert all(0 < len(part) <= 255 for part in path.split(b"/"))
    # and so does a path that is marked for a clash
    marked = mark_clash(path)
    assert marked != path
    assert not marked.startswith(path + b"/"), "it is not in a folder of the path"
    assert upstream_path(marked) == name
    assert git_path(upstream_path(marked)) == path
    assert all(0 < len(part) <= 255 for part in marked.split(b"/"))


@LARGE
@given(st.lists(upstream_names, max_size=20, unique=True))
def test_two_names_never_share_a_path(some: list[bytes]) -> None:
    paths = [git_path(name) for name in some]
    assert len({*paths, *map(mark_clash, paths)}) == 2 * len(some)


@IN_GIT
@given(st.lists(path_components, min_size=50, max_size=300, unique=True))
def test_git_checks_find_nothing_in_an_escaped_name(repo: Path, some: list[bytes]) -> None:
    parts = sorted({part for name in some for part in git_path(name).split(b"/")})
    trees = mktree(repo, parts)
    assert fsck_complaints(repo, trees) == set()


@IN_GIT
@given(st.lists(path_components, min_size=50, max_size=300, unique=True))
def test_names_that_git_refuses_are_escaped(repo: Path, some: list[bytes]) -> None:
    raw = sorted({name for name in some if name and b"\n" not in name})
    by_tree = dict(zip(mktree(repo, raw), raw, strict=True))
    for tree in fsck_complaints(repo, list(by_tree)):
        assert git_path(by_tree[tree]) != by_tree[tree]


def test_git_refuses_the_unescaped_names(repo: Path) -> None:
    raw = [b".git", b"..", b"git~1", b".gitmodules", b"gi7eba~1", "\u200c.git".encode()]
    trees = mktree(repo, raw)
    assert fsck_complaints(repo, trees) == set(trees)


@settings(max_examples=2)
@given(st.lists(upstream_names, min_size=30, max_size=120, unique=True))
def test_git_takes_the_paths_into_an_index_and_checks_them_out(
    tmp_path_factory: pytest.TempPathFactory, some: list[bytes]
) -> None:
    repo = protecting(tmp_path_factory.mktemp("checkout"))
    # one folder per name, so that no name is the folder of another
    paths = [b"%d/%s" % (number, git_path(name)) for number, name in enumerate(some)]
    paths += [b"m%d/%s" % (n, mark_clash(git_path(name))) for n, name in enumerate(some)]
    (repo / "target").write_text("nowhere")
    link = run("git", "hash-object", "-w", "target", cwd=repo).stdout.strip().encode()
    lines = b"".join(b"120000 %s 0\t%s\0" % (link, path) for path in paths)
    subprocess.run(["git", "update-index", "-z", "--index-info"], input=lines, cwd=repo, check=True)
    assert run("git", "ls-files", "-z", cwd=repo).stdout.count("\0") == len(paths)
    run("git", "commit", "-q", "-m", "all", cwd=repo)
    assert "tree" not in run("git", "fsck", "--strict", cwd=repo).stdout
    run("git", "checkout", "-q", "-f", "HEAD", cwd=repo)
    for path in paths:
        assert os.path.islink(os.path.join(os.fsencode(repo), path))


def test_a_long_name_is_cut_between_characters_and_no_piece_is_interpreted() -> None:
    for before in range(230, 245):
        name = b"x" * before + b".git" + b"." * 20
        assert upstream_path(git_path(name)) == name
        pieces = git_path("\U0001f9e0".encode() * 70 + b"y" * (before - 200)).split(b"/")
        assert [piece.decode("utf-8") for piece in pieces]
        cut = git_path(b"x" * 240 + b".git" + b" " * 100)
        assert cut.split(b"/")[1].startswith(b"%2Egit")


@pytest.mark.parametrize("name", [b"z" * 255, b"a/" + b"z" * 254, b"z" * 253])
def test_a_clash_mark_never_makes_a_component_too_long(name: bytes) -> None:
    marked = mark_clash(git_path(name))
    assert marked.endswith(b"%_")
    assert max(map(len, marked.split(b"/"))) <= 255
    assert upstream_path(marked) == name


def test_a_path_within_the_limits_can_be_checked_out() -> None:
    key = sha256e_key(10**15, "f" * 64, b"x.abcd.efgh")
    assert fits_path_limits(b"a/b.nwb")
    deep = b"/".join([b"d"] * 1900)
    assert len(deep) < 3800
    assert len(link_target(key, deep)) > 4000
    assert not fits_path_limits(deep)
    assert not fits_path_limits(b"/".join([b"w" * 200] * 19))
    assert fits_path_limits(b"/".join([b"w" * 200] * 18))
