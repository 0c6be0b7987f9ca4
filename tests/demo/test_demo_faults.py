"""Each fault does what it says, to the requests it says, and no longer than it is on."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import requests

from neuromirror_demo import SHARED, DemoArchive, DemoError

ASSETS = "/dandisets/000002/versions/draft/assets/?page_size=2&metadata=true"


def get(demo: DemoArchive, path: str) -> requests.Response:
    return requests.get(demo.api_url + path, timeout=300)


def walk(demo: DemoArchive, path: str = ASSETS) -> list[str]:
    """The paths (or ids) of a list, by following its links."""
    found: list[str] = []
    following: str | None = demo.api_url + path
    while following:
        body = requests.get(following, timeout=300).json()
        found += [row.get("path") or row.get("identifier") for row in body["results"]]
        following = body["next"]
    return found


def test_a_lost_page_is_skipped_by_the_link_before_it(demo: DemoArchive) -> None:
    whole = walk(demo)
    with demo.fault("lost_page", page=2) as fault:
        assert walk(demo) == whole[:2] + whole[4:]
    assert fault.struck == 1
    with demo.fault("lost_page", page=3):
        assert walk(demo) == whole[:4]
    assert walk(demo) == whole


def test_a_lost_page_can_be_one_of_the_list_of_all(demo: DemoArchive) -> None:
    path = "/dandisets/?page_size=3"
    whole = walk(demo, path)
    with demo.fault("lost_page", page=2, path="^/api/dandisets/$"):
        assert walk(demo, path) == whole[:3] + whole[6:]


def test_a_list_ends_too_early(demo: DemoArchive) -> None:
    whole = walk(demo)
    with demo.fault("next_null", page=2):
        assert walk(demo) == whole[:4]


def test_a_list_is_empty_with_200(demo: DemoArchive) -> None:
    with demo.fault("empty_list"):
        body = get(demo, ASSETS).json()
        assert body == {"count": 0, "next": None, "previous": None, "results": []}
        assert get(demo, "/dandisets/").json()["count"] == 7


def test_rows_come_twice(demo: DemoArchive) -> None:
    whole = walk(demo)
    with demo.fault("duplicate_rows", page=2):
        assert walk(demo) == [*whole[:2], whole[1], whole[2], *whole[4:]]


def test_a_page_is_truncated_with_either_content_length(demo: DemoArchive) -> None:
    with demo.fault("cut", page=2):
        assert get(demo, ASSETS).json()["results"]
        answer = get(demo, f"{ASSETS}&page=2")
        assert answer.status_code == 200
        with pytest.raises(requests.JSONDecodeError):
            answer.json()
    with (
        demo.fault("cut", lying=True),
        pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)),
    ):
        get(demo, ASSETS)


def test_503_is_returned_the_requested_number_of_times(demo: DemoArchive) -> None:
    with demo.fault("status", times=2, path="/dandisets/000002/$") as fault:
        answers = [get(demo, "/dandisets/000002/").status_code for _ in range(4)]
        assert get(demo, "/dandisets/000001/").status_code == 200
    assert answers == [503, 503, 200, 200]
    assert fault.struck == 2
    with demo.fault("status", skip=1):
        answers = [get(demo, "/dandisets/000002/").status_code for _ in range(3)]
    assert answers == [200, 503, 503]


@pytest.mark.parametrize("after", [3, "Sat, 02 Mar 2024 10:00:00 GMT", 10**9])
def test_429_has_retry_after(demo: DemoArchive, after: int | str) -> None:
    with demo.fault("status", status=429, retry_after=after):
        answer = get(demo, "/dandisets/")
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == str(after)
    assert answer.json() == {"detail": "Request was throttled."}


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_path_is_refused(demo: DemoArchive, status: int) -> None:
    with demo.fault("status", status=status, path="/000003/"):
        assert get(demo, "/dandisets/000003/").status_code == status
        assert get(demo, "/dandisets/000002/").status_code == 200


def test_html_comes_with_200(demo: DemoArchive) -> None:
    with demo.fault("html"):
        answer = get(demo, "/dandisets/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")


def test_the_draft_changes_between_two_pages(demo: DemoArchive) -> None:
    whole = walk(demo)
    with demo.fault("mutate_while_listing"):
        seen = walk(demo)
    assert seen == whole[:2] + whole[3:]  # a row slipped through
    assert walk(demo) == whole[1:]
    with demo.fault("mutate_while_listing", action="add", file="late.txt"):
        assert walk(demo)[-1] == "late.txt"


def test_stale_info_shows_an_earlier_state(demo: DemoArchive) -> None:
    def count_and_time() -> Any:
        info = get(demo, "/dandisets/000008/versions/draft/info/").json()
        return info["asset_count"], info["modified"]

    before = count_and_time()
    with demo.fault("stale_info"):
        demo.add_file("000008", "new.txt")
        assert count_and_time() == before
        assert "new.txt" in walk(demo, "/dandisets/000008/versions/draft/assets/")
    assert count_and_time()[0] == before[0] + 1


def test_wrong_bytes_come_from_the_bucket_or_from_the_api(demo: DemoArchive) -> None:
    asset = demo.dandisets["000001"].draft.assets[SHARED]
    assert asset.blob is not None
    s3 = f"{demo.s3_url}/demo-dandiarchive/{asset.blob.key}"
    api = f"{demo.api_url}/assets/{asset.asset_id}/download/"
    with demo.fault("wrong_bytes"):
        wrong = requests.get(s3, timeout=300).content
        assert len(wrong) == asset.size
        assert wrong != asset.blob.data
    with demo.fault("wrong_bytes", server="api"):
        assert requests.get(s3, timeout=300).content == asset.blob.data
        answer = requests.get(api, timeout=300)
        assert (answer.status_code, len(answer.content)) == (200, asset.size)
        assert answer.content != asset.blob.data
    assert requests.get(api, timeout=300).content == asset.blob.data


def test_head_hides_the_version_id(demo: DemoArchive) -> None:
    asset = demo.dandisets["000001"].draft.assets[SHARED]
    assert asset.blob is not None
    s3 = f"{demo.s3_url}/demo-dandiarchive/{asset.blob.key}"
    with demo.fault("no_version_id"):
        head = requests.head(s3, timeout=300)
        assert "x-amz-version-id" not in head.headers
        assert head.headers["Content-Length"] == str(asset.size)
        assert "x-amz-version-id" in requests.get(s3, timeout=300).headers


def test_the_bucket_can_fail_too(demo: DemoArchive) -> None:
    with demo.fault("status", server="s3", status=503, times=1):
        url = f"{demo.s3_url}/demo-dandiarchive/?list-type=2"
        assert [requests.get(url, timeout=300).status_code for _ in range(2)] == [503, 200]


def test_a_slow_drip_stalls_after_the_first_bytes_and_then_goes_on(demo: DemoArchive) -> None:
    url = f"{demo.api_url}/dandisets/000002/"
    whole = requests.get(url, timeout=300).content
    with demo.fault("slow", delay=300, chunk=16):
        stalled = requests.get(url, stream=True, timeout=0.5)
        assert stalled.raw.read1(16) == whole[:16]
        with pytest.raises(requests.ConnectionError):
            list(stalled.iter_content())
    with demo.fault("slow", delay=0.001, chunk=16):
        assert requests.get(url, timeout=300).content == whole


def test_a_request_that_hangs_times_out_and_is_let_go(demo: DemoArchive) -> None:
    with (
        demo.fault("hang", seconds=300) as fault,
        pytest.raises(requests.ReadTimeout),
    ):
        requests.get(f"{demo.api_url}/info/", timeout=0.3)
    assert fault.struck == 1
    assert get(demo, "/info/").status_code == 200


def test_the_end_does_not_wait_for_a_hanging_request(demo: DemoArchive) -> None:
    demo.fault("hang", seconds=300)
    answered = threading.Event()

    def ask() -> None:
        requests.get(f"{demo.api_url}/info/", timeout=200)
        answered.set()

    asking = threading.Thread(target=ask)
    asking.start()
    while not demo.requests:
        asking.join(timeout=0.01)
    demo.__exit__(None, None, None)
    asking.join(timeout=60)
    assert answered.is_set()


def test_an_unknown_fault_or_option_is_refused(demo: DemoArchive) -> None:
    with pytest.raises(DemoError, match="lost_page"):
        demo.fault("nonsense")
    with pytest.raises(DemoError, match="colour"):
        demo.fault("status", colour="red")
