"""Faulty pages: no incomplete listing is accepted."""

import json
import socket
import threading
import tracemalloc

import pytest

from neuromirror.net import (
    AccessDeniedError,
    InvalidJsonError,
    NetError,
    RequestLimits,
    ServerError,
    UnreachableError,
)
from neuromirror.sources import UnreliableListingError
from support.dandi_replay import page_of, recorded
from support.loopback_http import send_reply
from support.visit_context import EMPTY_CONTEXT

ASSETS = "/api/dandisets/000002/versions/draft/assets/"


def listing_of(source, name="000002", label="draft"):
    versions = source.versions(source.dataset(name))
    return source.listing(next(v for v in versions if v.upstream == label), EMPTY_CONTEXT)


def paths_of(source):
    return [entry.path for entry in listing_of(source).entries()]


def change_page(archive, number, change, path=ASSETS):
    """Apply ``change`` to one page of a list before it is sent."""

    def before(handler, request_path, query):
        if request_path != path or int(query.get("page", 1)) != number:
            return False
        status, body = archive.find_reply(request_path, query)
        page = json.loads(body)
        change(page)
        return send_reply(handler, status, json.dumps(page).encode())

    archive.on_request = before


def test_the_replay_pages_as_the_real_archive_did():
    """The replay server returns exactly the pages of the real archive."""
    rows = recorded("v000002_draft_assets")["results"]
    bare = [{k: v for k, v in row.items() if k != "metadata"} for row in rows]
    address = f"http://127.0.0.1:18900{ASSETS}"
    for name, page in (("a2_p1", "1"), ("a2_p2", "2")):
        query = {"order": "path", "page_size": "3", "page": page}
        made, real = page_of(bare, address, query), recorded(name)
        assert {**made, "previous": None} == {**real, "previous": None}
    dandisets = recorded("ds_all")["results"]
    for name, page in (("ds_p1of", "1"), ("ds_p3of", "3")):
        query = {"page_size": "3", "page": page}
        made = page_of(dandisets, "http://127.0.0.1:18900/api/dandisets/", query)
        real = recorded(name)
        assert {**made, "previous": None} == {**real, "previous": None}


@pytest.mark.parametrize("page_size", [1, 2, 3, 6, 7, 8])
def test_every_page_size_gives_every_asset_once(make_source, archive, page_size):
    expected = sorted(row["path"].encode() for row in archive.assets("000002_draft"))
    assert paths_of(make_source(page_size=page_size)) == expected


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_cut_page_is_not_a_whole_listing(make_source, archive, number):
    change_page(archive, number, lambda page: page["results"].pop())
    with pytest.raises(UnreliableListingError, match=r"nothing was changed, try again$"):
        paths_of(make_source(page_size=3))


@pytest.mark.parametrize("number", [1, 2])
def test_a_list_that_ends_early_is_not_whole(make_source, archive, number):
    change_page(archive, number, lambda page: page.update(next=None))
    with pytest.raises(UnreliableListingError, match=r"\b7\b"):
        paths_of(make_source(page_size=3))


def test_more_rows_than_promised_are_not_a_whole_listing(make_source, archive):
    change_page(archive, 1, lambda page: page.update(count=5))
    with pytest.raises(UnreliableListingError, match=r"\b5\b"):
        paths_of(make_source(page_size=3))


@pytest.mark.parametrize("target", [1, 2, 4, 0, "x"])
def test_a_next_that_is_not_the_next_page_is_refused(make_source, archive, target):
    change_page(
        archive, 2, lambda page: page.update(next=page["next"].replace("page=3", f"page={target}"))
    )
    with pytest.raises(UnreliableListingError, match=rf"page 2 .*{target}"):
        paths_of(make_source(page_size=3))
    assert len([path for path in archive.requests if path.startswith(ASSETS)]) == 2


def test_a_list_that_always_gives_its_first_page_is_noticed(make_source, archive):
    first = archive.find_reply(ASSETS, {"page_size": "3", "page": "1", "order": "path"})

    def before(handler, path, query):
        if path != ASSETS:
            return False
        page = json.loads(first[1])
        page["next"] = page["next"].replace("page=2", f"page={int(query['page']) + 1}")
        return send_reply(handler, 200, json.dumps(page).encode())

    archive.on_request = before
    with pytest.raises(UnreliableListingError):
        paths_of(make_source(page_size=3))
    assert len([path for path in archive.requests if path.startswith(ASSETS)]) == 2


@pytest.mark.parametrize("host", ["http://evil.example", "http://169.254.169.254", "file://"])
def test_a_next_page_on_another_host_is_never_requested(make_source, archive, host):
    change_page(archive, 1, lambda page: page.update(next=page["next"].replace(archive.url, host)))
    with pytest.raises(UnreliableListingError, match="another host"):
        paths_of(make_source(page_size=3))


def test_a_next_that_only_differs_in_the_scheme_is_the_same_archive(make_source, archive):
    change_page(
        archive, 1, lambda page: page.update(next=page["next"].replace("http://", "https://"))
    )
    assert len(paths_of(make_source(page_size=3))) == 7


def test_a_row_on_two_pages_is_noticed(make_source, archive):
    """An asset added early in the order while listing pushes the last row to the next page."""
    rows = archive.assets("000002_draft")
    model = rows[0]

    def before(_handler, path, query):
        if path == ASSETS and query["page"] == "2":
            rows.append({**model, "path": "A-new-one.txt"})
        return False

    archive.on_request = before
    with pytest.raises(UnreliableListingError, match="repeats rows"):
        paths_of(make_source(page_size=3))


def test_a_row_lost_between_pages_is_noticed(make_source, archive):
    """An asset removed early in the order makes the next page skip one."""
    rows = archive.assets("000002_draft")

    def before(_handler, path, query):
        if path == ASSETS and query["page"] == "2":
            rows.remove(min(rows, key=lambda row: row["path"]))
        return False

    archive.on_request = before
    with pytest.raises(UnreliableListingError, match=r"\b7\b"):
        paths_of(make_source(page_size=3))


def test_a_path_twice_on_a_page_is_noticed(make_source, archive):
    label = "0.261121.0905"
    rows = archive.assets(f"000002_{label}")
    rows[1]["path"] = rows[0]["path"]
    with pytest.raises(UnreliableListingError, match="repeats"):
        list(listing_of(make_source(), label=label).entries())


@pytest.mark.parametrize(
    "page",
    [
        [],
        {},
        "x",
        None,
        {"results": {}},
        {"count": 1, "next": None, "results": "x"},
        {"count": "1", "next": None, "results": []},
        {"count": None, "next": None, "results": []},
        {"count": True, "next": None, "results": []},
        {"count": 0, "results": []},
        {"count": 0, "next": 5, "results": []},
    ],
)
def test_a_malformed_page_is_not_an_empty_list(make_source, archive, page):
    archive.on_request = lambda handler, path, _query: (
        path == ASSETS and send_reply(handler, 200, json.dumps(page).encode())
    )
    with pytest.raises(UnreliableListingError):
        paths_of(make_source())


@pytest.mark.parametrize(
    ("status", "body", "kind", "error"),
    [
        (200, b"", "application/json", InvalidJsonError),
        (200, b"<html>Please log in", "text/html", InvalidJsonError),
        (401, b'{"detail": "Invalid token."}', "application/json", AccessDeniedError),
        (403, b"", "text/html", AccessDeniedError),
        (404, b'{"detail": "Not found."}', "application/json", UnreliableListingError),
        (410, b"", "text/html", UnreliableListingError),
        (500, b"", "text/html", ServerError),
        (302, b"", "text/html", NetError),
    ],
)
def test_an_unreadable_page_ends_the_listing(make_source, archive, status, body, kind, error):
    def before(handler, path, query):
        is_later_page = path == ASSETS and int(query["page"]) > 1
        return is_later_page and send_reply(handler, status, body, kind=kind)

    archive.on_request = before
    with pytest.raises(error):
        paths_of(make_source(page_size=3))


def test_dandisets_are_counted_too(make_source, archive):
    path = "/api/dandisets/"
    for number in (1, 2):
        change_page(archive, number, lambda page: page.update(next=None), path)
        with pytest.raises(UnreliableListingError, match=r"\b9\b"):
            list(make_source(page_size=4).datasets())
    change_page(archive, 2, lambda page: page.update(count=8), path)
    with pytest.raises(UnreliableListingError, match=r"\b8\b.*page 2"):
        list(make_source(page_size=4).datasets())
    change_page(archive, 1, lambda page: page["results"][1].update(identifier="000001"), path)
    with pytest.raises(UnreliableListingError, match="repeats"):
        list(make_source().datasets())
    change_page(archive, 1, lambda page: page["results"][1].pop("identifier"), path)
    with pytest.raises(UnreliableListingError, match="without a dandiset id"):
        list(make_source().datasets())


@pytest.mark.parametrize(("limit", "begin"), [(1, 60), (20, 0), (62, 60)])
def test_pages_too_large_for_the_server_are_split(make_source, archive, limit, begin):
    """From some offset on the server returns small pages only; no row is lost or repeated."""
    archive.set_blob_count("000002_draft", 333)

    def before(handler, path, query):
        if path != ASSETS:
            return False
        size = int(query["page_size"])
        end = int(query["page"]) * size
        return end > begin and size > max(limit, 10) and send_reply(handler, 504)

    archive.on_request = before
    paths = paths_of(make_source(page_size=100))
    assert paths == [b"sub-%05d.nwb" % index for index in range(333)]


def test_a_page_that_times_out_or_is_cut_off_is_split(make_source, archive):
    archive.set_blob_count("000002_draft", 50)

    def before(handler, path, query):
        if path != ASSETS or int(query["page_size"]) <= 12:
            return False
        handler.close_connection = True
        return send_reply(handler, 200, b"[1,", Content_Length="9999")

    archive.on_request = before
    assert len(paths_of(make_source(page_size=48))) == 50


@pytest.mark.parametrize("status", [429, None])
def test_a_page_is_requested_five_times_if_the_server_is_busy_or_hangs_up(
    make_source, archive, status
):
    archive.set_blob_count("000002_draft", 50)
    failures = iter([True] * 4)

    def before(handler, path, query):
        if path != ASSETS or query["page"] == "1" or not next(failures, False):
            return False
        if status is not None:
            return send_reply(handler, status)
        handler.connection.shutdown(socket.SHUT_RDWR)
        return True

    archive.on_request = before
    source = make_source(page_size=20)
    source.session.limits = RequestLimits(attempts=5, wait=0.01, wait_max=0.02)
    assert len(paths_of(source)) == 50


def test_a_server_that_is_down_stays_an_error(make_source, archive):
    archive.on_request = lambda handler, path, _query: path == ASSETS and send_reply(handler, 503)
    with pytest.raises(ServerError):
        paths_of(make_source(page_size=1000))
    sizes = {
        path.partition("page_size=")[2] for path in archive.requests if path.startswith(ASSETS)
    }
    assert sizes == {"1000", "250", "62", "15", "3"}


def test_rows_that_move_while_pages_shrink_are_noticed(make_source, archive):
    """One row removed early and one added late leave the count unchanged."""
    archive.set_blob_count("000002_draft", 120)
    rows = archive.assets("000002_draft")

    def before(handler, path, query):
        if path != ASSETS or query["page"] == "1" or int(query["page_size"]) < 30:
            return False
        if rows[0]["path"] == "sub-00000.nwb":
            rows.append({**rows.pop(0), "path": "zzz.nwb"})
        return send_reply(handler, 502)

    archive.on_request = before
    with pytest.raises(UnreliableListingError, match="rows moved"):
        paths_of(make_source(page_size=30))


def test_order_is_kept_however_slowly_the_bucket_answers(make_source, archive):
    archive.set_blob_count("000002_draft", 60)
    turn = threading.Event()

    def before(handler, _path, _query):
        if handler.command == "HEAD" and handler.path.endswith(
            "00000000-0000-4000-8000-000000000000"
        ):
            if "/00000000-" in handler.path:
                turn.wait(5)
        elif handler.command == "HEAD":
            turn.set()
        return False

    archive.on_request = before
    entries = list(listing_of(make_source()).entries())
    assert [entry.path for entry in entries] == [b"sub-%05d.nwb" % i for i in range(60)]
    assert [entry.locations[0].version_id for entry in entries] == [f"v-{i}" for i in range(60)]


def test_few_pages_are_requested_ahead_of_the_reader(make_source, archive):
    archive.set_blob_count("000002_draft", 300)
    entries = listing_of(make_source(connections=2)).entries()
    next(entries)
    entries.close()
    assert 0 < len(archive.heads) < 40


def test_an_unreadable_object_ends_the_listing(make_source, archive):
    """A record without version id would stay in the git-annex branch forever."""
    archive.set_blob_count("000002_draft", 20)
    bad = next(path for path in archive.objects if path.endswith("-0000-4000-8000-000000000000"))
    archive.on_request = lambda handler, path, _query: path == bad and send_reply(handler, 503)
    with pytest.raises(ServerError):
        list(listing_of(make_source()).entries())


def test_an_unreachable_bucket_ends_the_listing(make_source, archive):
    for row in archive.assets("000002_draft"):
        row["metadata"]["contentUrl"][1] = "http://127.0.0.1:9/blobs/x"
    with pytest.raises(UnreachableError):
        paths_of(make_source())


def test_a_long_listing_needs_no_more_memory(make_source, archive):
    source = make_source(page_size=100)

    def peak(number):
        archive.set_blob_count("000002_draft", number)
        listing = listing_of(source)
        for row in archive.assets("000002_draft"):
            row["metadata"]["contentUrl"].pop()
        tracemalloc.start()
        for _ in listing.entries():
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    small, large = peak(200), peak(800)
    assert large < small * 2


@pytest.mark.parametrize("secret", ["0123456789abcdef-token"])
def test_the_token_reaches_the_api_and_not_the_bucket(make_source, archive, monkeypatch, secret):
    monkeypatch.setenv("DANDI_TEST_TOKEN", secret)
    sent = []

    def before(handler, _path, _query):
        sent.append((handler.command, handler.headers.get("Authorization")))
        return False

    archive.on_request = before
    from support.dandi_replay import DandiReplayServer

    with DandiReplayServer() as bucket:
        for row in archive.assets("000002_draft"):
            row["metadata"]["contentUrl"][1] = row["metadata"]["contentUrl"][1].replace(
                "http://127.0.0.1:15900", bucket.url
            )
        leaked = []
        bucket.on_request = lambda handler, *_: leaked.append(handler.headers.get("Authorization"))
        entries = list(listing_of(make_source(token_env="DANDI_TEST_TOKEN")).entries())
    assert set(sent) == {("GET", f"token {secret}")}
    assert leaked == [None] * 7
    assert secret not in repr(entries)
