"""An index that goes away, or bad, under a service that goes on."""

from __future__ import annotations

import os

from neuromirror.crawl import rebuild_index
from neuromirror_demo import DemoArchive
from support.job_harness import JobHarness
from support.mirror_harness import MirrorHarness


def _names(mirror_harness: MirrorHarness) -> list[str]:
    with mirror_harness.index() as index:
        return sorted(one.name for one in index.datasets("demo"))


def test_an_index_deleted_under_the_service_is_rebuilt_from_the_journal(
    job_harness: JobHarness, mirror_harness: MirrorHarness
) -> None:
    assert job_harness.run_job("visit", "demo:000001").results[0].status == "ok"
    path = mirror_harness.store.index_path
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    (result,) = job_harness.run_job("visit", "demo:000002").results
    assert result.status == "ok", result.message
    assert _names(mirror_harness) == ["demo:000001", "demo:000002"]
    mirror_harness.fsck()


def test_a_corrupt_index_is_reported_and_the_service_continues_with_a_rebuilt_one(
    job_harness: JobHarness, mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    assert job_harness.run_job("visit", "demo:000001").results[0].status == "ok"
    path = mirror_harness.store.index_path
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * (os.fstat(file.fileno()).st_size - 100))
    (result,) = job_harness.run_job("visit", "demo:000002").results
    if result.exit_code:
        assert "rebuild-index" in result.message
    rebuild_index(mirror_harness.store, path)
    demo.add_file("000002", "new.txt", b"new")
    assert job_harness.run_job("visit", "demo:000002").results[0].exit_code == 0
    assert _names(mirror_harness) == ["demo:000001", "demo:000002"]
    with mirror_harness.index() as index:
        paths = {one.path for one in index.files(index.resolve("demo:000002", "draft"))}
    assert "new.txt" in paths
    mirror_harness.fsck(killed=True)
