"""``status``, health checks and metrics have the modes of the gateway."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import requests

from neuromirror.service import catalogue_status
from neuromirror.service.catalogue_status import CatalogueStatusFile, catalogue_statuses
from support.command_shell import Shell
from support.mirror_harness import MirrorHarness
from support.running_catalogue import run_catalogue
from support.service_process import running_service

MODES = ("proxy", "demo=redirect")


def shell(harness: MirrorHarness) -> Shell:
    return Shell(harness.mirrors, harness.folder)


def status_of(harness: MirrorHarness, code: int) -> list[dict[str, Any]]:
    """Return the records of ``status`` about catalogues."""
    lines = shell(harness).run("--json", "status", code=code).out.splitlines()
    return [one for one in map(json.loads, lines) if one.get("kind") == "catalogue"]


def test_status_has_the_modes_of_a_catalogue(
    copied_harness: MirrorHarness,
) -> None:
    harness = copied_harness
    options = [f"--gateway={one}" for one in MODES]
    assert status_of(harness, 0) == []
    with run_catalogue(harness.store, *options) as site:
        (one,) = status_of(harness, 0)
        assert one["url"] == site.address
        assert one["gateway"] == {"": "proxy", "demo": "redirect"}
        text = shell(harness).run("status").out
        assert (
            f"catalogue {site.address} on {socket.gethostname()}  gateway proxy, demo redirect\n"
            in text
        )
    assert status_of(harness, 0) == []


def test_a_catalogue_that_was_not_stopped_is_a_failure(
    copied_harness: MirrorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = copied_harness
    with run_catalogue(harness.store) as site:
        os.kill(site.pid, signal.SIGKILL)
    (one,) = catalogue_statuses(harness.store)
    assert one.url == site.address
    monkeypatch.setattr(catalogue_status, "_LOST_SECONDS", -1.0)
    (problem,) = one.problems()
    assert f"{site.address} on {socket.gethostname()}: not running since" in problem
    assert problem in shell(harness).run("status", code=1).err


def test_failed_responses_of_the_gateway_are_shown(copied_harness: MirrorHarness) -> None:
    harness = copied_harness
    file = CatalogueStatusFile(harness.store, "http://[::1]:8270", {"": "proxy"})
    file.update({"gateway wrong": 2, "gateway proxy": 7, "gateway bytes": 900, "search": 3})
    text = shell(harness).run("status").out
    assert "gateway proxy; failed responses of the gateway: 2 wrong\n" in text
    file.remove()
    assert catalogue_statuses(harness.store) == []


def test_a_damaged_status_is_ignored(copied_harness: MirrorHarness) -> None:
    store = copied_harness.store
    CatalogueStatusFile(store, "http://127.0.0.1:1", {}).update({})
    (path,) = store.task_state_path("catalogue").parent.glob("catalogue-*.json")
    path.write_text("{")
    assert catalogue_statuses(store) == []


def test_catalogues_on_two_hosts_with_one_address_have_a_status_each(
    copied_harness: MirrorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, files = copied_harness.store, []
    for host in ("first", "second"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        files.append(CatalogueStatusFile(store, "http://0.0.0.0:8270", {"": host}))
        files[-1].update({})
    found = {one.host: one.gateway[""] for one in catalogue_statuses(store)}
    assert found == {"first": "first", "second": "second"}
    files[0].remove()
    assert [one.name for one in catalogue_statuses(store)] == ["http://0.0.0.0:8270 on second"]


def test_a_service_reports_the_modes_of_its_catalogue(
    copied_harness: MirrorHarness,
) -> None:
    harness = copied_harness
    options = ("--catalogue", "127.0.0.1:0", "--executor", "threads", "--metrics", "127.0.0.1:0")
    modes = [part for one in MODES for part in ("--catalogue-gateway", one)]
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
            one
            for one in service.children()
            if b"--supervised" in Path("/proc", str(one), "cmdline").read_bytes()
        ]
        (one,) = status_of(harness, 0)
        assert (one["url"], one["gateway"][""]) == (address, "proxy")
        os.kill(catalogue, signal.SIGKILL)
        service.wait_for("catalogue exited")
        # the pause before a restart is no reason to stop late
        assert service.send_signal(signal.SIGTERM, 60) == 0
        assert service.other_lines == []
    assert catalogue_statuses(harness.store) == []
