"""Number of requests of a sync: each object once, and pending items only."""

from collections import Counter
from pathlib import Path

import pytest

from neuromirror.model import Evidence
from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.mirror_harness import MirrorHarness, run_git
from support.realistic_archive import SHARING, fill_like_a_real_archive

MAX_FIRST_SYNC_REQUESTS = 120


def object_heads(demo: DemoArchive) -> Counter[str]:
    """Return how often the object of each blob was requested."""
    return Counter(one for one in demo.s3_requests if one.startswith("HEAD /demo-dandiarchive/bl"))


def test_the_first_sync_of_a_real_archive_requests_each_object_once(
    empty_archive: DemoArchive, tmp_path: Path
) -> None:
    large = fill_like_a_real_archive(empty_archive)
    drafts = [dandiset.draft.assets for dandiset in empty_archive.dandisets.values()]
    assert (len(drafts), sum(map(len, drafts))) == (10, 2_140)
    assert sum(len(dandiset.versions) for dandiset in empty_archive.dandisets.values()) == 14
    mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
    empty_archive.clear_requests()
    results = mirror_harness.sync()
    assert {result.status for result in results.values()} == {"ok"}
    assert set(object_heads(empty_archive).values()) == {1}
    assert len(empty_archive.requests) + len(empty_archive.s3_requests) <= MAX_FIRST_SYNC_REQUESTS
    with mirror_harness.index() as index:
        files = list(index.files.of(index.versions.resolve(f"demo:{large}")))
        assert len(files) == SHARING + 1
        urls = {
            one.url
            for content in {file.content for file in files}
            for one in index.locations.of(content)
            if one.version_id is not None
        }
    assert len(urls) == 2


def test_a_refused_object_that_many_assets_share_is_requested_once(
    empty_archive: DemoArchive, tmp_path: Path
) -> None:
    name = empty_archive.create_dandiset(Description("Copies"))
    for number in range(40):
        empty_archive.add_file(name, f"copy-{number}.txt", "the shared blob")
    empty_archive.fault("status", server="s3", method="HEAD", status=403)
    MirrorHarness(empty_archive.mirrors, tmp_path / "store").sync()
    assert set(object_heads(empty_archive).values()) == {1}


def test_a_dataset_that_is_synced_by_name_has_its_versions_listed_once(
    two_dandisets: DemoArchive, tmp_path: Path
) -> None:
    mirror_harness = MirrorHarness(two_dandisets.mirrors, tmp_path / "store")
    assert mirror_harness.sync("demo:000001")["demo:000001"].status == "ok"
    assert two_dandisets.count_requests(r"/000001/versions/(\?|$)") == 1


@pytest.fixture
def pending_dandiset(
    empty_archive: DemoArchive, tmp_path: Path
) -> tuple[DemoArchive, MirrorHarness, str]:
    """A mirrored dandiset with a file without sha256 and an unfinalized Zarr."""
    name = empty_archive.create_dandiset(Description("Unfinished"))
    empty_archive.add_file(name, "done.txt", "done")
    empty_archive.add_file(name, "late.txt", "late", sha256_known=False)
    empty_archive.add_zarr(name, "late.zarr", {".zgroup": "{}", "0": "chunk"}, finalize=False)
    empty_archive.make_dandisets(2)
    mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
    assert {one.status for one in mirror_harness.sync().values()} == {"ok"}
    return empty_archive, mirror_harness, name


def pending_count(mirror_harness: MirrorHarness, name: str) -> int:
    """Return the number of pending items recorded by the last visit."""
    with mirror_harness.index() as index:
        return index.crawl.last_visits("demo")[name].pending


def test_an_unchanged_sync_requests_only_pending_items(
    pending_dandiset: tuple[DemoArchive, MirrorHarness, str],
) -> None:
    demo, mirror_harness, name = pending_dandiset
    assert pending_count(mirror_harness, name) == 2
    before = mirror_harness.file_digests()
    demo.clear_requests()
    results = mirror_harness.sync()
    assert len(demo.requests) <= 3
    assert demo.s3_requests == []
    assert {result.status for result in results.values()} == {"notneeded"}
    assert mirror_harness.file_digests() == before
    assert pending_count(mirror_harness, name) == 2


def test_a_sha256_that_appears_while_a_zarr_is_pending_is_recorded(
    pending_dandiset: tuple[DemoArchive, MirrorHarness, str],
) -> None:
    demo, mirror_harness, name = pending_dandiset
    mirror_harness.sync()
    demo.reveal_sha256(name, "late.txt")
    result = mirror_harness.sync()[f"demo:{name}"]
    assert (result.status, result.visit, len(result.versions)) == ("ok", "full", 1)
    assert pending_count(mirror_harness, name) == 1
    with mirror_harness.index() as index:
        evidence = {
            one.path: one.evidence for one in index.files.of(index.versions.resolve(f"demo:{name}"))
        }
    assert evidence["late.txt"] is Evidence.SHA256
    demo.clear_requests()
    mirror_harness.sync()
    assert len(demo.requests) + len(demo.s3_requests) == 2


@pytest.mark.parametrize("is_only_pending_item", [False, True])
def test_a_zarr_that_is_finalized_without_a_new_time_is_mirrored_as_finalized(
    pending_dandiset: tuple[DemoArchive, MirrorHarness, str], is_only_pending_item: bool
) -> None:
    demo, mirror_harness, name = pending_dandiset
    if is_only_pending_item:
        demo.reveal_sha256(name, "late.txt")
    mirror_harness.sync()
    demo.finalize_zarr(name, "late.zarr", quiet=True)
    result = mirror_harness.sync()[f"demo:{name}"]
    assert (result.status, result.visit) == ("ok", "full")
    assert pending_count(mirror_harness, name) == (0 if is_only_pending_item else 1)
    with mirror_harness.index() as index:
        (version,) = [
            one for one in index.versions.of(f"demo:{name}") if one.label == result.versions[0]
        ]
        assert "late.zarr/0" in {one.path for one in index.files.of(version)}


def test_a_pending_file_that_cannot_be_checked_causes_a_full_visit(
    pending_dandiset: tuple[DemoArchive, MirrorHarness, str],
) -> None:
    demo, mirror_harness, name = pending_dandiset
    demo.fault("status", path=r"^/api/(assets|zarr)/", status=404)
    demo.clear_requests()
    mirror_harness.sync()
    assert demo.count_requests(f"/dandisets/{name}/versions/draft/assets/") == 1


@pytest.mark.parametrize("settings", ["", "[zarr]\ninline_components = 1\n", "zarrs = false\n"])
def test_a_zarr_that_is_uploaded_again_keeps_its_last_state_and_blocks_nothing(
    two_dandisets: DemoArchive, tmp_path: Path, settings: str
) -> None:
    demo, name, is_mirrored = two_dandisets, "demo:000002", settings != "zarrs = false\n"
    toml = demo.mirrors / "demo.toml"
    toml.write_text(toml.read_text() + settings)
    mirror_harness = MirrorHarness(demo.mirrors, tmp_path / "store")
    mirror_harness.sync()

    def zarr() -> list[str]:
        tree = run_git(mirror_harness.repository(name), "ls-tree", "-r", "main").splitlines()
        return [line for line in tree if "z.zarr" in line]

    before = zarr()
    demo.change_zarr("000002", "z.zarr", "0/1", "half of the upload", finalize=False)
    demo.add_file("000002", "new.txt", "other work goes on")
    result = mirror_harness.sync()[name]
    assert (result.status, result.visit, len(result.versions)) == ("ok", "full", 1), result.message
    assert zarr() == before
    assert ("1 Zarr is still being written upstream" in result.message) is is_mirrored
    assert mirror_harness.pending_files(name) == is_mirrored
    # the next sync asks for the checksum only, and a deep one changes nothing
    demo.clear_requests()
    assert mirror_harness.sync().keys() >= {name}
    assert len(demo.requests) + len(demo.s3_requests) == 1 + is_mirrored
    assert mirror_harness.sync(name, deep=True)[name].status == "notneeded"
    demo.finalize_zarr("000002", "z.zarr", quiet=True)
    mirror_harness.sync()
    assert (zarr() != before) is is_mirrored
    assert mirror_harness.pending_files(name) == 0


def test_a_deep_sync_rereads_pending_items(
    pending_dandiset: tuple[DemoArchive, MirrorHarness, str],
) -> None:
    demo, mirror_harness, name = pending_dandiset
    demo.change_zarr(name, "late.zarr", "1", "another chunk", finalize=False)
    result = mirror_harness.sync(f"demo:{name}", deep=True)[f"demo:{name}"]
    assert (result.status, result.visit) == ("ok", "full")


def test_many_pending_files_are_checked_by_their_listing(
    empty_archive: DemoArchive, tmp_path: Path
) -> None:
    name = empty_archive.create_dandiset(Description("Just uploaded"))
    for number in range(30):
        empty_archive.add_file(name, f"{number}.txt", str(number), sha256_known=False)
    mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
    mirror_harness.sync()
    empty_archive.clear_requests()
    mirror_harness.sync()
    assert empty_archive.count_requests() <= 4
