"""Datasets that want the special remote to ask, send or write what it should not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from volume_boss import Annex, chunk, url

from neuromirror.volume.tokens import from_environment, variable
from neuromirror_demo.boss import DemoBoss

EM = "demo_cortex/sections/em"
BOX = ((0, 64), (64, 128), (12, 28))


def test_a_host_that_looks_like_another_does_not_get_its_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEUROMIRROR_TOKEN_API_BOSSDB_IO", "mine")
    assert from_environment("API.BossDB.io") == from_environment("api.bossdb.io.") == "mine"
    for other in ("api-bossdb.io", "api_bossdb.io", "api.bossdb-io", "api..bossdb.io", "bossdb.io"):
        assert from_environment(other) is None
    assert variable("127.0.0.1:8080") == "NEUROMIRROR_TOKEN_127_0_0_1_8080"
    assert variable("[::1]:8080") == "NEUROMIRROR_TOKEN___1__8080"


def test_whose_service_is_on_this_machine_is_told_how_to_have_it_asked(
    boss: DemoBoss, annex: Annex
) -> None:
    annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    annex.git("config", "annex.security.allowed-ip-addresses", "10.0.0.7")
    said = annex.run("get", "block", ok=False)
    assert "git config annex.security.allowed-ip-addresses" in said
    assert "allow_private" not in said  # which is an operator's, of a mirror


def test_what_cannot_be_a_block_is_refused_before_anybody_is_asked(
    boss: DemoBoss, annex: Annex
) -> None:
    one = url(boss, EM, ((0, 1), (64, 65), (12, 13)))
    for address in (f"{one}?chunk=1000000000000,1,1", one.replace("://", "://me:word@")):
        said = annex.run("addurl", "--fast", "--file=odd", address, ok=False)
        assert "names no block of a volume" in said
        assert "word" not in said.replace(address, "")
    link = annex.put("block", b"x" * 100, f"{one}?chunk=1000000000000,1,1")
    assert "larger than one request" in annex.run("get", "block", ok=False)
    assert not link.exists()
    assert boss.count_requests("/cutout/") == 0


@pytest.fixture
def leads_to() -> Iterator[Callable[[str], str]]:
    """Starts a service on this machine that sends all who ask to another one; gives its host."""
    running: list[tuple[HTTPServer, threading.Thread]] = []

    def start(target: str) -> str:
        class Away(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(307)
                self.send_header("Location", target + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Away)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        running.append((server, thread))
        return f"127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_service_that_may_be_asked_here_does_not_lead_to_its_neighbours(
    boss: DemoBoss, annex: Annex, leads_to: Callable[[str], str]
) -> None:
    host = leads_to(f"http://{boss.host}")
    link = annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX).replace(boss.host, host))
    said = annex.run("get", "block", ok=False)
    assert f"127.0.0.1:{boss.host.rpartition(':')[2]}" in said or "this machine itself" in said
    assert not link.exists()
    assert boss.count_requests("/cutout/") == 0
