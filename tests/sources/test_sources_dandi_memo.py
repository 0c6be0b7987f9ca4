"""The memo of an asset list: it never hides a change, and saves requests."""

import pytest

from neuromirror.model import Location
from neuromirror.net import ServerError
from support.loopback_http import send_reply
from support.visit_context import EMPTY_CONTEXT, FakeVisitContext

ASSETS = "/api/dandisets/000002/versions/draft/assets/"


def listing_of(source, known=EMPTY_CONTEXT, name="000002", label="draft"):
    versions = source.versions(source.dataset(name))
    return source.listing(next(v for v in versions if v.upstream == label), known)


def memo_of(source, **which):
    """Return the memo of a complete listing."""
    listing = listing_of(source, **which)
    for _ in listing.entries():
        pass
    return listing.memo()


def requested_pages(archive):
    return [path for path in archive.requests if path.startswith(ASSETS)]


@pytest.mark.parametrize("page_size", [2, 3, 7, 1000])
def test_an_unchanged_list_is_recognized_with_one_request_per_page(make_source, archive, page_size):
    source = make_source(page_size=page_size)
    memo = memo_of(source)
    assert memo is not None
    first = requested_pages(archive)
    archive.requests.clear()
    archive.heads.clear()
    assert listing_of(source, FakeVisitContext(memo=memo)).is_unchanged()
    assert requested_pages(archive) == first
    assert archive.heads == []


@pytest.mark.parametrize("name", ["000001", "000003", "000005"])
def test_small_zarr_and_empty_lists_are_recognized(make_source, name):
    source = make_source()
    memo = memo_of(source, name=name)
    assert listing_of(source, FakeVisitContext(memo=memo), name=name).is_unchanged()


def test_a_memo_does_not_depend_on_the_reader(make_source):
    assert memo_of(make_source(page_size=3)) == memo_of(make_source(page_size=3, connections=2))


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.update(path="renamed.nwb"),
        lambda row: row.update(size=row["size"] + 1),
        lambda row: row.update(asset_id="00000000-0000-4000-8000-000000000000"),
        lambda row: row.update(created="2031-01-01T00:00:00Z"),
        lambda row: row["metadata"]["digest"].update({"dandi:sha2-256": "a" * 64}),
        lambda row: row["metadata"].update(contentUrl=["https://elsewhere.org/x"]),
    ],
    ids=["path", "size", "asset", "created", "digest", "address"],
)
@pytest.mark.parametrize("number", [0, 3, 6])
def test_any_change_of_a_row_is_noticed(make_source, archive, change, number):
    source = make_source(page_size=3)
    memo = memo_of(source)
    change(archive.assets("000002_draft")[number])
    assert not listing_of(source, FakeVisitContext(memo=memo)).is_unchanged()


def test_a_sha256_that_comes_late_is_noticed(make_source, archive):
    digest = archive.assets("000002_draft")[4]["metadata"]["digest"]
    sha256 = digest.pop("dandi:sha2-256", "b" * 64)
    source = make_source()
    memo = memo_of(source)
    assert listing_of(source, FakeVisitContext(memo=memo)).is_unchanged()
    digest["dandi:sha2-256"] = sha256
    assert not listing_of(source, FakeVisitContext(memo=memo)).is_unchanged()


@pytest.mark.parametrize(
    ("field", "value"), [("asset_count", 8), ("size", 1), ("modified", "2031-01-01T00:00:00Z")]
)
def test_another_summary_or_time_is_noticed_without_a_page(make_source, archive, field, value):
    source = make_source()
    memo = memo_of(source)
    archive.replies["v000002_draft_info"][field] = value
    archive.requests.clear()
    assert not listing_of(source, FakeVisitContext(memo=memo)).is_unchanged()
    assert requested_pages(archive) == []


def test_other_metadata_of_the_dandiset_is_noticed_without_a_page(make_source, archive):
    source = make_source()
    memo = memo_of(source)
    archive.replies["v000002_draft_info"]["metadata"]["description"] = "A new description"
    archive.requests.clear()
    assert not listing_of(source, FakeVisitContext(memo=memo)).is_unchanged()
    assert requested_pages(archive) == []


@pytest.mark.parametrize("options", [{"page_size": 4}, {"mirror": "other"}])
def test_a_memo_made_under_other_options_is_of_no_use(make_source, archive, options):
    memo = memo_of(make_source(page_size=3))
    archive.requests.clear()
    assert not listing_of(
        make_source(**{"page_size": 3, **options}), FakeVisitContext(memo=memo)
    ).is_unchanged()
    assert requested_pages(archive) == []


def test_a_memo_of_another_version_is_of_no_use(make_source):
    source = make_source()
    memo = memo_of(source, label="0.261121.0904")
    assert not listing_of(source, FakeVisitContext(memo=memo)).is_unchanged()


@pytest.mark.parametrize(
    "memo",
    [None, b"", b"{", b"[]", b'{"bound":"x"}', b'{"bound":1,"pages":[]}', b"\xff", b'{"pages":[]}'],
)
def test_an_invalid_memo_is_ignored(make_source, archive, memo):
    assert not listing_of(make_source(), FakeVisitContext(memo=memo)).is_unchanged()
    assert requested_pages(archive) == []


def test_no_page_is_requested_after_the_first_that_differs(make_source, archive):
    source = make_source(page_size=2)
    memo = memo_of(source)
    changed = sorted(archive.assets("000002_draft"), key=lambda row: row["path"])[2]
    changed["size"] += 1
    archive.requests.clear()
    assert not listing_of(source, FakeVisitContext(memo=memo)).is_unchanged()
    assert len(requested_pages(archive)) == 2


def test_an_unreadable_page_means_changed(make_source, archive):
    source = make_source(page_size=2)
    memo = memo_of(source)
    archive.on_request = lambda handler, path, _: path == ASSETS and send_reply(handler, 503, b"{}")
    listing = listing_of(source, FakeVisitContext(memo=memo))
    assert not listing.is_unchanged()
    with pytest.raises(ServerError):
        list(listing.entries())
    assert listing.memo() is None


def test_the_smaller_pages_of_a_weak_server_are_requested_in_the_same_size(make_source, archive):
    archive.set_blob_count("000002_draft", 90)

    def before(handler, path, query):
        weak = path == ASSETS and int(query["page_size"]) > 20
        return weak and send_reply(handler, 502, b"{}")

    archive.on_request = before
    source = make_source(page_size=80)
    memo = memo_of(source)
    archive.requests.clear()
    assert listing_of(source, FakeVisitContext(memo=memo)).is_unchanged()
    assert len(requested_pages(archive)) == 5


def test_rows_with_lone_surrogates_are_remembered(make_source, archive):
    row = archive.assets("000002_draft")[0]
    row["path"] = "half \ud800"
    row["metadata"]["anything"] = 10**40
    source = make_source()
    memo = memo_of(source)
    assert listing_of(source, FakeVisitContext(memo=memo)).is_unchanged()
    row["path"] = "half \ud801"
    assert not listing_of(source, FakeVisitContext(memo=memo)).is_unchanged()


def test_nothing_is_remembered_before_the_list_was_read_to_its_end(make_source):
    listing = listing_of(make_source(page_size=3))
    assert listing.memo() is None
    entries = listing.entries()
    for _ in range(7):
        next(entries)
        assert listing.memo() is None
    assert list(entries) == []
    assert listing.memo() is not None


@pytest.mark.parametrize("status", [404, 405])
def test_a_missing_object_is_requested_in_the_next_visit(make_source, archive, status):
    refused = next(iter(archive.objects))

    def before(handler, path, _query):
        return handler.command == "HEAD" and path == refused and send_reply(handler, status)

    archive.on_request = before
    source = make_source()
    listing = listing_of(source, name="000001")
    entries = list(listing.entries())
    assert len(entries) == 3
    assert any(refused in path for path in archive.heads)
    assert listing.memo() is None
    archive.on_request = None
    assert memo_of(source, name="000001") is not None


def test_an_object_of_another_size_is_requested_in_the_next_visit(make_source, archive):
    path = next(path for path in archive.objects if "9e3cb77f" in path)
    archive.objects[path] = (13, "v1")
    assert memo_of(make_source(), name="000001") is None


def test_known_locations_are_looked_up_page_by_page(make_source, archive):
    archive.set_blob_count("000002_draft", 90)
    lookup_sizes: list[int] = []

    class Counting(FakeVisitContext):
        def locations(self, urls):
            lookup_sizes.append(len(urls))
            # every other one, to notice mixed-up replies
            return [
                Location(f"{url}?versionId=k-{url[-4:]}", "s3", f"k-{url[-4:]}")
                if int(url.rpartition("/")[2][:8], 16) % 2
                else None
                for url in urls
            ]

    records = list(listing_of(make_source(page_size=40), Counting()).entries())
    assert lookup_sizes == [40, 40, 10]
    assert [record.path for record in records] == [b"sub-%05d.nwb" % n for n in range(90)]
    assert [record.locations[0].version_id[:2] for record in records] == ["v-", "k-"] * 45
    assert len(archive.heads) == 45
