"""Deltas give the same objects as the whole-state writer, at the cost of the changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from test_mint_snapshot_writer import histories, state

from neuromirror.mint import DeltaBase, MintResult, ParentCommits, Snapshot, mint, mint_delta
from neuromirror.model import (
    SnapshotEntry,
    diff_lines,
    dump_pairs,
    dump_snapshot_entry,
    load_changes,
    load_pairs,
    patch_lines,
)
from support.mint_oracle import (
    MintedRepository,
    add_pack,
    bare_repository,
    git,
    header,
    placed_files,
    record,
)


def plain(manifest: Path) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(manifest.read_bytes()).read()


def lines(files: list[SnapshotEntry]) -> list[bytes]:
    return [dump_snapshot_entry(one) for one in files]


class WriterPair:
    """Two repositories with the same states: one minted whole, one minted by deltas."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.whole, self.delta = (
            bare_repository(folder / "whole"),
            bare_repository(folder / "delta"),
        )
        self.before: list[SnapshotEntry] = []
        self.last: MintResult | None = None

    def mint(self, number: int, files: list[SnapshotEntry]) -> tuple[MintResult, MintResult]:
        scratch = self.folder / f"scratch-{number}"
        scratch.mkdir()
        last = self.last
        parents = ParentCommits() if last is None else ParentCommits(last.commit, last.annex_commit)
        snapshot = Snapshot(header(number), lambda: iter(files))
        name = f"label-{number}".format
        first = mint(snapshot, self.whole, parents, lambda state: name(), scratch)
        if last is None:
            second = mint(snapshot, self.delta, parents, lambda state: name(), scratch)
        else:
            pairs = list(diff_lines(lines(self.before), lines(files)))
            base = DeltaBase(last.commit, self.folder / "manifest")
            second = mint_delta(
                header(number),
                lambda: load_changes(pairs),
                base,
                self.delta,
                parents,
                lambda state: name(),
                scratch,
            )
            assert plain(first.manifest) == plain(second.manifest)
            second.manifest.unlink()
        first.manifest.rename(self.folder / "manifest")
        for repository, minted in ((self.whole, first), (self.delta, second)):
            for pack in minted.packs:
                add_pack(repository, pack)
            git(repository, "update-ref", "refs/heads/main", minted.commit)
            git(repository, "update-ref", "refs/heads/git-annex", minted.annex_commit)
        self.before, self.last = files, first
        return first, second


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=histories)
def test_a_delta_gives_the_ids_state_and_counts_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, history: list[dict[bytes, tuple[int, tuple[int]]]]
) -> None:
    pair = WriterPair(tmp_path_factory.mktemp("pair"))
    for number, files in enumerate(map(state, history)):
        first, second = pair.mint(number, files)
        for field in ("commit", "annex_commit", "tree", "state", "files", "bytes", "evidence"):
            assert getattr(first, field) == getattr(second, field), field
    assert git(pair.delta, "fsck", "--strict", "--full").strip() == b""


def test_delta_writes_only_trees_on_changed_paths(tmp_path: Path) -> None:
    pair = WriterPair(tmp_path)
    files = {
        b"sub-%03d/ses-%d/%d.nwb" % (n // 20, n % 4, n): record(b"", 4 * n) for n in range(2000)
    }
    placed = [
        SnapshotEntry(one.git_path, one.key, one.record)
        for one in placed_files(_with_own_paths(files))
    ]
    pair.mint(0, placed)
    files[b"sub-007/ses-1/new.nwb"] = record(b"", 9004)
    _, second = pair.mint(1, placed_files(_with_own_paths(files)))
    # symlink, 2 folders, root, dataset.json, its folder; log, URL log, 2 folders, root; commits
    (pack,) = second.packs
    assert pack.objects <= 14


def _with_own_paths(files: dict[bytes, object]) -> dict[bytes, object]:
    import msgspec

    return {name: msgspec.structs.replace(one, path=name) for name, one in files.items()}


def test_no_change_gives_the_parents_and_no_pack(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "minting")
    files = placed_files({b"a/b.nwb": record(b"a/b.nwb", 4)})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    snapshot = Snapshot(header(0), lambda: iter(files))
    first = mint(snapshot, minting.repository, ParentCommits(), lambda state: "x", scratch)
    for pack in first.packs:
        add_pack(minting.repository, pack)
    second = mint_delta(
        header(0),
        lambda: iter(()),
        DeltaBase(first.commit, first.manifest),
        minting.repository,
        ParentCommits(first.commit, first.annex_commit),
        lambda state: "x",
        scratch,
    )
    assert (second.commit, second.annex_commit) == (first.commit, first.annex_commit)
    assert second.packs == ()


@settings(max_examples=60, deadline=None)
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
