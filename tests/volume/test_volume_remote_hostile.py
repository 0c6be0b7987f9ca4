"""Datasets that want the special remote to ask, send or write what it should not."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from annexremote import RemoteError

from neuromirror.sources.volumes.urls import token_from_environment, token_variable
from neuromirror_demo.boss import DemoBoss
from neuromirror_demo.web import stop_serving
from support.annex_with_boss import AnnexRepository, RemoteInProcess, chunk, url

EM = "demo_cortex/sections/em"
BOX = ((0, 64), (64, 128), (12, 28))


def test_a_host_that_looks_like_another_does_not_get_its_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEUROMIRROR_TOKEN_API_BOSSDB_IO", "mine")
    assert (
        token_from_environment("API.BossDB.io")
        == token_from_environment("api.bossdb.io.")
        == "mine"
    )
    for other in ("api-bossdb.io", "api_bossdb.io", "api.bossdb-io", "api..bossdb.io", "bossdb.io"):
        assert token_from_environment(other) is None
    assert token_variable("127.0.0.1:8080") == "NEUROMIRROR_TOKEN_127_0_0_1_8080"
    assert token_variable("[::1]:8080") == "NEUROMIRROR_TOKEN___1__8080"


def test_invalid_block_url_is_refused_without_requests(
    boss: DemoBoss, annex: AnnexRepository, remote: RemoteInProcess
) -> None:
    one = url(boss, EM, ((0, 1), (64, 65), (12, 13)))
    address = one.replace("://", "://me:word@")
    output = annex.run("addurl", "--fast", "--file=odd", address, ok=False)
    assert not (annex.path / "odd").is_symlink()
    assert "word" not in output.replace(address, "")
    huge = f"{one}?chunk=1000000000000,1,1"
    with pytest.raises(RemoteError):
        remote.remote.checkurl(huge)
    with pytest.raises(RemoteError):
        remote.get(b"x" * 100, huge)
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
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        running.append((server, thread))
        return f"127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in running:
        stop_serving(server)
        server.server_close()
        thread.join()


def test_allowed_loopback_service_cannot_redirect_to_others(
    boss: DemoBoss, remote: RemoteInProcess, leads_to: Callable[[str], str]
) -> None:
    host = leads_to(f"http://{boss.host}")
    remote.repository.git(
        "config",
        "--global",
        "annex.security.allowed-ip-addresses",
        f"[127.0.0.1]:{host.rpartition(':')[2]}",
    )
    with pytest.raises(RemoteError) as refused:
        remote.get(chunk(boss, EM, BOX), url(boss, EM, BOX).replace(boss.host, host))
    output = str(refused.value)
    assert f"127.0.0.1:{boss.host.rpartition(':')[2]}" in output or "this machine itself" in output
    assert boss.count_requests("/cutout/") == 0
