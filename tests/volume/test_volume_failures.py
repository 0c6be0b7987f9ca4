"""A service that fails or refuses is asked once, whatever number of addresses a key has at it."""

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from annexremote import RemoteError

import neuromirror.volume
from neuromirror.lab import get
from neuromirror.net import RequestLimits
from neuromirror.sources.volumes.urls import token_variable
from neuromirror_demo.boss import DemoBoss
from support.annex_with_boss import AnnexRepository, RemoteInProcess, chunk, url
from support.volume_mirror import SKETCH, BossMirror

EM = "demo_cortex/sections/em"
BOX = ((0, 64), (64, 128), (12, 28))
SIZE = 64 * 64 * 16
MANY = 60
"""Addresses of one key, as blocks of zeros have them."""


class DeadService:
    """Takes connections, closes each at once, and counts them."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                if connection.recv(4096) == b"stop":
                    return
            self.connections += 1

    def close(self) -> None:
        with socket.create_connection(self._socket.getsockname()) as last:
            last.sendall(b"stop")
        self._thread.join()
        self._socket.close()


@pytest.fixture
def dead() -> Iterator[DeadService]:
    service = DeadService()
    yield service
    service.close()


def addresses(host: str, path: str = EM) -> list[str]:
    return [f"boss://{host}/{path}/0/{x}:{x + 64}/0:64/12:28" for x in range(0, 64 * MANY, 64)]


def failures(remote: RemoteInProcess, urls: list[str], count: int = 3) -> list[str]:
    """Get blocks that each have all these URLs; return the message of each failure."""
    messages = []
    for number in range(count):
        with pytest.raises(RemoteError) as caught:
            remote.get(b"%d" % number * SIZE, *urls)
        messages.append(str(caught.value))
    assert len(messages[0]) < 1000
    for number, message in enumerate(messages[1:], 2):  # the cause is stated once per process
        assert f"as before ({number * len(urls)} URLs so far)" in message
        assert len(message) < 100
    return messages


def counted_urls(message: str) -> list[int]:
    """How many addresses each part of a message stands for."""
    return [1 + int(one) for one in re.findall(r"\((\d+) more ", message)]


@pytest.mark.usefixtures("no_waits")
def test_dead_host_is_contacted_once_for_all_urls(
    remote: RemoteInProcess, dead: DeadService
) -> None:
    messages = failures(remote, addresses(dead.host))
    assert 0 < dead.connections <= RequestLimits().attempts
    assert counted_urls(messages[0]) == [MANY]


def test_a_service_that_refuses_is_contacted_once_for_all_urls(
    boss: DemoBoss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anonymous access, a token and a quota until tomorrow."""
    boss.set_public(EM, False)
    assert refusals(boss, tmp_path) == 1
    boss.set_public(EM, True)
    monkeypatch.setenv(token_variable(boss.host), "0123456789abcdef-secret")
    # the block, and, since a BOSS answers 500 to a wrong token, whether that is why
    assert refusals(boss, tmp_path, token_variable(boss.host)) == 2
    monkeypatch.delenv(token_variable(boss.host))
    boss.fault("status", status=429)
    assert refusals(boss, tmp_path, "tomorrow") == 1


def refusals(boss: DemoBoss, folder: Path, reason: str = "") -> int:
    """Return the number of requests of a new process whose first message names the reason."""
    boss.clear_requests()
    first, *others = failures(RemoteInProcess(folder), addresses(boss.host))
    assert reason in first
    assert counted_urls(first) == [MANY]
    assert "0123456789abcdef" not in "".join((first, *others))
    return len(boss.requests)


@pytest.mark.usefixtures("no_waits")
def test_one_block_that_a_service_cannot_cut_does_not_stop_the_others(
    boss: DemoBoss, remote: RemoteInProcess
) -> None:
    boss.fault("status", status=500, path="/cutout/.*/0:64/64:128/")
    with pytest.raises(RemoteError):
        remote.get(chunk(boss, EM, BOX), url(boss, EM, BOX))
    other = ((64, 128), (64, 128), (12, 28))
    whole = chunk(boss, EM, other)
    assert remote.get(whole, url(boss, EM, other)) == whole


def test_zeros_are_made_without_the_network(annex: AnnexRepository, dead: DeadService) -> None:
    annex.put("block", bytes(SIZE), *addresses(dead.host))
    annex.put("short", bytes(SIZE - 1), addresses(dead.host)[0])  # no block has this size
    annex.run("get", "block")
    assert {outcome.status for outcome in get(annex.path)} == {"ok", "notneeded"}
    assert (annex.path / "block").read_bytes() == bytes(SIZE)
    assert (annex.path / "short").read_bytes() == bytes(SIZE - 1)
    annex.run("drop")  # the remote still has them
    assert not (annex.path / "block").exists()
    assert dead.connections == 0


def test_arrays_and_exports_make_zeros_without_the_network(
    boss_mirror: BossMirror, tmp_path: Path
) -> None:
    boss_mirror.boss.clear_requests()
    array = boss_mirror.open(SKETCH)
    assert not array[32:64, 128:256, 128:256].any()
    box = ((128, 256), (128, 256), (44, 70))
    exported = neuromirror.volume.export(
        f"held:{SKETCH}", tmp_path / "out", box=box, format="npy", store=boss_mirror.store
    )
    assert not np.load(tmp_path / "out" / exported.paths[0]).any()
    assert boss_mirror.boss.count_requests("/cutout/") == 0
