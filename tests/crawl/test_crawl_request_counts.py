"""How many requests a sync takes: an object is asked about once, and what is pending alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from crawl_place import Place
from real_shape import SHARING, fill_like_a_real_archive

from neuromirror.model import Evidence
from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description

MOST_FOR_A_FIRST_SYNC = 120


def object_heads(demo: DemoArchive) -> Counter[str]:
    """How often each blob's object was asked about."""
    return Counter(one for one in demo.s3_requests if one.startswith("HEAD /demo-dandiarchive/bl"))


def test_the_first_sync_of_a_real_archive_asks_about_each_object_once(
    small: DemoArchive, tmp_path: Path
) -> None:
    large = fill_like_a_real_archive(small)
    drafts = [one.draft.assets for one in small.dandisets.values()]
    assert (len(drafts), sum(map(len, drafts))) == (10, 2_140)
    assert sum(len(one.versions) for one in small.dandisets.values()) == 14
    place = Place(small.mirrors, tmp_path / "store")
    small.clear_requests()
    results = place.sync()
    assert {one.status for one in results.values()} == {"ok"}
    assert set(object_heads(small).values()) == {1}
    assert len(small.requests) + len(small.s3_requests) <= MOST_FOR_A_FIRST_SYNC
    with place.index() as index:
        files = list(index.files(index.resolve(f"demo:{large}")))
        assert len(files) == SHARING + 1
        urls = {
            one.url
            for content in {file.content for file in files}
            for one in index.locations(content)
            if one.version_id is not None
        }
    assert len(urls) == 2


def test_an_object_that_many_assets_share_and_the_bucket_refuses_is_asked_about_once(
    small: DemoArchive, tmp_path: Path
) -> None:
    name = small.create_dandiset(Description("Copies"))
    for number in range(40):
        small.add_file(name, f"copy-{number}.txt", "the shared blob")
    small.fault("status", server="s3", method="HEAD", status=403)
    Place(small.mirrors, tmp_path / "store").sync()
    assert set(object_heads(small).values()) == {1}


@pytest.fixture
def unfinished(small: DemoArchive, tmp_path: Path) -> tuple[DemoArchive, Place, str]:
    """An archive whose one dandiset has a file without sha256 and an unfinalized Zarr, mirrored."""
    name = small.create_dandiset(Description("Unfinished"))
    small.add_file(name, "done.txt", "done")
    small.add_file(name, "late.txt", "late", sha256_known=False)
    small.add_zarr(name, "late.zarr", {".zgroup": "{}", "0": "chunk"}, finalize=False)
    small.make_dandisets(2)
    place = Place(small.mirrors, tmp_path / "store")
    assert {one.status for one in place.sync().values()} == {"ok"}
    return small, place, name


def pending(place: Place, name: str) -> int:
    """What the last visit recorded as pending."""
    with place.index() as index:
        return index.hints("demo")[name].pending


def test_an_unchanged_sync_asks_about_what_is_pending_alone(
    unfinished: tuple[DemoArchive, Place, str],
) -> None:
    demo, place, name = unfinished
    assert pending(place, name) == 2
    before = place.content()
    demo.clear_requests()
    results = place.sync()
    assert len(demo.requests) <= 3
    assert demo.s3_requests == []
    assert {one.status for one in results.values()} == {"notneeded"}
    assert place.content() == before
    assert pending(place, name) == 2


def test_a_sha256_that_appears_while_a_zarr_is_pending_is_recorded(
    unfinished: tuple[DemoArchive, Place, str],
) -> None:
    demo, place, name = unfinished
    place.sync()
    demo.reveal_sha256(name, "late.txt")
    result = place.sync()[f"demo:{name}"]
    assert (result.status, result.visit, len(result.versions)) == ("ok", "full", 1)
    assert pending(place, name) == 1
    with place.index() as index:
        evidence = {one.path: one.evidence for one in index.files(index.resolve(f"demo:{name}"))}
    assert evidence["late.txt"] is Evidence.SHA256
    demo.clear_requests()
    place.sync()
    assert len(demo.requests) + len(demo.s3_requests) == 2


@pytest.mark.parametrize("alone", [False, True])
def test_a_zarr_that_is_finalized_without_a_new_time_is_mirrored_as_finalized(
    unfinished: tuple[DemoArchive, Place, str], alone: bool
) -> None:
    demo, place, name = unfinished
    if alone:
        demo.reveal_sha256(name, "late.txt")
    place.sync()
    demo.finalize_zarr(name, "late.zarr", quiet=True)
    result = place.sync()[f"demo:{name}"]
    assert (result.status, result.visit) == ("ok", "full")
    assert pending(place, name) == (0 if alone else 1)
    with place.index() as index:
        (version,) = [
            one for one in index.versions(f"demo:{name}") if one.label == result.versions[0]
        ]
        assert "late.zarr/0" in {one.path for one in index.files(version)}


def test_a_pending_file_that_cannot_be_asked_about_makes_a_visit_of_the_whole(
    unfinished: tuple[DemoArchive, Place, str],
) -> None:
    demo, place, name = unfinished
    demo.fault("status", path=r"^/api/(assets|zarr)/", status=404)
    demo.clear_requests()
    place.sync()
    assert demo.count_requests(f"/dandisets/{name}/versions/draft/assets/") == 1


def test_a_deep_sync_believes_nothing_of_what_is_pending(
    unfinished: tuple[DemoArchive, Place, str],
) -> None:
    demo, place, name = unfinished
    demo.change_zarr(name, "late.zarr", "1", "another chunk", finalize=False)
    result = place.sync(f"demo:{name}", deep=True)[f"demo:{name}"]
    assert (result.status, result.visit) == ("ok", "full")


def test_many_pending_files_are_asked_about_by_their_list(
    small: DemoArchive, tmp_path: Path
) -> None:
    name = small.create_dandiset(Description("Just uploaded"))
    for number in range(30):
        small.add_file(name, f"{number}.txt", str(number), sha256_known=False)
    place = Place(small.mirrors, tmp_path / "store")
    place.sync()
    small.clear_requests()
    place.sync()
    assert small.count_requests() <= 4
