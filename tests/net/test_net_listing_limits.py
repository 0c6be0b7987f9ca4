"""Listings that never end, or whose pages grow."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from neuromirror.net import ListingBudget, ListingLimits, ListingTooLongError, S3Bucket, Session
from neuromirror.sources.dandi.archive import read_pages
from support.loopback_http import send_reply
from support.stub_server import Answer, StubServer

XML = "application/xml"
PAGES = 300
"""Pages after which the servers stop, so that a test of a missing limit ends."""

ROW = (
    "<{tag}><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;0cc175b9c0f1b6a831c399e269772661&quot;</ETag><Size>1</Size>{more}</{tag}>"
)


def serve_endless_bucket(server: StubServer, *, rows: int = 10, growing: bool = False) -> None:
    """Serve a bucket /data/ whose every page is truncated, each with a new token."""
    served = 0

    def answer(handler: object) -> None:
        nonlocal served
        served += 1
        query = parse_qs(urlsplit(handler.path).query, keep_blank_values=True)  # type: ignore[attr-defined]
        versions = "versions" in query
        after = query.get("start-after", [f"key-{served:09}"])[0]
        names = [f"{after}-{row:05}" for row in range(rows * (served if growing else 1))]
        if "delimiter" in query:
            inner = "".join(
                f"<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>" for name in names
            )
        elif versions:
            more = "<VersionId>v</VersionId><IsLatest>true</IsLatest>"
            inner = "".join(ROW.format(tag="Version", key=name, more=more) for name in names)
            inner += f"<NextKeyMarker>{names[-1]}</NextKeyMarker>"
            inner += f"<NextVersionIdMarker>t{served}</NextVersionIdMarker>"
        else:
            inner = "".join(ROW.format(tag="Contents", key=name, more="") for name in names)
        root = "ListVersionsResult" if versions else "ListBucketResult"
        truncated = "true" if served < PAGES else "false"
        body = (
            f"<{root}><IsTruncated>{truncated}</IsTruncated>"
            f"<NextContinuationToken>token-{served}</NextContinuationToken>{inner}</{root}>"
        )
        send_reply(handler, 200, body.encode(), XML)  # type: ignore[arg-type]

    server.answers["/data/"] = answer


def read_objects(bucket: S3Bucket, workspace: Path) -> Iterator[object]:
    return bucket.objects(b"", workspace=workspace, connections=2).rows()


def read_versions(bucket: S3Bucket, workspace: Path) -> Iterator[object]:
    return bucket.objects(b"", workspace=workspace, versions=True).rows()


def read_level(bucket: S3Bucket, workspace: Path) -> Iterator[object]:
    return bucket.list_level(b"")


@pytest.mark.parametrize("read", [read_objects, read_versions, read_level])
@pytest.mark.parametrize("growing", [False, True])
def test_a_bucket_without_a_last_page_is_refused(
    server: StubServer,
    make_session: Callable[..., Session],
    tmp_path: Path,
    read: Callable[[S3Bucket, Path], Iterator[object]],
    growing: bool,
) -> None:
    serve_endless_bucket(server, growing=growing)
    bucket = S3Bucket(make_session(listing=ListingLimits(entries=200)), "data", endpoint=server.url)
    with pytest.raises(ListingTooLongError) as caught:
        deque(read(bucket, tmp_path), maxlen=0)
    assert len(server.requests) <= 40
    assert not caught.value.transient
    assert list(tmp_path.iterdir()) == []


def test_pages_that_grow_are_bounded_in_bytes(
    server: StubServer, make_session: Callable[..., Session], tmp_path: Path
) -> None:
    serve_endless_bucket(server, growing=True)
    limits = ListingLimits(bytes=100_000)
    bucket = S3Bucket(make_session(listing=limits), "data", endpoint=server.url)
    with pytest.raises(ListingTooLongError):
        list(read_versions(bucket, tmp_path))
    assert len(server.requests) < 20


def test_a_listing_that_was_killed_repeatedly_is_bounded_as_a_whole(
    server: StubServer, make_session: Callable[..., Session], tmp_path: Path
) -> None:
    serve_endless_bucket(server)
    bucket = S3Bucket(make_session(listing=ListingLimits(entries=100)), "data", endpoint=server.url)
    for _ in range(3):
        rows = read_versions(bucket, tmp_path)
        for _ in range(25):
            next(rows)
        rows.close()  # type: ignore[attr-defined]
    requests_before = len(server.requests)
    with pytest.raises(ListingTooLongError):
        list(read_versions(bucket, tmp_path))
    assert len(server.requests) - requests_before < 10


def test_a_listing_that_takes_forever_is_refused() -> None:
    clock = iter([0.0, 30.0, 59.0, 61.0]).__next__
    bounds = ListingBudget(ListingLimits(seconds=60), "box", clock=clock)
    for _ in range(3):
        bounds.count_page(1, 1)
    with pytest.raises(ListingTooLongError):
        bounds.count_page(1, 1)


def endless_rows(stated: int, size: int, *, fat: bool = False) -> Answer:
    """Serve a DANDI list in which every page has a next one; with ``fat``, rows grow."""

    def answer(handler: object) -> None:
        number = int(parse_qs(urlsplit(handler.path).query)["page"][0])  # type: ignore[attr-defined]
        first = (number - 1) * size
        names = range(first, min(first + size, stated))
        rows = [{"path": str(name), "pad": "x" * (name * 10 if fat else 0)} for name in names]
        last = number * size >= stated or number > PAGES
        host = handler.headers["Host"]  # type: ignore[attr-defined]
        page = {
            "count": stated,
            "next": None if last else f"http://{host}/list/?page={number + 1}",
            "previous": None,
            "results": rows,
        }
        send_reply(handler, 200, json.dumps(page).encode())  # type: ignore[arg-type]

    return answer


@pytest.mark.parametrize(
    ("stated", "fat", "limits", "most"),
    [
        (10**15, False, ListingLimits(entries=1000), 1),
        (PAGES * 10, True, ListingLimits(bytes=200_000), 30),
    ],
    ids=["states too many", "grows"],
)
def test_a_list_of_rows_without_end_is_refused(
    server: StubServer,
    make_session: Callable[..., Session],
    stated: int,
    fat: bool,
    limits: ListingLimits,
    most: int,
) -> None:
    server.answers["/list/"] = endless_rows(stated, 10, fat=fat)
    url = f"{server.url}/list/"
    rows = read_pages(make_session(listing=limits), url, {}, what="box", page_size=10, key="path")
    with pytest.raises(ListingTooLongError):
        deque(rows, maxlen=0)
    assert len(server.requests) <= most
