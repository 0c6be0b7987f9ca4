"""Deltas give the same objects as the whole-state writer, at the cost of the changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from test_mint_snapshot_writer import histories, state

from neuromirror.model import (
    SnapshotEntry,
    diff_lines,
    dump_pairs,
    dump_snapshot_entry,
    load_pairs,
    patch_lines,
)
from support.mint_oracle import (
    MintedRepository,
    placed_files,
    record,
)


def lines(files: list[SnapshotEntry]) -> list[bytes]:
    return [dump_snapshot_entry(one) for one in files]


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
