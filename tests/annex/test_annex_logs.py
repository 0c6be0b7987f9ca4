"""Logs on the git-annex branch equal those that git-annex writes."""

import os
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromirror.annex import (
    WEB_UUID,
    location_log,
    log_path,
    md5e_key,
    merge_location_log,
    merge_url_log,
    parse_log,
    parse_remote_log,
    untrusted_line,
    url_log,
    url_log_path,
    uuid_line,
    web_remote,
)
from neuromirror.annex.logs import LogLine
from support.annex_helpers import TIMESTAMP, run

KEY = md5e_key(4, "098f6bcd4621d373cade4e832627b4f6", b"a.nwb")
URLS = [
    "https://b.example/x",
    "https://a.example/y?versionId=1",
    "https://a.example/Y",
    ":boss://z",
]
_URLS = st.lists(st.text(alphabet="abAB:/%~é", min_size=1, max_size=6), max_size=6)


def read_branch_file(repo: Path, path: bytes) -> bytes:
    """Return a file of the git-annex branch."""
    return os.fsencode(run("git", "show", f"git-annex:{path.decode()}", cwd=repo).stdout)


@pytest.fixture
def annex_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git-annex repository with a constant clock."""
    monkeypatch.setenv("GIT_ANNEX_VECTOR_CLOCK", f"{TIMESTAMP}")
    run("git", "init", "-q", cwd=tmp_path)
    run("git", "annex", "init", "-q", "here", cwd=tmp_path)
    return tmp_path


def test_logs_are_those_that_git_annex_writes(annex_repository: Path) -> None:
    web = [url for url in URLS if not url.startswith(":")]
    for url in web:
        run("git", "annex", "registerurl", KEY, url, cwd=annex_repository)
    assert read_branch_file(annex_repository, log_path(KEY)) == location_log(TIMESTAMP)
    # git-annex appends new lines, and sorts when it changes an existing one
    appended = read_branch_file(annex_repository, url_log_path(KEY))
    assert sorted(appended.splitlines()) == url_log(web, TIMESTAMP).splitlines()
    run("git", "annex", "unregisterurl", KEY, web[0], cwd=annex_repository)
    rewritten = read_branch_file(annex_repository, url_log_path(KEY))
    assert [line.value for line in parse_log(rewritten)] == sorted(web)


def test_a_later_change_by_git_annex_moves_no_line(annex_repository: Path) -> None:
    for url in URLS[:2]:
        run("git", "annex", "registerurl", KEY, url, cwd=annex_repository)
    ours = merge_url_log(
        read_branch_file(annex_repository, url_log_path(KEY)), [URLS[2]], TIMESTAMP
    )
    run("git", "annex", "registerurl", KEY, URLS[2], cwd=annex_repository)
    run("git", "annex", "unregisterurl", KEY, URLS[0], cwd=annex_repository)
    theirs = read_branch_file(annex_repository, url_log_path(KEY))
    assert [line.value for line in parse_log(theirs)] == [line.value for line in parse_log(ours)]
    assert theirs.splitlines()[:2] == ours.splitlines()[:2]


def test_a_url_that_was_taken_out_comes_back_as_git_annex_would_bring_it(
    annex_repository: Path,
) -> None:
    run("git", "annex", "registerurl", KEY, URLS[0], cwd=annex_repository)
    run("git", "annex", "unregisterurl", KEY, URLS[0], cwd=annex_repository)
    gone = read_branch_file(annex_repository, url_log_path(KEY))
    run("git", "annex", "registerurl", KEY, URLS[0], cwd=annex_repository)
    assert parse_log(gone)[0].status == "0"
    assert merge_url_log(gone, [URLS[0]], TIMESTAMP) == read_branch_file(
        annex_repository, url_log_path(KEY)
    )


def test_a_further_web_remote_is_the_one_that_initremote_makes(annex_repository: Path) -> None:
    globs = {"urlinclude": "http://127.0.0.1:8000/api/*", "urlexclude": "*versionId=*"}
    options = [f"{name}={glob}" for name, glob in globs.items()]
    uuids = read_branch_file(annex_repository, b"uuid.log")
    settled = ["type=web", "cost=300", "autoenable=true"]
    run("git", "annex", "initremote", "dandiapi", *settled, *options, cwd=annex_repository)
    written = read_branch_file(annex_repository, b"remote.log")
    uuid = written.split(b" ")[0].decode()
    assert re.fullmatch(r"[0-9a-f-]{36}", uuid)
    assert web_remote("dandiapi", 300, TIMESTAMP, uuid=uuid, **globs) == written
    named = set(read_branch_file(annex_repository, b"uuid.log").splitlines(True)) - set(
        uuids.splitlines(True)
    )
    assert named == {uuid_line("dandiapi", uuid, TIMESTAMP)}
    assert parse_remote_log(written)[uuid]["urlexclude"] == "*versionId=*"
    run("git", "annex", "untrust", "dandiapi", cwd=annex_repository)
    assert read_branch_file(annex_repository, b"trust.log") == untrusted_line(uuid, TIMESTAMP)
    run("git", "annex", "untrust", "web", cwd=annex_repository)
    assert untrusted_line(WEB_UUID, TIMESTAMP) in read_branch_file(
        annex_repository, b"trust.log"
    ).splitlines(True)


def test_a_glob_with_spaces_is_written_as_initremote_does(annex_repository: Path) -> None:
    glob = "http://h.example/a b&c/é*"
    options = ["type=web", f"urlinclude={glob}", "cost=300", "autoenable=true"]
    run("git", "annex", "initremote", "odd", *options, cwd=annex_repository)
    written = read_branch_file(annex_repository, b"remote.log")
    uuid = written.split(b" ")[0].decode()
    assert web_remote("odd", 300, TIMESTAMP, uuid=uuid, urlinclude=glob) == written
    assert parse_remote_log(written)[uuid]["urlinclude"] == glob


def test_timestamps_may_be_fractional_and_invalid_lines_are_skipped() -> None:
    content = (
        b"1600000000s 1 https://h.example/a b\n1600000000.123456789s 0 x\r\n12 X y\n"
        b"junk\nInfinitys 1 z\n1600000001s 2 z\n"
    )
    assert parse_log(content) == [
        LogLine(Decimal(1600000000), "1", "https://h.example/a b"),
        LogLine(Decimal("1600000000.123456789"), "0", "x"),
        LogLine(Decimal(12), "X", "y"),
    ]


def test_nothing_new_leaves_a_log_byte_for_byte() -> None:
    odd = b"1600000000.5s 1 https://z.example/\r\n1s 1 https://a.example/\nnonsense\n"
    assert merge_url_log(odd, ["https://a.example/", "https://z.example/"], TIMESTAMP) is odd
    assert merge_url_log(odd, [], TIMESTAMP) is odd
    present = b"1.5s 1 %s\n" % WEB_UUID.encode()
    assert merge_location_log(present, TIMESTAMP) is present


def test_a_merge_keeps_every_other_line() -> None:
    before = b"9s 0 https://c.example/\n5.25s 1 https://a.example/\nnonsense\n"
    merged = merge_url_log(before, ["https://b.example/"], 7)
    assert set(before.splitlines()) < set(merged.splitlines())
    assert b"7s 1 https://b.example/" in merged.splitlines()


def test_a_merged_location_wins_over_a_later_absence() -> None:
    gone = b"1700000000.5s 0 %s\n1s 1 other\n" % WEB_UUID.encode()
    merged = merge_location_log(gone, TIMESTAMP)
    assert merged == b"1700000001s 1 %s\n1s 1 other\n" % WEB_UUID.encode()
    assert merge_location_log(b"", TIMESTAMP) == location_log(TIMESTAMP)


@given(_URLS, _URLS, st.integers(0, 2**33), st.integers(0, 2**33))
def test_a_merge_is_done_once(first: list[str], second: list[str], then: int, now: int) -> None:
    merged = merge_url_log(url_log(first, then), second, now)
    assert {line.value for line in parse_log(merged)} == {*first, *second}
    assert all(line.status == "1" for line in parse_log(merged))
    assert merge_url_log(merged, second + first, now + 1) is merged
    assert merge_url_log(b"", second, now) == url_log(second, now)


def test_a_url_with_a_line_break_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        url_log(["https://h.example/\n1s 1 https://evil.example/"], TIMESTAMP)
