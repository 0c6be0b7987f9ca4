"""The request summary of a sync, and of the last visit of a dataset."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from neuromirror import __version__
from neuromirror.cli.common import format_traffic
from neuromirror.model import Traffic
from neuromirror_demo import DemoArchive
from support.command_shell import Shell, api_mirror_settings

CONTACT = "mailto:mirror@institute.example"


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


def test_show_prints_the_last_visit_and_its_requests(shell: Shell, demo: DemoArchive) -> None:
    (result,) = shell.records("sync", "demo:000003")
    host = urlsplit(demo.api_url).netloc
    assert set(result["traffic"][host]) == {"requests", "bytes", "retries", "throttled", "waited"}
    assert result["traffic"][host]["requests"] > 1
    (unchanged,) = shell.records("sync", "demo:000003")
    assert unchanged["traffic"] == {}
    (record,) = shell.records("show", "demo:000003")
    visit = record["last_visit"]
    assert (visit["status"], visit["traffic"]) == ("full", result["traffic"])
    (line,) = [one for one in shell.run("show", "demo:000003").lines if "last visit" in one]
    assert line.split()[2:4] == [visit["ended"] + ",", "full:"]
    assert f"{host} {result['traffic'][host]['requests']}" in line


def test_the_contact_of_the_mirror_file_is_in_the_agent_string(
    shell: Shell, demo: DemoArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = set()
    watched = demo._api_fault_injector.__class__.__call__

    def call(self, environ, start_response):
        agents.add(environ.get("HTTP_USER_AGENT"))
        return watched(self, environ, start_response)

    monkeypatch.setattr(demo._api_fault_injector.__class__, "__call__", call)
    shell.run("sync", "demo:000002")
    assert agents == {f"neuromirror/{__version__}"}
    agents.clear()
    (shell.mirrors / "demo.toml").write_text(
        api_mirror_settings(demo.api_url, "[net]", f'contact = "{CONTACT}"')
    )
    demo.change_file("000002", demo.paths("000002")[0])
    shell.run("sync", "--deep", "demo:000002")
    assert agents == {f"neuromirror/{__version__} (+{CONTACT})"}


def test_many_hosts_are_not_all_named() -> None:
    hosts = {f"{number}.example": Traffic(requests=number, bytes=1) for number in range(1, 9)}
    text = format_traffic(hosts)
    assert text == (
        "36 requests, 8 B received (8.example 8, 7.example 7, 6.example 6, 5.example 5, "
        "4.example 4, 3 more hosts)"
    )
    assert format_traffic({"a": Traffic(1, 2500)}) == "1 request, 2.5 kB received (a 1)"
