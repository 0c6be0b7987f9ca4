"""Tokens that get as far as a service's errors get no further: not one of its bytes has them."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from neuromirror.crawl import Mirror, MirrorFile
from neuromirror.crawl.leases import Lease
from neuromirror.index import TaskRow
from neuromirror.model import NeuromirrorError
from neuromirror.service.jobs import Job, JobReport
from neuromirror.service.running_jobs import RunningJob, collect_result
from neuromirror_demo import DemoArchive
from support.embargo_harness import contents
from support.loopback_http import HttpService, send_reply

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
def leaking_archive(demo: DemoArchive) -> Iterator[LeakingArchive]:
    with LeakingArchive(demo.api_url) as running:
        yield running


class SystemdService:
    """A service as systemd would start it, and all that it ever said."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.output: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._systemd.bind(str(folder / "notify"))
        command = [sys.executable, "-m", "neuromirror", "serve", "--log-json", "--workers", "2"]
        self.process = subprocess.Popen(
            [*command, "--metrics", "127.0.0.1:0"],
            env={**os.environ, **environment, "NOTIFY_SOCKET": str(folder / "notify")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            self._lines.put(line)

    def wait_for(self, event: str, **fields: str) -> dict[str, Any]:
        """The next such event in the log."""
        until = time.monotonic() + 600
        while True:
            line = self._lines.get(timeout=max(0, until - time.monotonic()))
            record: dict[str, Any] = json.loads(line)
            about = {name: record.get(name) for name in fields}
            if record["event"] == event and about == fields:
                return record

    def get(self, address: str, page: str) -> str:
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", page)
        reply = connection.getresponse()
        text = f"{reply.status}\n{reply.headers}\n{reply.read().decode()}"
        connection.close()
        self.output.append(text)
        return text

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(600)
        self._reading.join()
        self._systemd.setblocking(False)
        try:
            while True:
                self.output.append(self._systemd.recv(65536).decode())
        except BlockingIOError:
            self._systemd.close()


@contextmanager
def running(folder: Path, environment: dict[str, str]) -> Iterator[SystemdService]:
    service = SystemdService(folder, environment)
    try:
        yield service
    finally:
        service.end()


def test_no_token_is_in_logs_figures_health_index_or_git(
    demo: DemoArchive, leaking_archive: LeakingArchive, tmp_path: Path
) -> None:
    mirrors, store = tmp_path / "mirrors", tmp_path / "store"
    mirrors.mkdir()
    lines = ['source = "dandi"', "[options]", f'api = "http://{leaking_archive.here}/api"']
    (mirrors / "demo.toml").write_text("\n".join([*lines, 'token_env = "DEMO_WORD"', ""]))
    environment = {
        "NEUROMIRROR_MIRRORS": str(mirrors),
        "NEUROMIRROR_STORE": str(store),
        "DEMO_WORD": demo.token,
    }
    with running(tmp_path, environment) as service:
        address = str(service.wait_for("health server started")["message"]).split("/")[2]
        # an operator writes a token instead of its variable's name, and another into a URL
        bad = [*lines[:2], f'api = "http://someone:{SECRET}@{leaking_archive.here}/api"']
        (mirrors / "bad-address.toml").write_text("\n".join(bad))
        (mirrors / "bad-name.toml").write_text(
            "\n".join([*lines, f'token_env = "{SECRET} {demo.token}"'])
        )
        (mirrors / "bad-option.toml").write_text("\n".join([*lines, f'token = "{SECRET}"']))
        failed = {service.wait_for("visited", outcome="failed")["dataset"] for _ in FAILING}
        wrong = {str(service.wait_for("mirror file invalid")["message"]) for _ in range(3)}
        figures = service.get(address, "/metrics")
        service.get(address, "/healthz")
        service.get(address, "/readyz")
        service.get(address, f"/{SECRET[:-1]}")
    # all of it was really tried
    assert failed == {f"demo:{name}" for name in FAILING}
    assert leaking_archive.struck >= set(FAILING)
    assert len(wrong) == 3
    assert 'neuromirror_jobs_total{kind="visit",mirror="demo",outcome="failed"}' in figures
    output = "".join(service.output)
    assert "READY=1" in output
    assert "STOPPING=1" in output
    assert any(b"demo:000008" in one or b"000008" in one for one in contents(store))

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
