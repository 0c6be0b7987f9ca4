"""Two stores of one upstream state, and stores that were interrupted: the same ids (I3, I4)."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crawl_place import Place, git

from neuromirror.crawl import Mirror, rebuild_index
from neuromirror.index import Index
from neuromirror.model import VersionMinted, VersionRef
from neuromirror.sources import Listing, Source
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import DemoBoss
from neuromirror_demo.ndstore import DemoNdstore

DRIVER = Path(__file__).with_name("killed_sync.py")
SHIFTED = Path(__file__).with_name("shifted_sync.py")
KILLS = 10


class Shuffled:
    """A source whose listings come in another order."""

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
        entries = list(listing.entries)
        self._random.shuffle(entries)
        return replace(listing, entries=iter(entries))


class ShuffledMirror(Mirror):
    """A mirror that opens a shuffled source."""

    def open(self) -> Source:
        return Shuffled(super().open(), seed=7)  # type: ignore[return-value]


def test_two_stores_get_the_same_ids_whatever_the_order_of_listings(
    place: Place, another: Place
) -> None:
    another.open_mirror = lambda one: ShuffledMirror(one.name, one.path, one.settings)
    place.sync()
    another.sync()
    refs = place.refs()
    assert another.refs() == refs
    for branch in ("main", "published", "git-annex"):
        assert any(name.endswith(f"/{branch}") for name in refs)
    place.fsck()
    another.fsck()


def test_published_commits_do_not_depend_on_when_the_mirror_began(
    place: Place, another: Place, demo: DemoArchive
) -> None:
    place.sync("demo:000008")
    demo.change_file("000008", demo.paths("000008")[0])
    place.sync("demo:000008")
    demo.publish("000008")
    place.sync("demo:000008")
    another.sync("demo:000008")
    ids = [git(one.repository("demo:000008"), "rev-parse", "published") for one in (place, another)]
    assert ids[0] == ids[1]
    trees = [
        git(one.repository("demo:000008"), "rev-parse", "main^{tree}") for one in (place, another)
    ]
    assert trees[0] == trees[1]


def run_driver(place: Place, kill_at: int | None) -> subprocess.CompletedProcess[str]:
    arguments = [str(place.mirrors), str(place.folder), "" if kill_at is None else str(kill_at)]
    return subprocess.run(
        [sys.executable, str(DRIVER), *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_sync_killed_anywhere_leaves_a_whole_store_and_converges(
    place: Place, demo: DemoArchive, tmp_path: Path
) -> None:
    undisturbed = run_driver(place, None)
    assert undisturbed.returncode == 0, undisturbed.stderr
    steps = json.loads(undisturbed.stdout)
    assert steps > 5 * KILLS
    wanted = place.refs()
    rng = random.Random(steps)
    points = [(2 * n + 1) * steps // (2 * KILLS) + rng.randrange(-3, 4) for n in range(KILLS)]
    for number, point in enumerate(points):
        killed = Place(demo.mirrors, tmp_path / f"killed-{number}")
        assert run_driver(killed, point).returncode == -signal.SIGKILL
        _check_whole(killed, tmp_path / f"clone-{number}")
        again = run_driver(killed, None)
        assert again.returncode == 0, again.stderr
        found = killed.refs()
        assert found == wanted, f"killed at {point} of {steps}"
        killed.fsck()
        with Index.open_readonly(killed.store.index_path) as index:
            commits = {row.commit for one in index.datasets() for row in index.versions(one.name)}
        tags = {commit for name, commit in wanted.items() if " refs/tags/" in name}
        assert commits == tags
        assert not list((killed.folder / "neuromirror" / "tmp").iterdir())


def _check_whole(place: Place, clone: Path) -> None:
    place.fsck(killed=True) if (place.folder / "alias").exists() else None
    for alias, repository in place.store.aliases():
        assert repository.refs(), alias
        git(place.folder, "clone", "-q", str(repository.path), str(clone / alias))


def dump(path: Path) -> list[str]:
    """All of a database, as SQLite itself writes it down."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def test_a_rebuilt_index_has_the_same_tables(place: Place, demo: DemoArchive) -> None:
    place.sync()
    demo.change_file("000008", demo.paths("000008")[0])
    demo.publish("000008")
    demo.delete_dandiset("000003")
    place.sync()
    store = place.store
    before = dump(store.index_path)
    for path in store.index_path.parent.glob("index.sqlite*"):
        path.unlink()
    rebuild_index(store, store.index_path)
    assert dump(store.index_path) == before


def test_versions_that_only_git_has_are_found_by_a_rebuild(place: Place) -> None:
    place.sync()
    store = place.store
    with place.index() as index:
        before = {
            name: [(row.label, row.commit, row.state, row.files, row.bytes) for row in rows]
            for name, rows in (
                (one.name, list(index.versions(one.name))) for one in index.datasets()
            )
        }
        files = [(one.path, one.key) for one in index.files(index.resolve("demo:000002", "draft"))]
    (place.folder / "neuromirror" / "journal.jsonl").unlink()
    rebuild_index(store, store.index_path)
    with place.index() as index:
        for name, rows in before.items():
            found = [
                (row.label, row.commit, row.state, row.files, row.bytes)
                for row in index.versions(name)
            ]
            assert found == rows
        again = [(one.path, one.key) for one in index.files(index.resolve("demo:000002", "draft"))]
    assert again == files


def test_records_that_were_lost_are_read_back_from_git(place: Place, demo: DemoArchive) -> None:
    place.sync()
    store = place.store
    with place.index() as index:
        row = index.resolve("demo:000004", "draft")
        before = [(one.path, one.key, one.size, one.evidence) for one in index.files(row)]
    shutil.rmtree(place.folder / "neuromirror" / "records")
    (place.folder / "neuromirror" / "journal.jsonl").unlink()
    rebuild_index(store, store.index_path)
    with place.index() as index:
        row = index.resolve("demo:000004", "draft")
        assert [(one.path, one.key, one.size, one.evidence) for one in index.files(row)] == before
        (found, *_) = index.files(row)
        assert len(index.locations(found.content)) == 2
    refs = place.refs()
    shutil.rmtree(place.folder / "neuromirror" / "records")
    demo.add_file("000004", "new.txt", b"new")
    assert place.sync()["demo:000004"].status == "ok"
    assert place.refs() != refs
    place.fsck()


@pytest.fixture
def whole(tmp_path: Path, demo_files: Path) -> Iterator[Path]:
    """The mirror files of archives of every kind: DANDI, buckets, layers, a BOSS and an ndstore."""
    folder = tmp_path / "whole"
    with (
        DemoArchive(folder, cache=demo_files, buckets=True, layers=True) as demo,
        DemoBoss(folder),
        DemoNdstore(folder),
    ):
        yield demo.mirrors


def filled(mirrors: Path, folder: Path, shift: int, *how: str) -> Place:
    """A store that a sync (or "serve") fills whose clock is wrong by ``shift`` seconds."""
    done = subprocess.run(
        [sys.executable, str(SHIFTED), str(shift), str(mirrors), str(folder), *how],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Place(mirrors, folder)


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("serve",)], ids=["sync", "serve"])
def test_stores_filled_years_apart_have_equal_refs_for_every_source(
    whole: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    # what a service does in a round is what a sync of all mirrors does
    stores = [
        filled(whole, tmp_path / "store0", 0, *how),
        filled(whole, tmp_path / "store1", 100_000_000),
    ]
    observed = [{one.at for one in store.entries(VersionMinted)} for store in stores]
    assert max(observed[0]) < min(observed[1])
    now, later = (one.refs() for one in stores)
    mirrors = {name.split("--")[0].split()[0] for name in now}
    assert mirrors >= {path.stem for path in whole.glob("*.toml")}
    assert {name: commit for name, commit in later.items() if now.get(name) != commit} == {}
    assert now == later
