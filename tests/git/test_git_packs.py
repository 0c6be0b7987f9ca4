"""git reads our packs, and writes the same objects and index."""

import random
import struct
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromirror.git import (
    BLOB,
    COMMIT,
    REGULAR_FILE_MODE,
    TREE,
    KnownObjects,
    ObjectMissingError,
    ObjectReader,
    Pack,
    PackWriter,
    TreeBuilder,
    write_tree,
)
from neuromirror.git.packs import PackIndex, _ObjectTable, pack_size
from neuromirror.git.runner import PackIndexError
from neuromirror.mint import LineSorter, commit_bytes
from support.mint_oracle import add_pack, bare_repository, git, pack_ids

SIZES = [0, 1, 15, 16, 1023, 1024, 2047, 2048, 32767, 65535, 65536, 1 << 20]


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def verify_and_add_pack(repository: Path, pack: Pack) -> None:
    add_pack(repository, pack)
    path = repository / "objects" / "pack" / f"{pack.name}.pack"
    git(repository, "verify-pack", str(path.with_suffix(".idx")))
    git(repository, "index-pack", "--verify", str(path))
    # our index must equal git's, byte for byte
    git(repository, "index-pack", "-o", str(repository / "own.idx"), str(path))
    assert (repository / "own.idx").read_bytes() == path.with_suffix(".idx").read_bytes()
    assert pack.bytes == path.stat().st_size


def test_objects_of_all_sizes_come_back_as_they_were(tmp_path: Path) -> None:
    repository = bare_repository(tmp_path / "r")
    with PackWriter(tmp_path / "s") as writer:
        blobs = {size: writer.add(BLOB, content(size)).hex() for size in SIZES}
        tree = write_tree(writer, {b"a": (REGULAR_FILE_MODE, bytes.fromhex(blobs[15]))})
        commit = writer.add(COMMIT, commit_bytes("m", tree, None, 5, "x" * 5000)).hex()
        pack = writer.finish()
    assert pack is not None
    assert pack.objects == len(SIZES) + 2
    verify_and_add_pack(repository, pack)
    for size, sha in blobs.items():
        assert git(repository, "cat-file", "blob", sha) == content(size)
        assert (
            git(repository, "hash-object", "--stdin", stdin=content(size)).decode().strip() == sha
        )
    assert git(repository, "show", "-s", "--format=%s", commit).strip() == b"x" * 5000
    with ObjectReader(repository) as reader:
        assert reader.read(blobs[1 << 20]) == content(1 << 20)
        assert reader.read_commit_tree(commit) == tree
        assert reader.read_tree(tree) == {b"a": (REGULAR_FILE_MODE, bytes.fromhex(blobs[15]))}


additions = st.lists(st.sampled_from(SIZES[:8]) | st.integers(0, 40), max_size=40)


@settings(max_examples=10)
@given(sizes=additions)
def test_an_object_added_twice_is_in_the_pack_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("pack")
    with PackWriter(folder / "s") as writer:
        shas = [writer.add(BLOB, content(size)).hex() for size in sizes]
        pack = writer.finish()
    if not sizes:
        assert pack is None
        assert not list((folder / "s").iterdir())
        return
    assert pack is not None
    assert pack.objects == len(set(sizes))
    assert pack_ids(pack.index) == sorted(set(shas))
    verify_and_add_pack(bare_repository(folder / "r"), pack)
    assert not list((folder / "s").iterdir())


def test_duplicate_objects_around_a_flush_are_dropped(tmp_path: Path) -> None:
    big = [content((1 << 19) + number) for number in range(6)]
    with PackWriter(tmp_path / "s") as writer:
        for data in (big[0], *big[:4], big[3], *big, big[5]):
            writer.add(BLOB, data)
        pack = writer.finish()
    assert pack is not None
    assert pack.objects == 6
    verify_and_add_pack(bare_repository(tmp_path / "r"), pack)


def test_a_discarded_pack_leaves_nothing(tmp_path: Path) -> None:
    with PackWriter(tmp_path) as writer:
        writer.add(BLOB, content(3 << 20))
    assert not list(tmp_path.iterdir())
    writer = PackWriter(tmp_path)
    writer.discard()
    writer.discard()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), PackWriter(tmp_path) as writer:
        writer.add(BLOB, b"%d" % (1 // 0))
    assert not list(tmp_path.iterdir())


def add_blobs(repository: Path, scratch: Path, data: list[bytes]) -> list[bytes]:
    with PackWriter(scratch) as writer:
        shas = [writer.add(BLOB, one) for one in data]
        pack = writer.finish()
    assert pack is not None
    add_pack(repository, pack)
    return shas


def test_known_objects_are_those_of_all_packs_and_no_others(tmp_path: Path) -> None:
    repository = bare_repository(tmp_path / "r")
    with PackWriter(tmp_path) as writer:
        others = [writer.add(BLOB, b"other %d" % number) for number in range(2000)]
    known = KnownObjects(repository / "objects")
    assert not known
    assert others[0] not in known
    held = add_blobs(repository, tmp_path, [b"one %d" % number for number in range(2000)])
    held += add_blobs(repository, tmp_path, [b"single"])
    known = KnownObjects(repository / "objects")
    assert all(sha in known for sha in held)
    assert not any(sha in known for sha in others)
    for sha in held[:50]:
        number = int.from_bytes(sha, "big")
        assert (number + 1).to_bytes(20, "big") not in known
        assert (number - 1).to_bytes(20, "big") not in known
    assert bytes(20) not in known
    assert b"\xff" * 20 not in known
    with PackWriter(tmp_path / "s", known) as writer:
        assert writer.add(BLOB, b"one 7") == held[7]
        assert writer.finish() is None
    known.close()


def test_index_without_its_pack_adds_no_known_objects(tmp_path: Path) -> None:
    repository = bare_repository(tmp_path / "r")
    (sha,) = add_blobs(repository, tmp_path, [b"lost"])
    folder = repository / "objects" / "pack"
    next(folder.glob("*.pack")).unlink()
    (folder / "pack-00.idx").write_bytes(b"")
    (folder / "pack-00.pack").write_bytes(b"")
    known = KnownObjects(repository / "objects")
    assert sha not in known
    known.close()


def test_objects_of_packs_that_git_wrote_are_known(tmp_path: Path) -> None:
    repository = bare_repository(tmp_path / "r")
    sha = git(repository, "hash-object", "-w", "--stdin", stdin=b"loose").decode().strip()
    (ours,) = add_blobs(repository, tmp_path, [b"ours"])
    git(repository, "pack-objects", "-q", "objects/pack/pack", stdin=sha.encode() + b"\n")
    known = KnownObjects(repository / "objects")
    assert bytes.fromhex(sha) in known
    assert ours in known
    known.close()


def test_offsets_beyond_two_gigabytes_use_the_second_table() -> None:
    entry = struct.Struct(">20sIQ")
    offsets = [12, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, 1 << 32, (1 << 40) + 5, 99]
    shas = [bytes([40 * number]) + bytes(19) for number in range(len(offsets))]
    buckets = [bytearray() for _ in range(256)]
    for number in random.Random(3).sample(range(len(offsets)), len(offsets)):
        sha = shas[number]
        buckets[sha[0]] += entry.pack(sha, 1000 + number, offsets[number])
    index = b"".join(_ObjectTable(buckets).index_blocks()) + bytes(40)
    done = subprocess.run(["git", "show-index"], input=index, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [
        f"{offset} {sha.hex()} ({1000 + number:08x})"
        for number, (sha, offset) in enumerate(zip(shas, offsets, strict=True))
    ]


components = st.sampled_from([b"a", b"a.b", b"a-b", b"a0", b"a!", b"b", b"A", b"\xc3\xa9", b"a "])
paths = st.lists(components, min_size=1, max_size=4).map(b"/".join)


@settings(max_examples=12)
@given(chosen=st.lists(paths, unique=True, min_size=1, max_size=25))
def test_trees_from_sorted_paths_match_mktree(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[bytes]
) -> None:
    folders = {path[:end] for path in chosen for end, byte in enumerate(path) if byte == 47}
    files = sorted(set(chosen) - folders)
    folder = tmp_path_factory.mktemp("trees")
    repository = bare_repository(folder / "r")
    with PackWriter(folder / "s") as writer:
        blob = writer.add(BLOB, b"x")
        builder = TreeBuilder(writer)
        for path in files:
            builder.add(path, REGULAR_FILE_MODE, blob)
        root = builder.finish({})
        pack = writer.finish()
    assert pack is not None
    add_pack(repository, pack)
    listed = git(repository, "ls-tree", "-rz", "--name-only", root.hex()).split(b"\0")[:-1]
    assert listed == files
    assert git(repository, "fsck", "--strict", "--full").strip().startswith(b"dangling tree")
    assert root.hex() == mktree(repository, files, blob.hex().encode())


def mktree(repository: Path, files: list[bytes], blob: bytes) -> str:
    """The tree's id from ``git mktree``, which sorts the entries itself."""
    entries = []
    folders: dict[bytes, list[bytes]] = {}
    for path in files:
        name, slash, rest = path.partition(b"/")
        if slash:
            folders.setdefault(name, []).append(rest)
        else:
            entries.append(b"100644 blob %s\t%s" % (blob, name))
    for name, rests in folders.items():
        tree = mktree(repository, rests, blob).encode()
        entries.append(b"040000 tree %s\t%s" % (tree, name))
    random.Random(4).shuffle(entries)
    return git(repository, "mktree", "-z", stdin=b"\0".join(entries) + b"\0").decode().strip()


@settings(max_examples=50)
@given(
    lines=st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=60),
    limit=st.sampled_from([1, 60, 200, 1 << 20]),
)
def test_lines_are_sorted_with_any_memory_limit(lines: list[bytes], limit: int) -> None:
    with TemporaryDirectory() as folder:
        sort_lines(Path(folder), lines, limit)
        assert not list(Path(folder).iterdir())


def sort_lines(folder: Path, lines: list[bytes], limit: int) -> None:
    with LineSorter(folder, limit) as sorter:
        for line in lines[::2]:
            sorter.add(line)
        assert list(sorter) == sorted(lines[::2])
        for line in lines[1::2]:
            sorter.add(line)
        assert list(sorter) == list(sorter) == sorted(lines)


def test_missing_object_error_names_the_repository(tmp_path: Path) -> None:
    repository = bare_repository(tmp_path / "r")
    with (
        ObjectReader(repository) as reader,
        pytest.raises(ObjectMissingError, match=r"0{40}.*fsck"),
    ):
        reader.read("0" * 40)


def test_reader_ignores_variables_of_a_git_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = bare_repository(tmp_path / "ours"), bare_repository(tmp_path / "other")
    sha = git(ours, "hash-object", "-w", "--stdin", stdin=b"ours").decode().strip()
    monkeypatch.setenv("GIT_DIR", str(other))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other / "objects"))
    with ObjectReader(ours) as reader:
        assert reader.read(sha) == b"ours"


def test_tree_entries_are_in_git_order(tmp_path: Path) -> None:
    with PackWriter(tmp_path) as writer:
        sha = bytes(19) + b"\1"
        names = [b"a", b"a.b", b"a-b", b"a0"]
        entries = {name: (REGULAR_FILE_MODE if name != b"a" else b"40000", sha) for name in names}
        tree = write_tree(writer, entries)
        expected = b"".join(
            b"%s %s\0%s" % (entries[name][0], name, sha) for name in (b"a-b", b"a.b", b"a", b"a0")
        )
        assert tree == writer.add(TREE, expected)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    repository = bare_repository(tmp_path / "r")
    with PackWriter(tmp_path) as writer:
        for number in range(600):
            writer.add(BLOB, b"%d" % number)
        pack = writer.finish()
    assert pack is not None
    add_pack(repository, pack)
    return repository / "objects" / "pack" / f"{pack.name}.idx"


def test_index_has_exactly_the_ids_that_git_lists(index: Path) -> None:
    listed = {bytes.fromhex(one) for one in pack_ids(index)}
    assert pack_size(index.parent, index.stem).objects == len(listed) == 600
    with PackIndex(index) as ids:
        assert set[bytes]().union(*map(ids.ids_starting_with, range(256))) == listed
        assert all(one in ids for one in listed)
        assert not any(one[::-1] in ids for one in listed if one[::-1] not in listed)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:1000], id="truncated-fanout"),
        pytest.param(lambda content: content[:-5000], id="truncated-ids"),
        pytest.param(lambda content: b"x" + content[1:], id="magic"),
        pytest.param(lambda content: content[:8] + b"\xff" + content[9:], id="fanout-order"),
    ],
)
def test_damaged_index_is_rejected_and_its_objects_count_as_unknown(
    index: Path, damage: object
) -> None:
    known_id = bytes.fromhex(pack_ids(index)[0])
    known = KnownObjects(index.parents[1])
    assert known_id in known
    known.close()
    assert callable(damage)
    content = damage(index.read_bytes())
    index.unlink()
    index.write_bytes(content)
    with pytest.raises(PackIndexError, match=index.name):
        PackIndex(index)
    with pytest.raises(PackIndexError, match=index.name):
        pack_size(index.parent, index.stem)
    known = KnownObjects(index.parents[1])
    assert not known
    assert known_id not in known
    known.close()


def test_index_without_its_pack_is_ignored(index: Path) -> None:
    index.with_suffix(".pack").unlink()
    known = KnownObjects(index.parents[1])
    assert not known
    known.close()
