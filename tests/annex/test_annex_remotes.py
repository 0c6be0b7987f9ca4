"""A file with two locations in an unmodified clone, if the first returns wrong bytes."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from neuromirror.annex import WEB_UUID, sha256e_key, untrusted_line, web_remote
from support.annex_helpers import TIMESTAMP, FileServer, run

CONTENT = b"the very bytes" * 1000
KEY = sha256e_key(len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), b"a.nwb")
UUID = "5b3ae8d2-7a51-5f6c-8a52-0c5a0a7e2a11"
S3 = "/bucket/blob?versionId=1"
API = "/api/assets/1/download/"
BOTH = (WEB_UUID, UUID)


@pytest.fixture
def dataset(server: FileServer, make_dataset: Callable[..., Path]) -> Path:
    """A dataset with a file that is in a bucket and available through an API."""
    server.contents = {S3: CONTENT, API: CONTENT}
    remote = web_remote("api", 300, TIMESTAMP, uuid=UUID, urlinclude=server.url("/api/*"))
    urls = [server.url(S3), server.url(API)]
    return make_dataset(
        {b"sub-1/a.nwb": (KEY, urls)}, remote, {b"trust.log": untrusted_line(UUID, TIMESTAMP)}, BOTH
    )


def test_wrong_bytes_from_the_first_location_lead_to_the_second(
    server: FileServer, dataset: Path, clone: Callable[[Path], Path]
) -> None:
    fresh_clone = clone(dataset)
    # only the first location is requested while it works
    run("git", "annex", "get", "sub-1/a.nwb", cwd=fresh_clone)
    assert server.requests == [S3]
    run("git", "annex", "drop", "--force", "sub-1/a.nwb", cwd=fresh_clone)
    server.requests.clear()
    server.contents[S3] = CONTENT[::-1]
    # the plain web remote does not request the second one
    done = run("git", "annex", "get", "--from", "web", "sub-1/a.nwb", cwd=fresh_clone, check=False)
    assert done.returncode != 0
    assert S3 in server.requests
    assert API not in server.requests
    server.requests.clear()
    run("git", "annex", "get", "sub-1/a.nwb", cwd=fresh_clone)
    assert (fresh_clone / "sub-1/a.nwb").read_bytes() == CONTENT
    assert S3 in server.requests
    assert server.requests[-1] == API


@pytest.mark.parametrize("cost", [300, 150])
def test_the_cost_decides_and_no_location_is_tried_by_two_remotes(
    cost: int, server: FileServer, make_dataset: Callable[..., Path], clone: Callable[[Path], Path]
) -> None:
    # the API's URL sorts first, so the web remote would request it first
    remote = web_remote("api", cost, TIMESTAMP, uuid=UUID, urlinclude=server.url("/api/*"))
    urls = [server.url(S3), server.url(API)]
    repo = make_dataset({b"a.nwb": (KEY, urls)}, remote, holders=BOTH)
    path = clone(repo)
    done = run("git", "annex", "get", "a.nwb", cwd=path, check=False)
    assert done.returncode != 0
    first, second = (S3, API) if cost == 300 else (API, S3)
    assert list(dict.fromkeys(server.requests)) == [first, second]
    assert server.requests == sorted(server.requests, key=[first, second].index)


def test_a_clone_pushes_nowhere_until_the_second_remote_is_verified(
    dataset: Path, clone: Callable[[Path], Path], tmp_path: Path
) -> None:
    fresh_clone = clone(dataset)
    if run("git", "annex", "verifyremote", "--help", cwd=fresh_clone, check=False).returncode:
        pytest.skip("this git-annex has no verifyremote, and holds nothing back")
    mine = tmp_path / "mine.git"
    run("git", "init", "-q", "--bare", str(mine), cwd=tmp_path)
    held = run("git", "push", str(mine), "main", cwd=fresh_clone, check=False)
    assert "git-annex verifyremote api" in held.stdout + held.stderr
    assert held.returncode != 0
    shown = run("git", "annex", "verifyremote", "api", cwd=fresh_clone, check=False)
    confirmation = re.search(r"verifyremote api --safe (\S+)", shown.stdout + shown.stderr)
    assert confirmation is not None
    run("git", "annex", "verifyremote", "api", "--safe", confirmation[1], cwd=fresh_clone)
    run("git", "push", str(mine), "main", cwd=fresh_clone)


def test_a_second_remote_that_is_not_enabled_hides_its_location_from_the_web_remote(
    server: FileServer, dataset: Path, tmp_path: Path
) -> None:
    path = tmp_path / "plain"
    run("git", "clone", "-q", str(dataset), str(path), cwd=tmp_path)
    run("git", "annex", "init", "-q", "--no-autoenable", cwd=path)
    server.contents.pop(S3)
    assert run("git", "annex", "get", "sub-1/a.nwb", cwd=path, check=False).returncode != 0
    assert API not in server.requests


def test_drop_trusts_exact_locations_only(
    server: FileServer, dataset: Path, clone: Callable[[Path], Path]
) -> None:
    path = clone(dataset) / "sub-1"
    run("git", "annex", "get", "a.nwb", cwd=path)
    server.contents.pop(S3)
    for verb in (["git", "annex", "drop"], ["datalad", "drop"], ["git", "annex", "drop", "--auto"]):
        run(*verb, "a.nwb", cwd=path, check=False)
        assert (path / "a.nwb").read_bytes() == CONTENT
    server.contents[S3] = CONTENT
    run("git", "annex", "drop", "a.nwb", cwd=path)
    assert not (path / "a.nwb").exists()
