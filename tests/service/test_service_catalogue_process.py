"""The catalogue that a service runs in a process of its own, and the status of catalogues."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from neuromirror.service.servers import catalogue_statuses
from neuromirror_demo import DemoArchive
from support.command_shell import Shell
from support.mirror_harness import MirrorHarness
from support.service_process import SHORT_TIMEOUTS, ServiceProcess, running_service

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
    (found,) = [one for one, command in named.items() if b"--listener" in command]
    return found


def status(url: str) -> int:
    return requests.get(url, timeout=300).status_code


def shell(mirror_harness: MirrorHarness) -> Shell:
    return Shell(mirror_harness.mirrors, mirror_harness.folder)


def test_one_address_gives_pages_json_feeds_and_clones_from_an_empty_store_on(
    mirror_harness: MirrorHarness,
    demo: DemoArchive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEUROMIRROR_CATALOGUE_TITLE", "Ours")
    monkeypatch.setenv("NEUROMIRROR_CATALOGUE_GATEWAY", "proxy,demo=redirect")
    listing = demo.fault("hang", path=r"/dandisets/?(\?|$)", seconds=3600)
    options = (*PAGES, "--workers", "1", "--metrics", "127.0.0.1:0")
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
        assert (clone / "dandiset.yaml").is_file()

        health = service.wait_for("health server started")["message"].removesuffix("/healthz")
        metrics = requests.get(f"{health}/metrics", timeout=300).text.splitlines()
        assert "neuromirror_catalogue_up 1.0" in metrics
        assert 'neuromirror_catalogue_gateway_mode{mirror="",mode="proxy"} 1.0' in metrics
        records = map(json.loads, shell(mirror_harness).run("--json", "status").out.splitlines())
        (shown,) = [one for one in records if one.get("kind") == "catalogue"]
        assert (shown["url"], shown["gateway"]) == (address, {"": "proxy", "demo": "redirect"})

        process = catalogue_pid(service)
        # a client that never finishes its request
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\n")
            assert service.send_signal(signal.SIGTERM, 30) == 0
    service.wait_until_gone([process])
    assert service.other_lines == []
    assert catalogue_statuses(mirror_harness.store) == []


def test_a_catalogue_that_ends_is_started_again_and_mirroring_continues(
    copied_harness: MirrorHarness,
) -> None:
    harness = copied_harness
    with running_service(harness, *PAGES, first=SHORT_TIMEOUTS) as service:
        address = catalogue_url(service)
        page = f"{address}/dataset/demo:000002"
        assert status(page) == 200
        # changes of the index show without a restart
        shell(harness).run("takedown", "demo:000002", "--reason", "asked by its owner")
        assert status(page) == 410
        shell(harness).run("takedown", "demo:000002", "--undo")
        assert status(page) == 200

        index = harness.store.index_path
        away = index.with_name("away")
        index.rename(away)
        # one that is missing would be made again
        index.write_bytes(b"no database" * 1000)
        os.kill(catalogue_pid(service), signal.SIGKILL)
        service.wait(
            lambda: [
                one for one in service.find_events("catalogue exited") if "code 1" in one["message"]
            ]
        )
        assert any(str(index) in line for line in service.other_lines)
        away.replace(index)
        # clients wait meanwhile: the address stays bound
        assert status(page) == 200
        process = catalogue_pid(service)
        # it ends with a service that is killed
        assert service.send_signal(signal.SIGKILL) == -signal.SIGKILL
    service.wait_until_gone([process])


def test_a_catalogue_whose_service_was_killed_before_it_started_ends(
    copied_harness: MirrorHarness,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "neuromirror", "--store", str(copied_harness.folder)),
                *("catalogue", "--listener", str(number), "--service", str(1 << 30)),
            ],
            pass_fds=[number],
            timeout=100,
            check=False,
        )
    assert done.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)


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
        given = Path("/proc", str(catalogue_pid(service)), "environ").read_bytes()
        assert b"NEUROMIRROR_STORE" in given
        assert demo.token.encode() not in given
        assert b"DANDI_API_KEY" not in given


def test_invalid_options_are_refused_before_anything_is_created(
    mirror_harness: MirrorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = f"127.0.0.1:{taken.getsockname()[1]}"
        for arguments, expected in (
            (["--catalogue", here, "--once"], "--once"),
            (["--catalogue", "here"], "'here'"),
        ):
            assert expected in shell(mirror_harness).run("serve", *arguments, code=2).err
        for name, value in (("ADDRESS", "mirror.example.org"), ("GATEWAY", "redirect,demo=none")):
            with monkeypatch.context() as context:
                context.setenv(f"NEUROMIRROR_CATALOGUE_{name}", value)
                message = shell(mirror_harness).run("serve", "--catalogue", here, code=2).err
                assert value.rpartition(",")[2] in message
        assert not mirror_harness.folder.exists()
        done = shell(mirror_harness).run("serve", "--catalogue", here, code=2)
        assert here in done.err
        assert os.strerror(errno.EADDRINUSE) in done.err
