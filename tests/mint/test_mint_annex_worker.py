"""The delta writer and the worker process write the same objects as the plain writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from msgspec.structs import replace
from test_mint_snapshot_writer import ids, many_files

from neuromirror.mint import snapshot_writer
from neuromirror.mint.delta_writer import BaseManifestDamagedError
from neuromirror.model import NeuromirrorError, SnapshotHeader
from support.mint_oracle import MintedRepository, git, header, placed_files, record


def test_few_changes_in_a_large_state(tmp_path: Path) -> None:
    whole, delta = (MintedRepository.create(tmp_path / name) for name in ("whole", "delta"))
    files = many_files(3)
    changed = {one.record.path: one.record for one in files}
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
    monkeypatch.setattr(snapshot_writer, "_MIN_WORKER_BYTES", 0)
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
    monkeypatch.setattr(snapshot_writer, "_MIN_WORKER_BYTES", 0)
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
    with pytest.raises(BaseManifestDamagedError, match="manifest"):
        minting.mint_delta(1, files[:-3])
    assert list(minting.scratch.iterdir()) == []
