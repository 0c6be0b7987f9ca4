"""The catalogue as a separate process with a URL."""

import html
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urljoin

import pytest
import requests

from neuromirror.store import Store
from neuromirror.web.rate_limits import REQUEST_KINDS
from neuromirror_demo.walkthrough import first_line
from support.forked_commands import fork_command

UNLIMITED = [f"--limit={kind}=0" for kind in REQUEST_KINDS]


@dataclass
class RunningCatalogue:
    """A running catalogue, whose pages are requested without a browser."""

    address: str
    pid: int = 0

    def get(self, path: str, **named: Any) -> requests.Response:
        named.setdefault("timeout", 120)
        return requests.get(urljoin(self.address, path), **named)

    def page(self, path: str, status: int = 200) -> str:
        reply = self.get(path)
        assert reply.status_code == status, (path, reply.status_code, reply.text[-600:])
        return reply.text

    def text(self, path: str, status: int = 200) -> str:
        """Return the text of a page without its tags."""
        return visible_text(self.page(path, status))

    def api(self, path: str, status: int = 200) -> Any:
        reply = self.get(f"/api/v1{path}")
        assert reply.status_code == status, (path, reply.text)
        kind = "application/json" if status == 200 else "application/problem+json"
        assert reply.headers["content-type"] == kind
        return reply.json()


def peak_memory(pid: int) -> int:
    """Return the largest number of bytes that a process has had so far; 0 if it is ending."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return 0 if found is None else int(found[1]) << 10


def visible_text(page: str) -> str:
    """Return the text of a page without its tags."""
    found = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found)).split())


def data_values(page: str) -> list[tuple[str, int]]:
    """Return class and value of the numbers of a page, its ``data`` elements."""
    found = re.findall(r'<data class="([a-z]+)" value="(\d+)">', page)
    return [(name, int(value)) for name, value in found]


def links(page: str) -> list[str]:
    """Return the link targets of a page."""
    return [html.unescape(one) for one in re.findall(r'href="([^"]+)"', page)]


def commands(page: str) -> list[str]:
    """Return the texts of a page's copy boxes."""
    return [html.unescape(one) for one in re.findall(r"<pre>(.*?)</pre>", page, flags=re.DOTALL)]


def allow_loopback(patch: pytest.MonkeyPatch) -> None:
    """Allow requests to archives on this machine, for catalogues that live longer than a test."""
    patch.setenv("GIT_CONFIG_COUNT", "1")
    patch.setenv("GIT_CONFIG_KEY_0", "annex.security.allowed-ip-addresses")
    patch.setenv("GIT_CONFIG_VALUE_0", "127.0.0.1 ::1")


@contextmanager
def run_catalogue(store: Store, *options: str) -> Iterator[RunningCatalogue]:
    """Run ``neuromirror catalogue`` on a free port, in its own process and no others.

    Without another setting, it has no cache of content: in a cache that all tests share, one test
    would have what another one read.
    """
    environment = {"NEUROMIRROR_CACHE": "off", "NEUROMIRROR_CATALOGUE_WORKERS": "1", **os.environ}
    read_end, write_end = os.pipe()
    # all tests are one client; the tests of limits set their own client
    command = ["--json", "--store", str(store.root), "catalogue", "--listen", "127.0.0.1:0"]
    try:
        arguments = [*command, *UNLIMITED, *options]
        process = fork_command(arguments, write_end, 2, environment=environment)
    finally:
        os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8") as stdout:
        try:
            address = json.loads(first_line(SimpleNamespace(stdout=stdout)))["url"]
            yield RunningCatalogue(address, process.pid or 0)
        finally:
            process.terminate()
            process.join(600)
