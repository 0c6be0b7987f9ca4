"""``neuromirror catalogue`` by itself: where it listens, what it believes, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
from cli_shell import INTERRUPTIBLE, Shell

from neuromirror.crawl import recording
from neuromirror.store import Store


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A store without datasets."""
    store = Store.open(tmp_path / "store", create=True)
    with recording(store, store.index_path):
        pass
    return Shell(tmp_path / "mirrors", tmp_path / "store")


@contextmanager
def shown(shell: Shell, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The catalogue of a store as a process, and its address."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "--json", "catalogue", *options],
        env={**os.environ, "NEUROMIRROR_STORE": str(shell.store)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["url"]
        finally:
            if process.poll() is None:
                process.kill()


def sitemap(address: str, **headers: str) -> str:
    """Where the site says that its map is."""
    told = requests.get(f"{address}/robots.txt", headers=headers, timeout=300).text
    return told.rpartition("Sitemap:")[2].strip()


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_it_ends_when_told_whoever_is_still_asking(
    shell: Shell, how: signal.Signals, code: int
) -> None:
    with shown(shell, "--listen", "127.0.0.1:0") as (process, address):
        assert requests.get(address, timeout=300).status_code == 200
        port = int(address.rpartition(":")[2])
        with ExitStack() as open_ones:
            for _ in range(100):
                one = open_ones.enter_context(socket.create_connection(("127.0.0.1", port)))
                one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            # those who dawdle keep nobody waiting
            assert requests.get(address, timeout=300).status_code == 200
            process.send_signal(how)
            assert process.wait(600) == code
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_it_listens_at_an_address_of_six(shell: Shell) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with shown(shell, "--listen", "[::1]:0") as (_, address):
        assert address.startswith("http://[::1]:")
        assert sitemap(address) == f"{address}/sitemap.xml"


def test_what_a_proxy_may_say_of_its_address_is_not_believed(shell: Shell) -> None:
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.org"}
    with shown(shell, "--listen", "127.0.0.1:0") as (_, address):
        assert sitemap(address, **said) == f"{address}/sitemap.xml"
    typed = "https://mirror.example.org"
    with shown(shell, "--listen", "127.0.0.1:0", "--address", f"{typed}/") as (_, address):
        assert sitemap(address, **said) == f"{typed}/sitemap.xml"


def test_an_address_that_cannot_be_had_is_named(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = f"127.0.0.1:{taken.getsockname()[1]}"
        said = shell.program("catalogue", "--listen", here, code=2).complaint
        assert f"the catalogue cannot be served at {here}: Address already in use" in said
    said = shell.program("catalogue", "--listen", "no.such.host.invalid:1", code=2).complaint
    assert "the catalogue cannot be served at no.such.host.invalid:1" in said
    for words in (["--listen", "here"], ["--address", "mirror.example.org"]):
        assert "address" in shell.program("catalogue", *words, code=2).complaint
    assert "private" not in said


def test_a_store_without_an_index_is_told_of_before_anything_is_promised(tmp_path: Path) -> None:
    Store.open(tmp_path / "store", create=True)
    ended = Shell(tmp_path, tmp_path / "store").program("catalogue", "--listen", ":0", code=1)
    assert ended.out == ""
    assert "there is no index" in ended.complaint
