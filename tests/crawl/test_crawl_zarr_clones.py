"""Dandisets with Zarrs of the demo archive, mirrored and cloned."""

from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.killed_sync import count_steps, kill_syncs
from support.mirror_harness import MirrorHarness
from support.zarrs_of_every_kind import add_zarrs

KILLS = 4
Zarrs = dict[str, dict[str, str]]


def write_mirror_file(mirrors: Path, demo: DemoArchive, limits: str = "") -> None:
    """Write a mirror file that mirrors Zarrs, with limits."""
    (mirrors / "demo.toml").write_text(
        f'source = "dandi"\n[options]\napi = "{demo.api_url}"\nzarrs = true\n{limits}'
    )


@pytest.fixture
def zarrs(empty_archive: DemoArchive) -> Zarrs:
    """The Zarrs of the archive, which are mirrored."""
    write_mirror_file(empty_archive.mirrors, empty_archive)
    return add_zarrs(empty_archive)


def newest(
    mirror_harness: MirrorHarness, dandiset: str
) -> tuple[dict[str, str], set[str], dict[str, str]]:
    """Return Zarr datasets by path, paths of files, and reasons of exceptions by path."""
    with mirror_harness.index() as index:
        row = index.versions.last(f"demo:{dandiset}")
        assert row is not None
        parts = {one.source_path.decode(): one.dataset for one in index.versions.subdatasets(row)}
        files = {one.source_path.decode() for one in index.files.of(row)}
        exceptions = {one["path"]: one["reason"] for one in index.versions.exceptions(row)}
    return parts, files, exceptions


def test_every_zarr_is_mirrored_or_a_named_exception(
    empty_archive: DemoArchive, small_archive_harness: MirrorHarness, zarrs: Zarrs
) -> None:
    result = small_archive_harness.sync()
    wrong = zarrs["wrong"]
    failed = {name: one for name, one in result.items() if one.exit_code}
    assert failed.keys() == {f"demo:{wrong['dandiset']}"}
    assert wrong["path"] in failed[f"demo:{wrong['dandiset']}"].message
    for name, zarr in zarrs.items():
        if name == "closed":
            continue
        parts, files, exceptions = newest(small_archive_harness, zarr["dandiset"])
        inline = {file for file in files if file.startswith(f"{zarr['path']}/")}
        if name == "pending":
            assert parts[zarr["path"]] == f"demo:zarr/{zarr['zarr']}", name
            assert not inline
        elif name == "wrong":
            assert exceptions == {zarr["path"]: "zarr-not-proven"}
        else:
            assert len(inline) == len(empty_archive.zarrs[zarr["zarr"]].entries), name
            assert zarr["path"] not in exceptions
        roots = tuple(one["path"] for one in zarrs.values())
        assets = {file for file in files if not file.startswith(roots)}
        own = {one["path"] for one in zarrs.values() if one["dandiset"] == zarr["dandiset"]}
        assert assets | own == set(empty_archive.paths(zarr["dandiset"]))
    refs = small_archive_harness.refs()
    empty_archive.clear_requests()
    repeated = small_archive_harness.sync()
    assert {one.status for name, one in repeated.items() if name not in failed} == {"notneeded"}
    requested = [name for name, one in zarrs.items() if empty_archive.count_requests(one["zarr"])]
    assert set(requested) == {"pending", "wrong"}
    assert small_archive_harness.refs() == refs
    small_archive_harness.fsck()


@pytest.mark.slow
def test_a_sync_of_zarrs_killed_anywhere_converges(
    empty_archive: DemoArchive, tmp_path: Path
) -> None:
    dandiset = empty_archive.create_dandiset(Description("Zarrs", "Made up."))
    empty_archive.add_file(dandiset, "x.txt", "x")
    for name, chunks in (("one", 9), ("two", 8), ("little", 3)):
        entries = {".zgroup": b"{}", **{f"0/{number}": b"%d" % number for number in range(chunks)}}
        empty_archive.add_zarr(dandiset, f"{name}.zarr", entries)
    write_mirror_file(empty_archive.mirrors, empty_archive, "[zarr]\ninline_components = 6\n")
    whole = MirrorHarness(empty_archive.mirrors, tmp_path / "whole")
    steps = count_steps(whole.mirrors, whole.folder)
    expected = {one: sha for one, sha in whole.refs().items() if "--" in one}
    assert len([one for one in expected if "main" in one]) == 3
    points = [(2 * number + 1) * steps // (2 * KILLS) for number in range(KILLS)]
    stores = {tmp_path / f"killed-{point}": point for point in points}
    kill_syncs(empty_archive.mirrors, stores)
    for folder in stores:
        killed = MirrorHarness(empty_archive.mirrors, folder)
        assert {one.exit_code for one in killed.sync().values()} == {0}
        assert {one: sha for one, sha in killed.refs().items() if "--" in one} == expected
        killed.fsck()
        with killed.index() as index:
            assert {one.name for one in index.datasets.select(subdatasets=False)} == {
                f"demo:{dandiset}"
            }
