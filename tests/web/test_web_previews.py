"""Previews of files on the pages: made once per content, bounded, and never of wrong bytes."""

import asyncio
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from neuromirror.index import FileRow, VersionRow
from neuromirror.web.async_index import UnavailableError
from neuromirror.web.previews import MAX_QUEUED, MAX_RUNNING, PreviewService
from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, allow_loopback, run_catalogue, visible_text

NWB = "sub-1/sub-1_ses-01_ecephys.nwb"
LARGE = "behavior/large.csv"


def _png() -> bytes:
    made = io.BytesIO()
    Image.linear_gradient("L").save(made, "PNG")
    return made.getvalue()


FILES = {
    NWB: None,
    "images/map.png": _png(),
    "images/broken.png": b"\x89PNG\r\n\x1a\nnot an image",
    "images/copy-of-map.png": _png(),
    LARGE: b"subject,weight\n" + b"s1,<script>alert(1)</script>\n" * 60_000,
    "notes.txt": b"the first line\nthe second line\n",
}


MANY = [f"many/{number}.txt" for number in range(MAX_RUNNING + MAX_QUEUED + 6)]


class PreviewSite:
    """An archive, a store of it, and a service."""

    def __init__(self, archive: DemoArchive, folder: Path) -> None:
        self.archive = archive
        archive.create_dandiset(Description("Previews"), identifier="000001")
        for path, content in FILES.items():
            archive.add_file("000001", path, content)
        for path in MANY:
            archive.add_file("000001", path, f"text of {path}")
        self.harness = MirrorHarness(archive.mirrors, folder)
        self.harness.sync()
        self.folder = self.harness.store.root / "neuromirror" / "previews"
        with self.harness.index() as index:
            self.version = index.versions.resolve("demo:000001")
        self.reset()

    def reset(self) -> None:
        """Forget all previews, and use a new service for the version."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.service = PreviewService(self.harness.store, seconds=30)
        self.row: VersionRow = self.version
        self.archive.clear_requests()

    def file(self, path: str) -> FileRow:
        with self.harness.index() as index:
            return index.files.get(self.row, path)

    def cached_files(self) -> list[Path]:
        return list(self.folder.glob("*/*.json"))

    def preview(self, *paths: str) -> list[object]:
        async def run() -> list[object]:
            return await asyncio.gather(
                *(self.service.preview(self.row, self.file(path)) for path in paths),
                return_exceptions=True,
            )

        return asyncio.run(run())

    def status(self, path: str) -> int:
        (found,) = self.preview(path)
        return found.status if isinstance(found, UnavailableError) else 200


@pytest.fixture(scope="module")
def shared_previews(
    demo_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PreviewSite]:
    """A site that tests do not change; beside a file, it has more than the queue takes."""
    folder = tmp_path_factory.mktemp("previews")
    with DemoArchive(folder / "archive", cache=demo_files, empty=True) as archive:
        with h5py.File(folder / "large.h5", "w") as made:
            made["voxels"] = np.random.default_rng(0).integers(0, 255, 17 << 20, np.uint8)
        FILES["large.h5"] = (folder / "large.h5").read_bytes()
        yield PreviewSite(archive, folder / "store")


@pytest.fixture
def previews(shared_previews: PreviewSite) -> PreviewSite:
    """The site without any previews."""
    shared_previews.reset()
    return shared_previews


def test_previews_are_made_once_per_content(previews: PreviewSite) -> None:
    first, copy = previews.preview("images/map.png", "images/map.png")
    assert first == copy
    assert previews.archive.count_requests("GET") == 1
    assert previews.preview("images/copy-of-map.png") == [first]
    previews.service = PreviewService(previews.harness.store)
    assert previews.preview("images/map.png") == [first]
    assert previews.archive.count_requests("GET") == 1


def test_large_file_is_read_in_part_and_not_called_verified(previews: PreviewSite) -> None:
    found, text = previews.preview(LARGE, "notes.txt")
    assert (found.kind, found.verified) == ("table", False)
    assert len(found.tables[0].rows) == 20
    assert (text.text, text.verified) == ("the first line\nthe second line", True)


def test_wrong_bytes_have_no_preview(previews: PreviewSite) -> None:
    with previews.archive.fault("wrong_bytes"):
        assert previews.status("images/map.png") == 502
    # the failure is remembered for a minute, by this service only
    assert previews.status("images/map.png") == 502
    previews.service = PreviewService(previews.harness.store)
    assert previews.status("images/map.png") == 200


def test_archive_that_fails_is_named(previews: PreviewSite) -> None:
    for status, expected in ((403, 403), (404, 502), (500, 502)):
        with (
            previews.archive.fault("status", path=".", status=status, server="s3"),
            previews.archive.fault("status", path=".", status=status),
        ):
            assert previews.status("images/map.png") == expected
        previews.reset()


def test_archive_that_hangs_is_given_up(previews: PreviewSite) -> None:
    previews.service = PreviewService(previews.harness.store, seconds=3)
    with (
        previews.archive.fault("hang", path=".", server="s3", seconds=60),
        previews.archive.fault("hang", path=".", seconds=60),
    ):
        assert previews.status("images/map.png") in (502, 504)
    assert previews.cached_files() == []  # it is not the content's fault


def test_unreadable_content_is_remembered(previews: PreviewSite) -> None:
    assert previews.status("images/broken.png") == 422
    previews.archive.clear_requests()
    previews.service = PreviewService(previews.harness.store)
    assert previews.status("images/broken.png") == 422
    assert previews.archive.count_requests() == 0


def test_queue_is_bounded(
    previews: PreviewSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "quick-parser"
    program.write_text("#!/bin/sh\ncat > /dev/null\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    results = previews.preview(*MANY)
    refused = [result.status for result in results if isinstance(result, UnavailableError)]
    assert (refused.count(503), refused.count(422)) == (6, len(MANY) - 6)


def test_without_permission_nothing_is_requested(previews: PreviewSite) -> None:
    previews.service = PreviewService(previews.harness.store, is_allowed=False)
    assert previews.status("notes.txt") == 404
    assert previews.archive.count_requests() == 0


def test_takedown_removes_the_cache(previews: PreviewSite, tmp_path: Path) -> None:
    previews.preview("notes.txt")
    assert previews.cached_files()
    shutil.copytree(previews.harness.folder, tmp_path / "store", symlinks=True)
    harness = MirrorHarness(previews.harness.mirrors, tmp_path / "store")
    folder = harness.folder / "neuromirror" / "previews"
    assert folder.exists()
    harness.withdraw("demo:000001")
    assert not folder.exists()


# --- pages


@pytest.fixture(scope="module")
def running(shared_previews: PreviewSite) -> Iterator[RunningCatalogue]:
    """The catalogue of that store, which may read from the archive on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        allow_loopback(patch)
        with run_catalogue(shared_previews.harness.store) as found:
            yield found


def test_pages_show_previews(running: RunningCatalogue) -> None:
    version = "demo:000001@latest"
    assert 'src="/thumbnail/demo:000001@' in running.page("/dataset/demo:000001")
    page = running.page(f"/file/{version}?path={NWB}")
    assert "data-address=" in page  # not made yet: the page does not wait for the archive
    preview = running.page(f"/preview/{version}?path={NWB}")
    assert 'src="data:image/svg+xml;base64,' in preview
    assert "Subject" in visible_text(preview)
    table = running.page(f"/preview/{version}?path={LARGE}")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in table
    assert "<script>alert" not in table
    running.page(f"/preview/{version}?path=images/broken.png", 422)
    running.page(f"/preview/{version}?path=images/broken.png&embedded=1")
    running.page(f"/preview/{version}?path=no/such.png", 404)


def test_garbage_of_a_preview_process_is_no_internal_error(
    previews: PreviewSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "broken-parser"
    monkeypatch.setattr(sys, "executable", str(program))
    for printed in ("", "garbage", "{}", '{"type":"preview"}', "[" * 5000):
        program.write_text(f"#!/bin/sh\ncat > /dev/null\nprintf %s '{printed}'\n")
        program.chmod(0o755)
        previews.reset()
        assert previews.status("images/map.png") == 422
        assert previews.cached_files() == []
