"""Documents in folders, subdatasets, and Zarr chunks that are in the manifest only."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from msgspec.structs import replace
from test_mint_snapshot_writer import manifest_of

from neuromirror.mint import (
    MintResult,
    ParentCommits,
    Snapshot,
    UnsuitableBaseError,
    mint,
    state_writers,
)
from neuromirror.model import Document, FileTotals
from support.dataset_states import SUBDATASETS, DatasetState, histories, subdataset
from support.mint_oracle import (
    ATTRIBUTES,
    QUOTED_PATHS,
    FastImportOracle,
    MintedRepository,
    bare_repository,
    git,
    header,
    placed_files,
    record,
)

INLINE = {b"b.zarr": 1, b"a/z.zarr": 2}
ID_FIELDS = ("commit", "annex_commit", "tree", "state", "metadata", "files", "bytes", "evidence")


def assert_same_result(one: MintResult, other: MintResult) -> None:
    for field in (*ID_FIELDS, "manifest_only", "in_subdatasets"):
        assert getattr(one, field) == getattr(other, field), field


def two_repositories(folder: Path) -> tuple[MintedRepository, MintedRepository]:
    return MintedRepository.create(folder / "whole"), MintedRepository.create(folder / "delta")


def refuse(tmp_path: Path, snapshot: Snapshot, message: str) -> None:
    """Mint a snapshot; fail unless it is refused and leaves nothing."""
    repository, scratch = bare_repository(tmp_path / "r"), tmp_path / "scratch"
    with pytest.raises(ValueError, match=message):
        mint(snapshot, repository, ParentCommits(), lambda state: "x", scratch)
    assert not list(scratch.glob("*"))


@settings(max_examples=8)
@given(history=histories)
def test_changing_files_documents_and_subdatasets_match_fast_import(
    tmp_path_factory: pytest.TempPathFactory, history: list[DatasetState]
) -> None:
    folder = tmp_path_factory.mktemp("shapes")
    whole, delta = two_repositories(folder)
    oracle = FastImportOracle(bare_repository(folder / "oracle"))
    for number, shape in enumerate(history):
        files, head = shape.listed_files, shape.header(number)
        expected = whole.mint(number, files, head)
        got = delta.mint_delta(number, files, head) if number else delta.mint(0, files, head)
        assert_same_result(expected, got)
        assert manifest_of(whole) == manifest_of(delta)
        trees = tuple(
            git(delta.repository, "rev-parse", f"{branch}^{{tree}}").decode().strip()
            for branch in ("main", "git-annex")
        )
        assert trees == oracle.trees(number, files, head)
    for minting in (whole, delta):
        assert git(minting.repository, "fsck", "--strict", "--full").strip() == b""
    git(folder, "clone", "-q", str(delta.repository), "clone")
    assert git(folder / "clone", "status", "--porcelain", "--ignore-submodules") == b""
    for document in head.documents:
        path = bytes(folder / "clone") + b"/" + document.path
        assert Path(path.decode()).read_bytes() == document.content


def test_listed_files_are_committed_or_counted_as_manifest_only(tmp_path: Path) -> None:
    zarr = {b".zgroup": (1, (0,)), b"0/.zarray": (2, (0,))}
    zarr |= {b"0/%d" % n: (20 * n, (0,)) for n in range(1, 20)}
    shape = DatasetState(zarr, form="manifest")
    minting = MintedRepository.create(tmp_path / "m")
    minted = minting.mint(0, shape.listed_files, shape.header(0))
    assert minted.files == 21
    assert minted.manifest_only == FileTotals(19, sum(200 * n for n in range(1, 20)))
    tree = git(minting.repository, "ls-tree", "-r", "--name-only", "main").split()
    assert [name for name in tree if b"zarr" in name or b"zg" in name or b"0/" in name] == [
        b".zgroup",
        b"0/.zarray",
    ]
    assert manifest_of(minting).count(b"\n") == 21
    logs = git(minting.repository, "ls-tree", "-r", "--name-only", "git-annex").split()
    assert len([name for name in logs if name.endswith(b".web")]) == 2
    document = json.loads(git(minting.repository, "show", "main:.neuromirror/dataset.json"))
    assert (document["form"], document["files"]) == ("manifest", 21)
    assert document["manifest-only"] == {"files": 19, "bytes": minted.manifest_only.bytes}


def test_inline_components_are_sorted_by_path_and_a_change_makes_a_commit(tmp_path: Path) -> None:
    whole, delta = two_repositories(tmp_path)
    files = {b"a/z.zarr/0": (1, (0,))}
    none, one, two = (DatasetState(files, inline=given) for given in ({}, {b"a/z.zarr": 2}, INLINE))
    for number, shape in enumerate((none, one, two, none)):
        expected = whole.mint(number, shape.listed_files, shape.header(number))
        write = delta.mint_delta if number else delta.mint
        assert_same_result(expected, write(number, shape.listed_files, shape.header(number)))
        document = json.loads(git(delta.repository, "show", "main:.neuromirror/dataset.json"))
        assert list(document["inline"]) == sorted(name.decode() for name in shape.inline)
    count = git(delta.repository, "rev-list", "--count", "main")
    assert count.strip() == b"4"
    document = json.loads(git(delta.repository, "show", "main~1:.neuromirror/dataset.json"))
    assert document["inline"]["a/z.zarr"] == {
        "source": "s3://zarr/2/",
        "checksum": f"{2:032}-2--18",
        "files": 2,
        "bytes": 18,
    }


def test_trailers_and_counts_are_of_the_datasets_own_files(tmp_path: Path) -> None:
    shape = DatasetState({b"x": (8, (0,))}, subdatasets={b"img.zarr": 3, b"a/b": 1})
    minting = MintedRepository.create(tmp_path / "m")
    minted = minting.mint(0, shape.listed_files, shape.header(0))
    assert (minted.files, minted.bytes) == (1, 80)
    assert minted.in_subdatasets == FileTotals(103 + 101, 4000)
    message = git(minting.repository, "log", "-1", "--format=%B", "main")
    assert b"\nFiles: 1\nBytes: 80\n" in message


def test_subdataset_commit_changes_without_a_change_of_state(tmp_path: Path) -> None:
    whole, delta = two_repositories(tmp_path)
    one, two = DatasetState(subdatasets={b"a": 2}), DatasetState(subdatasets={b"a": 3})
    first = whole.mint(0, one.listed_files, one.header(0))
    delta.mint(0, one.listed_files, one.header(0))
    second = whole.mint(1, two.listed_files, two.header(1))
    assert second.state == first.state
    assert second.tree != first.tree
    assert_same_result(second, delta.mint_delta(1, two.listed_files, two.header(1)))


def test_annex_worker_skips_subdatasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = MintedRepository.create(tmp_path / "one"), MintedRepository.create(tmp_path / "two")
    files = DatasetState(
        {b"x": (8, (0,)), b"y/x": (4, (1,))}, subdatasets={b"img.zarr": 3, b"a/b": 1}
    ).listed_files
    expected = one.mint(0, files)
    monkeypatch.setattr(state_writers, "_MIN_WORKER_BYTES", 0)
    assert_same_result(expected, two.mint_records(0, files))


def test_state_of_another_form_is_not_minted_from_changes(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    files = {b".zgroup": (1, (0,)), b"0/0": (2, (0,))}
    first, second = DatasetState(files), DatasetState(files, form="manifest")
    before = minting.mint(0, first.listed_files, first.header(0))
    with pytest.raises(UnsuitableBaseError, match="whole"):
        minting.mint_delta(1, second.listed_files, second.header(1))
    assert list(minting.scratch.iterdir()) == []
    after = minting.mint(1, second.listed_files, second.header(1))
    assert after.state == before.state
    assert after.tree != before.tree


def test_git_annex_keeps_edited_documents_in_git_and_the_attributes_never_change(
    tmp_path: Path,
) -> None:
    documents = [
        *(b".boss/channel.json", b".dandi/assets.jsonl", b".ndstore/info.json", b"dandiset.yaml"),
        *(b".precomputed/encodings.json", b"subject.json", b"original_metadata/deep/x.xml"),
        *(b"info", b"mesh/info", b"provenance", b"zarr.json", b"0/zarr.json"),
    ]
    others = [b"x.nwb", b"deep/other.json", b"data.yaml", b"large.json"]
    minting = MintedRepository.create(tmp_path / "m")
    few = minting.mint(
        0, placed_files({b"x.nwb": record(b"x.nwb", 4)}), replace(header(), documents=())
    )
    head = replace(header(), documents=tuple(Document(name, b"{}\n") for name in documents))
    many = minting.mint(1, placed_files({b"x.nwb": record(b"x.nwb", 4)}), head)
    attributes = [
        git(minting.repository, "show", f"{one.commit}:.gitattributes") for one in (few, many)
    ]
    assert attributes[0] == attributes[1] == ATTRIBUTES
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(minting.repository), str(clone))
    git(clone, "annex", "init", "-q")
    for name in (*documents, *others):
        path = clone / name.decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(b"edited" + b" " * (5 << 20 if name == b"large.json" else 0))
    git(clone, "annex", "add", "-q", ".")
    staged = git(clone, "ls-files", "-z", "-s").split(b"\0")
    modes = {line.partition(b"\t")[2]: line[:6] for line in staged if line}
    assert {modes[name] for name in documents} == {b"100644"}
    assert {modes[name] for name in others} == {b"120000"}


def test_subdatasets_have_the_paths_and_urls_that_git_reads(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    shape = DatasetState(
        subdatasets=dict.fromkeys((*QUOTED_PATHS, b"img.zarr", b"b/a-b/c.zarr"), 1)
    )
    minting.mint(0, shape.listed_files, shape.header(0))
    listed = git(minting.repository, "config", "--blob", "main:.gitmodules", "-z", "--list")
    found = dict(line.split(b"\n") for line in listed.split(b"\0") if line)
    for file in shape.listed_files:
        assert file.subdataset is not None
        own, section = file.subdataset.dataset_id.encode(), b"submodule.%s." % file.git_path
        assert found.pop(section + b"path") == file.git_path
        assert found.pop(section + b"url") == b"../../%s/%s" % (own[:3], own[3:])
        assert found.pop(section + b"datalad-id") == own
    assert found == {}


@pytest.mark.parametrize(
    "paths",
    [[b"a", b"a"], [b"../a"], [b".git/hooks/x"], [b".gitmodules"], [b"a//b"], [b"/a"], [b"a\nb"]],
)
def test_document_with_a_path_unsafe_for_git_is_refused(tmp_path: Path, paths: list[bytes]) -> None:
    head = replace(header(), documents=tuple(Document(path, b"") for path in paths))
    refuse(tmp_path, Snapshot(head, lambda: iter([])), "document")


def test_document_at_the_path_of_a_file_is_refused(tmp_path: Path) -> None:
    files = placed_files({b"a/b": record(b"a/b", 4)})
    head = replace(header(), documents=(Document(b"a/a", b""), Document(b"a/b", b"")))
    refuse(tmp_path, Snapshot(head, lambda: iter(files)), "a/b")


@pytest.mark.parametrize("what", ["commit", "dash", "form"])
def test_states_that_git_cannot_hold_are_refused(tmp_path: Path, what: str) -> None:
    head, one = header(), subdataset(SUBDATASETS[2], 1)
    if what == "commit":
        assert one.subdataset is not None
        known = msgspec.structs.replace(one.subdataset, commit="")
        one = msgspec.structs.replace(one, subdataset=known)
    elif what == "dash":
        one = subdataset(b"-x.zarr", 1)
    else:
        head = replace(head, form="other")
    refuse(tmp_path, Snapshot(head, lambda: iter([one])), what)
