"""Archives whose listings have no end, or grow from page to page."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from net_loopback import Answer, Loopback, reply

from neuromirror.net import (
    ListingBounds,
    ListingLimits,
    ListingTooLong,
    S3Bucket,
    Session,
    TooLarge,
    Unreachable,
)
from neuromirror.sources.dandi.paging import pages

XML = "application/xml"
PAGES = 300
"""Pages after which the servers give up, so that a listing without bounds has an end here."""

ROW = (
    "<{tag}><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;0cc175b9c0f1b6a831c399e269772661&quot;</ETag><Size>1</Size>{more}</{tag}>"
)


def endless_bucket(server: Loopback, *, rows: int = 10, growing: bool = False) -> None:
    """Each page of /data/ is followed by another one, with a token of its own."""
    served = 0

    def answer(handler: object) -> None:
        nonlocal served
        served += 1
        asked = parse_qs(urlsplit(handler.path).query, keep_blank_values=True)  # type: ignore[attr-defined]
        versions = "versions" in asked
        after = asked.get("start-after", [f"key-{served:09}"])[0]
        names = [f"{after}-{row:05}" for row in range(rows * (served if growing else 1))]
        if "delimiter" in asked:
            inner = "".join(
                f"<CommonPrefixes><Prefix>{one}/</Prefix></CommonPrefixes>" for one in names
            )
        elif versions:
            more = "<VersionId>v</VersionId><IsLatest>true</IsLatest>"
            inner = "".join(ROW.format(tag="Version", key=one, more=more) for one in names)
            inner += f"<NextKeyMarker>{names[-1]}</NextKeyMarker>"
            inner += f"<NextVersionIdMarker>t{served}</NextVersionIdMarker>"
        else:
            inner = "".join(ROW.format(tag="Contents", key=one, more="") for one in names)
        root = "ListVersionsResult" if versions else "ListBucketResult"
        truncated = "true" if served < PAGES else "false"
        body = (
            f"<{root}><IsTruncated>{truncated}</IsTruncated>"
            f"<NextContinuationToken>token-{served}</NextContinuationToken>{inner}</{root}>"
        )
        reply(handler, 200, body.encode(), XML)  # type: ignore[arg-type]

    server.answers["/data/"] = answer


def read_objects(bucket: S3Bucket, workspace: Path) -> Iterator[object]:
    return bucket.objects(b"", workspace=workspace, connections=2).rows()


def read_versions(bucket: S3Bucket, workspace: Path) -> Iterator[object]:
    return bucket.objects(b"", workspace=workspace, versions=True).rows()


def read_level(bucket: S3Bucket, workspace: Path) -> Iterator[object]:
    return bucket.level(b"")


@pytest.mark.parametrize("read", [read_objects, read_versions, read_level])
@pytest.mark.parametrize("growing", [False, True])
def test_a_bucket_without_a_last_page_is_refused(
    server: Loopback,
    quick: Callable[..., Session],
    tmp_path: Path,
    read: Callable[[S3Bucket, Path], Iterator[object]],
    growing: bool,
) -> None:
    endless_bucket(server, growing=growing)
    bucket = S3Bucket(quick(listing=ListingLimits(entries=200)), "data", endpoint=server.url)
    with pytest.raises(ListingTooLong) as caught:
        deque(read(bucket, tmp_path), maxlen=0)
    assert len(server.asked) <= 40
    assert not caught.value.passing
    assert list(tmp_path.iterdir()) == []


def test_pages_that_grow_are_bounded_in_bytes(
    server: Loopback, quick: Callable[..., Session], tmp_path: Path
) -> None:
    endless_bucket(server, growing=True)
    limits = ListingLimits(bytes=100_000)
    bucket = S3Bucket(quick(listing=limits), "data", endpoint=server.url)
    with pytest.raises(ListingTooLong):
        list(read_versions(bucket, tmp_path))
    assert len(server.asked) < 20


def test_a_listing_that_was_killed_again_and_again_is_bounded_as_a_whole(
    server: Loopback, quick: Callable[..., Session], tmp_path: Path
) -> None:
    endless_bucket(server)
    bucket = S3Bucket(quick(listing=ListingLimits(entries=100)), "data", endpoint=server.url)
    for _ in range(3):
        rows = read_versions(bucket, tmp_path)
        for _ in range(25):
            next(rows)
        rows.close()  # type: ignore[attr-defined]
    asked = len(server.asked)
    with pytest.raises(ListingTooLong):
        list(read_versions(bucket, tmp_path))
    assert len(server.asked) - asked < 10


def test_a_listing_that_takes_forever_is_refused() -> None:
    clock = iter([0.0, 30.0, 59.0, 61.0]).__next__
    bounds = ListingBounds(ListingLimits(seconds=60), "box", clock=clock)
    for _ in range(3):
        bounds.take(1, 1)
    with pytest.raises(ListingTooLong):
        bounds.take(1, 1)


def endless_rows(stated: int, size: int, *, fat: bool = False) -> Answer:
    """Pages of a DANDI list, each with a next one; ``fat``: each row larger than the last."""

    def answer(handler: object) -> None:
        number = int(parse_qs(urlsplit(handler.path).query)["page"][0])  # type: ignore[attr-defined]
        first = (number - 1) * size
        names = range(first, min(first + size, stated))
        rows = [{"path": str(one), "pad": "x" * (one * 10 if fat else 0)} for one in names]
        last = number * size >= stated or number > PAGES
        host = handler.headers["Host"]  # type: ignore[attr-defined]
        page = {
            "count": stated,
            "next": None if last else f"http://{host}/list/?page={number + 1}",
            "previous": None,
            "results": rows,
        }
        reply(handler, 200, json.dumps(page).encode())  # type: ignore[arg-type]

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
    server: Loopback,
    quick: Callable[..., Session],
    stated: int,
    fat: bool,
    limits: ListingLimits,
    most: int,
) -> None:
    server.answers["/list/"] = endless_rows(stated, 10, fat=fat)
    url = f"{server.url}/list/"
    rows = pages(quick(listing=limits), url, {}, what="box", page_size=10, key="path")
    with pytest.raises(ListingTooLong):
        deque(rows, maxlen=0)
    assert len(server.asked) <= most


def test_redirects_without_end_are_given_up(
    server: Loopback, quick: Callable[..., Session]
) -> None:
    hops = 0

    def onward(handler: object) -> None:
        nonlocal hops
        hops += 1
        server.answers[f"/{hops}"] = onward
        reply(handler, 302, Location=f"{server.url}/{hops}")  # type: ignore[arg-type]

    server.answers["/0"] = onward
    session = quick()
    for ask in (session.get_json, lambda url: session.get_bytes(url, limit=9, then=bytes)):
        server.asked.clear()
        with pytest.raises(Unreachable):
            ask(f"{server.url}/0")
        assert len(server.asked) == session.limits.redirects + 1


def test_a_json_reply_without_end_is_cut_off(
    server: Loopback, quick: Callable[..., Session]
) -> None:
    sent = 0

    def forever(handler: object) -> None:
        nonlocal sent
        handler.send_response(200)  # type: ignore[attr-defined]
        handler.send_header("Content-Type", "application/json")  # type: ignore[attr-defined]
        handler.end_headers()  # type: ignore[attr-defined]
        handler.close_connection = True  # type: ignore[attr-defined]
        handler.wfile.write(b"[")  # type: ignore[attr-defined]
        while sent < 2**28:
            handler.wfile.write(b"1," * 2**15)  # type: ignore[attr-defined]
            sent += 2**16

    server.answers["/x"] = forever
    with pytest.raises(TooLarge):
        quick(json_bytes=2**20).get_json(f"{server.url}/x")
    assert sent < 2**26
