"""Requests that no browser sends, and what they leave in replies, connections and logs."""

import socket
from urllib.parse import quote, urlsplit

import pytest

from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue


def exchange(site: RunningCatalogue, request: bytes) -> bytes:
    """Return all that is replied before the server closes the connection."""
    parts = urlsplit(site.address)
    got = b""
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), 30) as made:
        made.sendall(request)
        while block := made.recv(1 << 16):
            got += block
    return got


@pytest.mark.parametrize(
    "target",
    [
        *("http://other.example/", "https://other.example/index/", "http://other.example"),
        *("other.example/", "javascript:alert(1)/", "*", "?q=a"),
    ],
)
def test_a_target_that_is_not_a_path_is_refused_and_leads_nowhere(
    site: RunningCatalogue, target: str
) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    head = exchange(site, request.encode()).partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 400 ")
    assert b"\nlocation:" not in head


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((one, 200) for one in ("a.example", "A_b-c.example:8270", "127.0.0.1", "[::1]:80")),
        *((one, 400) for one in ("a/b", "a?b", "a#b", "user@a", "a b", "x';id;'", "$(id)", "<b>")),
        *((one, 400) for one in ("[::1", "a:b", "a:999999", "a\\b")),
    ],
)
@pytest.mark.parametrize("path", ["/feed.atom", "/dataset/demo:000001"])
def test_a_host_that_cannot_be_one_gets_into_no_link(
    site: RunningCatalogue, path: str, host: str, status: int
) -> None:
    assert site.get(path, headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    "head",
    [
        "POST / HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked",
        "GET /robots.txt HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked",
        "GET /robots.txt HTTP/1.1\r\nContent-Length: 5",
    ],
)
def test_a_request_with_a_body_is_the_last_of_its_connection(
    site: RunningCatalogue, head: str
) -> None:
    smuggled = b"0\r\n\r\nGET /mirrors HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    got = exchange(site, head.encode() + b"\r\nHost: x\r\n\r\n" + smuggled)
    assert got.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "name",
    [
        *("objects/tmp_objdir-incoming-ab/pack/pack-x.pack", "objects/tmp_objdir-incoming-ab/00"),
        *("objects/pack/tmp_pack_ab", "objects/pack/.tmp-1-pack-ab.pack", "objects/00/tmp_obj_ab"),
        *("packed-refs.lock", "refs/heads/main.lock", "HEAD.lock", "config.worktree", ".netrc"),
        *("hooks/notes", "logs/HEAD", "annex/creds/remote", "FETCH_HEAD"),
    ],
)
def test_of_a_repository_only_what_git_asks_for_is_given(
    site: RunningCatalogue, demo_harness: MirrorHarness, name: str
) -> None:
    repository = (demo_harness.folder / "alias" / "demo--000001").resolve()
    address = f"/{repository.relative_to(demo_harness.folder.resolve())}"
    path = repository / name
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(b"not for others")
        for folder in ("/alias/demo--000001", address):
            assert site.get(f"{folder}/{name}").status_code == 404
            assert (
                site.get(f"{folder}/{quote(name, safe='').replace('.', '%2e')}").status_code == 404
            )
    finally:
        path.unlink()
        for one in made:
            one.rmdir()


def test_malformed_requests_write_nothing_to_the_log(
    demo_harness: MirrorHarness, capfd: pytest.CaptureFixture[str]
) -> None:
    with run_catalogue(demo_harness.store) as site:
        capfd.readouterr()
        for _ in range(20):
            assert b" 400 " in exchange(site, b"\x00\r\n\r\n")
    assert capfd.readouterr().err == ""
