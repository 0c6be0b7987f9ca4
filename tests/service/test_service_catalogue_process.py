"""The catalogue of a service: its process and its status."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from neuromirror.service.catalogue_process import catalogue_statuses
from neuromirror_demo import DemoArchive
from support.command_shell import Shell
from support.mirror_harness import MirrorHarness
from support.service_process import SHORT_TIMEOUTS, ServiceProcess, running_service
from support.synced_mirror import copy_mirror

PAGES = ("--catalogue", "127.0.0.1:0", "--executor", "threads")


def catalogue_url(service: ServiceProcess, times: int = 1) -> str:
    """Return the URL of the catalogue after its start number ``times``."""
    found: str = service.wait(lambda: service.find_events("catalogue started")[times - 1 :])[0][
        "message"
    ]
    return found


def catalogue_pid(service: ServiceProcess) -> int:
    """Return the process id of the catalogue; jobs run in threads here."""
    named = {one: Path("/proc", str(one), "cmdline").read_bytes() for one in service.children()}
    (found,) = [one for one, command in named.items() if b"--supervised" in command]
    return found


def status(url: str) -> int:
    return requests.get(url, timeout=300).status_code


def shell(mirror_harness: MirrorHarness) -> Shell:
    return Shell(mirror_harness.mirrors, mirror_harness.folder)


def test_one_address_gives_pages_json_feeds_and_clones_from_an_empty_store_on(
    mirror_harness: MirrorHarness, demo: DemoArchive, tmp_path: Path
) -> None:
    listing = demo.fault("hang", path=r"/dandisets/?(\?|$)", seconds=3600)
    visit = demo.fault("hang", path=r"/dandisets/000002/versions/.*/assets", seconds=3600)
    options = (*PAGES, "--catalogue-title", "Ours", "--workers", "1")
    with running_service(mirror_harness, *options, first=SHORT_TIMEOUTS) as service:
        address = catalogue_url(service)
        service.wait(lambda: listing.struck)
        # there is no dataset yet, and the pages are there
        page = requests.get(address, timeout=300)
        assert (page.status_code, "Ours" in page.text, "/dataset/" in page.text) == (
            *(200, True),
            False,
        )
        listing.clear()
        # pages do not wait for a service that is busy
        service.wait(lambda: visit.struck)
        assert status(address) == 200
        visit.clear()
        service.wait_for("superdatasets updated", outcome="changed")
        assert status(f"{address}/dataset/demo:000002") == 200
        known = requests.get(f"{address}/api/v1/datasets/demo:000002", timeout=300).json()
        assert known["name"] == "demo:000002"
        assert status(f"{address}/feed.atom") == 200
        clone = tmp_path / "clone"
        named = f"{address}/alias/demo--000002"
        done = subprocess.run(
            ["git", "clone", "--quiet", named, str(clone)], check=False, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        assert (clone / "dandiset.yaml").is_file() or any(clone.iterdir())
        process = catalogue_pid(service)
        # a client that never finishes its request
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\n")
            assert service.send_signal(signal.SIGTERM, 30) == 0
    service.wait_until_gone([process])
    assert service.other_lines == []
    assert re.search(r"127\.0\.0\.1:\d+$", address)
    with pytest.raises(requests.ConnectionError):
        status(address)


@dataclass
class Supervised:
    """A service with a catalogue, which is up before each test."""

    harness: MirrorHarness
    service: ServiceProcess
    address: str
    health: str

    @property
    def commands(self) -> Shell:
        return shell(self.harness)

    def starts(self) -> int:
        return len(self.service.find_events("catalogue started"))

    def wait_for_start(self, before: int) -> int:
        """Wait for another start after ``before`` ones, and return the process id."""
        assert catalogue_url(self.service, before + 1) == self.address
        return catalogue_pid(self.service)

    def metrics(self) -> list[str]:
        return requests.get(f"{self.health}/metrics", timeout=300).text.splitlines()

    def wait_for_metric(self, line: str) -> None:
        self.service.wait(lambda: line in self.metrics())

    def search(self, number: int) -> int:
        headers = {"X-Forwarded-For": f"198.51.100.{number % 2}"}
        url = f"{self.address}/search?q=word{number}"
        return requests.get(url, headers=headers, timeout=300).status_code


@contextmanager
def run_supervised(harness: MirrorHarness) -> Iterator[Supervised]:
    limited = ("--catalogue-limit", "search=1", "--catalogue-trusted-proxy", "127.0.0.1")
    options = (*PAGES, *limited, "--metrics", "127.0.0.1:0")
    # each restart has the same delay
    more = "c._FIRST_DELAY = 3.0; c._STABLE_SECONDS = 0.0; c._HEARTBEAT_TIMEOUT = 10.0"
    with running_service(harness, *options, first=f"{SHORT_TIMEOUTS}; {more}") as service:
        health = service.wait_for("health server started")["message"].removesuffix("/healthz")
        yield Supervised(harness, service, catalogue_url(service), health)


@pytest.fixture(scope="module")
def start_supervised(
    module_home: Path, demo_harness: MirrorHarness, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Supervised]]:
    harness = copy_mirror(demo_harness, tmp_path_factory.mktemp("supervised") / "store")
    with ExitStack() as stack:
        yield lambda: stack.enter_context(run_supervised(harness))


@pytest.fixture(scope="module")
def started() -> list[Supervised]:
    return []


@pytest.fixture
def supervised(start_supervised: Callable[[], Supervised], started: list[Supervised]) -> Supervised:
    """A service that tests share, unless one of them has ended it."""
    if not started or not started[-1].service.process.is_alive():
        started.append(start_supervised())
    return started[-1]


def test_a_crashed_catalogue_is_restarted_and_mirroring_continues(supervised: Supervised) -> None:
    service, health, before = supervised.service, supervised.health, supervised.starts()
    commands, pages = supervised.commands, f"{supervised.address}/dataset/demo:000002"

    def failing() -> list[str]:
        return [record["task"] for record in commands.records("status", code=1) if "task" in record]

    assert status(pages) == 200
    assert requests.get(f"{health}/readyz", timeout=300).text == "ok\n"
    found = supervised.metrics()
    assert "neuromirror_catalogue_up 1.0" in found
    assert f"neuromirror_catalogue_restarts_total {before - 1}.0" in found
    commands.run("status")
    assert [supervised.search(one) for one in range(5)] == [200, 200, 429, 429, 429]
    supervised.wait_for_metric('neuromirror_catalogue_refused_total{kind="search"} 3.0')
    assert status(f"{supervised.address}/at/demo:000001@latest/dandiset.yaml") == 200
    supervised.wait_for_metric('neuromirror_catalogue_gateway_total{result="document"} 1.0')

    first = catalogue_pid(service)
    os.kill(first, signal.SIGKILL)
    ended = service.wait_for("catalogue exited")
    assert (ended["level"], "(SIGKILL)" in ended["message"]) == ("error", True)
    # readiness and status report it until the catalogue responds
    ready = requests.get(f"{health}/readyz", timeout=300)
    ok, degraded = ready.text.splitlines()
    assert (ready.status_code, ok, degraded.partition(":")[0]) == (200, "ok", "degraded")
    assert "neuromirror_catalogue_up 0.0" in supervised.metrics()
    assert failing() == ["catalogue"]
    # clients wait meanwhile: the address stays bound
    assert status(pages) == 200
    assert supervised.wait_for_start(before) != first
    supervised.wait_for_metric("neuromirror_catalogue_up 1.0")
    service.wait(lambda: commands.run_any("status").code == 0)
    assert f"neuromirror_catalogue_restarts_total {before}.0" in supervised.metrics()
    assert requests.get(f"{health}/healthz", timeout=300).text == "ok\n"
    # refused requests are counted over all restarts
    assert [supervised.search(one) for one in (0, 2)] == [200, 429]
    supervised.wait_for_metric('neuromirror_catalogue_refused_total{kind="search"} 4.0')
    assert service.other_lines == []


def test_changes_of_the_index_show_without_a_restart_and_a_broken_one_is_logged(
    supervised: Supervised,
) -> None:
    service, commands, before = supervised.service, supervised.commands, supervised.starts()
    process, address = catalogue_pid(service), supervised.address
    page, clone = f"{address}/dataset/demo:000002", f"{address}/alias/demo--000002/HEAD"
    assert (status(page), status(clone)) == (200, 200)
    commands.run("takedown", "demo:000002", "--reason", "asked by its owner")
    response = requests.get(page, timeout=300)
    assert (response.status_code, "asked by its owner" in response.text) == (410, True)
    assert status(clone) == 404
    commands.run("takedown", "demo:000002", "--undo")
    assert (status(page), status(clone)) == (200, 200)
    commands.run("rebuild-index")
    assert status(page) == 200
    assert catalogue_pid(service) == process

    index = supervised.harness.store.index_path
    away = index.with_name("away")
    index.rename(away)
    # one that is missing would be made again
    index.write_bytes(b"no database" * 1000)
    os.kill(process, signal.SIGKILL)
    failed = service.wait_for("catalogue failed")
    assert failed["level"] == "error"
    assert str(index) in failed["message"]
    assert service.wait(
        lambda: [
            one for one in service.find_events("catalogue exited") if "code 1" in one["message"]
        ]
    )
    away.replace(index)
    # as soon as there is an index again there are pages
    supervised.wait_for_start(before)
    assert status(page) == 200
    assert service.other_lines == []


def test_a_hanging_catalogue_is_killed_and_restarted(supervised: Supervised) -> None:
    service, before = supervised.service, supervised.starts()
    first = catalogue_pid(service)
    os.kill(first, signal.SIGSTOP)
    try:
        service.wait(
            lambda: [
                event
                for event in service.find_events("catalogue exited")
                if "heartbeat" in event["message"]
            ]
        )
        service.wait_until_gone([first])
    finally:
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
    process = supervised.wait_for_start(before)
    assert status(supervised.address) == 200
    # it exits with a service that a second signal ends, despite a client that is not served yet
    port = int(supervised.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        os.kill(service.pid, signal.SIGINT)
        service.wait_for("stopping")
        with suppress(ProcessLookupError):  # it has exited already
            service.send_signal(signal.SIGINT, 20)
        service.join()
    service.wait_until_gone([process])
    assert service.other_lines == []


def test_what_is_under_embargo_is_never_shown_nor_is_a_token_known(
    full_demo: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo, mirror_harness = full_demo, MirrorHarness(full_demo.mirrors, tmp_path / "store")
    (closed,) = [name for name, one in demo.dandisets.items() if one.embargoed]
    file = mirror_harness.mirrors / "demo.toml"
    text = file.read_text("utf-8") + 'token_env = "ODD_NAME"\nembargoed = "private"\n'
    file.write_text(text, "utf-8")
    monkeypatch.setenv("ODD_NAME", demo.token)
    monkeypatch.setenv("DANDI_API_KEY", "0123456789")
    private = tmp_path / "private"
    with running_service(
        mirror_harness, *PAGES, "--private-store", str(private), first=SHORT_TIMEOUTS
    ) as service:
        address = catalogue_url(service)
        service.wait(lambda: list(private.glob("alias/*")))
        service.wait_for("superdatasets updated", outcome="changed")
        assert status(f"{address}/dataset/demo:{closed}") == 404
        names = requests.get(f"{address}/api/v1/datasets?limit=1000", timeout=300).text
        assert "demo:000002" in names
        assert closed not in names
        process = catalogue_pid(service)
        given = Path("/proc", str(process), "environ").read_bytes()
        assert b"NEUROMIRROR_STORE" in given
        assert demo.token.encode() not in given
        assert b"DANDI_API_KEY" not in given
        # it ends with a service that is killed
        assert service.send_signal(signal.SIGKILL) == -signal.SIGKILL
    service.wait_until_gone([process])


def test_invalid_options_are_refused_before_anything_is_created(
    mirror_harness: MirrorHarness,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = f"127.0.0.1:{taken.getsockname()[1]}"
        for arguments, expected in (
            (["--catalogue", here, "--once"], "--once"),
            (["--catalogue", "here"], "'here'"),
            (["--catalogue-title", "Ours"], "--catalogue HOST:PORT"),
            (
                ["--catalogue", here, "--catalogue-address", "mirror.example.org"],
                "'mirror.example.org'",
            ),
        ):
            assert expected in shell(mirror_harness).run("serve", *arguments, code=2).err
        assert not mirror_harness.folder.exists()
        done = shell(mirror_harness).run("serve", "--catalogue", here, code=2)
        assert here in done.err
        assert os.strerror(errno.EADDRINUSE) in done.err


# --- status

MODES = ("proxy", "demo=redirect")


def status_of(harness: MirrorHarness, code: int) -> list[dict[str, Any]]:
    """Return the records of ``status`` about catalogues."""
    lines = shell(harness).run("--json", "status", code=code).out.splitlines()
    return [one for one in map(json.loads, lines) if one.get("kind") == "catalogue"]


def test_a_service_reports_the_modes_of_its_catalogue(copied_harness: MirrorHarness) -> None:
    harness = copied_harness
    options = ("--catalogue", "127.0.0.1:0", "--executor", "threads", "--metrics", "127.0.0.1:0")
    modes = [part for mode in MODES for part in ("--catalogue-gateway", mode)]
    first = "import neuromirror.service.catalogue_process as c; c._FIRST_DELAY = 3600.0"
    with running_service(harness, *options, *modes, first=first) as service:
        health = service.wait_for("health server started")["message"].removesuffix("/healthz")
        address = service.wait_for("catalogue started")["message"]

        def metrics() -> list[str]:
            return requests.get(f"{health}/metrics", timeout=300).text.splitlines()

        assert 'neuromirror_catalogue_gateway_mode{mirror="",mode="proxy"} 1.0' in metrics()
        assert 'neuromirror_catalogue_gateway_mode{mirror="demo",mode="redirect"} 1.0' in metrics()
        assert requests.get(f"{health}/readyz", timeout=300).text == "ok\n"
        (catalogue,) = [
            child
            for child in service.children()
            if b"--supervised" in Path("/proc", str(child), "cmdline").read_bytes()
        ]
        (one,) = status_of(harness, 0)
        assert (one["url"], one["gateway"][""]) == (address, "proxy")
        os.kill(catalogue, signal.SIGKILL)
        service.wait_for("catalogue exited")
        # the pause before a restart is no reason to stop late
        assert service.send_signal(signal.SIGTERM, 60) == 0
        assert service.other_lines == []
    assert catalogue_statuses(harness.store) == []
