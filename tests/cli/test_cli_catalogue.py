"""``neuromirror catalogue``: listening, trusted proxies and shutdown."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from neuromirror.crawl import open_recorder
from neuromirror.store import Store
from support.command_shell import Shell
from support.forked_commands import ForkedCommand


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A store without datasets."""
    store = Store.open(tmp_path / "store", create=True)
    with open_recorder(store, store.index_path):
        pass
    return Shell(tmp_path / "mirrors", tmp_path / "store")


@contextmanager
def shown(shell: Shell, *options: str) -> Iterator[tuple[ForkedCommand, str]]:
    """A catalogue process and its URL."""
    reading, writing = os.pipe()
    with (
        os.fdopen(reading) as output,
        shell.start("--json", "catalogue", *options, stdout=writing) as process,
    ):
        os.close(writing)
        yield process, json.loads(output.readline())["url"]


def sitemap(address: str, **headers: str) -> str:
    """Return the URL of the site map from robots.txt."""
    robots_txt = requests.get(f"{address}/robots.txt", headers=headers, timeout=300).text
    return robots_txt.rpartition("Sitemap:")[2].strip()


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_it_exits_on_a_signal_despite_open_requests(
    shell: Shell, how: signal.Signals, code: int
) -> None:
    with shown(shell, "--listen", "127.0.0.1:0") as (process, address):
        assert requests.get(address, timeout=300).status_code == 200
        port = int(address.rpartition(":")[2])
        with ExitStack() as open_ones:
            for _ in range(100):
                one = open_ones.enter_context(socket.create_connection(("127.0.0.1", port)))
                one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            # slow clients do not delay others
            assert requests.get(address, timeout=300).status_code == 200
            process.send_signal(how)
            _, err = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in err


def test_forwarded_headers_of_an_untrusted_proxy_are_ignored(shell: Shell) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.org"}
    with shown(shell, "--listen", "127.0.0.1:0") as (_, address):
        assert sitemap(address, **headers) == f"{address}/sitemap.xml"


def test_it_listens_on_ipv6_and_has_a_public_address(shell: Shell) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    public = "https://mirror.example.org"
    options = ("--listen", "[::1]:0", "--address", f"{public}/")
    with shown(shell, *options) as (_, address):
        assert address.startswith("http://[::1]:")
        assert sitemap(address) == f"{public}/sitemap.xml"


def test_an_address_that_cannot_be_had_is_named(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = f"127.0.0.1:{taken.getsockname()[1]}"
        message = shell.run("catalogue", "--listen", here, code=2).error_line
        assert f"the catalogue cannot be served at {here}: Address already in use" in message
    message = shell.run("catalogue", "--listen", "no.such.host.invalid:1", code=2).error_line
    assert "the catalogue cannot be served at no.such.host.invalid:1" in message
    for arguments in (["--listen", "here"], ["--address", "mirror.example.org"]):
        assert f"'{arguments[1]}'" in shell.run("catalogue", *arguments, code=2).error_line
    assert "private" not in message


def test_a_missing_index_is_reported_before_the_url_is_printed(tmp_path: Path) -> None:
    Store.open(tmp_path / "store", create=True)
    ended = Shell(tmp_path, tmp_path / "store").run("catalogue", "--listen", ":0", code=1)
    assert ended.out == ""
    assert "there is no index" in ended.error_line
