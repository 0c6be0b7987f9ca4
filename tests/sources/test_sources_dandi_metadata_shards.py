"""The assets' metadata as documents: equal states give equal bytes, small changes small diffs."""

import copy
import json
import random
from typing import Any

import pytest

from neuromirror.net import ListingTooLongError
from neuromirror.sources import UnreliableListingError
from neuromirror.sources.dandi.versions import SHARD_LIMIT, MetadataShards, clean, metadata_line
from support.dandi_replay import recorded
from support.loopback_http import send_reply
from support.visit_context import EMPTY_CONTEXT


def rows_of(name: str) -> list[dict[str, Any]]:
    return recorded(f"v{name}_assets")["results"]


def made(number: int, size: int = 500) -> dict[str, Any]:
    path = f"sub-{number // 10:03d}/sub-{number // 10:03d}_ses-{number:05d}.nwb"
    return {"path": path, "metadata": {"path": path, "contentSize": number, "note": "x" * size}}


def shards_of(rows, limit: int = SHARD_LIMIT) -> dict[bytes, bytes]:
    shards = MetadataShards(limit)
    for row in rows:
        shards.add_rows([row])
    documents = shards.documents()
    assert [document.path for document in documents] == sorted(one.path for one in documents)
    return {document.path: document.content for document in documents}


def lines(shards: dict[bytes, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for content in shards.values() for line in content.splitlines()]


def test_a_small_dandiset_has_one_document_sorted_by_path():
    shards = shards_of(reversed(rows_of("000002_draft")))
    assert list(shards) == [b".dandi/assets.jsonl"]
    paths = [line["path"] for line in lines(shards)]
    assert paths == sorted(row["path"] for row in rows_of("000002_draft"))


def test_subjects_and_species_can_be_searched():
    found = [
        who["species"]["name"]
        for line in lines(shards_of(rows_of("000001_draft")))
        for who in line.get("wasAttributedTo", ())
        if "species" in who
    ]
    assert found
    sessions = [
        one["identifier"]
        for line in lines(shards_of(rows_of("000001_draft")))
        for one in line.get("wasGeneratedBy", ())
    ]
    assert sessions


@pytest.mark.parametrize("name", ["000001_draft", "000002_draft", "000003_draft"])
def test_volatile_members_change_no_byte(name):
    """Late sha256, publishing, end of embargo, another URL, new extraction, another order."""
    before = rows_of(name)
    after = copy.deepcopy(before)
    for row in after:
        row["modified"] = "2030-01-01T00:00:00Z"
        metadata = row["metadata"]
        digest = metadata["digest"]
        if digest.pop("dandi:sha2-256", None) is None:
            digest["dandi:sha2-256"] = "0" * 64
        metadata["publishedBy"] = {"id": "urn:uuid:1", "schemaKey": "PublishActivity"}
        metadata["datePublished"] = "2030-01-01T00:00:00Z"
        metadata["access"] = [{"status": "dandi:EmbargoedAccess", "embargoedUntil": "2031-01-01"}]
        metadata["contentUrl"] = ["https://elsewhere.example/a/", "https://elsewhere.example/b"]
        metadata["dateModified"] = "2030-01-01T00:00:00Z"
        for one in metadata.get("wasGeneratedBy", ()):
            if one["schemaKey"] == "Activity":
                one["id"] = "urn:uuid:2"
                one["wasAssociatedWith"] = []
        row["metadata"] = dict(reversed(list(metadata.items())))
    random.Random(1).shuffle(after)
    assert shards_of(after) == shards_of(before)


def test_publishing_does_not_change_the_metadata_of_an_asset():
    """Recorded: an asset in the draft before publishing, and in the version after."""
    draft = {row["path"]: row for row in rows_of("000002_draft")}
    for row in rows_of("000002_0.261121.0905"):
        same = draft.get(row["path"])
        if same is not None and same["asset_id"] == row["asset_id"]:
            assert metadata_line(row["metadata"], row["path"]) == metadata_line(
                same["metadata"], same["path"]
            )


def test_other_members_change_the_line():
    row = rows_of("000001_draft")[0]
    before = metadata_line(row["metadata"], row["path"])
    for change in ({"identifier": "other"}, {"contentSize": 1}, {"approach": [{"name": "x"}]}):
        assert metadata_line({**row["metadata"], **change}, row["path"]) != before


def test_signed_urls_and_users_are_cleaned():
    metadata = {
        "relatedResource": [
            {"url": "https://user:secret@example.org/x"},
            {"url": "https://b.s3.amazonaws.com/k?X-Amz-Signature=canary&versionId=1"},
        ]
    }
    line = metadata_line(metadata, "a.nwb").decode()
    assert "secret" not in line
    assert "canary" not in line
    assert "versionId=1" in line


def test_a_line_is_canonical_utf8_without_line_separators():
    line = metadata_line({"b": "ü\u2028\x85", "a": {"d": 1, "c": None}, "z": None}, "p\ud800")
    assert line == '{"a":{"c":null,"d":1},"b":"ü\\u2028\\u0085","path":"p\\ud800"}\n'.encode()
    assert len(line.decode().splitlines()) == 1


def test_every_shard_is_under_ten_megabytes():
    rows = [made(number, 30_000) for number in range(700)]
    shards = shards_of(rows)
    assert len(shards) > 1
    assert max(map(len, shards.values())) <= SHARD_LIMIT < 10_000_000
    assert sorted(line["path"] for line in lines(shards)) == sorted(row["path"] for row in rows)


def test_metadata_too_large_for_a_shard_keep_the_basics():
    row = made(1, SHARD_LIMIT)
    [line] = lines(shards_of([row]))
    assert line == {"path": row["path"], "contentSize": 1, "metadataLeftOut": "size"}


@pytest.mark.parametrize("number", [0, 250, 499])
def test_one_changed_asset_rewrites_one_shard(number):
    rows = [made(one) for one in range(500)]
    before = shards_of(rows, 20_000)
    assert len(before) >= 16
    rows[number]["metadata"]["note"] = "changed" * 60
    after = shards_of(rows, 20_000)
    assert after.keys() == before.keys()
    assert sum(after[path] != before[path] for path in after) == 1


def test_an_added_or_removed_asset_touches_no_other_shard():
    rows = [made(one) for one in range(500)]
    before = shards_of(rows, 20_000)
    for others in ([*rows, made(1000)], rows[1:]):
        after = shards_of(others, 20_000)
        touched = {path for path in {*after, *before} if after.get(path) != before.get(path)}
        assert len(touched) == 1


def test_only_the_shard_over_the_limit_is_split():
    rows = [made(one) for one in range(500)]
    before = shards_of(rows, 20_000)
    largest = max(before, key=lambda path: len(before[path]))
    inside = {json.loads(line)["path"] for line in before[largest].splitlines()}
    for row in rows:
        if row["path"] in inside:
            row["metadata"]["note"] = "y" * 1500
    after = shards_of(rows, 20_000)
    stem = largest.removesuffix(b".jsonl")
    assert largest not in after
    changed = {path for path in {*after, *before} if after.get(path) != before.get(path)}
    assert all(path.startswith(stem) for path in changed)


def test_rows_that_are_no_assets_are_passed_over():
    assert shards_of([None, 5, {}, {"path": "x"}, {"path": "", "metadata": {}}]) == {}


def test_the_same_path_twice_does_not_run_away():
    row = made(1, 3000)
    assert len(lines(shards_of([row, row], 5_000))) == 2


# --- in a listing


def listing_of(source, name, label):
    versions = source.versions(source.dataset(name))
    return source.listing(next(v for v in versions if v.upstream == label), EMPTY_CONTEXT)


def documents_of(source, name, label="draft"):
    listing = listing_of(source, name, label)
    for _ in listing.entries():
        pass
    return {document.path: document.content for document in listing.documents}


def test_a_listing_has_the_shards_and_the_dandisets_document(make_source, archive):
    found = documents_of(make_source(), "000002")
    assert set(found) == {b"dandiset.yaml", b".dandi/assets.jsonl"}
    paths = [json.loads(line)["path"] for line in found[b".dandi/assets.jsonl"].splitlines()]
    assert paths == sorted(row["path"] for row in archive.assets("000002_draft"))
    assert set(documents_of(make_source(metadata=False), "000002")) == {b"dandiset.yaml"}


@pytest.mark.parametrize("page_size", [1, 3, 1000])
def test_the_shards_do_not_depend_on_pages(make_source, page_size):
    assert documents_of(make_source(page_size=page_size), "000002") == documents_of(
        make_source(), "000002"
    )


def test_a_late_sha256_makes_no_new_document(make_source, archive):
    row = archive.assets("000001_draft")[0]
    late = row["metadata"]["digest"].pop("dandi:sha2-256")
    before = documents_of(make_source(), "000001")
    row["metadata"]["digest"]["dandi:sha2-256"] = late
    assert documents_of(make_source(), "000001") == before


def test_an_empty_version_and_a_version_of_zarrs_have_the_right_documents(make_source):
    assert set(documents_of(make_source(), "000005")) == {b"dandiset.yaml"}
    found = documents_of(make_source(zarrs=True), "000003")
    lines_of = [json.loads(line) for line in found[b".dandi/assets.jsonl"].splitlines()]
    assert "application/x-zarr" in {line["encodingFormat"] for line in lines_of}


def test_a_listing_that_breaks_off_has_no_shards(make_source, archive):
    def refuse(handler, path, query):
        is_second_page = path.endswith("/assets/") and query.get("page") == "2"
        return is_second_page and send_reply(handler, 404, b'{"detail":"Invalid page."}')

    archive.on_request = refuse
    listing = listing_of(make_source(page_size=2), "000002", "draft")
    with pytest.raises(UnreliableListingError):
        list(listing.entries())
    assert listing.documents == ()


_TEXTS = [
    "plain",
    "a=1 and b@c",
    "https://h/x?a=1&X-Amz-Signature=5ee5ee#f",
    'say "https://h/x?sig=5ee5ee" twice',
    "line\nhttps://who:5ee5ee@h/x\tend",
    "HTTPS://h/\\x?token=5ee5ee",
    "\x01https://5ee5ee@h",
    "https://h/grün?access_token=5ee5ee",
    "https://h/x?version=5",
]


@pytest.mark.parametrize("seed", range(5))
def test_a_line_is_cleaned_wherever_something_is_to_be_cleaned(seed):
    """Cleaning is skipped only if the line as a whole shows that it is not needed."""
    draw = random.Random(seed)

    def value(depth: int) -> Any:
        kind = draw.randrange(4 if depth < 3 else 1)
        if kind == 1:
            return [value(depth + 1) for _ in range(draw.randrange(3))]
        if kind == 2:
            return {f"k{n}": value(depth + 1) for n in range(draw.randrange(3))}
        return draw.choice(_TEXTS) if kind == 0 else draw.choice([1, 1.5, 1e22, True])

    for _ in range(50):
        metadata = {f"m{n}": value(0) for n in range(4)}
        parsed = json.loads(metadata_line(metadata, "p"))
        assert parsed == {**clean(metadata), "path": "p"}
        assert b"5ee5ee" not in metadata_line(metadata, "p")


def test_metadata_without_end_are_refused():
    shards = MetadataShards(most=100_000)
    with pytest.raises(ListingTooLongError):
        shards.add_rows(made(number) for number in range(1_000))
