"""The DANDI source, with recorded replies of a real archive."""

import copy
import json
from collections import deque
from datetime import UTC, datetime

import pytest
import yaml
from msgspec.structs import replace
from pydantic import ValidationError

from neuromirror.model import (
    ConfigurationError,
    Evidence,
    ExcludedEntry,
    FileRecord,
    FileTotals,
    Location,
    Retention,
    VersionKind,
)
from neuromirror.net import AccessDeniedError, NotFoundError
from neuromirror.sources import (
    DatasetNotFoundError,
    UnexpectedReplyError,
    UnreliableListingError,
    open_source,
)
from neuromirror.sources.dandi.options import DandiOptions
from neuromirror.sources.dandi.rows import _object_url
from neuromirror.sources.dandi.versions import RecentVersions
from support.loopback_http import send_reply
from support.visit_context import EMPTY_CONTEXT, FakeVisitContext


def version_of(source, name, label):
    return next(v for v in source.versions(source.dataset(name)) if v.upstream == label)


def entries_of(source, name, label, known=EMPTY_CONTEXT):
    listing = source.listing(version_of(source, name, label), known)
    return list(listing.entries())


def read_of(source, name, label):
    """Return a listing after its last entry, when facts and documents are complete."""
    listing = source.listing(version_of(source, name, label), EMPTY_CONTEXT)
    deque(listing.entries(), maxlen=0)
    return listing


def test_a_dataset_is_named_by_six_digits(make_source, archive):
    source = make_source(mirror="ember")
    ref = source.dataset("000027")
    assert ref.name == "ember:000027"
    assert ref.source_uri == f"{archive.api}/dandisets/000027/"
    assert source.uri == f"{archive.api}/"
    for wrong in ("27", "0000027", "000027\n", "abc", "../../1", "٠٠٠٠٢٧"):
        with pytest.raises(ValueError):
            source.dataset(wrong)
    assert archive.requests == []


def test_all_dandisets_come_in_one_request(make_source, archive):
    hints = list(make_source().datasets())
    assert [hint.dataset.local_id for hint in hints] == [
        row["identifier"] for row in archive.replies["ds_all"]["results"]
    ]
    assert hints[1].title == "Published twice"
    assert {hint.unavailable for hint in hints} == {None}
    assert len({hint.fingerprint for hint in hints}) == len(hints)
    assert len(archive.requests) == 1


def test_small_pages_give_the_same_list(make_source):
    assert list(make_source(page_size=2).datasets()) == list(make_source().datasets())


def test_a_hint_equals_the_row_of_the_list(make_source):
    source = make_source()
    listed = {hint.dataset.local_id: hint for hint in source.datasets()}
    for local_id in ("000001", "000002", "000003", "000005"):
        assert source.hint(source.dataset(local_id)) == listed[local_id]


def test_a_hint_equals_the_list_after_an_older_version_is_resaved(make_source, archive):
    """The list names the version created last, the dandiset's own reply the one saved last."""
    rows = archive.replies["d000002_versions"]["results"]
    older = next(row for row in rows if row["version"] == "0.261121.0904")
    older["modified"] = "2026-12-24T00:00:00Z"
    archive.replies["d000002"]["most_recent_published_version"] = {
        name: older[name]
        for name in ("version", "name", "asset_count", "size", "status", "created", "modified")
    }
    source = make_source()
    listed = {hint.dataset.local_id: hint for hint in source.datasets()}
    assert source.hint(source.dataset("000002")) == listed["000002"]


@pytest.mark.parametrize(
    ("field", "value", "moves"),
    [
        ("modified", "2027-01-01T00:00:00Z", True),
        ("asset_count", 99, True),
        ("size", 99, True),
        ("name", "Renamed", True),
        ("status", "Invalid", False),
    ],
)
def test_the_fingerprint_moves_with_the_data_only(make_source, archive, field, value, moves):
    source = make_source()
    before = source.hint(source.dataset("000001")).fingerprint
    archive.replies["d000001"]["draft_version"][field] = value
    archive.replies["d000001"]["star_count"] = 5
    archive.replies["d000001"]["draft_version"]["active_uploads"] = 3
    assert (source.hint(source.dataset("000001")).fingerprint != before) is moves


def test_an_embargoed_dandiset_is_unavailable_to_anonymous_clients_and_owners(make_source, archive):
    source = make_source()
    assert source.hint(source.dataset("000004")).unavailable == "embargoed"
    archive.refused["/api/dandisets/000004/"] = (403, archive.replies["d000004_other"])
    assert source.hint(source.dataset("000004")).unavailable == "embargoed"
    del archive.refused["/api/dandisets/000004/"]
    archive.replies["d000004"] = archive.replies["d000004_owner"]
    assert source.hint(source.dataset("000004")).unavailable == "embargoed"


def test_a_refused_token_is_no_embargo(make_source, archive, monkeypatch):
    monkeypatch.setenv("DANDI_TEST_TOKEN", "0123456789abcdef")
    source = make_source(token_env="DANDI_TEST_TOKEN")
    archive.refused["/api/dandisets/000001/"] = (401, archive.replies["ds_bad_token"])
    with pytest.raises(AccessDeniedError, match="DANDI_TEST_TOKEN"):
        source.hint(source.dataset("000001"))


def test_a_403_of_a_firewall_is_not_an_embargo(make_source, archive):
    archive.on_request = lambda handler, *_: send_reply(handler, 403, b"<p>blocked", "text/html")
    source = make_source()
    with pytest.raises(AccessDeniedError):
        source.hint(source.dataset("000001"))
    with pytest.raises(AccessDeniedError):
        list(source.datasets())


def test_an_archive_that_refuses_every_request_implies_no_embargo(make_source, archive):
    refusal = (403, archive.replies["d000004_other"])
    for path in ("/api/dandisets/000001/", "/api/dandisets/"):
        archive.refused[path] = refusal
    source = make_source()
    with pytest.raises(AccessDeniedError):
        source.hint(source.dataset("000001"))
    del archive.refused["/api/dandisets/"]
    assert source.hint(source.dataset("000001")).unavailable == "embargoed"


def test_only_the_archive_itself_can_say_that_a_dandiset_is_gone(make_source, archive):
    source = make_source()
    for ask in (source.hint, source.versions):
        with pytest.raises(DatasetNotFoundError, match="000006"):
            ask(source.dataset("000006"))
    archive.on_request = lambda handler, *_: send_reply(
        handler, 404, b"<p>no such page", kind="text/html"
    )
    for ask in (source.hint, source.versions):
        with pytest.raises(NotFoundError):
            ask(source.dataset("000001"))


def test_versions_are_published_ones_by_age_and_then_the_draft(make_source, archive):
    archive.replies["d000002_versions"]["results"].reverse()
    source = make_source()
    versions = source.versions(source.dataset("000002"))
    assert [v.upstream for v in versions] == ["0.261121.0904", "0.261121.0905", "draft"]
    first, _, draft = versions
    assert first.kind is VersionKind.PUBLISHED
    assert first.time == datetime(2026, 11, 21, 9, 4, 28, 69279, UTC)
    assert first.claimed_totals == FileTotals(6, 568609)
    assert draft.kind is VersionKind.OBSERVED
    assert draft.time == datetime(2026, 11, 21, 9, 4, 46, 374550, UTC)


def test_versions_of_equal_age_are_in_order_of_label(make_source, archive):
    rows = archive.replies["d000002_versions"]["results"]
    for row in rows:
        row["created"] = "2026-11-21T09:04:28Z"
    rows.reverse()
    source = make_source()
    versions = source.versions(source.dataset("000002"))
    assert [v.upstream for v in versions] == ["0.261121.0904", "0.261121.0905", "draft"]


def test_a_list_of_versions_without_a_draft_is_rejected(make_source, archive):
    archive.replies["d000001_versions"]["results"] = []
    source = make_source()
    with pytest.raises(UnreliableListingError, match="lacks the draft"):
        source.versions(source.dataset("000001"))


def test_every_blob_becomes_a_record(make_source, archive):
    source = make_source()
    records = entries_of(source, "000002", "0.261121.0904")
    assert [record.path for record in records] == sorted(
        row["path"].encode() for row in archive.assets("000002_0.261121.0904")
    )
    record = next(r for r in records if r.path == b"stim/video one.csv")
    assert record.size == 8
    assert [(d.algorithm, d.claimed_by, d.checked) for d in record.digests] == [
        ("sha256", "dandi", False),
        ("etag", "dandi", False),
    ]
    assert record.digest("etag").value == "28e6bae9d4046937738d65e5b925bb7f-1"
    assert record.part_size == 64 * 2**20
    assert record.evidence is Evidence.SHA256
    assert record.upstream_id == "c33a9bba-4ebd-4802-9f33-c987fd455815"
    assert record.retention is Retention.PUBLISHED
    assert record.modified == datetime(2026, 11, 21, 9, 4, 19, 463249, UTC)
    plain = f"{archive.url}/dandi-dandisets/blobs/c33/a9b/c33a9bba-4ebd-4802-9f33-c987fd455815"
    assert record.locations == (
        Location(f"{plain}?versionId=v-c33a9bba", "s3", "v-c33a9bba"),
        Location(
            f"{archive.api}/assets/37ed1ff8-ae1d-4608-a7b1-34c2dce0a956/download/", "api", None
        ),
    )


def test_publishing_changes_only_how_long_a_file_is_kept(make_source):
    """Publishing changes the rows' ``modified``; records must not depend on it."""
    source = make_source()
    published = {r.path: r for r in entries_of(source, "000002", "0.261121.0905")}
    draft = {r.path: r for r in entries_of(source, "000002", "draft")}
    assert set(draft) - set(published) == {b"draft-only-after-v2.txt"}
    for path, record in published.items():
        assert draft[path].retention is Retention.DRAFT
        assert draft[path].modified == record.modified
        assert draft[path].digests == record.digests
        assert draft[path].locations == record.locations


def test_the_listing_carries_upstreams_own_summary_before_and_after(make_source, archive):
    source = make_source()
    version = version_of(source, "000002", "draft")
    archive.replies["v000002_draft_info"]["asset_count"] = 8
    listing = source.listing(version, EMPTY_CONTEXT)
    list(listing.entries())
    assert listing.version.claimed_totals == FileTotals(7, 758146)
    assert listing.confirm_version().claimed_totals == FileTotals(8, 758146)
    archive.replies["v000002_draft_info"]["modified"] = "2026-12-01T00:00:00Z"
    second = source.listing(version, EMPTY_CONTEXT)  # it was consumed
    assert second.version.claimed_totals == FileTotals(8, 758146)
    assert second.version.time == datetime(2026, 12, 1, tzinfo=UTC)
    list(second.entries())
    assert second.confirm_version() == second.version


def test_an_outdated_version_row_is_requested_again(make_source, archive):
    seconds = [0.0]
    lately = RecentVersions(lambda: seconds[0])
    version = version_of(make_source(), "000002", "draft")
    lately.remember([version])
    assert lately.consume(version)
    assert not lately.consume(version)
    lately.remember([version])
    assert not lately.consume(replace(version, claimed_totals=FileTotals(1, 1)))
    lately.remember([version])
    seconds[0] = 3600.0
    assert not lately.consume(version)


def test_a_version_costs_one_request_beside_its_pages(make_source, archive):
    source = make_source()
    versions = source.versions(source.dataset("000002"))
    archive.requests.clear()
    for version in versions:
        list(source.listing(version, EMPTY_CONTEXT).entries())
    of_versions = [request for request in archive.requests if "/versions/" in request]
    assert len(of_versions) == 2 * len(versions)


def test_a_zarr_is_named_and_not_mirrored(make_source):
    entries = entries_of(make_source(zarrs=False), "000003", "draft")
    zarrs = [entry for entry in entries if isinstance(entry, ExcludedEntry)]
    assert [(z.path, z.reason, z.size) for z in zarrs] == [
        (b"sub-001/img.ome.zarr", "zarr", 13166),
        (b"sub-002/arr.zarr", "zarr", 13669),
    ]
    assert "158136a1-279c-4c0a-bf6b-085a4f0da6cc" in zarrs[0].detail
    assert sum(entry.size for entry in entries) == 26842


def test_an_empty_draft_is_a_proven_listing_of_nothing(make_source):
    assert entries_of(make_source(), "000005", "draft") == []


def test_a_known_location_needs_no_request(make_source, archive):
    source = make_source()
    first = {}
    for record in entries_of(source, "000001", "draft"):
        first[record.locations[0].url.partition("?")[0]] = record.locations[0]
    assert len(archive.heads) == 3
    second = entries_of(source, "000001", "draft", known=FakeVisitContext(first.get))
    assert len(archive.heads) == 3
    assert [record.locations[0] for record in second] == list(first.values())


@pytest.mark.parametrize("version_id", [None, "null", ""])
def test_a_bucket_without_versions_gives_the_plain_address(make_source, archive, version_id):
    archive.objects = {path: (size, version_id) for path, (size, _) in archive.objects.items()}
    for record in entries_of(make_source(), "000001", "draft"):
        assert record.locations[0].version_id is None
        assert "?" not in record.locations[0].url
        assert [location.kind for location in record.locations] == ["s3", "api"]


@pytest.mark.parametrize("status", [401, 403])
def test_an_object_that_is_refused_without_an_embargo_ends_the_listing(
    make_source, archive, status
):
    archive.on_request = lambda handler, *_: (
        handler.command == "HEAD" and send_reply(handler, status)
    )
    with pytest.raises(AccessDeniedError) as caught:
        entries_of(make_source(), "000001", "draft")
    assert caught.value.status == status


def test_a_blob_that_its_row_states_to_be_under_embargo_is_left_out_by_name(make_source, archive):
    row = archive.assets("000001_draft")[0]
    row["metadata"]["access"] = [
        {"schemaKey": "AccessRequirements", "status": "dandi:EmbargoedAccess"}
    ]
    named, *rest = entries_of(make_source(), "000001", "draft")
    assert isinstance(named, ExcludedEntry)
    assert (named.path, named.reason) == (row["path"].encode(), "embargoed")
    assert named.size == row["size"]
    assert all(isinstance(entry, FileRecord) for entry in rest)


@pytest.mark.parametrize("status", [404, 405, 301])
def test_an_object_without_a_head_reply_keeps_its_plain_url(make_source, archive, status):
    archive.on_request = lambda handler, *_: (
        handler.command == "HEAD" and send_reply(handler, status)
    )
    records = entries_of(make_source(), "000001", "draft")
    assert len(records) == 3
    assert all(record.locations[0].version_id is None for record in records)


def test_a_version_in_the_address_needs_no_request(make_source, archive):
    for row in archive.assets("000001_draft"):
        row["metadata"]["contentUrl"][1] += "?versionId=given"
    records = entries_of(make_source(), "000001", "draft")
    assert archive.heads == []
    assert {record.locations[0].version_id for record in records} == {"given"}


def test_listings_of_one_source_share_head_replies(make_source, archive):
    source = make_source()
    first = entries_of(source, "000001", "draft")
    heads = len(archive.heads)
    assert heads == len({record.locations[0].url for record in first})
    assert entries_of(source, "000001", "draft") == first
    assert len(archive.heads) == heads


def test_an_object_of_another_size_is_named(make_source, archive):
    path = next(path for path in archive.objects if "9e3cb77f" in path)
    archive.objects[path] = (13, "v1")
    named, *rest = entries_of(make_source(), "000001", "draft")
    assert isinstance(named, ExcludedEntry)
    assert (named.path, named.reason, named.size) == (b"README.txt", "size-mismatch", 12)
    assert "12" in named.detail
    assert "13" in named.detail
    assert len(rest) == 2
    assert all(isinstance(entry, FileRecord) for entry in rest)


def test_a_version_id_is_quoted_in_the_address(make_source, archive):
    archive.objects = {path: (size, "a/b&c=d") for path, (size, _) in archive.objects.items()}
    location = entries_of(make_source(), "000001", "draft")[0].locations[0]
    assert location.url.endswith("?versionId=a%2Fb%26c%3Dd")
    assert location.version_id == "a/b&c=d"


def test_a_signed_content_address_is_recorded_unsigned(make_source, archive):
    row = archive.assets("000001_draft")[0]
    row["metadata"]["contentUrl"][1] += "?X-Amz-Signature=5ee5&X-Amz-Expires=60"
    record = entries_of(make_source(), "000001", "draft")[0]
    assert "5ee5" not in repr(record)
    assert record.locations[0].version_id is not None


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "s3://bucket/key", "http://169.254.169.254/x", 7, None, "http://[", "x"],
)
def test_a_disallowed_url_is_not_recorded(make_source, archive, url):
    archive.assets("000001_draft")[0]["metadata"]["contentUrl"][1] = url
    record = entries_of(make_source(), "000001", "draft")[0]
    assert [location.kind for location in record.locations] == ["api"]


def test_the_download_address_is_built_from_the_configured_api(make_source, archive):
    for row in archive.assets("000001_draft"):
        row["metadata"]["contentUrl"][0] = (
            f"https://internal.example/api/assets/{row['asset_id']}/download/"
        )
    for record in entries_of(make_source(), "000001", "draft"):
        assert record.locations[0].kind == "s3"
        assert record.locations[1].url.startswith(f"{archive.api}/assets/")


@pytest.mark.parametrize(
    ("urls", "found"),
    [
        (["https://h.org/b/k"], "https://h.org/b/k"),
        (["https://h.org:8443/b/k/"], "https://h.org:8443/b/k/"),
        (["https://h.org/assets/x/download/", "https://h.org/b/k"], "https://h.org/b/k"),
        (["https://h.org/assets/x/download"], None),
        (["https://h.org/x/download/"], "https://h.org/x/download/"),
        (
            ["http://127.0.0.1/b/k", "http://localhost:80/k", "https://h.org/b/k"],
            "https://h.org/b/k",
        ),
        (
            ["https://u:p@h.org/b/k?X-Amz-Signature=5&versionId=1#x"],
            "https://h.org/b/k?versionId=1",
        ),
        (["https://h.org/b/k?versionId=null"], "https://h.org/b/k"),
        (["https://h.org/b/k?versionId="], "https://h.org/b/k"),
        (["https://h.org/b/k?a=b&versionId=null#x"], "https://h.org/b/k?a=b"),
        (["https://h.org/b/k?versionId=nullable"], "https://h.org/b/k?versionId=nullable"),
        (["https://h.org/b/a b", "https://h.org/b/ü", "https://h.org:99999/b", 3], None),
        (["HTTPS://H.org/b/k"], "https://H.org/b/k"),
        (["https://h.org/b/%41+"], "https://h.org/b/%41+"),
        (["ftp://h.org/b", "s3://b/k", "https:///b"], None),
    ],
)
def test_the_objects_own_address_is_found_among_others(urls, found):
    assert _object_url({"contentUrl": urls}, allow_private=False) == found


def test_local_object_urls_require_a_local_archive():
    metadata = {"contentUrl": ["http://127.0.0.1:9000/bucket/key"]}
    assert _object_url(metadata, allow_private=True) == "http://127.0.0.1:9000/bucket/key"
    assert _object_url(metadata, allow_private=False) is None


def test_the_download_addresses_get_a_web_remote_of_their_own(make_source, archive):
    source = make_source(mirror="ember")
    listing = source.listing(version_of(source, "000001", "draft"), EMPTY_CONTEXT)
    (remote,) = listing.web_remotes
    assert remote.name == "ember-api"
    assert remote.urlinclude == f"{archive.api}/assets/*/download/"


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        (lambda digest: digest.pop("dandi:sha2-256"), Evidence.ETAG),
        (lambda digest: digest.update({"dandi:sha2-256": None}), Evidence.ETAG),
        (lambda digest: digest.clear(), Evidence.SIZE),
        (lambda digest: digest.update({"dandi:dandi-etag": "0" * 32 + "-7"}), Evidence.SHA256),
    ],
    ids=["without-sha256", "null-sha256", "without-any", "parts-that-cannot-be"],
)
def test_a_missing_digest_lowers_the_evidence_and_blocks_nothing(
    make_source, archive, change, evidence
):
    change(archive.assets("000001_draft")[0]["metadata"]["digest"])
    first, *rest = entries_of(make_source(), "000001", "draft")
    assert first.evidence is evidence
    assert {record.evidence for record in rest} == {Evidence.SHA256}


MALFORMED = {
    "path-missing": lambda row: row.pop("path"),
    "path-number": lambda row: row.update(path=5),
    "path-empty": lambda row: row.update(path=""),
    "path-half-character": lambda row: row.update(path="a\ud800b"),
    "size-missing": lambda row: row.pop("size"),
    "size-negative": lambda row: row.update(size=-1),
    "size-text": lambda row: row.update(size="12"),
    "size-true": lambda row: row.update(size=True),
    "size-huge": lambda row: row.update(size=2**70),
    "asset-id": lambda row: row.update(asset_id="../../x"),
    "blob": lambda row: row.update(blob=["x"]),
    "neither-blob-nor-zarr": lambda row: row.update(blob=None),
    "blob-and-zarr": lambda row: row.update(zarr=row["blob"]),
    "no-metadata": lambda row: row.pop("metadata"),
    "digest-list": lambda row: row["metadata"].update(digest=[]),
    "sha256-short": lambda row: row["metadata"]["digest"].update({"dandi:sha2-256": "abc"}),
    "sha256-newline": lambda row: row["metadata"]["digest"].update(
        {"dandi:sha2-256": "a" * 64 + "\n"}
    ),
    "etag": lambda row: row["metadata"]["digest"].update({"dandi:dandi-etag": "x-1"}),
    "created-without-zone": lambda row: row.update(created="2026-11-21T09:04:10"),
    "created-no-time": lambda row: row.update(created="yesterday"),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED)
def test_one_malformed_asset_is_named_and_blocks_no_other(make_source, archive, change):
    change(archive.assets("000001_draft")[1])
    entries = entries_of(make_source(), "000001", "draft")
    named = [entry for entry in entries if isinstance(entry, ExcludedEntry)]
    good = [entry for entry in entries if isinstance(entry, FileRecord)]
    assert [entry.reason for entry in named] == ["malformed"]
    assert named[0].detail
    assert named[0].path
    assert len(good) == 2


def test_a_row_that_is_no_object_is_named(make_source, archive):
    archive.assets("000001_draft")[1] = "?"
    archive.on_request = None
    entries = [
        entry
        for entry in entries_of(make_source(), "000001", "draft")
        if isinstance(entry, ExcludedEntry)
    ]
    assert [entry.reason for entry in entries] == ["malformed"]


def test_paths_are_kept_byte_for_byte(make_source, archive):
    names = ["ü/日本.nwb", "u\u0308.nwb", "a\nb", "..", "a//b/", "\U0001f9e0"]
    rows = archive.assets("000001_draft")
    model = rows[0]
    rows.clear()
    for name in names:
        rows.append({**copy.deepcopy(model), "path": name})
    listed = entries_of(make_source(), "000001", "draft")
    assert {record.path for record in listed} == {name.encode() for name in names}


def test_documents_have_no_volatile_members(make_source, archive):
    source = make_source()

    def content(label):
        listing = read_of(source, "000002", label)
        return listing.documents[0], listing.facts

    before = {label: content(label) for label in ("0.261121.0904", "draft")}
    for label in before:
        metadata = archive.replies[f"v000002_{label}_info"]["metadata"]
        metadata["citation"] = metadata["citation"].replace("2026", "2031")
        metadata["manifestLocation"] = ["elsewhere"]
        metadata.pop("doi", None)
        archive.replies[f"v000002_{label}_info"]["status"] = "Pending"
    draft = archive.replies["v000002_draft_info"]["metadata"]
    draft["assetsSummary"]["numberOfFiles"] = 0
    draft["dateModified"] = "2031-01-01T00:00:00Z"
    assert {label: content(label) for label in before} == before


def test_the_document_is_json_that_is_yaml(make_source):
    source = make_source()
    listing = read_of(source, "000002", "0.261121.0904")
    document = listing.documents[0]
    assert document.path == b"dandiset.yaml"
    metadata = json.loads(document.content)
    assert yaml.safe_load(document.content) == metadata
    assert document.content.endswith(b"}\n")
    assert list(metadata) == sorted(metadata)
    assert metadata["doi"] == "10.48324/dandi.000002/0.261121.0904"
    assert metadata["assetsSummary"]["numberOfFiles"] == 6
    assert "citation" not in metadata


def test_dandis_own_tools_read_the_document(make_source, tmp_path):
    from dandi.dandiset import Dandiset

    source = make_source()
    listing = read_of(source, "000002", "0.261121.0904")
    (tmp_path / "dandiset.yaml").write_bytes(listing.documents[0].content)
    assert Dandiset(tmp_path).identifier == "000002"


def test_characters_that_yaml_forbids_are_escaped(make_source, archive):
    text = "a\x85b\x9fc\u2028d\ufeffe\U0001f9e0f\tg"
    archive.replies["v000001_draft_info"]["metadata"]["description"] = text
    source = make_source()
    listing = read_of(source, "000001", "draft")
    content = listing.documents[0].content
    assert yaml.safe_load(content)["description"] == text
    assert "\U0001f9e0".encode() in content


def test_a_signed_address_in_the_metadata_is_recorded_unsigned_and_others_as_they_are(
    make_source, archive
):
    metadata = archive.replies["v000001_draft_info"]["metadata"]
    metadata["description"] = (
        "see https://h/x?a=1&X-Amz-Signature=5ee5ee#f and http://o.org/p#X?c=1"
    )
    source = make_source()
    content = read_of(source, "000001", "draft").documents[0]
    assert b"5ee5ee" not in content.content
    assert b"http://o.org/p#X?c=1" in content.content


def test_facts_name_the_version(make_source, archive):
    source = make_source()
    facts = read_of(source, "000002", "0.261121.0904").facts
    assert facts.title == "Published twice"
    assert facts.license == ("spdx:CC-BY-4.0",)
    assert facts.doi == "10.48324/dandi.000002/0.261121.0904"
    assert facts.landing_page.endswith("/dandiset/000002/0.261121.0904")
    assert read_of(source, "000002", "draft").facts.doi is None


def test_the_doi_follows_the_instances_rule(make_source, archive):
    archive.replies["info"]["instance_config"] |= {
        "doi_prefix": "10.60533",
        "instance_name": "EMBER-DANDI",
    }
    source = make_source()
    listing = read_of(source, "000002", "0.261121.0904")
    assert listing.facts.doi == "10.60533/ember-dandi.000002/0.261121.0904"


def test_an_instance_without_a_prefix_gives_no_doi_at_all(make_source, archive):
    archive.replies["info"]["instance_config"]["doi_prefix"] = None
    source = make_source()
    listing = read_of(source, "000002", "0.261121.0904")
    assert listing.facts.doi is None
    assert "doi" not in json.loads(listing.documents[0].content)


@pytest.mark.parametrize("broken", [[], {}, {"version": "other"}, "text", None, 3])
def test_a_malformed_version_is_an_error(make_source, archive, broken):
    source = make_source()
    version = version_of(source, "000001", "draft")
    archive.replies["v000001_draft_info"] = broken
    with pytest.raises(UnexpectedReplyError):
        list(source.listing(version, EMPTY_CONTEXT).entries())
    with pytest.raises(UnexpectedReplyError):
        source.listing(version, EMPTY_CONTEXT)


def test_options_are_checked(archive):
    source = open_source("dandi", "local", {"api": f"{archive.api}/"})
    assert source.uri == f"{archive.api}/"
    assert source.session.allow_private is True
    assert len(list(source.datasets())) == 9
    for options, message in [
        ({}, "option api: Field required"),
        ({"api": "ftp://x"}, "not an http"),
        ({"api": "https://x", "apy": 1}, "option apy: Extra inputs"),
        ({"api": "https://x", "page_size": 5000}, "option page_size"),
    ]:
        with pytest.raises(ConfigurationError, match=message) as caught:
            open_source("dandi", "local", options)
        assert "'local'" in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        open_source("dandi", "local", {"api": "https://me:hunter2@x/api"})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"'nope'.*dandi"):
        open_source("nope", "local", {})


@pytest.mark.parametrize(
    ("api", "allowed"),
    [
        ("https://api.dandiarchive.org/api", False),
        ("http://localhost:8000/api", True),
        ("http://10.1.2.3/api", True),
        ("https://localhost.example/api", False),
    ],
)
def test_private_addresses_are_requested_only_for_a_private_archive(api, allowed):
    assert open_source("dandi", "d", {"api": api}).session.allow_private is allowed


def test_the_same_archive_has_one_uri_however_it_is_written():
    spelt = ["https://API.dandiarchive.org:443/api/", "HTTPS://api.dandiarchive.org/api"]
    uris = {open_source("dandi", "d", {"api": api}).uri for api in spelt}
    assert uris == {"https://api.dandiarchive.org/api/"}


def test_sources_are_cheap_to_import():
    import subprocess
    import sys

    heavy = ["dandi", "boto3", "numpy", "datalad", "pynwb", "flask"]
    code = (
        "import sys, neuromirror.sources, neuromirror.sources.dandi;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("api", "is_allowed"),
    [
        ("https://api.dandiarchive.org/api", True),
        ("http://api.dandiarchive.org/api", False),
        ("https://api.dandiarchive.org.example.org/api", False),
        ("https://api.dandiarchive.org:8443/api", False),
        ("https://api.sandbox.dandiarchive.org/api", False),
        ("http://127.0.0.1:8000/api", False),
    ],
)
def test_the_key_of_an_archive_is_for_its_own_host(api: str, is_allowed: bool) -> None:
    """A mirror file cannot send it elsewhere, nor without TLS."""
    options = {"api": api, "instance": "dandi", "embargoed": "private"}
    if is_allowed:
        assert DandiOptions.model_validate(options).token.variables == ("DANDI_API_KEY",)
    else:
        with pytest.raises(ValidationError):
            DandiOptions.model_validate(options)
    derived = DandiOptions.model_validate({"api": api, "token_env": "X", "embargoed": "private"})
    is_dandi = getattr(derived.token, "service", "") == "dandi-api-dandi"
    assert is_dandi is is_allowed
