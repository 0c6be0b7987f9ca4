"""Large Zarr stores are split from a listing and minted as subdatasets."""

import tracemalloc
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from neuromirror.annex import upstream_path
from neuromirror.config.mirror_files import ZarrLimits
from neuromirror.crawl.publish import insert_subdatasets, split_zarrs, zarr_ref
from neuromirror.crawl.validate import RecordSpool, SpooledSnapshot
from neuromirror.model import (
    DatasetRef,
    Document,
    ExcludedEntry,
    FileRecord,
    SnapshotEntry,
    Subdataset,
    dump_snapshot_entry,
)
from support.mint_oracle import (
    DATASET,
    FIRST_TIME,
    MintedRepository,
    git,
    header,
    placed_files,
    record,
)

MARKERS = (b".zgroup", b".zarray", b"zarr.json")


def proven_listing(
    folder: Path,
    names: Iterable[bytes],
    documents: Iterable[bytes] = (),
    exceptions: Iterable[bytes] = (),
) -> SpooledSnapshot:
    """A validated listing of files with these names, each newer than the one before."""
    records: dict[bytes, FileRecord] = {}
    for number, name in enumerate(names):
        moment = FIRST_TIME + timedelta(seconds=number)
        records[name] = msgspec.structs.replace(record(name, 20 * number), modified=moment)
    files = placed_files(records)
    spool = RecordSpool(folder / "records.jsonl")
    spool.path.write_bytes(b"".join(dump_snapshot_entry(file) + b"\n" for file in files))
    head = replace(
        header(),
        documents=tuple(Document(path, path, FIRST_TIME) for path in sorted(documents)),
        exceptions=tuple(ExcludedEntry(path, "path-too-long", "x", 1) for path in exceptions),
        newest=max((file.record.modified for file in files if file.record.modified), default=None),
    )
    return SpooledSnapshot(head, spool, len(files), len(files))


def limits(inline: int, manifest: int = 1000) -> ZarrLimits:
    return ZarrLimits(inline=inline, manifest=manifest)


def names_of(one: SpooledSnapshot) -> list[bytes]:
    return [placed.record.path for placed in one.spool.files()]


def zarr(root: bytes, count: int, marker: bytes = b".zgroup") -> list[bytes]:
    return [root + marker, *(root + b"0/%d" % number for number in range(count - 1))]


def test_zarr_size_decides_between_inline_and_subdataset(tmp_path: Path) -> None:
    names = [*zarr(b"s/small.zarr/", 3), *zarr(b"s/large/", 4), *zarr(b"huge/", 7), b"x.nwb"]
    rest, parts = split_zarrs(proven_listing(tmp_path, names), limits(3, 6), tmp_path)
    assert [(part.git_path, part.snapshot.header.form, part.snapshot.files) for part in parts] == [
        (b"huge", "manifest", 7),
        (b"s/large", "files", 4),
    ]
    assert names_of(rest) == [b"huge", b"s/large", *sorted(zarr(b"s/small.zarr/", 3)), b"x.nwb"]
    assert names_of(parts[0].snapshot) == sorted(zarr(b"", 7))
    assert rest.files == 4


@pytest.mark.parametrize("marker", MARKERS)
def test_zarr_is_recognized_by_its_marker_not_by_its_name(tmp_path: Path, marker: bytes) -> None:
    names = [b"img/!/0", b"img/c/0/0", b"img/c/0/1", b"img/" + marker, b"fake.zarr/0"]
    names += [b"fake.zarr/%d" % number for number in range(1, 9)]
    rest, parts = split_zarrs(proven_listing(tmp_path, names), limits(3), tmp_path)
    assert [part.git_path for part in parts] == [b"img"]
    assert len(names_of(parts[0].snapshot)) == 4
    assert rest.files == 9


def test_zarr_asset_gets_the_form_for_its_size(tmp_path: Path) -> None:
    names = [*zarr(b"", 5), *zarr(b"labels/", 5)]
    for documents in ([], [b"zarr.json"]):
        kept = names if not documents else names[1:]
        one = proven_listing(tmp_path, kept, documents)
        assert split_zarrs(one, limits(3, 10), tmp_path) == (one, [])
        rest, parts = split_zarrs(one, limits(3, 9), tmp_path)
        assert parts == []
        assert rest.header.form == "manifest"
        assert rest == replace(one, header=replace(one.header, form="manifest"))


def test_documents_and_exceptions_move_with_their_zarr(tmp_path: Path) -> None:
    one = proven_listing(
        tmp_path,
        zarr(b"meta/a b/", 5)[1:],
        [b"meta/a b/.zgroup", b"meta/a b/x/y.json", b"meta/a b.json", b"session.json"],
        [b"meta/a b/too/long", b"meta/a b-c"],
    )
    rest, (part,) = split_zarrs(one, limits(5), tmp_path)
    assert [document.path for document in part.snapshot.header.documents] == [
        b".zgroup",
        b"x/y.json",
    ]
    assert [document.path for document in rest.header.documents] == [
        b"meta/a b.json",
        b"session.json",
    ]
    assert [left.path for left in part.snapshot.header.exceptions] == [b"too/long"]
    assert [left.path for left in rest.header.exceptions] == [b"meta/a b-c"]


def test_component_depends_on_its_own_content_only(tmp_path: Path) -> None:
    around = DatasetRef("aind", "ecephys_1", "s3://bucket/ecephys_1/")
    one = proven_listing(tmp_path, [*zarr(b"m/a b.zarr/", 5), b"later.nwb"])
    version = replace(one.header.version, dataset=around)
    one = replace(one, header=replace(one.header, version=version))
    rest, (part,) = split_zarrs(one, limits(3), tmp_path)
    own = part.snapshot.header.version
    assert own.dataset == DatasetRef(
        "aind", "ecephys_1/m/a=20b.zarr", "s3://bucket/ecephys_1/m/a%20b.zarr/"
    )
    assert (part.within, own.upstream, own.kind.value) == ("ecephys_1", "draft", "observed")
    assert own.time == part.snapshot.header.newest == FIRST_TIME + timedelta(seconds=4)
    assert rest.header.newest == FIRST_TIME + timedelta(seconds=5)
    # a change of the parent's facts does not change the state of the component
    moved = replace(one, header=replace(one.header, facts=header(7).facts))
    _, (resplit,) = split_zarrs(moved, limits(3), tmp_path)
    assert resplit.snapshot.header == part.snapshot.header


@pytest.mark.parametrize(
    ("path", "local_id"),
    [
        (b"a/b.zarr", "000001/a/b.zarr"),
        (b"a--b:c", "000001/a-=2Db=3Ac"),
        (b"\xff//x", "000001/=FF/=_/x"),
        (b"x" * 300, ""),
    ],
)
def test_subdataset_aliases_do_not_collide(path: bytes, local_id: str) -> None:
    found = zarr_ref(DATASET, path)
    if len(path) < 200:
        assert found.local_id == local_id
    else:
        assert len(found.local_id) == len("000001/") + 36
        assert found.local_id == f"000001/{found.dataset_id}"
    assert "/" not in found.alias


def test_subdatasets_at_unexpected_paths_are_refused(tmp_path: Path) -> None:
    rest, (part,) = split_zarrs(
        proven_listing(tmp_path, [*zarr(b"a.zarr/", 5), b"x"]), limits(3), tmp_path
    )
    one = Subdataset("id", "local", "ab" * 20, "sha256:00", 5, 1)
    assert part.git_path == b"a.zarr"
    for wrong in ({b"b.zarr": one}, {b"x": one}, {b"a.zarr": one, b"b": one}):
        with pytest.raises(ValueError, match=r"'(b|x)"):
            insert_subdatasets(rest, wrong)
    with pytest.raises(ValueError, match="no commit"):
        MintedRepository.create(tmp_path / "m").mint(0, list(rest.spool.files()))
    assert insert_subdatasets(rest, {}) == rest
    (placed, _) = insert_subdatasets(rest, {b"a.zarr": one}).spool.files()
    assert placed.subdataset == one


_COMPONENTS = [b"a", b"a.b", b"-z", b"img", b"", b"%41", b"x" * 250, b"\xff", b".zgroup"]
_names = st.builds(
    lambda folders, name: b"/".join([*folders, name]),
    st.lists(st.sampled_from(_COMPONENTS), max_size=3),
    st.sampled_from([*MARKERS, b"0", b"1", b"img", b".zattrs", b"x" * 480 + b".zgroup"]),
)


def _folder_of_marker(name: bytes) -> bytes | None:
    folder, slash, last = name.rpartition(b"/")
    if last not in MARKERS:
        return None
    return folder + slash


@settings(max_examples=30)
@given(names=st.sets(_names, max_size=25), inline=st.integers(0, 4))
def test_every_file_is_in_its_outermost_large_zarr_or_in_the_rest(
    tmp_path_factory: pytest.TempPathFactory, names: set[bytes], inline: int
) -> None:
    folder = tmp_path_factory.mktemp("split")
    one = proven_listing(folder, sorted(names))
    listed = {placed.record.path for placed in one.spool.files()}
    roots = {root for root in map(_folder_of_marker, listed) if root is not None}
    outer = [root for root in roots if not any(root != up and root.startswith(up) for up in roots)]
    below = {root: {name for name in listed if name.startswith(root)} for root in outer}
    expected = {root: files for root, files in below.items() if len(files) > inline and root}

    rest, parts = split_zarrs(one, limits(inline), folder)
    found = {}
    for part in parts:
        root = upstream_path(part.git_path) + b"/"
        found[root] = {root + name for name in names_of(part.snapshot)}
        assert part.git_path[:1] != b"-"
        paths = [placed.git_path for placed in part.snapshot.spool.files()]
        assert paths == sorted(paths)
        assert part.snapshot.files == len(paths)
    assert found == expected
    links = [placed.git_path for placed in rest.spool.files() if placed.subdataset is not None]
    assert sorted(links) == sorted(part.git_path for part in parts)
    own = [placed for placed in rest.spool.files() if placed.subdataset is None]
    assert {placed.record.path for placed in own} == listed - set().union(*expected.values())
    assert rest.files == len(own)
    assert rest.files + sum(part.snapshot.files for part in parts) == one.files
    paths = [placed.git_path for placed in rest.spool.files()]
    assert paths == sorted(paths)
    assert len(set(paths)) == len(paths)


def test_memory_does_not_grow_with_the_number_of_chunks(tmp_path: Path) -> None:
    spool = RecordSpool(tmp_path / "records.jsonl")

    def peak(count: int) -> int:
        with spool.path.open("wb") as file:
            for number in range(count):
                path = b"img/c/%06d" % number
                file.write(
                    dump_snapshot_entry(SnapshotEntry(path, "K", FileRecord(path, 1))) + b"\n"
                )
            path = b"img/zarr.json"
            file.write(dump_snapshot_entry(SnapshotEntry(path, "K", FileRecord(path, 1))) + b"\n")
        one = SpooledSnapshot(header(), spool, count + 1, 0)
        tracemalloc.start()
        _, parts = split_zarrs(one, limits(100), tmp_path)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert parts[0].snapshot.files == count + 1
        return found

    first = peak(500)
    assert peak(10_000) < first + (1 << 18)


def test_listed_files_are_committed_excluded_or_manifest_only(tmp_path: Path) -> None:
    names = [*zarr(b"small.zarr/", 3), *zarr(b"part.zarr/", 5), *zarr(b"huge.zarr/", 9), b"x.nwb"]
    documents = [b"session.json", b"part.zarr/notes.json"]
    one = proven_listing(tmp_path, names, documents, [b"huge.zarr/too/long"])
    rest, parts = split_zarrs(one, limits(4, 8), tmp_path)
    links: dict[bytes, Subdataset] = {}
    committed = only = excepted = 0
    mintings = {}
    for part in parts:
        minting = MintedRepository.create(tmp_path / part.git_path.decode())
        minted = minting.mint(0, list(part.snapshot.spool.files()), part.snapshot.header)
        own = part.snapshot.header.version.dataset
        links[part.git_path] = Subdataset(
            own.dataset_id, own.local_id, minted.commit, minted.state, minted.files, minted.bytes
        )
        mintings[part.git_path] = (minting, minted, part.snapshot.header)
    whole = insert_subdatasets(rest, links)
    minting = MintedRepository.create(tmp_path / "whole")
    minted = minting.mint(0, list(whole.spool.files()), whole.header)
    mintings[b""] = (minting, minted, whole.header)
    for minting, made, head in mintings.values():
        tree = git(minting.repository, "ls-tree", "-r", "main").decode().splitlines()
        mirrored = [line for line in tree if not line.split("\t")[1].startswith(".datalad/")]
        links_of_files = [line for line in mirrored if line.startswith("120000")]
        assert len(links_of_files) == made.files - made.manifest_only.files
        committed += len(links_of_files) + len(head.documents)
        only += made.manifest_only.files
        excepted += len(head.exceptions)
        assert git(minting.repository, "fsck", "--strict", "--full").strip() == b""
    assert only == 8
    assert committed + only + excepted == len(names) + len(documents) + 1
    assert minted.in_subdatasets.files == 5 + 9
