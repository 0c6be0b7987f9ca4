"""Concurrent requests, for several dandisets and for one."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from neuromirror.crawl import Result
from neuromirror.model import VisitEnded
from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.mirror_harness import MirrorHarness

DANDISETS = 12
_LONG = 600.0
"""Seconds for which replies are held, and a test waits for requests before it fails."""


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """A thread for a sync whose requests are blocked."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def wait_for(condition: Callable[[], bool], sync: Future[dict[str, Result]]) -> None:
    """Wait until a condition holds; fail if the sync ends before."""
    until = time.monotonic() + _LONG
    while not condition():
        assert not sync.done(), "the sync went on without waiting"
        assert time.monotonic() < until, "the requests did not come"
        threading.Event().wait(0.02)


def test_dandisets_do_not_wait_for_each_other(
    empty_archive: DemoArchive, tmp_path: Path, background: ThreadPoolExecutor
) -> None:
    names = empty_archive.make_dandisets(DANDISETS)
    mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
    with empty_archive.fault("hang", path=r"/versions/$", seconds=3600):
        sync = background.submit(mirror_harness.sync)
        wait_for(lambda: empty_archive.count_requests(r"/versions/\?") == DANDISETS, sync)
    results = sync.result()
    assert {name: one.visit for name, one in results.items()} == {
        f"demo:{name}": "full" for name in names
    }
    sequential = MirrorHarness(empty_archive.mirrors, tmp_path / "alone")
    for name in names:
        sequential.sync(f"demo:{name}")
    assert dandiset_refs(sequential) == dandiset_refs(mirror_harness)
    mirror_harness.fsck()


def test_a_dandiset_that_fails_delays_no_other(
    empty_archive: DemoArchive, tmp_path: Path, background: ThreadPoolExecutor
) -> None:
    held, broken, *others = empty_archive.make_dandisets(DANDISETS)
    mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
    empty_archive.fault("status", path=f"/{broken}/versions/$", status=404)
    with empty_archive.fault("hang", path=f"/{held}/versions/$", seconds=3600):
        sync = background.submit(mirror_harness.sync)
        wait_for(lambda: len(visits(mirror_harness)) == len(others) + 1, sync)
    by_name = {name: one.visit for name, one in sync.result().items()}
    assert by_name.pop(f"demo:{broken}") == "failed"
    assert set(by_name.values()) == {"full"}


def test_the_waits_of_one_dandiset_overlap(
    empty_archive: DemoArchive, tmp_path: Path, background: ThreadPoolExecutor
) -> None:
    """While objects are looked up, the summary and the next version's list are requested."""
    name = add_published_dandiset(empty_archive)
    label = empty_archive.dandisets[name].published[0].label
    mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
    with empty_archive.fault("hang", server="s3", method="HEAD", seconds=3600):
        sync = background.submit(mirror_harness.sync)
        wait_for(
            lambda: (
                empty_archive.count_requests(f"/versions/{label}/info/")
                * empty_archive.count_requests("/versions/draft/assets/")
                * empty_archive.count_requests("^HEAD ")
                > 0
            ),
            sync,
        )
    assert sync.result()[f"demo:{name}"].visit == "full"
    assert empty_archive.count_requests("/versions/draft/assets/") == 1


def test_a_page_that_was_requested_before_a_change_is_not_used(
    empty_archive: DemoArchive, tmp_path: Path, background: ThreadPoolExecutor
) -> None:
    name = add_published_dandiset(empty_archive)
    mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
    with empty_archive.fault("hang", server="s3", method="HEAD", seconds=3600):
        sync = background.submit(mirror_harness.sync)
        wait_for(lambda: empty_archive.count_requests("/versions/draft/assets/") == 1, sync)
        empty_archive.change_file(name, "b.txt", "z")
    assert sync.result()[f"demo:{name}"].visit == "full"
    with mirror_harness.index() as index:
        files = {
            one.path: one.key
            for one in index.files.of(index.versions.resolve(f"demo:{name}", "draft"))
        }
    assert empty_archive.sha256(name, "b.txt") in files["b.txt"]


def test_a_zarr_is_read_while_objects_and_the_summary_are_requested(
    empty_archive: DemoArchive, tmp_path: Path, background: ThreadPoolExecutor
) -> None:
    name = add_dandiset_with_zarr(empty_archive)
    mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
    with (
        empty_archive.fault("hang", server="s3", method="HEAD", path="/blobs/", seconds=3600),
        empty_archive.fault("hang", path="/info/$", seconds=3600),
    ):
        sync = background.submit(mirror_harness.sync)
        wait_for(lambda: empty_archive.count_requests("prefix=zarr") == 2, sync)
    assert sync.result()[f"demo:{name}"].visit == "full"
    assert empty_archive.count_requests("^GET /api/zarr/") == 1
    assert empty_archive.count_requests("prefix=zarr") == 2
    assert empty_archive.count_requests("^HEAD .*/zarr/") == 1


def test_a_zarr_that_was_read_before_its_dandiset_changed_is_not_used(
    empty_archive: DemoArchive, tmp_path: Path, background: ThreadPoolExecutor
) -> None:
    name = add_dandiset_with_zarr(empty_archive)
    mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
    with empty_archive.fault("hang", path="/info/$", seconds=3600):
        sync = background.submit(mirror_harness.sync)
        wait_for(lambda: empty_archive.count_requests("prefix=zarr") == 2, sync)
        empty_archive.change_zarr(name, "image.zarr", "1", "another chunk")
    assert sync.result()[f"demo:{name}"].visit == "full"
    with mirror_harness.index() as index:
        (version,) = index.versions.of(f"demo:{name}")
        files = {one.path for one in index.files.of(version)}
    assert files == {"a.txt", "image.zarr/.zgroup", "image.zarr/0", "image.zarr/1"}


def test_an_unchanged_zarr_is_not_prefetched(empty_archive: DemoArchive, tmp_path: Path) -> None:
    name = add_dandiset_with_zarr(empty_archive)
    mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
    mirror_harness.sync()
    empty_archive.add_file(name, "b.txt", "b")
    empty_archive.clear_requests()
    assert mirror_harness.sync()[f"demo:{name}"].visit == "full"
    assert empty_archive.count_requests("/zarr") + empty_archive.count_requests("prefix=zarr") == 0


def add_dandiset_with_zarr(archive: DemoArchive) -> str:
    """Add a dandiset with a file and a Zarr; return its id."""
    name = archive.create_dandiset(Description("A Zarr"))
    archive.add_file(name, "a.txt", "a")
    archive.add_zarr(name, "image.zarr", {".zgroup": "{}", "0": "a chunk"})
    return name


def add_published_dandiset(archive: DemoArchive) -> str:
    """Add a dandiset with a published version and a different draft; return its id."""
    name = archive.create_dandiset(Description("Two versions"))
    archive.add_file(name, "a.txt", "a")
    archive.publish(name)
    archive.add_file(name, "b.txt", "b")
    return name


def dandiset_refs(mirror_harness: MirrorHarness) -> dict[str, str]:
    """Return the refs of all repositories except superdatasets."""
    return {
        name: commit for name, commit in mirror_harness.refs().items() if name.startswith("demo--")
    }


def visits(mirror_harness: MirrorHarness) -> list[VisitEnded]:
    """Return the recorded visits."""
    return mirror_harness.entries(VisitEnded)
