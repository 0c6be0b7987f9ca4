"""Channels of a BOSS as datasets: what makes a version, what does not, and what goes wrong."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tenacity
from click.testing import CliRunner
from crawl_place import Place, git

from neuromirror.cli import main
from neuromirror.crawl import rebuild_index
from neuromirror.model import LinksFound
from neuromirror_demo.boss import ACTIVITY, CELLS, TISSUE, DemoBoss

FILE = """
source = "boss"
[options]
api = "{api}"
block = [128, 128, 32]
{more}
"""


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[DemoBoss]:
    with DemoBoss(tmp_path / "boss") as running:
        yield running


@pytest.fixture
def placed(boss: DemoBoss, tmp_path: Path) -> Callable[..., Place]:
    """A place with a mirror of the BOSS, of which ``include`` is wanted."""

    def make(*include: str, name: str = "place", **options: Any) -> Place:
        told = {"hash": "fetch", "include": list(include), **options}
        more = "\n".join(f"{key} = {json.dumps(value)}" for key, value in told.items())
        mirrors = tmp_path / name / "mirrors"
        mirrors.mkdir(parents=True, exist_ok=True)
        (mirrors / "b.toml").write_text(FILE.format(api=boss.api, more=more))
        return Place(mirrors, tmp_path / name / "store")

    return make


def labels(place: Place, channel: str = TISSUE) -> list[str]:
    with place.index() as index:
        return [version.label for version in index.versions(f"b:{channel}")]


def got(place: Place, channel: str, target: Path) -> Path:
    """A clone with all of its content."""
    git(target.parent, "clone", "-q", str(place.repository(f"b:{channel}")), target.name)
    for words in (("init", "-q"), ("get", "-q", "-J2"), ("fsck", "-q", "-J2")):
        git(target, "annex", *words)
    return target


@pytest.mark.slow
def test_every_kind_of_channel_comes_back_as_it_was_at_every_level(
    boss: DemoBoss, placed: Callable[..., Place], tmp_path: Path
) -> None:
    import zarr

    place = placed(TISSUE, CELLS, ACTIVITY)
    assert {one.status for one in place.sync().values()} == {"ok"}
    place.fsck()
    for number, channel in enumerate((TISSUE, CELLS, ACTIVITY)):
        clone = got(place, channel, tmp_path / f"clone{number}")
        group = zarr.open_group(str(clone), mode="r")
        levels = [one["path"] for one in group.attrs["ome"]["multiscales"][0]["datasets"]]
        assert levels == ["0", "1", "2"]
        for level in levels:
            wanted = boss.voxels(channel, int(level))
            array = group[level]
            assert array.dtype == wanted.dtype
            assert np.array_equal(array[...], wanted.reshape(array.shape))


def test_ten_syncs_of_an_unchanged_channel_are_one_version(
    boss: DemoBoss, placed: Callable[..., Place]
) -> None:
    place = placed(TISSUE, levels=[2], sample=2, rolling=3)
    place.sync()
    refs, content = place.refs(), place.content()
    messages = [place.sync()[f"b:{TISSUE}"].message for _ in range(9)]
    assert len(labels(place)) == 1
    assert place.refs() == refs
    differing = {path for path, digest in place.content().items() if content.get(path) != digest}
    # how far the rolling pass has come, and nothing else
    assert {path.split("/")[1] for path in differing} <= {"memos"}
    assert all(
        "nothing new; compared: metadata, 2 sampled blocks, block" in one for one in messages
    )


def test_a_voxel_changed_in_a_sampled_block_is_the_next_visits_version(
    boss: DemoBoss, placed: Callable[..., Place]
) -> None:
    place = placed(TISSUE, levels=[1, 2], sample=1000, rolling=0)
    place.sync()
    boss.edit(TISSUE, ((9, 10), (9, 10), (20, 21)), level=1, spread=False)
    assert place.sync()[f"b:{TISSUE}"].versions
    assert len(labels(place)) == 2
    changed = git(
        place.repository(f"b:{TISSUE}"), "diff", "--name-only", "main~1", "main", "--", "1"
    )
    assert changed.splitlines() == ["1/c/0/0/0"]


def test_a_voxel_changed_outside_of_the_sample_is_found_in_turn(
    boss: DemoBoss, placed: Callable[..., Place]
) -> None:
    place = placed(TISSUE, levels=[1, 2], sample=0, rolling=3)
    place.sync()
    with place.index() as index:
        blocks = index.resolve(f"b:{TISSUE}").files
    # the last of the blocks, so that it is the last one's turn
    box = boss.box(TISSUE, 2)
    boss.edit(TISSUE, tuple((stop - 1, stop) for _, stop in box), level=2, spread=False)
    visits = 0
    while len(labels(place)) == 1:
        place.sync()
        visits += 1
        assert visits <= blocks // 3 + 1
    assert visits == -(-blocks // 3)


def test_a_deep_visit_reads_every_block(boss: DemoBoss, placed: Callable[..., Place]) -> None:
    place = placed(TISSUE, levels=[2], sample=0, rolling=0)
    place.sync()
    box = boss.box(TISSUE, 2)
    boss.edit(TISSUE, tuple((stop - 1, stop) for _, stop in box), level=2, spread=False)
    assert "metadata only" in place.sync()[f"b:{TISSUE}"].message
    assert len(labels(place)) == 1
    assert place.sync(deep=True)[f"b:{TISSUE}"].versions


def test_storage_that_moves_is_the_same_version_with_other_links(
    boss: DemoBoss, placed: Callable[..., Place]
) -> None:
    place = placed(TISSUE, levels=[2])
    place.sync()
    with place.index() as index:
        before = index.links(f"b:{TISSUE}")
    assert before
    boss.move_storage(TISSUE)
    assert place.sync()[f"b:{TISSUE}"].status == "notneeded"
    with place.index() as index:
        after = index.links(f"b:{TISSUE}")
    assert len(labels(place)) == 1
    assert [kind for kind, _ in after if kind not in dict(before)] == ["precomputed"]
    assert len(place.entries(LinksFound)) == 2
    place.sync()
    assert len(place.entries(LinksFound)) == 2


@pytest.mark.parametrize(
    ("fault", "options", "words"),
    [
        ("status", {"status": 429, "path": "/cutout/", "retry_after": 1}, "429"),
        ("status", {"status": 503, "path": "/cutout/"}, "503"),
        ("status", {"status": 413, "path": "/cutout/"}, "set a smaller block"),
        ("cut", {"lying": True}, "/cutout/"),
        ("wrong_shape", {}, "voxels"),
        ("wrong_dtype", {}, "voxels"),
        ("html", {"path": "/cutout/"}, "html"),
    ],
)
def test_a_fault_is_told_and_the_old_version_kept(
    boss: DemoBoss,
    placed: Callable[..., Place],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    options: dict[str, Any],
    words: str,
) -> None:
    place = placed(TISSUE, levels=[2])
    place.sync()
    refs = place.refs()
    boss.edit(TISSUE, ((40, 41), (40, 41), (40, 41)))
    # the waits between attempts, and nothing else
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=lambda seconds: None))
    with boss.fault(fault, **options):
        result = place.sync(deep=True)[f"b:{TISSUE}"]
    assert (result.status, result.visit) == ("error", "failed")
    assert words in result.message
    assert TISSUE in result.message
    assert place.refs() == refs
    assert place.sync()[f"b:{TISSUE}"].versions


def test_a_hold_for_levels_that_upstream_must_downsample_again_says_so(
    boss: DemoBoss, placed: Callable[..., Place]
) -> None:
    place = placed(TISSUE, hash="none")
    place.sync()
    boss.set_status(TISSUE, "NOT_DOWNSAMPLED")
    assert place.sync()[f"b:{TISSUE}"].visit == "held"
    with place.index() as index:
        (hold,) = index.open_holds(f"b:{TISSUE}")
    assert "NOT_DOWNSAMPLED" in hold.reason
    boss.downsample(TISSUE)
    place.sync()
    with place.index() as index:
        assert not list(index.open_holds(f"b:{TISSUE}"))


def test_a_quota_until_tomorrow_ends_the_sync_at_once(
    boss: DemoBoss, placed: Callable[..., Place]
) -> None:
    place = placed("demo_cortex/*", levels=[2])
    with boss.fault("status", status=429, path="/downsample/"):
        boss.clear_requests()
        given = ["--mirrors", str(place.mirrors), "--store", str(place.folder)]
        # One at a time: datasets visited side by side may each send one before the first reply
        done = CliRunner().invoke(main, [*given, "sync", "--jobs", "1"])
    assert done.exit_code == 1
    assert boss.count_requests("/downsample/") == 1


def test_a_channel_that_is_marked_as_deleted_gets_a_tombstone(
    boss: DemoBoss, placed: Callable[..., Place]
) -> None:
    place = placed("demo_cortex/*", levels=[2])
    place.sync()
    refs = git(place.repository(f"b:{TISSUE}"), "for-each-ref")
    boss.soft_delete(TISSUE)
    results = place.sync()
    assert results[f"b:{TISSUE}"].visit == "not_found"
    assert git(place.repository(f"b:{TISSUE}"), "for-each-ref") == refs
    # upstream no longer names it among the sources of the other one
    assert results[f"b:{CELLS}"].versions
    with place.index() as index:
        assert index.dataset(f"b:{TISSUE}").gone
    boss.restore(TISSUE)
    assert place.sync()[f"b:{TISSUE}"].exit_code == 0


def test_a_wrong_token_names_the_variable_and_changes_nothing(
    boss: DemoBoss, placed: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOSS_TOKEN", boss.token)
    place = placed(TISSUE, levels=[2], token_env="BOSS_TOKEN")
    assert place.sync()[f"b:{TISSUE}"].versions
    refs = place.refs()
    monkeypatch.setenv("BOSS_TOKEN", "0123456789-not-the-token")
    results = place.sync()
    assert [one.status for one in results.values()] == ["error"]
    (message,) = [one.message for one in results.values()]
    assert "BOSS_TOKEN" in message
    assert "0123456789" not in message
    assert place.refs() == refs


def test_collections_and_experiments_are_super_datasets(
    boss: DemoBoss, placed: Callable[..., Place]
) -> None:
    place = placed(TISSUE, CELLS, ACTIVITY, levels=[2])
    place.sync()
    groups = {
        "b": ["demo_activity", "demo_cortex"],
        "b:demo_cortex": ["sections"],
        "b:demo_cortex/sections": ["cells", "em"],
        "b:demo_activity/calcium": ["gcamp"],
    }
    for name, members in groups.items():
        repository = place.repository(name)
        links = git(repository, "ls-tree", "-r", "main").splitlines()
        assert [line.split("\t")[1] for line in links if " commit " in line] == members
    before = git(place.repository("b:demo_activity"), "rev-parse", "main")
    boss.edit(TISSUE, ((40, 41), (40, 41), (40, 41)))
    place.sync(deep=True)
    assert git(place.repository("b:demo_activity"), "rev-parse", "main") == before
    link = git(place.repository("b:demo_cortex/sections"), "rev-parse", "main:em")
    assert link == git(place.repository(f"b:{TISSUE}"), "rev-parse", "main")
    place.fsck()


def test_an_index_made_anew_is_the_same_and_has_the_links(
    boss: DemoBoss, placed: Callable[..., Place]
) -> None:
    place = placed(TISSUE, ACTIVITY, levels=[2])
    place.sync()
    boss.move_storage(TISSUE)
    place.sync()
    store = place.store
    before = dump(store.index_path)
    rebuild_index(store, store.index_path)
    assert dump(store.index_path) == before
    # what the journal does not tell is told by git, and super-datasets tell nothing
    journal = store.root / "neuromirror" / "journal.jsonl"
    journal.unlink()
    rebuild_index(place.store, store.index_path)
    assert [len(labels(place, channel)) for channel in (TISSUE, ACTIVITY)] == [1, 1]


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_a_clone_of_the_mirror_works_its_way_down_to_a_block(
    boss: DemoBoss, placed: Callable[..., Place], tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    place = placed(TISSUE, levels=[2])
    place.sync()
    address = serve(place.folder)
    folder = tmp_path / "down"
    run = ["datalad", "clone", f"{address}/alias/b", str(folder)]
    subprocess.run(run, check=True, capture_output=True)
    block = "demo_cortex/sections/em/2/c/0/0/0"
    subprocess.run(["datalad", "get", block], cwd=folder, check=True, capture_output=True)
    assert (folder / block).stat().st_size == 75 * 65 * 32


def test_a_dry_run_counts_files_and_bytes_and_what_would_be_read(
    boss: DemoBoss, placed: Callable[..., Place], capsys: pytest.CaptureFixture[str]
) -> None:
    place = placed(TISSUE, CELLS, levels=[2])
    where = ["--mirrors", str(place.mirrors), "--store", str(place.folder)]
    with pytest.raises(SystemExit):
        main(["sync", "--dry-run", *where], standalone_mode=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("new; ")[2] for line in lines] == [
        "3 files, 3.7 MB; 3.7 MB read once, in 3 requests",
        "3 files, 468.0 kB; 468.0 kB read once, in 3 requests",
    ]
    assert boss.count_requests("/cutout/") == 0
    placed(TISSUE, CELLS, levels=[0], max_files=10)
    with pytest.raises(SystemExit) as ended:
        main(["sync", "--dry-run", *where], standalone_mode=True)
    assert ended.value.code == 1
    assert "27 chunk files" in capsys.readouterr().err


def test_without_hashing_nothing_is_read_and_metadata_alone_vouches(
    boss: DemoBoss, placed: Callable[..., Place]
) -> None:
    place = placed(TISSUE, hash="none")
    place.sync()
    assert boss.count_requests("/cutout/") == 0
    with place.index() as index:
        version = index.resolve(f"b:{TISSUE}")
        assert version.evidence == {"size": version.files}
        assert index.attributes(version)["checked"] == ["metadata only"]
    boss.describe(TISSUE, "Described anew")
    assert place.sync()[f"b:{TISSUE}"].versions
    with place.index() as index:
        assert index.resolve(f"b:{TISSUE}").metadata_only


def test_a_crawl_that_dies_goes_on_with_the_blocks_that_are_missing(
    boss: DemoBoss, placed: Callable[..., Place]
) -> None:
    place = placed(TISSUE, levels=[1], workers=1)
    with boss.fault("status", path="/cutout/", status=404, skip=5):
        assert place.sync()[f"b:{TISSUE}"].visit == "failed"
    boss.clear_requests()
    assert place.sync()[f"b:{TISSUE}"].versions
    with place.index() as index:
        blocks = index.resolve(f"b:{TISSUE}").files
    assert boss.count_requests("/cutout/") == blocks - 5
