"""The delta writer and the worker process write the same objects as the plain writer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from msgspec.structs import replace
from test_mint_snapshot_writer import histories, ids, many_files, state

from neuromirror.mint import state_writers
from neuromirror.mint.state_writers import UnsuitableBaseError
from neuromirror.model import (
    NeuromirrorError,
    SnapshotEntry,
    SnapshotHeader,
    diff_lines,
    dump_pairs,
    dump_snapshot_entry,
    load_pairs,
    patch_lines,
)
from support.mint_oracle import MintedRepository, git, header, placed_files, record


def test_few_changes_in_a_large_state(tmp_path: Path) -> None:
    whole, delta = (MintedRepository.create(tmp_path / name) for name in ("whole", "delta"))
    files = many_files(3)
    changed = {file.record.path: file.record for file in files}
    names = sorted(changed)
    for name in names[::211]:
        del changed[name]
    for number, name in enumerate(names[5::300]):
        changed[name] = record(name, 9000 + number)
        changed[name + b"/below"] = record(name + b"/below", number)
    for minting in (whole, delta):
        minting.mint(0, files)
    assert ids(delta.mint_delta(1, placed_files(changed))) == ids(
        whole.mint(1, placed_files(changed))
    )
    assert ids(delta.mint_delta(2, files)) == ids(whole.mint(2, files))
    assert ids(delta.mint_delta(3, [])) == ids(whole.mint(3, []))
    assert git(delta.repository, "fsck", "--strict", "--full").strip() == b""


def test_states_without_a_time_are_the_same_from_every_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undated(number: int) -> SnapshotHeader:
        head = header(number)
        return replace(head, version=replace(head.version, time=None))

    whole, delta, second = (
        MintedRepository.create(tmp_path / name) for name in ("whole", "delta", "second")
    )
    first, other = many_files(6)[:300], many_files(7)[:300]
    expected = [
        whole.mint(number, files, undated(number))
        for number, files in enumerate((first, other, first))
    ]
    got = [delta.mint(0, first, undated(0))]
    got += [delta.mint_delta(1, other, undated(1)), delta.mint_delta(2, first, undated(2))]
    monkeypatch.setattr(state_writers, "_MIN_WORKER_BYTES", 0)
    beside = [
        second.mint_records(number, files, undated(number))
        for number, files in enumerate((first, other))
    ]
    assert [ids(one) for one in expected] == [ids(one) for one in got]
    assert [ids(one) for one in expected[:2]] == [ids(one) for one in beside]
    assert [len(one.packs) for one in beside] == [2, 2]
    for branch, dates in (("main", [3, 2, 1]), ("git-annex", [2, 1])):
        dates_found = git(whole.repository, "log", "--format=%at %ct", branch).decode().splitlines()
        assert dates_found == [f"{date} {date}" for date in dates]
    assert git(whole.repository, "fsck", "--strict", "--full").strip() == b""


def test_annex_worker_error_is_raised_in_the_caller_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    monkeypatch.setattr(state_writers, "_MIN_WORKER_BYTES", 0)
    monkeypatch.chdir(tmp_path)
    # the worker process must not import modules from the working directory
    (tmp_path / "json.py").write_text("raise SystemExit(5)\n")
    minting.mint_records(0, many_files(6))
    files = many_files(7)
    for index in (minting.repository / "objects" / "pack").glob("*.idx"):
        index.unlink()
    with pytest.raises(NeuromirrorError, match="fsck"):
        minting.mint_records(1, files)
    assert list(minting.scratch.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1000],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: b"?" + whole,
        lambda whole: zstandard.compress(b'{"digest":"none","path":"a","size":1}\n'),
    ],
)
def test_manifest_of_another_state_is_never_a_base(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    files = many_files(8)[:300]
    minting.mint(0, files)
    assert minting.manifest is not None
    whole = minting.manifest.read_bytes()
    minting.manifest.chmod(0o644)
    minting.manifest.write_bytes(damage(whole))
    with pytest.raises(UnsuitableBaseError, match="manifest"):
        minting.mint_delta(1, files[:-3])
    assert list(minting.scratch.iterdir()) == []


def lines(files: list[SnapshotEntry]) -> list[bytes]:
    return [dump_snapshot_entry(file) for file in files]


def test_delta_writes_only_trees_on_changed_paths(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path)
    names = [b"sub-%03d/ses-%d/%d.nwb" % (n // 20, n % 4, n) for n in range(2000)]
    files = {name: record(name, 4 * n) for n, name in enumerate(names)}
    minting.mint(0, placed_files(files))
    new = b"sub-007/ses-1/new.nwb"
    minted = minting.mint_delta(1, placed_files(files | {new: record(new, 9004)}))
    # symlink, 2 folders, root, dataset.json, its folder; log, URL log, 2 folders, root; commits
    (pack,) = minted.packs
    assert pack.objects <= 14


def test_no_change_gives_the_parents_and_no_pack(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path)
    files = placed_files({b"a/b.nwb": record(b"a/b.nwb", 4)})
    first = minting.mint(0, files)
    second = minting.mint_delta(0, files)
    assert (second.commit, second.annex_commit) == (first.commit, first.annex_commit)
    assert second.packs == ()


@settings(max_examples=30)
@given(history=histories)
def test_differences_patch_a_state_into_the_next(
    history: list[dict[bytes, tuple[int, tuple[int]]]],
) -> None:
    before: list[bytes] = []
    for files in map(state, history):
        after = lines(files)
        pairs = list(diff_lines(before, after))
        assert list(patch_lines(before, pairs)) == after
        assert list(load_pairs(dump_pairs(pairs))) == pairs
        before = after


def test_a_patch_that_does_not_fit_is_refused() -> None:
    one = lines(placed_files({b"a": record(b"a", 4)}))
    two = lines(placed_files({b"a": record(b"a", 8)}))
    with pytest.raises(ValueError, match="no such file"):
        list(patch_lines([], diff_lines(one, two)))
