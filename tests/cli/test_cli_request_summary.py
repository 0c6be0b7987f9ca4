"""The request summary of a sync, and of the last visit of a dataset."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from neuromirror.cli.common import format_traffic
from neuromirror.model import Traffic
from neuromirror_demo import DemoArchive
from support.command_shell import Shell


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_sync_prints_a_request_summary_at_the_end(
    shell: Shell, demo: DemoArchive, options: list[str]
) -> None:
    demo.clear_requests()
    ended = shell.run(*options, "sync", "demo:000002", "demo:000003")
    requests = len(demo.requests) + len(demo.s3_requests)
    (line,) = ended.traffic_lines
    assert line.startswith(f"neuromirror: demo: {requests} requests, ")
    for url, log in ((demo.api_url, demo.requests), (demo.s3_url, demo.s3_requests)):
        assert f"{urlsplit(url).netloc} {len(log)}" in line
    assert ended.err == ""
    quiet = shell.run(*options, "sync", "--quiet", "--deep", "demo:000003")
    assert (quiet.traffic_lines, quiet.err) == ((), "")
    assert shell.run(*options, "sync", "unknown", code=2).traffic_lines == ()
    demo.fault("status", path="/000003/versions/", status=404)
    failed = shell.run(*options, "sync", "--deep", "demo:000003", code=1)
    assert len(failed.traffic_lines) == 1
    assert failed.error_line.startswith("error      demo:000003")


def test_throttling_by_the_archive_is_reported(shell: Shell, demo: DemoArchive) -> None:
    demo.fault("status", path="/000003/versions/$", status=429, times=1)
    (line,) = shell.run("sync", "demo:000003").traffic_lines
    assert re.search(r" 1 retried after \d+ s of waiting, throttled once \(", line)
    shown = shell.run("show", "demo:000003").out
    assert "throttled once" in shown


def test_many_hosts_are_not_all_named() -> None:
    hosts = {f"{number}.example": Traffic(requests=number, bytes=1) for number in range(1, 9)}
    text = format_traffic(hosts)
    assert text == (
        "36 requests, 8 B received (8.example 8, 7.example 7, 6.example 6, 5.example 5, "
        "4.example 4, 3 more hosts)"
    )
    assert format_traffic({"a": Traffic(1, 2500)}) == "1 request, 2.5 kB received (a 1)"
