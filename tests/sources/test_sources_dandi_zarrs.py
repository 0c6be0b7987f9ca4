"""Zarr assets: listed from the bucket, and verified by their checksum."""

import hashlib
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr_checksum.tree import ZarrChecksumTree

from neuromirror.model import ExcludedEntry, FileTotals, Retention, VersionKind
from neuromirror.net import AccessDeniedError, NotFoundError, ObjectRow
from neuromirror.sources import (
    ComponentEntry,
    ComponentRefusedError,
    ComponentUnavailableError,
    DatasetNotFoundError,
    MalformedIdError,
    UnreliableListingError,
)
from neuromirror.sources.dandi import DandiOptions, DandiSource
from neuromirror.sources.dandi import objects as buckets_module
from neuromirror.sources.dandi import zarr_listing as checksum_module
from neuromirror.sources.dandi.objects import ObjectAddress, parse_object_url
from neuromirror.sources.dandi.zarr_listing import (
    SortedRows,
    ZarrSource,
    compute_zarr_checksum,
    parse_checksum,
)
from support.dandi_replay import DandiReplayServer
from support.moto_buckets import MIB, Buckets, moto_server
from support.visit_context import EMPTY_CONTEXT, FakeVisitContext
from support.zarr_archive import DENIED, ZarrArchive, md5, moment, refusing_endpoint

ENTRIES = {
    ".zgroup": b'{"zarr_format": 2}',
    "0/.zarray": b"{}",
    "0/1/0": b"row one",
    "0/10/0": b"row ten",
    "0/1.0": b"dotted",
    "0/0/0": b"",
}


@pytest.fixture(scope="module")
def buckets() -> Iterator[Buckets]:
    with moto_server() as running:
        yield running


@pytest.fixture
def zarr_archive(archive: DandiReplayServer, buckets: Buckets) -> ZarrArchive:
    return ZarrArchive(archive, buckets.make(versioned=True))


@pytest.fixture
def plain_archive(archive: DandiReplayServer, buckets: Buckets) -> ZarrArchive:
    """An archive whose bucket is not versioned."""
    return ZarrArchive(archive, buckets.make())


def zarrs_of(archive: ZarrArchive, **more) -> ZarrSource:
    session = archive.session()
    return ZarrSource(
        session, "dandi", archive.api, buckets_module.BucketCache(session), connections=3, **more
    )


def part_of(archive: ZarrArchive, zarr_id: str, path: bytes = b"a/img.ome.zarr") -> ComponentEntry:
    found = zarrs_of(archive).component(path, 7, zarr_id, archive.metadata(zarr_id))
    assert isinstance(found, ComponentEntry)
    return found


def read(listing):
    entries = list(listing.entries())
    assert listing.confirm_version() == listing.version
    found = {entry.path: entry for entry in entries}
    assert len(found) == len(entries)
    return found


# --- rows of an asset list


def test_a_zarr_asset_is_a_part_and_costs_no_request(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    part = part_of(zarr_archive, zarr_id)
    checksum = zarr_archive.library_checksum(zarr_id)
    assert (part.path, part.size) == (b"a/img.ome.zarr", 7)
    assert part.dataset.name == f"dandi:zarr/{zarr_id}"
    assert part.dataset.source_uri == f"{zarr_archive.api}/zarr/{zarr_id}/"
    assert part.version.upstream == checksum
    assert part.version.kind is VersionKind.OBSERVED
    assert part.version.time is None
    assert part.version.claimed_totals == FileTotals(6, sum(map(len, ENTRIES.values())))
    assert zarr_archive.requests == []


def test_one_zarr_in_two_dandisets_is_one_dataset(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    first, second = (part_of(zarr_archive, zarr_id, path) for path in (b"x.zarr", b"y/z.zarr"))
    assert first.dataset == second.dataset
    assert first.version == second.version


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"access": [{"status": "dandi:EmbargoedAccess"}]}, "embargoed"),
        ({"contentUrl": []}, "malformed"),
        ({"contentUrl": ["https://example.org/elsewhere/"]}, "malformed"),
        ({"digest": {"dandi:dandi-zarr-checksum": "abc"}}, "malformed"),
        ({"digest": {"dandi:dandi-zarr-checksum": 5}}, "malformed"),
    ],
)
def test_a_row_that_cannot_be_a_part_is_a_named_exception(zarr_archive, change, reason):
    zarr_id = zarr_archive.make(ENTRIES)
    metadata = {**zarr_archive.metadata(zarr_id), **change}
    found = zarrs_of(zarr_archive).component(b"p.zarr", 9, zarr_id, metadata)
    assert isinstance(found, ExcludedEntry)
    assert (found.path, found.reason, found.size) == (b"p.zarr", reason, 9)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (
            "https://dandiarchive.s3.amazonaws.com/zarr/x/0%20a",
            ObjectAddress("dandiarchive", None, None, b"zarr/x/0 a"),
        ),
        (
            "https://dandiarchive.s3.us-east-2.amazonaws.com/zarr/x/",
            ObjectAddress("dandiarchive", "us-east-2", None, b"zarr/x/"),
        ),
        (
            "https://a.b.s3.dualstack.us-gov-west-1.amazonaws.com/k",
            ObjectAddress("a.b", "us-gov-west-1", None, b"k"),
        ),
        (
            "https://s3.us-west-2.amazonaws.com/some-bucket/zarr/x/",
            ObjectAddress("some-bucket", "us-west-2", None, b"zarr/x/"),
        ),
        (
            "https://s3.amazonaws.com/some.bucket/zarr/x/",
            ObjectAddress("some.bucket", None, None, b"zarr/x/"),
        ),
        (
            "http://127.0.0.1:15900/dandi-dandisets/zarr/x/",
            ObjectAddress("dandi-dandisets", None, "http://127.0.0.1:15900", b"zarr/x/"),
        ),
        ("https://[::1]/b-u/k", ObjectAddress("b-u", None, "https://[::1]", b"k")),
        (
            "https://evil.s3.amazonaws.com.example.org/bucket/k",
            ObjectAddress("bucket", None, "https://evil.s3.amazonaws.com.example.org", b"k"),
        ),
    ],
)
def test_the_bucket_is_parsed_from_a_url(url, address):
    assert parse_object_url(url) == address


@pytest.mark.parametrize("url", ["https://example.org/", "https://example.org", "ftp://x/b/k", "x"])
def test_an_address_without_a_bucket_is_refused(url):
    with pytest.raises(ValueError):
        parse_object_url(url)


# --- the checksum

NAMES = st.text(st.sampled_from("ab.-0/1é "), min_size=1, max_size=6).filter(
    lambda path: all(one not in ("", ".", "..") for one in path.split("/"))
)


@settings(max_examples=60)
@given(
    st.dictionaries(NAMES, st.integers(0, 10**12), max_size=12), st.sampled_from([1, 100, 1 << 24])
)
def test_the_checksum_is_the_librarys_own(paths, in_memory):
    """Also for folders whose files are spooled."""
    tree = ZarrChecksumTree()
    rows = []
    for path, size in paths.items():
        digest = md5(path.encode())
        tree.add_leaf(Path(path), size, digest)
        rows.append(ObjectRow(b"zarr/x/" + path.encode(), size, digest, datetime.now(UTC)))
    rows.sort(key=lambda row: row.key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksum_module, "_MAX_IN_MEMORY", in_memory)
        assert compute_zarr_checksum(rows, b"zarr/x/") == str(tree.process())


def test_a_multipart_etag_is_in_the_checksum_as_it_stands():
    etag = "9bb58f26192e4ba00f01e2e7b136bbd8-2"
    tree = ZarrChecksumTree()
    tree.add_leaf(Path("0/0"), 5, etag)
    row = ObjectRow(b"z/0/0", 5, etag, datetime.now(UTC))
    assert compute_zarr_checksum([row], b"z/") == str(tree.process())


@pytest.mark.parametrize("wrong", ["", "x", "0" * 32, "0" * 32 + "-1-2", "0" * 32 + "-1--2\n"])
def test_a_malformed_checksum_is_refused(wrong):
    with pytest.raises(ValueError):
        parse_checksum(wrong)


def test_many_rows_are_sorted_on_disk_and_read_more_than_once(tmp_path, monkeypatch):
    monkeypatch.setattr("neuromirror.sources.dandi.zarr_listing._RUN", 10)
    now = datetime(2024, 1, 1, tzinfo=UTC)
    keys = [b"%03d" % (number * 37 % 101) for number in range(101)]
    rows = SortedRows((ObjectRow(key, 1, "e", now, "v") for key in keys), tmp_path)
    for _ in range(2):
        assert [row.key for row in rows] == sorted(keys)
    assert len(list(tmp_path.iterdir())) == 10


# --- a listing


def test_entries_have_md5_version_and_a_path_below_the_zarr(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    listing = part_of(zarr_archive, zarr_id).listing(EMPTY_CONTEXT)
    found = read(listing)
    assert set(found) == {path.encode() for path in ENTRIES}
    one = found[b"0/10/0"]
    assert one.size == 7
    assert [(d.algorithm, d.value) for d in one.digests] == [("md5", md5(b"row ten"))]
    assert one.retention is Retention.VERSIONED_BUCKET
    assert one.locations[0].url == (
        f"{zarr_archive.url(zarr_id)}0/10/0?versionId={one.locations[0].version_id}"
    )
    assert listing.facts.title == "img.ome.zarr"
    assert listing.facts.attributes == (("zarr-checksum", zarr_archive.library_checksum(zarr_id)),)
    assert listing.documents == ()


def test_prefix_1_does_not_return_10(zarr_archive):
    """The archive's own list would, for ``prefix=0/1/``. One Zarr's id can also start another's."""
    zarr_id = zarr_archive.make(ENTRIES)
    zarr_archive.bucket.put(f"zarr/{zarr_id}0/unrelated", b"not ours")
    assert set(read(part_of(zarr_archive, zarr_id).listing(EMPTY_CONTEXT))) == {
        path.encode() for path in ENTRIES
    }
    assert not any("/files/" in request for request in zarr_archive.requests)


def test_odd_names_are_listed_as_they_are(zarr_archive):
    names = ["a #1 & b+c=d~e (f),g.txt", "Case", "case", ".hidden/.dot", "ü/%41", "a?b"]
    zarr_id = zarr_archive.make({name: name.encode() for name in names})
    assert set(read(part_of(zarr_archive, zarr_id).listing(EMPTY_CONTEXT))) == {
        name.encode() for name in names
    }


def test_multipart_entries_have_their_part_size(zarr_archive):
    data = bytes(range(256)) * (6 * MIB // 256)
    zarr_id = zarr_archive.make({".zgroup": b"{}"})
    zarr_archive.bucket.upload(zarr_archive.key(zarr_id, "0/0"), data, 5 * MIB)
    zarr_archive.finalize(zarr_id)
    one = read(part_of(zarr_archive, zarr_id).listing(EMPTY_CONTEXT))[b"0/0"]
    assert one.part_size == 5 * MIB
    halves = b"".join(hashlib.md5(part).digest() for part in (data[: 5 * MIB], data[5 * MIB :]))
    assert one.digest("etag").value == f"{md5(halves)}-2"


def test_without_version_listing_the_present_objects_are_listed(plain_archive):
    zarr_id = plain_archive.make(ENTRIES)
    found = read(part_of(plain_archive, zarr_id).listing(EMPTY_CONTEXT))
    assert set(found) == {path.encode() for path in ENTRIES}
    assert found[b"0/1/0"].locations[0].version_id is None
    assert found[b"0/1/0"].retention is Retention.MUTABLE_BUCKET


def test_old_versions_and_deleted_objects_are_not_listed(zarr_archive):
    zarr_id = zarr_archive.make({"a": b"1", "b": b"2", "c": b"3"})
    zarr_archive.put(zarr_id, {"a": b"new", "b": None})
    zarr_archive.finalize(zarr_id)
    found = read(part_of(zarr_archive, zarr_id).listing(EMPTY_CONTEXT))
    assert {path: one.size for path, one in found.items()} == {b"a": 3, b"c": 1}


def test_objects_that_do_not_match_the_checksum_are_refused(zarr_archive):
    """An object is deleted without a change upstream; no entry is yielded."""
    zarr_id = zarr_archive.make(ENTRIES)
    stated = zarr_archive.library_checksum(zarr_id)
    part = part_of(zarr_archive, zarr_id)
    zarr_archive.put(zarr_id, {"0/1/0": None})
    listing = part.listing(EMPTY_CONTEXT)
    with pytest.raises(UnreliableListingError) as caught:
        next(listing.entries())
    assert stated in str(caught.value)
    assert zarr_archive.library_checksum(zarr_id) in str(caught.value)
    assert f"dandi:zarr/{zarr_id}" in str(caught.value)


def test_a_zarr_that_changed_since_its_row_is_listed_in_its_current_state(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    part = part_of(zarr_archive, zarr_id)
    zarr_archive.put(zarr_id, {"0/11/0": b"more"})
    checksum = zarr_archive.finalize(zarr_id)
    listing = part.listing(EMPTY_CONTEXT)
    assert len(read(listing)) == 7
    assert listing.version.upstream == checksum
    assert listing.version.claimed_totals == parse_checksum(checksum)
    assert part.version.upstream != checksum


def test_a_race_with_an_upload_is_retried(zarr_archive):
    """The objects change after the state was requested, its checksum after they were listed."""
    zarr_id = zarr_archive.make(ENTRIES)
    part = part_of(zarr_archive, zarr_id)
    requests = []

    def upload(_zarr_id):
        requests.append(1)
        if len(requests) == 2:
            zarr_archive.put(zarr_id, {"0/12/0": b"second"})
            zarr_archive.finalize(zarr_id)

    zarr_archive.on_request = upload
    listing = part.listing(EMPTY_CONTEXT)
    zarr_archive.put(zarr_id, {"0/11/0": b"first"})
    found = read(listing)
    assert {b"0/11/0", b"0/12/0"} <= set(found)
    assert listing.version.upstream == zarr_archive.library_checksum(zarr_id)


def test_stale_pages_of_a_killed_visit_are_discarded_for_a_changed_zarr(zarr_archive, tmp_path):
    zarr_id = zarr_archive.make(ENTRIES)
    zarr_archive.set_state(zarr_id, "0" * 32 + "-1--1")
    part = part_of(zarr_archive, zarr_id)
    with pytest.raises(UnreliableListingError):
        list(part.listing(FakeVisitContext(workspace=tmp_path)).entries())
    zarr_archive.put(zarr_id, {"0/11/0": b"more"})
    zarr_archive.finalize(zarr_id)
    assert len(read(part.listing(FakeVisitContext(workspace=tmp_path)))) == 7


def test_zarr_checksum_null_is_listed_by_time_and_says_so(zarr_archive):
    """Never finalized: checksum null and size 0, although files exist."""
    zarr_id = zarr_archive.make(ENTRIES)
    age(zarr_archive, zarr_id)
    zarr_archive.set_state(zarr_id, None)
    part = part_of(zarr_archive, zarr_id)
    assert part.version.upstream == "current"
    assert part.version.claimed_totals is None
    listing = part.listing(EMPTY_CONTEXT)
    assert set(read(listing)) == {path.encode() for path in ENTRIES}
    assert listing.version == part.version
    assert listing.facts.attributes == (
        ("zarr-checksum", zarr_archive.library_checksum(zarr_id)),
        ("zarr-finalized", "no"),
    )


def age(archive, zarr_id):
    """Give the objects an old time: objects of the current second count as written meanwhile."""
    for path in ENTRIES:
        archive.bucket.set_time(archive.key(zarr_id, path), moment("2024-01-01T00:00:00"))


def test_a_zarr_that_is_finalized_while_it_is_listed_is_not_proven(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    age(zarr_archive, zarr_id)
    zarr_archive.set_state(zarr_id, None)
    listing = part_of(zarr_archive, zarr_id).listing(EMPTY_CONTEXT)
    assert len(list(listing.entries())) == 6
    zarr_archive.finalize(zarr_id)
    with pytest.raises(UnreliableListingError, match="finalized while"):
        listing.confirm_version()


def test_a_zarr_that_is_written_to_while_it_is_listed_is_not_proven(zarr_archive):
    """Uploads remove the checksum, and objects listed meanwhile are an accidental state."""
    zarr_id = zarr_archive.make(ENTRIES)
    listing = part_of(zarr_archive, zarr_id).listing(EMPTY_CONTEXT)
    zarr_archive.put(zarr_id, {"0/11/0": b"more"})
    zarr_archive.set_state(zarr_id, None)
    with pytest.raises(ComponentUnavailableError) as caught:
        next(listing.entries())
    assert caught.value.reason == "pending"


def test_a_never_finalized_zarr_that_grows_while_it_is_listed_is_not_proven(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    age(zarr_archive, zarr_id)
    zarr_archive.set_state(zarr_id, None)
    listing = part_of(zarr_archive, zarr_id).listing(EMPTY_CONTEXT)
    ahead = datetime.now(UTC) + timedelta(seconds=2)
    zarr_archive.put(zarr_id, {"0/11/0": b"more"}, at=ahead)
    assert len(list(listing.entries())) == 7
    while datetime.now(UTC) < ahead + timedelta(seconds=1):
        time.sleep(0.1)
    with pytest.raises(ComponentUnavailableError) as caught:
        listing.confirm_version()
    assert caught.value.reason == "pending"


def test_an_empty_zarr_is_an_empty_listing(zarr_archive):
    zarr_id = zarr_archive.make({})
    assert zarr_archive.library_checksum(zarr_id).endswith("-0--0")
    assert read(part_of(zarr_archive, zarr_id).listing(EMPTY_CONTEXT)) == {}


# --- embargo


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_hidden_zarr_is_refused_and_its_own_hint_says_embargoed(zarr_archive, status):
    """The archive returns 404 except to owners, but still redirects to its files."""
    zarr_id = zarr_archive.make(ENTRIES)
    part = part_of(zarr_archive, zarr_id)
    zarr_archive.rows[zarr_id] = (status, DENIED)
    with pytest.raises(ComponentRefusedError):
        part.listing(EMPTY_CONTEXT)
    zarrs = zarrs_of(zarr_archive)
    assert zarrs.hint(part.dataset).unavailable == "embargoed"


def test_a_removed_zarr_differs_from_an_embargoed_one(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    part = part_of(zarr_archive, zarr_id)
    del zarr_archive.rows[zarr_id]
    with pytest.raises(DatasetNotFoundError, match=zarr_id):
        part.listing(EMPTY_CONTEXT)
    with pytest.raises(DatasetNotFoundError, match=r"Not found\."):
        zarrs_of(zarr_archive).hint(part.dataset)


def test_a_404_from_a_proxy_does_not_remove_a_zarr(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    part = part_of(zarr_archive, zarr_id)
    zarr_archive.rows[zarr_id] = (404, {"page": "of a proxy"})
    with pytest.raises(NotFoundError):
        zarrs_of(zarr_archive).hint(part.dataset)


def test_a_refused_token_is_no_embargo(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    part = part_of(zarr_archive, zarr_id)
    zarr_archive.rows[zarr_id] = (401, {"detail": "Invalid token."})
    with pytest.raises(AccessDeniedError):
        part.listing(EMPTY_CONTEXT)


def test_an_embargoed_zarr_whose_files_answers_200_gives_no_path(zarr_archive):
    """The archive shows it and the bucket lists it, but refuses its objects."""
    zarr_id = zarr_archive.make(ENTRIES)
    with refusing_endpoint(zarr_archive.bucket) as endpoint:
        metadata = zarr_archive.metadata(zarr_id)
        zarr_url = f"{endpoint}/{zarr_archive.bucket.name}/zarr/{zarr_id}/"
        metadata["contentUrl"][1] = zarr_url
        part = zarrs_of(zarr_archive).component(b"z.zarr", 1, zarr_id, metadata)
        listing = part.listing(EMPTY_CONTEXT)
        with pytest.raises(ComponentRefusedError) as caught:
            next(listing.entries())
    assert not re.search(r"zgroup|0/1/0", str(caught.value))


# --- memos


def test_an_unchanged_zarr_is_recognized(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    part = part_of(zarr_archive, zarr_id)
    listing = part.listing(EMPTY_CONTEXT)
    read(listing)
    memo = listing.memo()
    assert memo
    assert part.listing(FakeVisitContext(memo=memo)).is_unchanged()
    assert not part.listing(EMPTY_CONTEXT).is_unchanged()
    assert not part.listing(FakeVisitContext(memo=b"something else")).is_unchanged()
    zarr_archive.put(zarr_id, {"0/1/0": b"new"})
    assert not part.listing(FakeVisitContext(memo=memo)).is_unchanged()


def test_a_never_finalized_zarr_is_no_longer_as_remembered_once_it_is(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    zarr_archive.set_state(zarr_id, None)
    part = part_of(zarr_archive, zarr_id)
    listing = part.listing(EMPTY_CONTEXT)
    for _ in listing.entries():
        pass
    memo = listing.memo()
    assert part.listing(FakeVisitContext(memo=memo)).is_unchanged()
    zarr_archive.finalize(zarr_id)
    assert not part.listing(FakeVisitContext(memo=memo)).is_unchanged()


# --- by local id


def test_a_zarr_can_be_visited_by_its_id(zarr_archive):
    zarr_id = zarr_archive.make(ENTRIES)
    zarrs = zarrs_of(zarr_archive)
    dataset = zarrs.dataset(f"zarr/{zarr_id}")
    [version] = zarrs.versions(dataset)
    assert version == part_of(zarr_archive, zarr_id).version
    assert zarrs.hint(dataset).fingerprint == version.upstream
    by_id = read(zarrs.listing(version, EMPTY_CONTEXT))
    assert by_id == read(part_of(zarr_archive, zarr_id).listing(EMPTY_CONTEXT))


def test_a_malformed_or_unknown_zarr_is_refused(zarr_archive):
    zarrs = zarrs_of(zarr_archive)
    for wrong in ("zarr/", "zarr/x", "000003", "zarr/../../x", "zarr/" + "A" * 36):
        with pytest.raises(MalformedIdError):
            zarrs.dataset(wrong)
    with pytest.raises(DatasetNotFoundError):
        zarrs.versions(zarrs.dataset("zarr/00000000-0000-4000-8000-000000000000"))


# --- history


def test_past_states_are_rebuilt_from_versions_and_delete_markers(zarr_archive):
    zarr_id = zarr_archive.make({})
    days = [moment(f"2024-01-0{day}T12:00:00") for day in (1, 2, 3, 4)]
    truths = []
    changes = [
        {"a": b"1", "0/0": b"2", "0/1": b"3"},
        {"a": b"1 again", "0/10": b"4"},
        {"0/0": None},
        {"0/0": b"back"},
    ]
    for day, change in zip(days, changes, strict=True):
        zarr_archive.put(zarr_id, change, at=day)
        truths.append(zarr_archive.finalize(zarr_id))
    zarrs = zarrs_of(zarr_archive)
    dataset = zarrs.dataset(f"zarr/{zarr_id}")
    states = zarrs.history(dataset, None)
    assert [state.time for state in states] == days[:-1]
    assert [state.upstream for state in states] == [
        f"at 2024-01-0{day}T12:00:00Z" for day in (1, 2, 3)
    ]
    found = [zarrs.listing(state, EMPTY_CONTEXT) for state in states]
    entries = [read(listing) for listing in found]
    assert [set(entry) for entry in entries] == [
        {b"a", b"0/0", b"0/1"},
        {b"a", b"0/0", b"0/1", b"0/10"},
        {b"a", b"0/1", b"0/10"},
    ]
    # each has the checksum that the archive stated at that time
    assert [dict(one.facts.attributes)["zarr-checksum"] for one in found] == truths[:3]
    assert entries[0][b"a"].locations[0].version_id != entries[1][b"a"].locations[0].version_id
    assert [state.time for state in zarrs.history(dataset, days[0])] == days[1:3]


def test_changes_close_together_make_one_state(zarr_archive):
    zarr_id = zarr_archive.make({})
    start = moment("2024-01-01T12:00:00")
    for number in range(4):
        zarr_archive.put(zarr_id, {f"{number}": b"x"}, at=start + timedelta(minutes=20 * number))
    zarr_archive.put(zarr_id, {"later": b"y"}, at=start + timedelta(days=1))
    zarr_archive.finalize(zarr_id)
    zarrs = zarrs_of(zarr_archive)
    dataset = zarrs.dataset(f"zarr/{zarr_id}")
    assert [one.time for one in zarrs.history(dataset, None)] == [start + timedelta(minutes=60)]
    finer = zarrs_of(zarr_archive, history_gap=timedelta(minutes=10))
    assert len(finer.history(dataset, None)) == 4


def test_a_bucket_without_versions_has_no_history(plain_archive):
    zarr_id = plain_archive.make(ENTRIES)
    zarrs = zarrs_of(plain_archive)
    assert zarrs.history(zarrs.dataset(f"zarr/{zarr_id}"), None) == []


# --- in a dandiset


def draft_of(source, name, known=EMPTY_CONTEXT):
    versions = source.versions(source.dataset(name))
    return source.listing(next(v for v in versions if v.upstream == "draft"), known)


def rows_of(archive, name="000003"):
    return archive.assets(f"{name}_draft")


def test_zarr_assets_of_a_dandiset_are_parts_and_count_as_upstream_counts(make_source, archive):
    listing = draft_of(make_source(zarrs=True), "000003")
    entries = list(listing.entries())
    parts = [entry for entry in entries if isinstance(entry, ComponentEntry)]
    assert [part.path for part in parts] == [b"sub-001/img.ome.zarr", b"sub-002/arr.zarr"]
    assert parts[0].version.upstream == "c65ff2cc7009f922711a3acfd8e70e79-37--13166"
    assert parts[0].version.claimed_totals == FileTotals(37, 13166)
    assert not any(isinstance(entry, ExcludedEntry) for entry in entries)
    assert (
        FileTotals(len(entries), sum(one.size for one in entries)) == listing.version.claimed_totals
    )


def test_without_the_option_a_zarr_is_a_named_exception(make_source):
    entries = list(draft_of(make_source(zarrs=False), "000003").entries())
    left_out = [entry for entry in entries if isinstance(entry, ExcludedEntry)]
    assert [one.reason for one in left_out] == ["zarr", "zarr"]


def test_a_memo_without_zarrs_is_void_once_zarrs_are_mirrored(make_source):
    listing = draft_of(make_source(zarrs=False), "000003")
    for _ in listing.entries():
        pass
    known = FakeVisitContext(memo=listing.memo())
    assert draft_of(make_source(zarrs=False), "000003", known).is_unchanged()
    assert not draft_of(make_source(zarrs=True), "000003", known).is_unchanged()


def test_zarr_checksum_null_is_never_taken_as_unchanged_by_its_row(make_source, archive):
    """Its objects may change although its row has neither size nor checksum."""
    listing = draft_of(make_source(zarrs=True), "000003")
    for _ in listing.entries():
        pass
    assert listing.memo() is not None
    row = next(row for row in rows_of(archive) if row["zarr"])
    row["metadata"]["digest"]["dandi:dandi-zarr-checksum"] = None
    listing = draft_of(make_source(zarrs=True), "000003")
    parts = [entry for entry in listing.entries() if isinstance(entry, ComponentEntry)]
    assert parts[0].version.upstream == "current"
    assert listing.memo() is None


def test_rows_shifting_between_pages_are_noticed_among_zarrs_too(make_source, archive):
    """A Zarr is removed after the first page, so the next row moves to a page already read."""
    gone = []

    def shift(_handler, path, query):
        if path.endswith("/assets/") and query.get("page") == "2" and not gone:
            rows = rows_of(archive)
            gone.append(rows.pop(next(i for i, row in enumerate(rows) if row["zarr"])))

    archive.on_request = shift
    assert len(rows_of(archive)) >= 3
    listing = draft_of(make_source(zarrs=True, page_size=1), "000003")
    with pytest.raises(UnreliableListingError):
        list(listing.entries())
    assert gone


@pytest.mark.parametrize(("field", "value"), [("zarr", "x"), ("metadata", None), ("size", -1)])
def test_a_broken_row_of_a_zarr_blocks_no_other(make_source, archive, field, value):
    row = next(row for row in rows_of(archive) if row["zarr"])
    row[field] = value
    entries = list(draft_of(make_source(zarrs=True), "000003").entries())
    assert [entry.reason for entry in entries if isinstance(entry, ExcludedEntry)] == ["malformed"]
    assert len([entry for entry in entries if isinstance(entry, ComponentEntry)]) == 1


def test_a_zarr_of_the_demo_archive_is_listed_through_its_dandiset(demo):
    from neuromirror_demo.archive_contents import ZARR

    options = DandiOptions(api=demo.api_url, zarrs=True)
    source = DandiSource("demo", options, options.session())
    demo.clear_requests()
    [part] = [
        entry for entry in draft_of(source, "000005").entries() if isinstance(entry, ComponentEntry)
    ]
    assert part.path == ZARR.encode()
    assert not [request for request in demo.s3_requests if "zarr" in request]
    found = read(part.listing(EMPTY_CONTEXT))
    assert {path.decode() for path in found} == set(demo.zarrs[part.dataset.local_id[5:]].entries)
    assert source.dataset(part.dataset.local_id) == part.dataset
    assert source.versions(part.dataset) == [part.version]
    assert read(source.listing(part.version, EMPTY_CONTEXT)) == found
    demo.change_zarr("000005", ZARR, "0/0/0", b"changed")
    assert source.hint(part.dataset).fingerprint != part.version.upstream
    [earlier] = source.history(part.dataset, None)
    assert read(source.listing(earlier, EMPTY_CONTEXT)) == found
