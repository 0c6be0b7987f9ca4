"""The order in which ``get`` tries URLs, and its behaviour when one fails."""

from collections.abc import Iterator

import pytest
from msgspec import structs

from neuromirror.annex import key_file_name
from neuromirror.transfer import fetcher
from support.web_clone import (
    LARGE,
    Fault,
    FaultyWebServer,
    WebClone,
    chunked,
    cut_after,
    endless,
    forbidden,
    git,
    login_page,
    missing,
    no_fault,
    object_modes,
    other_bytes,
    redirect_to,
    temporary_files,
    without_ranges,
)

TWO = "two/a.dat"
BIG = "large/1.dat"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between attempts."""
    short = structs.replace(fetcher._LIMITS, wait=0.01, wait_max=0.02)
    monkeypatch.setattr(fetcher, "_LIMITS", short)


@pytest.fixture
def other_server() -> Iterator[FaultyWebServer]:
    """A second server, at another loopback address."""
    with FaultyWebServer("127.0.0.2") as web:
        yield web


@pytest.mark.parametrize(
    "fault", [missing, forbidden, other_bytes, login_page, cut_after(100), endless]
)
def test_the_next_url_is_tried_when_one_fails(web_clone: WebClone, fault: Fault) -> None:
    web_clone.web.faults[web_clone.url_path(TWO)] = [fault]
    got = web_clone.get(TWO)
    assert (got[TWO].status, got[TWO].url) == ("ok", web_clone.files[TWO].urls[1])
    assert web_clone.has_content(TWO)


def test_a_file_that_no_url_gives_names_each_url_and_its_reason(web_clone: WebClone) -> None:
    web_clone.web.faults[web_clone.url_path(TWO)] = [missing]
    web_clone.web.faults[web_clone.url_path(TWO, 1)] = [other_bytes]
    got = web_clone.get(TWO, "two/b.dat")
    assert got[TWO].status == "error"
    first, second = got[TWO].message.split("; ")
    assert web_clone.files[TWO].urls[0] in first
    assert "404" in first
    assert web_clone.files[TWO].urls[1] in second
    assert "sha256" in second
    assert got["two/b.dat"].status == "ok"


@pytest.mark.parametrize("path", [TWO, BIG, "kinds/etag", "kinds/MD5", "kinds/url"])
def test_bytes_that_are_wrong_everywhere_are_not_kept(web_clone: WebClone, path: str) -> None:
    for index in range(len(web_clone.files[path].urls)):
        wrong = login_page if path == "kinds/url" else other_bytes
        web_clone.web.faults[web_clone.url_path(path, index)] = [wrong]
    got = web_clone.get(path)
    assert got[path].status == "error"
    assert object_modes(web_clone.clone) == {}
    assert temporary_files(web_clone.clone) == []


def test_a_costlier_url_is_tried_last(web_clone: WebClone) -> None:
    assert web_clone.get("two/api.dat")["two/api.dat"].url == f"{web_clone.web.url}/zzz/x"
    assert web_clone.web.paths() == ["/zzz/x"]


def test_a_cost_that_the_clone_sets_counts(web_clone: WebClone) -> None:
    git(web_clone.clone, "config", "remote.web.annex-cost", "400")
    assert web_clone.get("two/api.dat")["two/api.dat"].url == f"{web_clone.web.url}/api/x"


def test_a_removed_url_is_not_requested(web_clone: WebClone) -> None:
    web_clone.annex("rmurl", TWO, web_clone.files[TWO].urls[0])
    assert web_clone.get(TWO)[TWO].status == "ok"
    assert web_clone.web.paths() == [web_clone.url_path(TWO, 1)]


def test_a_body_without_a_length_is_read_to_its_end(web_clone: WebClone) -> None:
    web_clone.web.faults |= {web_clone.url_path(path): [chunked] for path in (BIG, "small/1.dat")}
    got = web_clone.get(BIG, "small/1.dat")
    assert [one.status for one in got.values()] == ["ok", "ok"]


def test_a_redirect_is_followed(web_clone: WebClone) -> None:
    web_clone.web.faults[web_clone.url_path(BIG)] = [redirect_to("/moved")]
    web_clone.web.contents["/moved"] = web_clone.files[BIG].content
    assert web_clone.get(BIG)[BIG].status == "ok"


def test_a_redirect_to_a_forbidden_address_is_not_followed(
    web_clone: WebClone, other_server: FaultyWebServer
) -> None:
    other_server.contents["/x"] = web_clone.files[BIG].content
    web_clone.web.faults[web_clone.url_path(BIG)] = [redirect_to(f"{other_server.url}/x")]
    assert web_clone.get(BIG)[BIG].status == "error"
    assert other_server.requests == []


def test_headers_are_not_sent_to_a_redirect_target(
    web_clone: WebClone, other_server: FaultyWebServer
) -> None:
    git(
        web_clone.clone,
        "config",
        "--global",
        "annex.security.allowed-ip-addresses",
        "127.0.0.1 127.0.0.2",
    )
    git(web_clone.clone, "config", "--global", "annex.http-headers", "Authorization: Bearer sesame")
    other_server.contents["/x"] = web_clone.files[BIG].content
    web_clone.web.faults[web_clone.url_path(BIG)] = [redirect_to(f"{other_server.url}/x")]
    got = web_clone.get(BIG, "small/1.dat")
    assert {one.status for one in got.values()} == {"ok"}
    assert {one.headers["Authorization"] for one in web_clone.web.requests} == {"Bearer sesame"}
    assert "Authorization" not in other_server.requests[0].headers


def test_a_local_address_is_requested_only_if_git_annex_allows_it(web_clone: WebClone) -> None:
    git(web_clone.clone, "config", "--global", "annex.security.allowed-ip-addresses", "127.0.0.3")
    got = web_clone.get("small/1.dat")
    assert got["small/1.dat"].status == "error"
    assert "allow" in got["small/1.dat"].message
    assert web_clone.web.requests == []


def test_a_secret_in_a_url_is_redacted(web_clone: WebClone) -> None:
    url = f"{web_clone.web.url}/gone?X-Amz-Signature=hush&versionId=7"
    web_clone.annex("registerurl", web_clone.files["nowhere.dat"].key, url)
    message = web_clone.get("nowhere.dat")["nowhere.dat"].message
    assert "versionId=7" in message
    assert "hush" not in message


def test_an_interrupted_large_download_is_resumed(web_clone: WebClone) -> None:
    web_clone.web.faults[web_clone.url_path(BIG)] = [
        cut_after(1 << 20),
        cut_after(1 << 20),
        no_fault,
    ]
    assert web_clone.get(BIG)[BIG].status == "ok"
    ranges = [request.headers.get("Range") for request in web_clone.web.requests]
    assert ranges == [None, f"bytes={1 << 20}-", f"bytes={2 << 20}-"]
    assert web_clone.has_content(BIG)


def test_a_url_that_keeps_disconnecting_is_given_up(web_clone: WebClone) -> None:
    web_clone.web.faults[web_clone.url_path(BIG)] = [cut_after(0)]
    got = web_clone.get(BIG)
    assert "connection lost" in got[BIG].message
    assert len(web_clone.web.requests) == fetcher._MAX_IDLE_ATTEMPTS


def leave_partial(world: WebClone, path: str, content: bytes) -> None:
    """Write partial content as an interrupted run, or git-annex, leaves it."""
    folder = world.clone / ".git" / "annex" / "tmp"
    folder.mkdir(exist_ok=True)
    (folder / key_file_name(world.files[path].key).decode()).write_bytes(content)


def test_partial_content_of_an_earlier_run_is_resumed(web_clone: WebClone) -> None:
    leave_partial(web_clone, BIG, web_clone.files[BIG].content[:1_000_000])
    assert web_clone.get(BIG)[BIG].status == "ok"
    assert [one.headers.get("Range") for one in web_clone.web.requests] == ["bytes=1000000-"]
    assert temporary_files(web_clone.clone) == []


def test_git_annex_resumes_partial_content(web_clone: WebClone) -> None:
    web_clone.web.faults[web_clone.url_path(BIG)] = [cut_after(1 << 20), missing]
    assert web_clone.get(BIG)[BIG].status == "error"
    assert temporary_files(web_clone.clone) == [f"tmp/{web_clone.files[BIG].key}"]
    web_clone.web.faults.clear()
    web_clone.web.requests.clear()
    web_clone.annex("get", BIG)
    assert web_clone.web.requests[0].headers["Range"] == f"bytes={1 << 20}-"
    assert web_clone.has_content(BIG)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"\0" * 1_000_000,
        lambda content: content[:-1] + b"x",
        lambda content: content + b"more",
        lambda content: b"",
    ],
)
def test_partial_content_is_never_trusted(web_clone: WebClone, spoil) -> None:  # type: ignore[no-untyped-def]
    leave_partial(web_clone, BIG, spoil(web_clone.files[BIG].content))
    assert web_clone.get(BIG)[BIG].status == "ok"
    assert web_clone.has_content(BIG)
    assert temporary_files(web_clone.clone) == []


def test_complete_partial_content_costs_no_request(web_clone: WebClone) -> None:
    leave_partial(web_clone, BIG, web_clone.files[BIG].content)
    assert web_clone.get(BIG)[BIG].status == "ok"
    assert web_clone.web.requests == []
    assert web_clone.has_content(BIG)


def test_a_server_without_ranges_restarts_the_download(web_clone: WebClone) -> None:
    leave_partial(web_clone, BIG, web_clone.files[BIG].content[:1_000_000])
    web_clone.web.faults[web_clone.url_path(BIG)] = [without_ranges]
    assert web_clone.get(BIG)[BIG].status == "ok"
    assert web_clone.has_content(BIG)


def test_content_without_checksum_is_not_resumed(web_clone: WebClone) -> None:
    path = "kinds/vurl-large"
    leave_partial(web_clone, path, b"x" * 1000)
    assert web_clone.get(path)[path].status == "ok"
    assert [request.headers.get("Range") for request in web_clone.web.requests] == [None]
    assert (web_clone.clone / path).stat().st_size == LARGE
