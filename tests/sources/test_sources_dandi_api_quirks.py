"""Known pitfalls of DANDI's API: lists, errors, rows.

Pitfalls of the bucket and of changes between visits are tested in the crawl.
"""

import copy
import json
from pathlib import Path

import pytest

from neuromirror.model import ConfigurationError, FileRecord
from neuromirror.net import AccessDeniedError, HttpError, InvalidJsonError, NetError, NotFoundError
from neuromirror.sources import (
    DatasetNotFoundError,
    UnexpectedReplyError,
    UnreliableListingError,
    open_source,
)
from support.dandi_replay import page_of
from support.loopback_http import send_reply
from support.visit_context import EMPTY_CONTEXT

LIST = "/api/dandisets/"
VERSIONS = "/api/dandisets/000002/versions/"
ASSETS = "/api/dandisets/000002/versions/draft/assets/"
PAST_THE_END = b'{"detail": "Invalid page."}'


def version_of(source, name, label="draft"):
    return next(v for v in source.versions(source.dataset(name)) if v.upstream == label)


def listing_of(source, name="000002", label="draft"):
    return source.listing(version_of(source, name, label), EMPTY_CONTEXT)


def records_of(source, name="000002", label="draft"):
    entries = list(listing_of(source, name, label).entries())
    return {entry.path: entry for entry in entries if isinstance(entry, FileRecord)}


def answering(archive, path, number, status, body, kind="application/json"):
    """Replace the reply for one page of a list."""

    def before(handler, request_path, query):
        is_match = request_path == path and int(query.get("page", 1)) == number
        return is_match and send_reply(handler, status, body, kind=kind)

    archive.on_request = before


def draft_row(archive, number=0):
    return archive.replies["ds_all"]["results"][number]


# --- paging


def test_a_page_size_that_the_archive_would_clip_silently_is_refused(make_source, archive):
    with pytest.raises(ConfigurationError, match="page_size"):
        open_source("dandi", "d", {"api": archive.api, "page_size": 1001})
    assert make_source().options.page_size == 1000


def test_an_archive_that_clips_pages_further_is_not_believed(make_source, archive):
    """Otherwise the second page would start after rows that were never read."""

    def clipped(handler, path, query):
        if path != ASSETS:
            return False
        few = {**query, "page_size": str(min(int(query["page_size"]), 2))}
        rows = archive.assets("000002_draft")
        page = page_of(rows, f"{archive.url}{ASSETS}", few)
        return send_reply(handler, 200, archive.with_own_addresses(page))

    archive.on_request = clipped
    with pytest.raises(UnreliableListingError, match=r"page 1.*\b2\b.*\b3\b.*page_size"):
        records_of(make_source(page_size=3))
    assert len(records_of(make_source(page_size=2))) == len(archive.assets("000002_draft"))


def test_a_page_past_the_end_of_the_versions_is_no_removed_dandiset(make_source, archive):
    """It is 404, which for the first page means that the dandiset does not exist."""
    source = make_source(page_size=2)
    answering(archive, VERSIONS, 2, 404, PAST_THE_END)
    with pytest.raises(UnreliableListingError, match="page 2"):
        source.versions(source.dataset("000002"))
    with pytest.raises(UnreliableListingError, match="page 2"):
        source.hint(source.dataset("000002"))
    answering(archive, VERSIONS, 1, 404, json.dumps(archive.replies["d000006"]).encode())
    with pytest.raises(DatasetNotFoundError):
        source.versions(source.dataset("000002"))


def test_a_page_past_the_end_of_the_dandisets_is_no_end(make_source, archive):
    answering(archive, LIST, 3, 404, PAST_THE_END)
    with pytest.raises(UnreliableListingError, match="page 3"):
        list(make_source(page_size=4).datasets())


def test_each_list_is_sorted_by_its_own_parameter(make_source, archive):
    """The list of dandisets ignores ``order``, and the other lists ignore ``ordering``."""
    source = make_source()
    list(source.datasets())
    listing = listing_of(source)
    list(listing.entries())
    sorted_by = {
        path.partition("?")[0]: {one for one in path.partition("?")[2].split("&") if "order" in one}
        for path in archive.requests
        if "page=" in path
    }
    assert sorted_by == {LIST: {"ordering=id"}, VERSIONS: {"order=created"}, ASSETS: {"order=path"}}


# --- the list of dandisets


def test_the_time_of_the_dandiset_itself_is_no_hint(make_source, archive):
    """It stays when the draft changes; the draft's own time changes."""
    source = make_source()

    def fingerprint():
        return next(source.datasets()).fingerprint

    before = fingerprint()
    draft_row(archive)["modified"] = "2031-01-01T00:00:00Z"
    assert fingerprint() == before
    draft_row(archive)["draft_version"]["modified"] = "2031-01-01T00:00:00Z"
    assert fingerprint() != before


def test_a_row_without_a_draft_keeps_no_other_dandiset_from_being_visited(make_source, archive):
    source = make_source()
    before = list(source.datasets())
    draft_row(archive, 1)["draft_version"] = None
    after = list(source.datasets())
    assert (after[1].dataset, after[1].fingerprint) == (before[1].dataset, None)
    assert after[:1] + after[2:] == before[:1] + before[2:]


def test_a_row_without_embargo_status_does_not_count_as_open(make_source, archive):
    del draft_row(archive, 1)["embargo_status"]
    with pytest.raises(UnexpectedReplyError, match="000002"):
        list(make_source().datasets())


# --- what changes


def test_a_sha256_comes_late_and_no_time_moves(make_source, archive):
    row = archive.assets("000002_draft")[0]
    digests, path = row["metadata"]["digest"], row["path"].encode()
    sha256 = digests.pop("dandi:sha2-256")
    times = (row["modified"], archive.replies["v000002_draft_info"]["modified"])
    source = make_source()
    before = records_of(source)[path]
    digests["dandi:sha2-256"] = sha256
    after = records_of(source)[path]
    assert (row["modified"], archive.replies["v000002_draft_info"]["modified"]) == times
    assert before.digest("sha256") is None
    assert after.digest("sha256").value == sha256
    assert (before.upstream_id, before.modified) == (after.upstream_id, after.modified)


def test_an_asset_with_a_new_id_and_the_same_blob_is_the_same_file(make_source, archive):
    """As after an edit of its metadata. An upstream id with other bytes would be an incident."""
    source = make_source()
    row = archive.assets("000002_draft")[0]
    path = row["path"].encode()
    before = records_of(source)[path]
    row["asset_id"] = "0f0f0f0f-0000-4000-8000-000000000000"
    after = records_of(source)[path]
    assert after.upstream_id == before.upstream_id == row["blob"]
    assert after.locations[0] == before.locations[0]
    assert row["asset_id"] in after.locations[1].url


def test_manifests_and_doi_that_come_late_change_nothing(make_source, archive):
    label = "0.261121.0904"
    info = archive.replies[f"v000002_{label}_info"]
    complete = copy.deepcopy(info["metadata"])
    info["metadata"].pop("doi", None)
    info["metadata"].pop("manifestLocation", None)
    early = listing_of(make_source(), label=label)
    list(early.entries())
    info["metadata"] = complete
    late = listing_of(make_source(), label=label)
    list(late.entries())
    assert (early.documents, early.facts) == (late.documents, late.facts)
    assert early.facts.doi == f"10.48324/dandi.000002/{label}"


# --- assets


def test_no_download_url_and_no_nested_asset_url_is_requested(make_source, archive):
    """The first signs URLs; the second also returns assets of other versions."""
    source = make_source()
    for label in ("draft", "0.261121.0904"):
        list(listing_of(source, label=label).entries())
    paths = [path.partition("?")[0] for path in archive.requests + archive.heads]
    assert paths
    assert not [path for path in paths if path.endswith("/download/") or "/assets/" in path[:-8]]
    queries = " ".join(path.partition("?")[2] for path in archive.requests)
    assert "path=" not in queries.replace("order=path", "")
    assert "glob=" not in queries


# --- errors


@pytest.mark.parametrize(
    ("status", "body", "kind", "error", "message"),
    [
        (
            401,
            b'{"detail": "Invalid token."}',
            "application/json",
            AccessDeniedError,
            r"Invalid token\.",
        ),
        (400, b'{"order": ["No valid choice."]}', "application/json", HttpError, "HTTP 400"),
        (400, b'"A bare string."', "application/json", HttpError, r"A bare string\."),
        (
            401,
            b'"Authentication must be provided"',
            "application/json",
            AccessDeniedError,
            "must be",
        ),
        (404, b"<h1>Not Found</h1>", "text/html", NotFoundError, "HTTP 404"),
        (200, b"<html>Please log in</html>", "text/html", InvalidJsonError, "JSON"),
    ],
)
def test_errors_of_every_shape_end_the_reading_and_are_no_data(
    make_source, archive, status, body, kind, error, message
):
    source = make_source()
    for path, ask in [
        (LIST, lambda: list(source.datasets())),
        (VERSIONS, lambda: source.versions(source.dataset("000002"))),
        (ASSETS, lambda: records_of(source)),
    ]:
        answering(archive, path, 1, status, body, kind)
        with pytest.raises(error, match=message) as caught:
            ask()
        assert isinstance(caught.value, NetError)
        assert not isinstance(caught.value, DatasetNotFoundError)


def test_a_redirect_to_an_html_page_is_not_an_empty_list(make_source, archive):
    def moved(handler, path, query):
        if path == LIST:
            return send_reply(handler, 301, b"", "text/html", Location="/login/")
        return path == "/login/" and send_reply(handler, 200, b"<html>Log in", kind="text/html")

    archive.on_request = moved
    with pytest.raises(InvalidJsonError):
        list(make_source().datasets())


def test_a_bad_token_is_an_error_on_public_lists_too(make_source, archive, monkeypatch):
    monkeypatch.setenv("DANDI_TEST_TOKEN", "0123456789abcdef")
    source = make_source(token_env="DANDI_TEST_TOKEN")
    refusal = json.dumps(archive.replies["ds_bad_token"]).encode()
    archive.on_request = lambda handler, *_: (
        "Authorization" in handler.headers and send_reply(handler, 401, refusal)
    )
    for ask in (
        lambda: list(source.datasets()),
        lambda: source.hint(source.dataset("000002")),
        lambda: source.versions(source.dataset("000002")),
    ):
        with pytest.raises(AccessDeniedError, match="DANDI_TEST_TOKEN") as caught:
            ask()
        assert "0123456789abcdef" not in str(caught.value)


# --- semantics


@pytest.mark.parametrize("label", ["", "0.1", "v0.261121.0904", "0.261121.0904/..", "Draft", None])
def test_a_malformed_label_is_no_version(make_source, archive, label):
    archive.replies["d000002_versions"]["results"][0]["version"] = label
    source = make_source()
    with pytest.raises(UnexpectedReplyError, match="000002"):
        source.versions(source.dataset("000002"))


def test_every_character_that_a_path_may_have_is_kept(make_source, archive):
    r"""``[A-z]`` of the archive's own rule takes in ``[\]^_`` and the backtick."""
    rows = archive.assets("000001_draft")
    names = [r"a\b[1]^2_`.txt", "a #1 & b+c=d~e (f),g.txt", ".hid/den", "A.txt", "a.txt", "-rf"]
    model = rows[0]
    rows[:] = [{**copy.deepcopy(model), "path": name} for name in names]
    archive.replies["v000001_draft_info"]["asset_count"] = len(names)
    assert set(records_of(make_source(), "000001")) == {name.encode() for name in names}


# --- secrets


def test_signed_addresses_and_passwords_are_in_no_title_either(make_source, archive):
    secret = "https://me:hunter2@h/x and https://h/y?X-Amz-Signature=5ee5ee&X-Amz-Date=1"
    draft_row(archive)["draft_version"]["name"] = f"All of {secret}"
    archive.replies["v000001_draft_info"]["metadata"] |= {
        "name": f"All of {secret}",
        "license": [secret],
        "description": secret,
        "url": "https://me:hunter2@h/x",
        "keywords": [{"deep": secret}],
    }
    source = make_source()
    listing = listing_of(source, "000001")
    list(listing.entries())
    output = repr((next(source.datasets()), listing.facts, listing.documents))
    assert "All of https://h/x" in output
    assert "hunter2" not in output
    assert "5ee5ee" not in output


# --- instances


def test_the_mirror_files_are_of_the_instances_that_dandis_own_client_knows():
    from dandi.consts import known_instances

    from neuromirror.crawl import load_mirrors

    mirrors = load_mirrors(Path(__file__).parents[2] / "mirrors")
    theirs = {name: known_instances[name].api for name in ("dandi", "dandi-sandbox", "linc")}
    theirs["ember"] = known_instances["ember-dandi"].api
    for name, api in theirs.items():
        source = mirrors[name].open()
        assert source.uri == f"{api}/", name
        # and the environment variables from which the client reads its tokens
        ours = "EMBER_DANDI" if name == "ember" else name.upper().replace("-", "_")
        assert f'token_env = "{ours}_API_KEY"' in mirrors[name].path.read_text()


def test_an_archive_for_members_needs_a_token(archive, monkeypatch):
    options = {"api": archive.api, "embargoed": "all"}
    with pytest.raises(ConfigurationError, match='embargoed = "all" needs a token'):
        open_source("dandi", "d", options)
    source = open_source("dandi", "d", {**options, "token_env": "DANDI_TEST_TOKEN"})
    with pytest.raises(ConfigurationError, match="DANDI_TEST_TOKEN") as raised:
        source.private()
    assert "skip" not in str(raised.value)
    monkeypatch.setenv("DANDI_TEST_TOKEN", "0123456789abcdef")
    shown, private = list(source.datasets()), source.private()
    assert {(hint.fingerprint, hint.title, hint.unavailable) for hint in shown} == {
        ("embargoed", "", "embargoed")
    }
    assert [hint.unavailable for hint in private.datasets()] == [None] * len(shown)
    zarr = source.dataset("zarr/158136a1-279c-4c0a-bf6b-085a4f0da6cc")
    archive.on_request = lambda handler, path, _query: (
        "/zarr/" in path
        and send_reply(
            handler, 200, json.dumps({"zarr_id": zarr.local_id[5:], "checksum": None}).encode()
        )
    )
    assert source.hint(zarr).unavailable == "embargoed"
