"""Random sequences of states give the trees that ``git fast-import`` writes."""

import random
from functools import partial
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromirror.annex import link_target, location_log, log_path, url_log_path
from neuromirror.mint import LineSorter, MintResult, ParentCommits, Snapshot, mint, state_writers
from neuromirror.model import (
    FileRecord,
    SnapshotEntry,
    VersionKind,
    WebRemote,
    dump_snapshot_entry,
    load_snapshot_entry,
)
from support.mint_oracle import (
    DOCUMENT,
    REMOTE,
    FastImportOracle,
    MintedRepository,
    add_pack,
    bare_repository,
    git,
    header,
    pack_ids,
    placed_files,
    record,
    timestamp,
)

_COMPONENTS = [
    *(b"a", b"a.b", b"a-b", b"a0", b"ab", b"A", b"b", b"a b", b"a\xc3\xa9", b"a\xff", b"a\x01"),
    *(b".git", b".GIT", b"git~1", b".gitmodules", b".datalad", b".neuromirror", b"..", b".", b""),
    *(b'q"q', b"back\\slash", b"new\nline", b"%41", b"%_", b"x" * 250, b"-", b"con.nwb", b"a.nwb"),
]
names = st.lists(st.sampled_from(_COMPONENTS), min_size=1, max_size=4).map(b"/".join)
locations = st.lists(st.integers(0, 3), unique=True, max_size=3).map(tuple)
contents = st.tuples(st.integers(0, 7), locations)
histories = st.lists(st.dictionaries(names, contents, max_size=8), min_size=1, max_size=4)


def state(files: dict[bytes, tuple[int, tuple[int, ...]]]) -> list[SnapshotEntry]:
    records = {
        # the key of a file without evidence is derived from its URL, so it needs one
        name: record(name, content, urls or ((0,) if content % 4 == 3 else ()))
        for name, (content, urls) in files.items()
    }
    return placed_files(records)


def ids(minted: MintResult) -> tuple[object, ...]:
    sums = (minted.files, minted.bytes, minted.evidence)
    return minted.commit, minted.tree, minted.annex_commit, minted.state, sums


def manifest_of(minting: MintedRepository) -> bytes:
    assert minting.manifest is not None
    return zstandard.ZstdDecompressor().stream_reader(minting.manifest.read_bytes()).read()


def tree_ids(minting: MintedRepository) -> tuple[str, str]:
    names = ("main", "git-annex")
    return tuple(  # type: ignore[return-value]
        git(minting.repository, "rev-parse", f"{name}^{{tree}}").decode().strip() for name in names
    )


def objects_of(repository: Path) -> set[str]:
    listed = git(
        repository, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)"
    ).decode()
    return set(listed.split())


@settings(max_examples=6)
@given(history=histories)
def test_sequence_of_states_matches_fast_import_whole_and_by_deltas(
    tmp_path_factory: pytest.TempPathFactory, history: list[dict[bytes, tuple[int, tuple[int]]]]
) -> None:
    folder = tmp_path_factory.mktemp("states")
    one, two = (MintedRepository.create(folder / name) for name in ("one", "two"))
    oracle = FastImportOracle(bare_repository(folder / "oracle"))
    for number, files in enumerate(map(state, history)):
        had = objects_of(one.repository)
        minted = one.mint(number, files)
        delta = two.mint_delta(number, files) if number else two.mint(0, files)
        assert ids(delta) == ids(minted)
        assert manifest_of(two) == manifest_of(one)
        assert tree_ids(one) == oracle.trees(number, files)
        assert minted.files == len(files)
        for pack in minted.packs:
            index = one.repository / "objects" / "pack" / f"{pack.name}.idx"
            written = pack_ids(index)
            assert len(set(written)) == len(written) == pack.objects
            assert not had & set(written)
            git(one.repository, "index-pack", "--verify", str(index.with_suffix(".pack")))
    for repository in (one.repository, two.repository):
        assert git(repository, "fsck", "--strict", "--full").strip() == b""
    clone = folder / "clone"
    git(folder, "clone", "-q", str(one.repository), str(clone))
    assert git(clone, "status", "--porcelain") == b""
    for placed in files:
        link = bytes(clone) + b"/" + placed.git_path
        assert Path(link.decode()).readlink() == Path(
            link_target(placed.key, placed.git_path).decode()
        )


def test_an_unchanged_state_writes_no_object_and_no_commit(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    files = state({b"a/b.nwb": (1, (0, 1)), b"c": (2, (0,))})
    first = minting.mint(0, files)
    second = minting.mint(0, files)
    assert second.packs == ()
    assert (second.commit, second.annex_commit) == (first.commit, first.annex_commit)
    assert (second.tree, second.state) == (first.tree, first.state)


def test_a_published_version_gets_a_commit_of_its_own_even_for_an_equal_tree(
    tmp_path: Path,
) -> None:
    repository = bare_repository(tmp_path / "repository")
    files = state({b"a": (1, (0,))})
    published = header(0, VersionKind.PUBLISHED)
    snapshot = Snapshot(published, lambda: iter(files))
    first = mint(snapshot, repository, ParentCommits(), lambda state: "1", tmp_path / "scratch")
    add_pack(repository, *first.packs)
    parents = ParentCommits(first.commit, first.annex_commit)
    second = mint(snapshot, repository, parents, lambda state: "2", tmp_path / "scratch")
    assert second.commit != first.commit
    assert (second.tree, second.annex_commit) == (first.tree, first.annex_commit)


def many_files(seed: int) -> list[SnapshotEntry]:
    """1,500 files: wide folders, one path 60 folders deep, and names around the slash."""
    rng = random.Random(seed)
    files: dict[bytes, FileRecord] = {}
    for number in range(1490):
        folder = rng.choice([b"sub-%d" % rng.randrange(200), b"wide", b"sub-1.x", b"sub-1-y"])
        name = b"%s/ses%s%d.nwb" % (folder, rng.choice([b"-", b".", b"/", b"0"]), number)
        files[name] = record(name, rng.randrange(700), rng.sample(range(4), 2))
    deep = b"/".join([b"d"] * 60) + b"/end.nwb"
    files[deep] = record(deep, 1)
    return placed_files(files)


def test_listing_order_and_sort_memory_change_no_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = many_files(1)
    plain = MintedRepository.create(tmp_path / "plain")
    expected = plain.mint(0, files)
    assert tree_ids(plain) == FastImportOracle(bare_repository(tmp_path / "oracle")).trees(0, files)

    shuffled = random.Random(2).sample(files, len(files))
    monkeypatch.setattr(state_writers, "LineSorter", partial(LineSorter, limit=5000))
    with LineSorter(tmp_path, limit=20_000) as sorter:
        for one in shuffled:
            sorter.add(one.git_path + b"\0" + dump_snapshot_entry(one))
        resorted = [load_snapshot_entry(line.partition(b"\0")[2]) for line in sorter]
    spilled = MintedRepository.create(tmp_path / "spilled")
    got = spilled.mint(0, resorted)
    assert (got.commit, got.annex_commit, got.state) == (
        expected.commit,
        expected.annex_commit,
        expected.state,
    )
    assert [pack.name for pack in got.packs] == [pack.name for pack in expected.packs]
    assert git(spilled.repository, "fsck", "--strict", "--full").strip() == b""


def logs_of(minting: MintedRepository, key: str) -> tuple[bytes, bytes]:
    return (
        git(minting.repository, "show", f"git-annex:{log_path(key).decode()}"),
        git(minting.repository, "show", f"git-annex:{url_log_path(key).decode()}"),
    )


def test_key_keeps_its_first_timestamp_and_old_urls_and_gets_new_ones(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    (first,) = state({b"a.nwb": (4, (1,))})
    minting.mint(0, [first])
    (second,) = state({b"moved/b.nwb": (4, (0, 2))})
    assert second.key == first.key
    minting.mint(1, [second])
    minting.mint(2, [])
    minting.mint(3, [second])
    location, urls = logs_of(minting, first.key)
    assert location == location_log(timestamp(0))
    assert urls.decode().splitlines() == [
        f"{timestamp(1)}s 1 https://s3.example.org/4?versionId=version-0",
        f"{timestamp(0)}s 1 https://s3.example.org/4?versionId=version-1",
        f"{timestamp(1)}s 1 https://s3.example.org/4?versionId=version-2",
    ]


def test_several_paths_of_one_key_share_their_logs(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    files = state({b"a.nwb": (4, (1,)), b"b.nwb": (4, (2,)), b"c/a.nwb": (4, (1, 3))})
    assert len({file.key for file in files}) == 1
    minting.mint(0, files)
    location, urls = logs_of(minting, files[0].key)
    assert location.count(b"\n") == 1
    assert [line.rpartition(b"=")[2] for line in urls.splitlines()] == [
        b"version-1",
        b"version-2",
        b"version-3",
    ]


def test_the_remote_is_configured_once_and_a_second_one_is_added(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    files = state({b"a": (1, (0,))})
    minting.mint(0, files)
    minting.mint(1, state({b"b": (2, (0,))}))
    first = git(minting.repository, "show", "git-annex:remote.log")
    assert first.count(b"\n") == 1
    assert f"timestamp={timestamp(0)}s\n".encode() in first
    other = WebRemote("other", "*//other.example.org/*", 400)
    parents = ParentCommits(minting.commit, minting.annex)
    snapshot = Snapshot(header(2, remotes=(REMOTE, other)), lambda: iter(files))
    minted = mint(snapshot, minting.repository, parents, lambda state: "x", tmp_path / "scratch")
    add_pack(minting.repository, *minted.packs)
    both = git(minting.repository, "show", f"{minted.annex_commit}:remote.log")
    assert both.startswith(first)
    assert both[len(first) :].count(b"\n") == 1
    assert b" name=other " in both


def test_foreign_entries_on_the_annex_branch_are_kept(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    (first,) = state({b"a.nwb": (4, (1,))})
    minting.mint(0, [first])
    path = log_path(first.key).decode()
    theirs = b"1700000000.5s 1 4ef5b6a1-6a7c-4b8a-8b8e-0d6a1f6e2d11\n"
    log = git(minting.repository, "show", f"git-annex:{path}") + theirs
    stream = b"commit refs/heads/git-annex\ncommitter A <a@b> 1700000000 +0000\ndata 0\n"
    stream += b"from refs/heads/git-annex^0\n"
    for name, content in ((path.encode(), log), (b"uuid.log", b"4ef5 mine timestamp=1s\n")):
        stream += b"M 100644 inline %s\ndata %d\n%s\n" % (name, len(content), content)
    git(minting.repository, "fast-import", "--quiet", stdin=stream)
    minting.annex = git(minting.repository, "rev-parse", "git-annex").decode().strip()
    minting.mint(1, state({b"a.nwb": (4, (2,)), b"b.nwb": (8, (0,))}))
    location, urls = logs_of(minting, first.key)
    assert location == log
    assert urls.count(b"\n") == 2
    assert git(minting.repository, "show", "git-annex:uuid.log").startswith(b"4ef5 mine")


def test_commits_follow_mint_spec_1(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    first = minting.mint(0, state({b"a": (1, (0,)), b"b": (2, (0,))}))
    second = minting.mint(1, [])
    who = "neuromirror <demo@neuromirror.invalid>"
    assert git(minting.repository, "cat-file", "commit", first.commit).decode() == (
        f"tree {first.tree}\n"
        f"author {who} 1670926272 +0000\n"
        f"committer {who} 1670926272 +0000\n"
        "\n"
        "demo:000001 label-0\n"
        "\n"
        "Mirror-Spec: 1\n"
        "Source: https://api.example.org/api/dandisets/000001/\n"
        "Version: draft\n"
        f"State: {first.state}\n"
        "Files: 2\n"
        "Bytes: 30\n"
    )
    parents = git(minting.repository, "log", "-1", "--format=%P %ct", second.commit).decode()
    assert parents.split() == [first.commit, "1670927272"]
    annex = git(minting.repository, "cat-file", "commit", first.annex_commit).decode()
    assert annex.endswith("\n\ndemo:000001 label-0\n\nMirror-Spec: 1\n")
    assert f"{who} 1670926272 +0000" in annex
    trailers = git(
        minting.repository, "log", "-1", "--format=%(trailers:key=State,valueonly)", second.commit
    )
    assert trailers.strip().decode() == second.state


def test_a_state_without_files_can_be_cloned(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    minted = minting.mint(0, [])
    assert (minted.files, minted.bytes, minted.evidence) == (0, 0, {})
    git(tmp_path, "clone", "-q", str(minting.repository), "clone")
    assert (tmp_path / "clone" / "dandiset.yaml").read_bytes() == DOCUMENT.content
