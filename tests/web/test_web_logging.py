"""The log of the catalogue: no data about clients, and no blocking on a full pipe."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from neuromirror_demo.walkthrough import first_line
from support.forked_commands import fork_command
from support.mirror_harness import MirrorHarness

VISITOR = "127.0.0.2"
SECRET = "marker_7f3c"
BAD = [
    f"GET /-/{SECRET} HTTP/1.1",
    f"GET /api/v1/datasets?q={SECRET}&page=x HTTP/1.1",
    f"GET /search?q={SECRET}%22%00 HTTP/1.1",
    f"{SECRET} {SECRET}",
    f"POST /search?q={SECRET} HTTP/1.1",
    f"GET /cutout/{SECRET} HTTP/1.1",
]


def ask(address: str, request: str) -> bytes:
    """The start of the reply to a request line, sent from an address of the visitor's own."""
    parts = urlsplit(address)
    assert parts.hostname is not None
    with socket.create_connection(
        (parts.hostname, parts.port or 80), timeout=60, source_address=(VISITOR, 0)
    ) as sock:
        head = f"{request}\r\nHost: {parts.netloc}\r\nUser-Agent: {SECRET}\r\n"
        sock.sendall(f"{head}Connection: close\r\n\r\n".encode())
        return sock.recv(1 << 12)


@pytest.fixture
def quiet_loopback() -> None:
    """Skips where this machine has one loopback address only."""
    with socket.socket() as sock:
        try:
            sock.bind((VISITOR, 0))
        except OSError:
            pytest.skip(f"{VISITOR} is no address of this machine")


@pytest.fixture
def catalogue(
    demo_harness: MirrorHarness, tmp_path: Path, quiet_loopback: None
) -> Iterator[tuple[str, Path]]:
    """A catalogue's address, and the file that its process writes all its output to."""
    output = tmp_path / "output"
    command = ["--json", "--store", str(demo_harness.folder), "catalogue"]
    with output.open("wb") as file:
        process = fork_command([*command, "--listen", "127.0.0.1:0"], file.fileno(), file.fileno())
    try:
        while not output.read_bytes().count(b"\n"):
            assert process.is_alive()
            time.sleep(0.05)
        yield json.loads(output.read_bytes().splitlines()[0])["url"], output
    finally:
        process.terminate()
        process.join(600)


def test_no_address_and_no_query_is_written_down(catalogue: tuple[str, Path]) -> None:
    address, output = catalogue
    for request in BAD:
        assert ask(address, request)
    log = output.read_bytes()
    assert VISITOR.encode() not in log
    assert SECRET.encode() not in log


def test_what_follows_the_first_line_of_a_process_does_not_stop_it() -> None:
    program = "print('first', flush=True); print('x' * (1 << 20)); print('last')"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert first_line(process) == "first\n"
            assert process.wait(timeout=600) == 0
        finally:
            process.kill()
