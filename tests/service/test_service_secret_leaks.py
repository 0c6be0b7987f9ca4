"""Tokens that get as far as a service's errors get no further: not one of its bytes has them."""

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from neuromirror.config.mirror_files import MirrorFile
from neuromirror.crawl import Mirror
from neuromirror.crawl.recorder import Lease
from neuromirror.index import TaskRow
from neuromirror.model import NeuromirrorError
from neuromirror.service.jobs import Job, JobReport, RunningJob, collect_result
from neuromirror_demo import DemoArchive
from support.embargo_harness import contents
from support.loopback_http import HttpService, send_reply
from support.mirror_harness import MirrorHarness
from support.service_process import SHORT_TIMEOUTS, running_service

SECRET = "canary7f3a9c"
"""What those at the other end call secret; the token that is sent is the demo archive's."""

FAILING = ("000001", "000002", "000003", "000005", "000007")


class LeakingArchive(HttpService):
    """A proxy that repeats received tokens in all parts of its responses."""

    def __init__(self, api: str) -> None:
        self.behind = urlsplit(api).netloc
        self.struck: set[str] = set()

    @property
    def here(self) -> str:
        return self.url.removeprefix("http://")

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        token = handler.headers.get("Authorization", "").removeprefix("token ")
        leaked = f"{token or SECRET}&access_token={SECRET}"
        # anonymous requests are forwarded: a dataset that refuses them is not visited with a token
        name = next((one for one in FAILING if token and f"/{one}/" in handler.path), "")
        self.struck.add(name)
        match name:
            case "000001":
                there = f"http://someone:{SECRET}@{self.here}/leak/?X-Amz-Signature={leaked}"
                send_reply(handler, 302, Location=there)
            case "000002":
                detail = f"Authorization: token {leaked} may not read this"
                send_reply(handler, 403, json.dumps({"detail": detail}).encode())
            case "000003":
                send_reply(handler, 200, f"<html>you are {leaked}</html>".encode(), "text/html")
            case "000005":
                there = f"ftp://{SECRET}:{SECRET}@example.org/?token={leaked}"
                send_reply(handler, 302, Location=there)
            case "000007":
                send_reply(handler, 302, Location=f"http://169.254.169.254/?token={leaked}")
            case _ if handler.path.startswith("/leak"):
                detail = f"no http://{handler.path}; token={leaked}"
                send_reply(handler, 404, json.dumps({"detail": detail}).encode())
            case _:
                self._pass_on(handler)

    def _pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        behind = http.client.HTTPConnection(self.behind, timeout=60)
        behind.request("GET", handler.path, headers=dict(handler.headers))
        reply = behind.getresponse()
        body = reply.read()
        kept = {
            name: reply.headers[name]
            for name in ("Content-Encoding", "Location")
            if name in reply.headers
        }
        send_reply(handler, reply.status, body, reply.headers["Content-Type"], **kept)
        behind.close()


@pytest.fixture
def demo(full_demo: DemoArchive) -> DemoArchive:
    return full_demo


@pytest.fixture
def leaking_archive(demo: DemoArchive) -> Iterator[LeakingArchive]:
    with LeakingArchive(demo.api_url) as running:
        yield running


@contextmanager
def systemd_socket(path: Path) -> Iterator[socket.socket]:
    """A socket for notifications, as systemd opens one for a service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.bind(str(path))
        yield opened


def test_no_token_is_in_logs_figures_health_index_or_git(
    demo: DemoArchive,
    leaking_archive: LeakingArchive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirrors, store = tmp_path / "mirrors", tmp_path / "store"
    mirrors.mkdir()
    lines = ['source = "dandi"', "[options]", f'api = "http://{leaking_archive.here}/api"']
    (mirrors / "demo.toml").write_text("\n".join([*lines, 'token_env = "DEMO_WORD"', ""]))
    monkeypatch.setenv("DEMO_WORD", demo.token)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    options = ("--workers", "2", "--metrics", "127.0.0.1:0")
    with (
        systemd_socket(tmp_path / "notify") as systemd,
        running_service(MirrorHarness(mirrors, store), *options, first=SHORT_TIMEOUTS) as service,
    ):
        address = str(service.wait_for("health server started")["message"]).removesuffix("/healthz")
        # an operator writes a token instead of its variable's name, and another into a URL
        bad = [*lines[:2], f'api = "http://someone:{SECRET}@{leaking_archive.here}/api"']
        (mirrors / "bad-address.toml").write_text("\n".join(bad))
        (mirrors / "bad-name.toml").write_text(
            "\n".join([*lines, f'token_env = "{SECRET} {demo.token}"'])
        )
        (mirrors / "bad-option.toml").write_text("\n".join([*lines, f'token = "{SECRET}"']))

        def messages(event: str, field: str, **about: str) -> set[str]:
            return {str(one[field]) for one in service.find_events(event, **about)}

        def failed() -> set[str]:
            return messages("visited", "dataset", outcome="failed")

        # all of it is really tried
        service.wait(lambda: failed() >= {f"demo:{name}" for name in FAILING})
        service.wait(lambda: len(messages("mirror file invalid", "message")) == 3)
        replies = [
            requests.get(f"{address}/{page}", timeout=300)
            for page in ("metrics", "healthz", "readyz", SECRET[:-1])
        ]
        assert service.send_signal(signal.SIGTERM) == 0
        systemd.setblocking(False)
        notifications = []
        with suppress(BlockingIOError):
            while True:
                notifications.append(systemd.recv(65536).decode())
    assert leaking_archive.struck >= set(FAILING)
    figures = replies[0].text
    assert 'neuromirror_jobs_total{kind="visit",mirror="demo",outcome="failed"}' in figures
    assert any("READY=1" in notification for notification in notifications)
    assert any("STOPPING=1" in notification for notification in notifications)
    answered = [f"{reply.headers}\n{reply.text}" for reply in replies]
    output = "".join([*service.lines, *answered, *notifications])
    assert any(b"demo:000008" in content or b"000008" in content for content in contents(store))

    canaries = [SECRET.encode(), demo.token.encode()]
    for one in [output.encode(), *contents(store)]:
        for canary in canaries:
            at = one.find(canary)
            assert at < 0, one[max(0, at - 300) : at + 100]


@pytest.mark.parametrize("kind", [RuntimeError, OSError, NeuromirrorError])
def test_what_a_worker_died_of_is_written_down_without_secrets(kind: type[Exception]) -> None:
    future: Future[JobReport] = Future()
    future.set_exception(
        kind(f"no http://me:{SECRET}@host/?token={SECRET} (Authorization: {SECRET})")
    )
    mirror = Mirror("demo", Path("demo.toml"), MirrorFile(source="dandi"))
    job = Job("visit", Lease("demo:000001", 1), mirror, "000001")
    error = collect_result(RunningJob(TaskRow("demo:000001"), job, 0.0, "", future)).error
    assert "http://host/" in error
    assert SECRET not in error
