"""Probing and downloading single URLs."""

import base64
import hashlib
import socket
import threading
from collections.abc import Iterator

import pytest

from neuromirror.annex import url_key
from neuromirror.model import Digest
from neuromirror.net import HostCircuitBreaker, RequestLimits
from neuromirror.transfer.outcomes import Finding, Health
from neuromirror.transfer.url_health import DownloadVerifier, Prober
from neuromirror.transfer.url_sessions import UrlSessions
from neuromirror.transfer.verified_repository import PinnedFile
from support.scripted_http_server import CONTENT, KEY, MD5, ScriptedReply, ScriptedServer

ETAG = f"{hashlib.md5(b'parts').hexdigest()}-3"
ONE_PART = f"{hashlib.md5(hashlib.md5(CONTENT).digest()).hexdigest()}-1"
SIZE = len(CONTENT)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def single_attempt_sessions(
    *allowed: str, breaker: HostCircuitBreaker | None = None
) -> UrlSessions:
    """Return sessions that do not retry."""
    return UrlSessions(allowed, lambda host: None, RequestLimits(attempts=1), breaker=breaker)


@pytest.fixture
def sessions() -> Iterator[UrlSessions]:
    made = single_attempt_sessions("127.0.0.1")
    yield made
    made.close()


def probe(
    sessions: UrlSessions, *urls: str, key: str = KEY, claims: tuple[Digest, ...] = ()
) -> list[Finding]:
    return Prober(sessions).probe(PinnedFile(b"a.bin", key, urls), claims)


def fetch_and_hash(sessions: UrlSessions, *urls: str, key: str = KEY) -> list[Finding]:
    return DownloadVerifier(sessions, threading.Event()).verify(PinnedFile(b"a.bin", key, urls))


def health(found: list[Finding]) -> list[str | None]:
    return [one.health and one.health.value for one in found]


def sha256_header(content: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return {"x-amz-checksum-sha256": digest, "x-amz-checksum-type": "FULL_OBJECT"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "size"),
        ({"ETag": f'"{MD5}"'}, "size"),  # the md5 of this file is not known
        (sha256_header(CONTENT), "sha256"),
        ({"x-amz-checksum-sha256": "AAAA-3", "x-amz-checksum-type": "COMPOSITE"}, "size"),
    ],
)
def test_matching_headers_are_claimed_not_checked(
    server: ScriptedServer, sessions: UrlSessions, headers: dict[str, str], expected: str
) -> None:
    url = server.add("/a", head=ScriptedReply(headers=headers))
    (found,) = probe(sessions, url)
    assert (found.status, found.health, found.kind) == ("ok", Health.OK, "url")
    assert (found.evidence, found.checked, found.url) == (expected, "claimed", url)
    assert server.methods("/a") == ["HEAD"]


@pytest.mark.parametrize(
    ("key", "headers", "expected"),
    [
        (f"MD5E-s{SIZE}--{MD5}.bin", {"ETag": f'"{MD5}"'}, "md5"),
        (f"XS3ETAG-s{SIZE}--{ETAG}-10", {"ETag": f'"{ETAG}"'}, "etag"),
        # ETags of other part sizes or of encrypted objects are not comparable
        (f"XS3ETAG-s{SIZE}--{ETAG}-10", {"ETag": f'"{ETAG[:-1]}7"'}, "size"),
        (f"MD5E-s{SIZE}--{MD5}.bin", {"ETag": f'"{ETAG}"'}, "size"),
        (
            f"MD5E-s{SIZE}--{MD5}.bin",
            {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms"},
            "size",
        ),
    ],
)
def test_an_etag_counts_if_the_key_has_one_of_the_same_kind(
    server: ScriptedServer, sessions: UrlSessions, key: str, headers: dict[str, str], expected: str
) -> None:
    (found,) = probe(sessions, server.add("/a", head=ScriptedReply(headers=headers)), key=key)
    assert (found.status, found.evidence) == ("ok", expected)


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        (KEY, {"Content-Length": str(SIZE + 1)}),
        (KEY, sha256_header(b"other")),
        (f"MD5E-s{SIZE}--{MD5}.bin", {"ETag": f'"{"0" * 32}"'}),
        (f"XS3ETAG-s{SIZE}--{ETAG}-10", {"ETag": f'"{"0" * 32}-3"'}),
    ],
)
def test_changed_bytes_are_detected_by_any_checksum(
    server: ScriptedServer, sessions: UrlSessions, key: str, headers: dict[str, str]
) -> None:
    (found,) = probe(sessions, server.add("/a", head=ScriptedReply(headers=headers)), key=key)
    assert (found.status, found.health, found.evidence) == ("error", Health.CHANGED, None)


def test_checksums_from_the_index_are_compared(
    server: ScriptedServer, sessions: UrlSessions
) -> None:
    url = server.add("/a", head=ScriptedReply(headers={"ETag": f'"{ETAG}"'}))
    (found,) = probe(sessions, url, claims=(Digest("etag", ETAG, "dandi"),))
    assert (found.status, found.evidence) == ("ok", "etag")
    (found,) = probe(sessions, url, claims=(Digest("etag", f"{'0' * 32}-3", "dandi"),))
    assert found.health is Health.CHANGED


def test_an_object_version_is_the_reference_for_other_urls(
    server: ScriptedServer, sessions: UrlSessions
) -> None:
    exact = server.add("/a?versionId=v1", head=ScriptedReply(headers={"ETag": f'"{MD5}"'}))
    same = server.add("/b", head=ScriptedReply(headers={"ETag": f'"{MD5}"'}))
    other = server.add("/c", head=ScriptedReply(headers={"ETag": f'"{"0" * 32}"'}))
    found = probe(sessions, exact, same, other)
    assert health(found) == ["ok", "ok", "changed"]
    # a mutable URL is not the reference for an object version
    assert health(probe(sessions, other, exact)) == ["ok", "ok"]


def test_a_different_object_version_is_reported(
    server: ScriptedServer, sessions: UrlSessions
) -> None:
    headers = {"x-amz-version-id": "v2"}
    for version, expected in (("v1", "changed"), ("v2", "ok")):
        url = server.add(f"/a?versionId={version}", head=ScriptedReply(headers=headers))
        assert health(probe(sessions, url)) == [expected]


@pytest.mark.parametrize(
    ("head", "get", "expected", "status"),
    [
        (ScriptedReply(404), ScriptedReply(404), "not-found", "error"),
        (ScriptedReply(410), ScriptedReply(410), "not-found", "error"),
        (
            ScriptedReply(405, {"x-amz-delete-marker": "true"}),
            ScriptedReply(405),
            "not-found",
            "error",
        ),
        (ScriptedReply(403), ScriptedReply(403), "refused", "error"),
        (ScriptedReply(401), ScriptedReply(401), "refused", "error"),
        (ScriptedReply(405), ScriptedReply(405), "unsupported", "impossible"),
        (ScriptedReply(501), ScriptedReply(501), "unsupported", "impossible"),
        (ScriptedReply(418), ScriptedReply(418), "unreachable", "impossible"),
        (
            ScriptedReply(400),
            ScriptedReply(400, content=b"<Error><Code>InvalidArgument</Code></Error>"),
            "not-found",
            "error",
        ),
        # HEAD may be refused where GET is not
        (ScriptedReply(403), ScriptedReply(), "ok", "ok"),
        (ScriptedReply(405), ScriptedReply(), "ok", "ok"),
        (ScriptedReply(403), ScriptedReply(content=CONTENT + b"!"), "changed", "error"),
        (ScriptedReply(405), ScriptedReply(content=b""), "changed", "error"),
    ],
)
def test_403_404_and_405_are_distinguished(
    server: ScriptedServer,
    sessions: UrlSessions,
    head: ScriptedReply,
    get: ScriptedReply,
    expected: str,
    status: str,
) -> None:
    (found,) = probe(sessions, server.add("/a", head=head, get=get))
    assert (found.health, found.status) == (expected, status)
    assert found.health is Health.OK or found.message


def test_a_redirect_is_followed_by_get_since_it_may_be_signed_for_that(
    server: ScriptedServer, sessions: UrlSessions
) -> None:
    signed = server.add(
        "/signed", head=ScriptedReply(403), get=ScriptedReply(headers={"ETag": f'"{MD5}"'})
    )
    url = server.add("/download/", head=ScriptedReply(302, {"Location": signed}, b""),
                    get=ScriptedReply(302, {"Location": signed}, b""))  # fmt: skip
    (found,) = probe(sessions, url, key=f"MD5E-s{SIZE}--{MD5}.bin")
    assert (found.status, found.evidence, found.url) == ("ok", "md5", url)
    assert server.methods("/signed") == ["GET"]


def test_the_etag_in_the_key_of_a_mutable_object_is_compared(
    server: ScriptedServer, sessions: UrlSessions
) -> None:
    url = server.add("/a", head=ScriptedReply(headers={"ETag": '"e1"'}))
    assert health(probe(sessions, url, key=url_key(f"{url}#e1", SIZE))) == ["ok"]
    assert health(probe(sessions, url, key=url_key(f"{url}#e0", SIZE))) == ["changed"]
    assert health(probe(sessions, url, key=url_key(url, SIZE))) == ["ok"]


def test_a_local_address_is_requested_only_where_allowed(server: ScriptedServer) -> None:
    url = server.add("/a")
    for allowed, expected in (
        ((), "unknown"),
        (("10.0.0.1",), "unknown"),
        (("[127.0.0.1]:1",), "unknown"),
        (("::1", "127.0.0.1"), "ok"),
        (("all",), "ok"),
        ((f"[127.0.0.1]:{url.split(':')[2].split('/')[0]}",), "ok"),
    ):
        sessions = single_attempt_sessions(*allowed)
        assert health(probe(sessions, url)) == [expected]
        assert health(fetch_and_hash(sessions, url))[:1] == [expected]
        sessions.close()


def test_an_unsupported_url_scheme_is_unknown(sessions: UrlSessions) -> None:
    found = probe(sessions, "ftp://host.invalid/a", "file:///etc/passwd")
    assert health(found) == ["unknown", "unknown"]
    assert {one.status for one in found} == {"impossible"}
    assert fetch_and_hash(sessions, "file:///etc/passwd")[-1].status == "impossible"


def test_a_secret_in_a_url_is_redacted(sessions: UrlSessions) -> None:
    (found,) = probe(sessions, "http://me:secret@127.0.0.1:1/a?X-Amz-Signature=secret")
    assert "secret" not in str(found)


def test_a_host_that_never_answers_is_given_up(sessions: UrlSessions) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        found = [probe(sessions, f"{url}{number}")[0] for number in range(10)]
        assert {one.health for one in found} == {Health.UNREACHABLE}
        assert ["request not sent" in one.message for one in found] == [False] * 8 + [True] * 2


# --- downloads


def test_downloads_are_hashed(server: ScriptedServer, sessions: UrlSessions) -> None:
    url = server.add("/a")
    for key, expected in (
        (KEY, "sha256"),
        (f"MD5-s{SIZE}--{MD5}", "md5"),
        (f"XS3ETAG-s{SIZE}--{ONE_PART}-100", "etag"),
    ):
        (found,) = fetch_and_hash(sessions, url, key=key)
        assert (found.kind, found.status, found.url) == ("file", "ok", url)
        assert (found.evidence, found.checked) == (expected, "checked")
    (found,) = fetch_and_hash(sessions, url, key=url_key(url, SIZE))
    assert (found.evidence, found.checked) == ("size", "claimed")


def test_wrong_bytes_at_one_url_are_named_and_the_next_is_tried(
    server: ScriptedServer, sessions: UrlSessions
) -> None:
    wrong = server.add("/wrong", get=ScriptedReply(content=CONTENT[::-1]))
    short = server.add("/short", get=ScriptedReply(content=CONTENT[:-1]))
    endless = server.add("/long", get=ScriptedReply(content=CONTENT * 1000))
    gone, good = server.url + "/gone", server.add("/good")
    and_hash = fetch_and_hash(sessions, wrong, short, endless, gone, good)
    assert health(and_hash) == ["changed", "changed", "changed", "not-found", "ok"]
    assert [one.url for one in and_hash] == [wrong, short, endless, gone, good]
    assert [one.kind for one in and_hash] == ["url"] * 4 + ["file"]
    assert hashlib.sha256(CONTENT[::-1]).hexdigest() in and_hash[0].message
    assert "more than 28" in and_hash[2].message


def test_wrong_bytes_everywhere_make_the_file_wrong(
    server: ScriptedServer, sessions: UrlSessions
) -> None:
    wrong = server.add("/wrong", get=ScriptedReply(content=CONTENT[::-1]))
    and_hash = fetch_and_hash(sessions, wrong, server.url + "/gone")
    assert [(one.kind, one.status) for one in and_hash] == [
        ("url", "error"),
        ("url", "error"),
        ("file", "error"),
    ]
    assert fetch_and_hash(sessions, "ftp://x.invalid/")[-1].status == "impossible"


def test_an_interrupted_body_is_retried(server: ScriptedServer, sessions: UrlSessions) -> None:
    url = server.add("/a", get=ScriptedReply(cut=5))
    server.answers["GET /a"].append(ScriptedReply())
    (found,) = fetch_and_hash(sessions, url)
    assert (found.status, found.evidence, len(server.methods("/a"))) == ("ok", "sha256", 2)
    url = server.add("/b", get=ScriptedReply(cut=5))
    assert health(fetch_and_hash(sessions, url)) == ["unreachable", None]
    assert len(server.methods("/b")) == 3
