"""Two stores of one upstream state, and interrupted stores: the same ids (I3, I4)."""

import contextlib
import random
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuromirror.crawl import Mirror, rebuild_index
from neuromirror.index import Index
from neuromirror.model import VersionMinted, VersionRef
from neuromirror.sources import Listing, ListingEntry, Source
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import ACTIVITY, DemoBoss
from neuromirror_demo.ndstore import DemoNdstore
from support.killed_sync import count_steps, kill_syncs
from support.mirror_harness import MirrorHarness, run_git
from support.shifted_sync import sync_with_shifted_clock

KILLS = 4


class ShuffledSource:
    """A source with listings in another order."""

    def __init__(self, source: Source, seed: int) -> None:
        self._source = source
        self._random = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def datasets(self) -> Any:
        hints = list(self._source.datasets())
        self._random.shuffle(hints)
        return iter(hints)

    def listing(self, version: VersionRef, known: Any) -> Listing:
        listing = self._source.listing(version, known)
        in_order = listing.entries

        def shuffled() -> Iterator[ListingEntry]:
            entries = list(in_order())
            self._random.shuffle(entries)
            yield from entries

        listing.entries = shuffled  # type: ignore[method-assign]
        return listing


class ShuffledMirror(Mirror):
    """A mirror that opens a shuffled source."""

    def open(self) -> Source:
        return ShuffledSource(super().open(), seed=7)  # type: ignore[return-value]


def test_two_stores_get_the_same_ids_whatever_the_order_of_listings(
    mirror_harness: MirrorHarness, second_harness: MirrorHarness
) -> None:
    second_harness.open_mirror = lambda one: ShuffledMirror(one.name, one.path, one.settings)
    mirror_harness.sync()
    second_harness.sync()
    refs = mirror_harness.refs()
    assert second_harness.refs() == refs
    for branch in ("main", "published", "git-annex"):
        assert any(name.endswith(f"/{branch}") for name in refs)
    mirror_harness.fsck()
    second_harness.fsck()


def test_published_commits_do_not_depend_on_when_the_mirror_began(
    mirror_harness: MirrorHarness, second_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync("demo:000008")
    demo.change_file("000008", demo.paths("000008")[0])
    mirror_harness.sync("demo:000008")
    demo.publish("000008")
    mirror_harness.sync("demo:000008")
    second_harness.sync("demo:000008")
    ids = [
        run_git(one.repository("demo:000008"), "rev-parse", "published")
        for one in (mirror_harness, second_harness)
    ]
    assert ids[0] == ids[1]
    trees = [
        run_git(one.repository("demo:000008"), "rev-parse", "main^{tree}")
        for one in (mirror_harness, second_harness)
    ]
    assert trees[0] == trees[1]


@pytest.mark.slow
def test_a_sync_killed_anywhere_leaves_a_whole_store_and_converges(
    two_dandisets: DemoArchive, tmp_path: Path
) -> None:
    demo = two_dandisets
    undisturbed = MirrorHarness(demo.mirrors, tmp_path / "undisturbed")
    steps = count_steps(demo.mirrors, undisturbed.folder)
    assert steps > 15 * KILLS
    expected = undisturbed.refs()
    rng = random.Random(steps)
    points = [(2 * n + 1) * steps // (2 * KILLS) + rng.randrange(-3, 4) for n in range(KILLS)]
    stores = {tmp_path / f"killed-{point}": point for point in points}
    kill_syncs(demo.mirrors, stores)
    for folder, point in stores.items():
        killed = MirrorHarness(demo.mirrors, folder)
        killed.fsck(killed=True)
        assert all(repository.refs() for _, repository in killed.store.repositories.aliases())
        assert {one.exit_code for one in killed.sync().values()} == {0}
        found = killed.refs()
        assert found == expected, f"killed at {point} of {steps}"
        killed.fsck()
        with Index.open_readonly(killed.store.index_path) as index:
            commits = {
                row.commit for one in index.datasets.select() for row in index.versions.of(one.name)
            }
        tags = {commit for name, commit in expected.items() if " refs/tags/" in name}
        assert commits == tags
        assert not list((killed.folder / "neuromirror" / "tmp").iterdir())


def dump(path: Path) -> list[str]:
    """Return the SQL dump of a database, without the internal tables of full-text search.

    These depend on the number of transactions.
    """
    internal = re.compile(r'INSERT INTO "(?:dataset_text|dataset_text_tokens|path_text)_\w+" ')
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [line for line in database.iterdump() if not internal.match(line)]


def test_a_rebuilt_index_has_the_same_tables(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync()
    demo.change_file("000008", demo.paths("000008")[0])
    demo.publish("000008")
    demo.delete_dandiset("000003")
    mirror_harness.sync()
    store = mirror_harness.store
    before = dump(store.index_path)
    for path in store.index_path.parent.glob("index.sqlite*"):
        path.unlink()
    rebuild_index(store, store.index_path)
    assert dump(store.index_path) == before


def test_versions_that_only_git_has_are_found_by_a_rebuild(mirror_harness: MirrorHarness) -> None:
    mirror_harness.sync()
    store = mirror_harness.store
    with mirror_harness.index() as index:
        before = {
            name: [(row.label, row.commit, row.state, row.files, row.bytes) for row in rows]
            for name, rows in (
                (one.name, list(index.versions.of(one.name))) for one in index.datasets.select()
            )
        }
        files = [
            (one.path, one.key)
            for one in index.files.of(index.versions.resolve("demo:000002", "draft"))
        ]
    (mirror_harness.folder / "neuromirror" / "journal.jsonl").unlink()
    rebuild_index(store, store.index_path)
    with mirror_harness.index() as index:
        for name, rows in before.items():
            found = [
                (row.label, row.commit, row.state, row.files, row.bytes)
                for row in index.versions.of(name)
            ]
            assert found == rows
        rebuilt_files = [
            (one.path, one.key)
            for one in index.files.of(index.versions.resolve("demo:000002", "draft"))
        ]
    assert rebuilt_files == files


def test_records_that_were_lost_are_read_back_from_git(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync("demo:000004")
    store = mirror_harness.store
    with mirror_harness.index() as index:
        row = index.versions.resolve("demo:000004", "draft")
        before = [(one.path, one.key, one.size, one.evidence) for one in index.files.of(row)]
    shutil.rmtree(mirror_harness.folder / "neuromirror" / "records")
    (mirror_harness.folder / "neuromirror" / "journal.jsonl").unlink()
    rebuild_index(store, store.index_path)
    with mirror_harness.index() as index:
        row = index.versions.resolve("demo:000004", "draft")
        assert [
            (one.path, one.key, one.size, one.evidence) for one in index.files.of(row)
        ] == before
        (found, *_) = index.files.of(row)
        assert len(index.locations.of(found.content)) == 2
    refs = mirror_harness.refs()
    shutil.rmtree(mirror_harness.folder / "neuromirror" / "records")
    demo.add_file("000004", "new.txt", b"new")
    assert mirror_harness.sync("demo:000004")["demo:000004"].status == "ok"
    assert mirror_harness.refs() != refs
    mirror_harness.fsck()


@pytest.fixture
def all_mirror_files(tmp_path: Path, demo_files: Path) -> Iterator[Path]:
    """Mirror files for all kinds of archives: DANDI, buckets, layers, BOSS and ndstore."""
    folder = tmp_path / "whole"
    # some datasets of each archive, and fewer requests than with the blocks of the demo
    selections = {
        "demo-aind": 'exclude = ["746346_*", "behavior_*"]\n',
        "demo-boss": f'include = ["{ACTIVITY}"]\n',
        "demo-neurodata": 'include = ["demo11/image", "demo11_anno/cells"]\n',
    }
    with (
        DemoArchive(folder, cache=demo_files, buckets=True, layers=True) as demo,
        DemoBoss(folder),
        DemoNdstore(folder),
    ):
        for name, selection in selections.items():
            file = demo.mirrors / f"{name}.toml"
            settings = file.read_text().replace("block = [128, 128, 16]", "block = [256, 256, 64]")
            file.write_text(settings + selection)
        yield demo.mirrors


@pytest.mark.slow
def test_stores_filled_years_apart_have_equal_refs_for_every_source(
    all_mirror_files: Path, tmp_path: Path
) -> None:
    stores = [MirrorHarness(all_mirror_files, tmp_path / name) for name in ("now", "later")]
    assert {one.exit_code for one in stores[0].sync().values()} == {0}
    sync_with_shifted_clock(stores[1], 100_000_000)
    observed = [{entry.at for entry in store.entries(VersionMinted)} for store in stores]
    assert max(observed[0]) < min(observed[1])
    now, later = (one.refs() for one in stores)
    mirrors = {name.split("--")[0].split()[0] for name in now}
    assert mirrors >= {path.stem for path in all_mirror_files.glob("*.toml")}
    assert {name: commit for name, commit in later.items() if now.get(name) != commit} == {}
    assert now == later
