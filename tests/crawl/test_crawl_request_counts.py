"""How many requests a sync takes: an object is asked about once, and what is pending alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from crawl_place import Place
from real_shape import SHARING, fill_like_a_real_archive

from neuromirror.demo import DemoArchive
from neuromirror.demo.records import Description

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
