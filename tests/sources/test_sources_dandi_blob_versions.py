"""Version ids of blobs from a listing of versions: the same as from HEAD, with fewer requests."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from neuromirror.net import ObjectRow, RequestLimits, Session
from neuromirror.sources.dandi import DandiOptions, DandiSource
from neuromirror.sources.dandi import objects as blob_versions_module
from neuromirror.sources.dandi.objects import BlobTable, BlobVersionLookup, BucketCache
from neuromirror_demo import DemoBuckets
from support.visit_context import EMPTY_CONTEXT, FakeVisitContext

BUCKET = "demo-aind-benchmark-data"
NOW = datetime(2024, 1, 1, tzinfo=UTC)


def blob_of(number: int) -> str:
    """Return evenly distributed UUIDs, like random ones."""
    return str(uuid.UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128))


def key_of(blob: str) -> str:
    return f"blobs/{blob[:3]}/{blob[3:6]}/{blob}"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBuckets]:
    with DemoBuckets(tmp_path_factory.mktemp("buckets"), empty=True) as running:
        for number in range(1200):
            running.put(key_of(blob_of(number)), f"{number}", bucket=BUCKET)
        yield running


@pytest.fixture
def few(tmp_path: Path) -> Iterator[DemoBuckets]:
    with DemoBuckets(tmp_path / "few", empty=True) as running:
        for number in range(60):
            running.put(key_of(blob_of(number)), f"{number}", bucket=BUCKET)
        yield running


def sweep_of(**more) -> BlobVersionLookup:
    session = Session(
        allow_private=True, limits=RequestLimits(attempts=2, wait=0.01, wait_max=0.02)
    )
    return BlobVersionLookup(BucketCache(session), connections=4, **more)


def urls_of(running, numbers) -> list[str]:
    return [running.url(key_of(blob_of(number)), bucket=BUCKET) for number in numbers]


def listings(running) -> int:
    return running.count_requests("versions")


def test_listed_versions_equal_those_of_the_bucket(filled):
    urls = urls_of(filled, range(1200))
    found = sweep_of().look_up(urls)
    assert list(found) == urls
    for number in (0, 1, 599, 1199):
        kept = filled.head(key_of(blob_of(number)), bucket=BUCKET)
        swept = found[urls[number]]
        assert (swept.version_id, swept.size, swept.etag) == (kept.version_id, kept.size, kept.etag)


def test_a_thousand_blobs_cost_a_handful_of_requests_and_known_ones_none(filled):
    filled.clear_requests()
    sweep = sweep_of()
    assert len(sweep.look_up(urls_of(filled, range(1000)))) == 1000
    # two pages, and the first one for the estimate
    assert len(filled.requests) <= 4
    filled.clear_requests()
    assert len(sweep.look_up(urls_of(filled, range(1000, 1200)))) == 200
    assert filled.requests == []


def test_versions_are_listed_once_single_requests_would_cost_as_much(filled, monkeypatch):
    monkeypatch.setattr(blob_versions_module, "_MIN_REQUESTS", 10)
    monkeypatch.setattr(blob_versions_module, "_cost", lambda bucket, root: 30)
    sweep = sweep_of()
    filled.clear_requests()
    for first in (0, 10):
        assert sweep.look_up(urls_of(filled, range(first, first + 10))) == {}
    assert listings(filled) == 0
    assert len(sweep.look_up(urls_of(filled, range(20, 30)))) == 10


def test_a_large_version_listing_is_divided_by_prefix_and_complete(filled, monkeypatch):
    monkeypatch.setattr(blob_versions_module, "_MIN_PARALLEL_COST", 1)
    urls = urls_of(filled, range(1200))
    assert len(sweep_of().look_up(urls)) == 1200


def test_a_bucket_that_refuses_version_listings_gets_one_request(few):
    few.bucket(BUCKET).list_versions = False
    sweep = sweep_of()
    for _ in range(3):
        assert sweep.look_up(urls_of(few, range(60))) == {}
    assert listings(few) == 1


def test_an_interrupted_version_listing_is_not_used(few, monkeypatch):
    monkeypatch.setattr(blob_versions_module, "_cost", lambda bucket, root: 1)
    with few.cut_listing("cut"):
        sweep = sweep_of()
        assert sweep.look_up(urls_of(few, range(60))) == {}


def test_a_blob_that_was_deleted_or_came_later_is_left_to_a_single_request(few):
    few.delete_object(key_of(blob_of(3)), bucket=BUCKET)
    sweep = sweep_of()
    urls = urls_of(few, range(60))
    assert set(urls) - set(sweep.look_up(urls)) == {urls[3]}
    few.put(key_of(blob_of(100)), b"later", bucket=BUCKET)
    assert sweep.look_up(urls_of(few, [100])) == {}


def test_of_an_overwritten_blob_the_newest_version_is_known(few):
    few.overwrite(key_of(blob_of(5)), b"other bytes", bucket=BUCKET)
    urls = urls_of(few, range(60))
    kept = few.head(key_of(blob_of(5)), bucket=BUCKET)
    assert sweep_of().look_up(urls)[urls[5]].version_id == kept.version_id


def test_an_outdated_version_listing_is_replaced(few):
    clock = [0.0]
    sweep = sweep_of(clock=lambda: clock[0])
    urls = urls_of(few, range(60))
    assert len(sweep.look_up(urls)) == 60
    few.clear_requests()
    clock[0] = 7 * 3600.0
    assert len(sweep.look_up(urls)) == 60
    assert listings(few) > 0


@pytest.mark.parametrize(
    "url",
    [
        "https://dandiarchive.s3.amazonaws.com/zarr/x/0",
        "https://dandiarchive.s3.amazonaws.com/blobs/abc/def/not-a-uuid",
        "https://dandiarchive.s3.amazonaws.com/blobs/abc/def/"
        "abcdef00-0000-4000-8000-000000000000?versionId=x",
        "nonsense",
    ],
)
def test_other_objects_are_left_to_single_requests(url):
    assert sweep_of().look_up([url] * 2000) == {}


def test_urls_with_a_common_prefix_parse_like_single_urls():
    blob = "abcdef00-0000-4000-8000-000000000000"
    urls = [
        f"{beginning}{key_of(one)}"
        for one in (blob, blob_of(1), blob_of(2))
        for beginning in (
            "https://dandiarchive.s3.amazonaws.com/",
            "https://s3.amazonaws.com/dandiarchive/",
            "https://s3.eu-west-1.amazonaws.com/dandiarchive/",
            "http://127.0.0.1:9000/dandiarchive/",
            "http://127.0.0.1:9000/another/",
            "http://127.0.0.1:9000/another/below/",
            "http://127.0.0.1:9000/another/blobs/",
            "http://[::1]:9000/another/",
            "http://127.0.0.1:9000/zarr/",
            "https://user@h/b/",
            "http:///",
        )
    ]
    urls += [urls[0] + "/x", urls[0] + "?", urls[0][:-1] + "x", urls[0].upper()]

    def parse_each(url):
        parsed = blob_versions_module._parse_blob_url(url)
        if parsed is None:
            return []
        address, root, found = parsed
        return [(url, (address.bucket, address.region, address.endpoint, root, found))]

    found = [
        (url, (address.bucket, address.region, address.endpoint, root, one))
        for url, (address, root, one) in blob_versions_module._parse_blob_urls(urls)
    ]
    assert found == [one for url in urls for one in parse_each(url)]
    assert len(found) > 20


def test_a_table_keeps_what_it_was_given():
    table = BlobTable()
    version = "n" * 32
    for number in range(500):
        row = ObjectRow(
            b"", number, f"{number:032x}-{number}" if number % 2 else f"{number:032x}", NOW, version
        )
        assert table.add(uuid.UUID(blob_of(number)), row)
    assert len(table) == 500
    for number in range(500):
        found = table.get(uuid.UUID(blob_of(number)))
        assert found is not None
        assert (found.size, found.version_id) == (number, version)
        assert found.etag == (f"{number:032x}-{number}" if number % 2 else f"{number:032x}")
    assert table.get(uuid.UUID(blob_of(500))) is None


def test_bytes_that_look_like_a_uuid_inside_a_record_are_not_one():
    table = BlobTable()
    blob_id = uuid.UUID("abc00000-0000-4000-8000-000000000001")
    other = uuid.UUID("abc00000-0000-4000-8000-000000000002")
    assert table.add(other, ObjectRow(b"", 1, blob_id.hex, NOW, "v" * 32))
    assert table.get(blob_id) is None
    assert table.add(blob_id, ObjectRow(b"", 2, "0" * 32, NOW, "w" * 32))
    found = table.get(blob_id)
    assert found is not None
    assert found.size == 2


@pytest.mark.parametrize(
    ("etag", "version"), [("0" * 32, "short"), ("0" * 32, None), ("no-md5", "v" * 32)]
)
def test_a_row_that_does_not_fit_is_left_out(etag, version):
    table = BlobTable()
    blob = uuid.UUID(blob_of(1))
    assert not table.add(blob, ObjectRow(b"", 1, etag, NOW, version))
    assert table.get(blob) is None


# --- in a listing


def draft_of(demo, name, known=EMPTY_CONTEXT):
    options = DandiOptions(api=demo.api_url)
    source = DandiSource("demo", options, options.session())
    versions = source.versions(source.dataset(name))
    return list(source.listing(versions[-1], known).entries())


def heads(demo) -> int:
    return demo.count_requests("^HEAD .*blobs/")


def test_locations_from_a_version_listing_equal_those_of_single_requests(demo, monkeypatch):
    name = demo.make_many(None, 120)
    demo.clear_requests()
    swept = draft_of(demo, name)
    assert heads(demo) == 0
    assert len(demo.s3_requests) <= 4
    monkeypatch.setattr(blob_versions_module, "_MIN_REQUESTS", 10**9)
    demo.clear_requests()
    assert draft_of(demo, name) == swept
    assert heads(demo) == 120


def test_a_known_blob_costs_no_request(demo):
    name = demo.make_many(None, 120)
    locations = {
        one.locations[0].url.partition("?")[0]: one.locations[0] for one in draft_of(demo, name)
    }
    demo.clear_requests()
    second = draft_of(demo, name, FakeVisitContext(locations.get))
    assert demo.s3_requests == []
    assert {one.locations[0] for one in second} == set(locations.values())
