"""Where files are got from, and what happens when a place does not do what it should."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab_get import (
    LARGE,
    Fault,
    GetWorld,
    Web,
    chunked,
    cut_after,
    endless,
    fine,
    forbidden,
    git,
    left_over,
    login_page,
    missing,
    objects,
    other_bytes,
    redirect_to,
    without_ranges,
)

from neuromirror.annex import key_file
from neuromirror.lab.get import fetching
from neuromirror.net import Limits

TWO = "two/a.dat"
BIG = "large/1.dat"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts are short: what is tested is what comes of them."""
    monkeypatch.setattr(Limits, "__init__", _impatient(Limits.__init__))


def _impatient(made):  # type: ignore[no-untyped-def]
    def init(self, **named):  # type: ignore[no-untyped-def]
        made(self, **{"wait": 0.01, "wait_max": 0.02} | named)

    return init


@pytest.fixture
def elsewhere() -> Iterator[Web]:
    """Another server, at another address of this machine."""
    with Web("127.0.0.2") as web:
        yield web


@pytest.mark.parametrize(
    "fault", [missing, forbidden, other_bytes, login_page, cut_after(100), endless]
)
def test_the_next_place_is_asked_when_one_does_not_give_the_bytes(
    world: GetWorld, fault: Fault
) -> None:
    world.web.faults[world.address(TWO)] = [fault]
    got = world.get(TWO)
    assert (got[TWO].status, got[TWO].url) == ("ok", world.files[TWO].urls[1])
    assert world.is_right(TWO)


def test_a_file_that_no_place_gives_names_each_place_and_its_reason(world: GetWorld) -> None:
    world.web.faults[world.address(TWO)] = [missing]
    world.web.faults[world.address(TWO, 1)] = [other_bytes]
    got = world.get(TWO, "two/b.dat")
    assert got[TWO].status == "error"
    first, second = got[TWO].message.split("; ")
    assert world.files[TWO].urls[0] in first
    assert "404" in first
    assert world.files[TWO].urls[1] in second
    assert "other bytes" in second
    assert got["two/b.dat"].status == "ok"


@pytest.mark.parametrize("path", [TWO, BIG, "kinds/etag", "kinds/MD5", "kinds/url"])
def test_bytes_that_are_wrong_everywhere_are_not_kept(world: GetWorld, path: str) -> None:
    for place in range(len(world.files[path].urls)):
        wrong = login_page if path == "kinds/url" else other_bytes
        world.web.faults[world.address(path, place)] = [wrong]
    got = world.get(path)
    assert got[path].status == "error"
    assert objects(world.clone) == {}
    assert left_over(world.clone) == []


def test_a_dearer_place_is_asked_last_whatever_its_name(world: GetWorld) -> None:
    assert world.get("two/api.dat")["two/api.dat"].url == f"{world.web.url}/zzz/x"
    assert world.web.paths() == ["/zzz/x"]


def test_a_cost_that_the_clone_sets_counts(world: GetWorld) -> None:
    git(world.clone, "config", "remote.web.annex-cost", "400")
    assert world.get("two/api.dat")["two/api.dat"].url == f"{world.web.url}/api/x"


def test_a_place_that_was_taken_out_is_not_asked(world: GetWorld) -> None:
    world.annex("rmurl", TWO, world.files[TWO].urls[0])
    assert world.get(TWO)[TWO].status == "ok"
    assert world.web.paths() == [world.address(TWO, 1)]


def test_a_body_without_a_length_is_read_to_its_end(world: GetWorld) -> None:
    world.web.faults |= {world.address(path): [chunked] for path in (BIG, "small/1.dat")}
    got = world.get(BIG, "small/1.dat")
    assert [one.status for one in got.values()] == ["ok", "ok"]


def test_a_redirect_is_followed(world: GetWorld) -> None:
    world.web.faults[world.address(BIG)] = [redirect_to("/moved")]
    world.web.contents["/moved"] = world.files[BIG].content
    assert world.get(BIG)[BIG].status == "ok"


def test_a_redirect_to_an_address_that_may_not_be_asked_is_not_followed(
    world: GetWorld, elsewhere: Web
) -> None:
    elsewhere.contents["/x"] = world.files[BIG].content
    world.web.faults[world.address(BIG)] = [redirect_to(f"{elsewhere.url}/x")]
    assert world.get(BIG)[BIG].status == "error"
    assert elsewhere.asked == []


def test_headers_go_to_the_place_and_not_where_it_redirects_to(
    world: GetWorld, elsewhere: Web
) -> None:
    git(world.clone, "config", "annex.security.allowed-ip-addresses", "127.0.0.1 127.0.0.2")
    git(world.clone, "config", "annex.http-headers", "Authorization: Bearer sesame")
    elsewhere.contents["/x"] = world.files[BIG].content
    world.web.faults[world.address(BIG)] = [redirect_to(f"{elsewhere.url}/x")]
    got = world.get(BIG, "small/1.dat")
    assert {one.status for one in got.values()} == {"ok"}
    assert {one.headers["Authorization"] for one in world.web.asked} == {"Bearer sesame"}
    assert "Authorization" not in elsewhere.asked[0].headers


def test_an_address_of_this_machine_is_asked_only_if_git_annex_may(world: GetWorld) -> None:
    git(world.clone, "config", "annex.security.allowed-ip-addresses", "127.0.0.3")
    got = world.get("small/1.dat")
    assert got["small/1.dat"].status == "error"
    assert "allow" in got["small/1.dat"].message
    assert world.web.asked == []


def test_an_address_with_a_secret_is_told_without_it(world: GetWorld) -> None:
    url = f"{world.web.url}/gone?X-Amz-Signature=hush&versionId=7"
    world.annex("registerurl", world.files["nowhere.dat"].key, url)
    message = world.get("nowhere.dat")["nowhere.dat"].message
    assert "versionId=7" in message
    assert "hush" not in message


def test_a_large_file_that_breaks_off_goes_on_where_it_was(world: GetWorld) -> None:
    world.web.faults[world.address(BIG)] = [cut_after(1 << 20), cut_after(1 << 20), fine]
    assert world.get(BIG)[BIG].status == "ok"
    ranges = [one.headers.get("Range") for one in world.web.asked]
    assert ranges == [None, f"bytes={1 << 20}-", f"bytes={2 << 20}-"]
    assert world.is_right(BIG)


def test_a_place_that_goes_on_breaking_off_is_left_for_the_next(world: GetWorld) -> None:
    world.web.faults[world.address(BIG)] = [cut_after(0)]
    got = world.get(BIG)
    assert "broke off" in got[BIG].message
    assert len(world.web.asked) == fetching._TRIES


def kept(world: GetWorld, path: str, content: bytes) -> None:
    """What an earlier run, or git-annex, left of a file."""
    folder = world.clone / ".git" / "annex" / "tmp"
    folder.mkdir(exist_ok=True)
    (folder / key_file(world.files[path].key).decode()).write_bytes(content)


def test_what_was_kept_of_a_file_is_gone_on_from(world: GetWorld) -> None:
    kept(world, BIG, world.files[BIG].content[:1_000_000])
    assert world.get(BIG)[BIG].status == "ok"
    assert [one.headers.get("Range") for one in world.web.asked] == ["bytes=1000000-"]
    assert left_over(world.clone) == []


def test_git_annex_goes_on_from_what_was_kept_here(world: GetWorld) -> None:
    world.web.faults[world.address(BIG)] = [cut_after(1 << 20), missing]
    assert world.get(BIG)[BIG].status == "error"
    assert left_over(world.clone) == [f"tmp/{world.files[BIG].key}"]
    world.web.faults.clear()
    world.web.asked.clear()
    world.annex("get", BIG)
    assert world.web.asked[0].headers["Range"] == f"bytes={1 << 20}-"
    assert world.is_right(BIG)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"\0" * 1_000_000,
        lambda content: content[:-1] + b"x",
        lambda content: content + b"more",
        lambda content: b"",
    ],
)
def test_what_was_kept_is_never_trusted(world: GetWorld, spoil) -> None:  # type: ignore[no-untyped-def]
    kept(world, BIG, spoil(world.files[BIG].content))
    assert world.get(BIG)[BIG].status == "ok"
    assert world.is_right(BIG)
    assert left_over(world.clone) == []


def test_a_whole_file_that_was_kept_costs_no_request(world: GetWorld) -> None:
    kept(world, BIG, world.files[BIG].content)
    assert world.get(BIG)[BIG].status == "ok"
    assert world.web.asked == []
    assert world.is_right(BIG)


def test_a_server_that_knows_no_ranges_begins_again(world: GetWorld) -> None:
    kept(world, BIG, world.files[BIG].content[:1_000_000])
    world.web.faults[world.address(BIG)] = [without_ranges]
    assert world.get(BIG)[BIG].status == "ok"
    assert world.is_right(BIG)


def test_what_cannot_be_checked_is_not_gone_on_from(world: GetWorld) -> None:
    path = "kinds/vurl-large"
    kept(world, path, b"x" * 1000)
    assert world.get(path)[path].status == "ok"
    assert [one.headers.get("Range") for one in world.web.asked] == [None]
    assert (world.clone / path).stat().st_size == LARGE
