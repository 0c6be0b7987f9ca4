"""What places say, one place at a time: each answer has its own word."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from lab_places import CONTENT, KEY, MD5, Answer, Places, serving

from neuromirror.annex import url_key
from neuromirror.lab.verify import Finding, Health
from neuromirror.lab.verify.fetching import Fetcher
from neuromirror.lab.verify.places import Prober
from neuromirror.lab.verify.sessions import Sessions
from neuromirror.lab.verify.walking import PinnedFile
from neuromirror.model import Digest
from neuromirror.net import HostCircuitBreaker, HostGivenUp, Limits

ETAG = f"{hashlib.md5(b'parts').hexdigest()}-3"
ONE_PART = f"{hashlib.md5(hashlib.md5(CONTENT).digest()).hexdigest()}-1"
SIZE = len(CONTENT)


@pytest.fixture
def places() -> Iterator[Places]:
    with serving() as running:
        yield running


def impatient(*allowed: str, breaker: HostCircuitBreaker | None = None) -> Sessions:
    """Sessions that do not ask again."""
    return Sessions(allowed, lambda host: None, Limits(attempts=1), breaker=breaker)


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    made = impatient("127.0.0.1")
    yield made
    made.close()


def probed(
    sessions: Sessions, *urls: str, key: str = KEY, claims: tuple[Digest, ...] = ()
) -> list[Finding]:
    return Prober(sessions).probe(PinnedFile(b"a.bin", key, urls), claims)


def fetched(sessions: Sessions, *urls: str, key: str = KEY) -> list[Finding]:
    return Fetcher(sessions, threading.Event()).fetch(PinnedFile(b"a.bin", key, urls))


def health(found: list[Finding]) -> list[str | None]:
    return [one.health and one.health.value for one in found]


def sha256_header(content: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return {"x-amz-checksum-sha256": digest, "x-amz-checksum-type": "FULL_OBJECT"}


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ({}, "size"),
        ({"ETag": f'"{MD5}"'}, "size"),  # nobody knows this file's md5
        (sha256_header(CONTENT), "sha256"),
        ({"x-amz-checksum-sha256": "AAAA-3", "x-amz-checksum-type": "COMPOSITE"}, "size"),
    ],
)
def test_what_agrees_is_claimed_and_never_checked(
    places: Places, sessions: Sessions, headers: dict[str, str], word: str
) -> None:
    url = places.at("/a", head=Answer(headers=headers))
    (found,) = probed(sessions, url)
    assert (found.status, found.health, found.what) == ("ok", Health.OK, "place")
    assert (found.evidence, found.checked, found.url) == (word, "claimed", url)
    assert places.methods("/a") == ["HEAD"]


@pytest.mark.parametrize(
    ("key", "headers", "word"),
    [
        (f"MD5E-s{SIZE}--{MD5}.bin", {"ETag": f'"{MD5}"'}, "md5"),
        (f"XS3ETAG-s{SIZE}--{ETAG}-10", {"ETag": f'"{ETAG}"'}, "etag"),
        # in other parts, or encrypted, an ETag tells nothing of this one
        (f"XS3ETAG-s{SIZE}--{ETAG}-10", {"ETag": f'"{ETAG[:-1]}7"'}, "size"),
        (f"MD5E-s{SIZE}--{MD5}.bin", {"ETag": f'"{ETAG}"'}, "size"),
        (
            f"MD5E-s{SIZE}--{MD5}.bin",
            {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms"},
            "size",
        ),
    ],
)
def test_an_etag_counts_where_it_is_of_the_kind_that_is_known(
    places: Places, sessions: Sessions, key: str, headers: dict[str, str], word: str
) -> None:
    (found,) = probed(sessions, places.at("/a", head=Answer(headers=headers)), key=key)
    assert (found.status, found.evidence) == ("ok", word)


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        (KEY, {"Content-Length": str(SIZE + 1)}),
        (KEY, sha256_header(b"other")),
        (f"MD5E-s{SIZE}--{MD5}.bin", {"ETag": f'"{"0" * 32}"'}),
        (f"XS3ETAG-s{SIZE}--{ETAG}-10", {"ETag": f'"{"0" * 32}-3"'}),
    ],
)
def test_other_bytes_are_told_by_whatever_says_so(
    places: Places, sessions: Sessions, key: str, headers: dict[str, str]
) -> None:
    (found,) = probed(sessions, places.at("/a", head=Answer(headers=headers)), key=key)
    assert (found.status, found.health, found.evidence) == ("error", Health.CHANGED, None)


def test_what_the_index_knows_more_is_compared_too(places: Places, sessions: Sessions) -> None:
    url = places.at("/a", head=Answer(headers={"ETag": f'"{ETAG}"'}))
    (found,) = probed(sessions, url, claims=(Digest("etag", ETAG, "dandi"),))
    assert (found.status, found.evidence) == ("ok", "etag")
    (found,) = probed(sessions, url, claims=(Digest("etag", f"{'0' * 32}-3", "dandi"),))
    assert found.health is Health.CHANGED


def test_an_object_version_tells_what_the_other_places_should_say(
    places: Places, sessions: Sessions
) -> None:
    exact = places.at("/a?versionId=v1", head=Answer(headers={"ETag": f'"{MD5}"'}))
    same = places.at("/b", head=Answer(headers={"ETag": f'"{MD5}"'}))
    other = places.at("/c", head=Answer(headers={"ETag": f'"{"0" * 32}"'}))
    found = probed(sessions, exact, same, other)
    assert health(found) == ["ok", "ok", "changed"]
    # what may be overwritten is no measure for what may not
    assert health(probed(sessions, other, exact)) == ["ok", "ok"]


def test_another_object_version_than_the_one_asked_for(places: Places, sessions: Sessions) -> None:
    headers = {"x-amz-version-id": "v2"}
    for version, word in (("v1", "changed"), ("v2", "ok")):
        url = places.at(f"/a?versionId={version}", head=Answer(headers=headers))
        assert health(probed(sessions, url)) == [word]


@pytest.mark.parametrize(
    ("head", "get", "word", "status"),
    [
        (Answer(404), Answer(404), "gone", "error"),
        (Answer(410), Answer(410), "gone", "error"),
        (Answer(405, {"x-amz-delete-marker": "true"}), Answer(405), "gone", "error"),
        (Answer(403), Answer(403), "refused", "error"),
        (Answer(401), Answer(401), "refused", "error"),
        (Answer(405), Answer(405), "not-offered", "impossible"),
        (Answer(501), Answer(501), "not-offered", "impossible"),
        (Answer(418), Answer(418), "unreachable", "impossible"),
        (
            Answer(400),
            Answer(400, content=b"<Error><Code>InvalidArgument</Code></Error>"),
            "gone",
            "error",
        ),
        # what is refused for one way to ask may be there for another
        (Answer(403), Answer(), "ok", "ok"),
        (Answer(405), Answer(), "ok", "ok"),
        (Answer(403), Answer(content=CONTENT + b"!"), "changed", "error"),
        (Answer(405), Answer(content=b""), "changed", "error"),
    ],
)
def test_403_404_and_405_are_told_apart(
    places: Places, sessions: Sessions, head: Answer, get: Answer, word: str, status: str
) -> None:
    (found,) = probed(sessions, places.at("/a", head=head, get=get))
    assert (found.health, found.status) == (word, status)
    assert found.health is Health.OK or found.message
    if word == "refused":
        assert "gone" in found.message


def test_a_redirect_is_followed_by_get_since_it_may_be_signed_for_that(
    places: Places, sessions: Sessions
) -> None:
    signed = places.at("/signed", head=Answer(403), get=Answer(headers={"ETag": f'"{MD5}"'}))
    url = places.at("/download/", head=Answer(302, {"Location": signed}, b""),
                    get=Answer(302, {"Location": signed}, b""))  # fmt: skip
    (found,) = probed(sessions, url, key=f"MD5E-s{SIZE}--{MD5}.bin")
    assert (found.status, found.evidence, found.url) == ("ok", "md5", url)
    assert places.methods("/signed") == ["GET"]


def test_a_file_without_bytes_is_asked_for_as_a_whole(places: Places, sessions: Sessions) -> None:
    key = f"MD5E-s0--{hashlib.md5(b'').hexdigest()}"
    url = places.at("/a", head=Answer(403), get=Answer(content=b""))
    assert health(probed(sessions, url, key=key)) == ["ok"]


def test_the_etag_in_the_key_of_a_mutable_object_is_compared(
    places: Places, sessions: Sessions
) -> None:
    url = places.at("/a", head=Answer(headers={"ETag": '"e1"'}))
    assert health(probed(sessions, url, key=url_key(f"{url}#e1", SIZE))) == ["ok"]
    assert health(probed(sessions, url, key=url_key(f"{url}#e0", SIZE))) == ["changed"]
    assert health(probed(sessions, url, key=url_key(url, SIZE))) == ["ok"]


def test_an_address_of_this_machine_is_asked_only_where_that_is_allowed(places: Places) -> None:
    url = places.at("/a")
    for allowed, word in (
        ((), "unknown"),
        (("10.0.0.1",), "unknown"),
        (("[127.0.0.1]:1",), "unknown"),
        (("::1", "127.0.0.1"), "ok"),
        (("all",), "ok"),
        ((f"[127.0.0.1]:{url.split(':')[2].split('/')[0]}",), "ok"),
    ):
        sessions = impatient(*allowed)
        assert health(probed(sessions, url)) == [word]
        assert health(fetched(sessions, url))[:1] == [word]
        sessions.close()


def test_a_place_that_nobody_knows_how_to_ask(sessions: Sessions) -> None:
    found = probed(sessions, "ftp://host.invalid/a", "file:///etc/passwd")
    assert health(found) == ["unknown", "unknown"]
    assert {one.status for one in found} == {"impossible"}
    assert fetched(sessions, "file:///etc/passwd")[-1].status == "impossible"


def test_a_file_without_places_is_told(sessions: Sessions) -> None:
    for found in (probed(sessions), fetched(sessions)):
        assert [(one.what, one.status) for one in found] == [("file", "impossible")]
        assert "no place" in found[0].message


def test_a_secret_in_an_address_is_not_told(sessions: Sessions) -> None:
    (found,) = probed(sessions, "http://me:secret@127.0.0.1:1/a?X-Amz-Signature=secret")
    assert "secret" not in str(found)


def test_a_host_that_never_answers_is_left_alone_after_some_time(sessions: Sessions) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        found = [probed(sessions, f"{url}{number}")[0] for number in range(10)]
        assert {one.health for one in found} == {Health.UNREACHABLE}
        assert ["is not asked again" in one.message for one in found] == [False] * 8 + [True] * 2


@pytest.mark.parametrize("full", [False, True], ids=["remote", "full"])
def test_a_host_that_recovers_is_asked_again_in_the_same_run(places: Places, full: bool) -> None:
    breaker = HostCircuitBreaker(failures=2, seconds=0.0, retry_after=0.0)
    look = fetched if full else probed
    with closing(impatient("127.0.0.1", breaker=breaker)) as sessions:
        url = places.at("/a", get=Answer(status=503))
        found = [look(sessions, url)[0] for _ in range(10)]
        assert {one.health for one in found} == {Health.UNREACHABLE}
        assert health(look(sessions, places.at("/a"))) == ["ok"]


def test_refusals_of_the_circuit_breaker_are_no_failures_of_the_host(places: Places) -> None:
    breaker = HostCircuitBreaker(failures=2, seconds=0.0, retry_after=3600.0)
    with closing(impatient("127.0.0.1", breaker=breaker)) as sessions:
        url = places.at("/a", get=Answer(status=503))
        found = [probed(sessions, url)[0] for _ in range(5)]
        assert {one.health for one in found} == {Health.UNREACHABLE}
        assert len({one.message for one in found[2:]}) == 1
        with pytest.raises(HostGivenUp) as given_up:
            breaker.check(url)
        assert given_up.value.status == 503


# --- the bytes themselves


def test_bytes_that_were_fetched_are_hashed(places: Places, sessions: Sessions) -> None:
    url = places.at("/a")
    for key, word in (
        (KEY, "sha256"),
        (f"MD5-s{SIZE}--{MD5}", "md5"),
        (f"XS3ETAG-s{SIZE}--{ONE_PART}-100", "etag"),
    ):
        (found,) = fetched(sessions, url, key=key)
        assert (found.what, found.status, found.url) == ("file", "ok", url)
        assert (found.evidence, found.checked) == (word, "checked")
    (found,) = fetched(sessions, url, key=url_key(url, SIZE))
    assert (found.evidence, found.checked) == ("size", "claimed")


def test_wrong_bytes_at_one_place_are_named_and_the_next_is_tried(
    places: Places, sessions: Sessions
) -> None:
    wrong = places.at("/wrong", get=Answer(content=CONTENT[::-1]))
    short = places.at("/short", get=Answer(content=CONTENT[:-1]))
    endless = places.at("/long", get=Answer(content=CONTENT * 1000))
    gone, good = places.url + "/gone", places.at("/good")
    found = fetched(sessions, wrong, short, endless, gone, good)
    assert health(found) == ["changed", "changed", "changed", "gone", "ok"]
    assert [one.url for one in found] == [wrong, short, endless, gone, good]
    assert [one.what for one in found] == ["place"] * 4 + ["file"]
    assert hashlib.sha256(CONTENT[::-1]).hexdigest() in found[0].message
    assert "more than 28" in found[2].message


def test_wrong_bytes_everywhere_make_the_file_wrong(places: Places, sessions: Sessions) -> None:
    wrong = places.at("/wrong", get=Answer(content=CONTENT[::-1]))
    found = fetched(sessions, wrong, places.url + "/gone")
    assert [(one.what, one.status) for one in found] == [
        ("place", "error"),
        ("place", "error"),
        ("file", "error"),
    ]
    assert "none of its places (2)" in found[-1].message
    assert fetched(sessions, "ftp://x.invalid/")[-1].status == "impossible"


def test_a_body_that_breaks_off_is_read_again(places: Places, sessions: Sessions) -> None:
    url = places.at("/a", get=Answer(cut=5))
    places.answers["GET /a"].append(Answer())
    (found,) = fetched(sessions, url)
    assert (found.status, found.evidence, len(places.methods("/a"))) == ("ok", "sha256", 2)
    url = places.at("/b", get=Answer(cut=5))
    assert health(fetched(sessions, url)) == ["unreachable", None]
    assert len(places.methods("/b")) == 3
