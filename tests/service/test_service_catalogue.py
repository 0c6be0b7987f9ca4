"""``neuromirror serve --catalogue``: pages beside a service, in a process that may die."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from crawl_place import Place
from served import Served, environment, serving

from neuromirror_demo import DemoArchive

HASTY = (
    "import neuromirror.service.serve as s, neuromirror.service.catalogue as c; "
    "s._PATIENCE, s._LAST, s._REREAD = 1.0, 9.0, 1; c._FIRST = 0.2"
)
PAGES = ("--catalogue", "127.0.0.1:0", "--executor", "threads")


def up(served: Served, times: int = 1) -> str:
    """The address of the catalogue, once it answered so many times anew."""
    found: str = served.wait(lambda: served.told("catalogue")[times - 1 :])[0]["message"]
    return found


def process_of(served: Served) -> int:
    """The catalogue's process: jobs are done in threads here."""
    named = {one: Path("/proc", str(one), "cmdline").read_bytes() for one in served.children()}
    (found,) = [one for one, command in named.items() if b"--kept" in command]
    return found


def status(url: str) -> int:
    return requests.get(url, timeout=300).status_code


def command(place: Place, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "neuromirror", *words],
        env={**environment(place), **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_one_address_gives_pages_json_feeds_and_clones(place: Place, tmp_path: Path) -> None:
    with serving(place, *PAGES, "--catalogue-title", "Ours", first=HASTY) as served:
        address = up(served)
        # from nothing: there is no dataset yet, and the pages are there
        assert "Ours" in requests.get(address, timeout=300).text
        served.wait_for("grouped", outcome="changed")
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
        process = process_of(served)
        assert served.end(signal.SIGTERM, 30) == 0
    served.wait_gone([process])
    assert served.other == []
    with pytest.raises(requests.ConnectionError):
        status(address)


def test_pages_of_an_empty_store_say_so(place: Place, demo: DemoArchive) -> None:
    fault = demo.fault("hang", path="/dandisets", seconds=3600)
    with serving(place, *PAGES, first=HASTY) as served:
        address = up(served)
        served.wait(lambda: fault.struck)
        page = requests.get(address, timeout=300)
        assert (page.status_code, "nothing is mirrored" in page.text.lower()) == (200, True)
        fault.clear()
        assert served.end(signal.SIGTERM, 30) == 0


def test_one_that_dies_is_started_again_and_mirroring_goes_on(
    copied: Place,
) -> None:
    with serving(copied, *PAGES, "--metrics", "127.0.0.1:0", first=HASTY) as served:
        health = served.wait_for("health")["message"].removesuffix("/healthz")
        address = up(served)
        pages = f"{address}/dataset/demo:000002"
        assert status(pages) == 200
        assert requests.get(f"{health}/readyz", timeout=300).text == "ok\n"
        figures = requests.get(f"{health}/metrics", timeout=300).text
        assert "\nneuromirror_catalogue_up 1.0\n" in figures
        assert "\nneuromirror_catalogue_restarts_total 0.0\n" in figures

        first = process_of(served)
        os.kill(first, signal.SIGKILL)
        ended = served.wait_for("catalogue ended")
        assert (ended["level"], "it was killed (SIGKILL)" in ended["message"]) == ("error", True)
        # who asks meanwhile waits: the address is never given back
        assert status(pages) == 200
        assert up(served, 2) == address
        assert process_of(served) != first
        figures = requests.get(f"{health}/metrics", timeout=300).text
        assert "\nneuromirror_catalogue_up 1.0\n" in figures
        assert "\nneuromirror_catalogue_restarts_total 1.0\n" in figures
        assert requests.get(f"{health}/healthz", timeout=300).text == "ok\n"
        assert served.end(signal.SIGTERM, 30) == 0
    assert served.other == []


def test_refused_requests_are_counted_in_the_figures_across_restarts(copied: Place) -> None:
    limited = ("--catalogue-limit", "search=1", "--catalogue-trusted-proxy", "127.0.0.1")
    with serving(copied, *PAGES, *limited, "--metrics", "127.0.0.1:0", first=HASTY) as served:
        health = served.wait_for("health")["message"].removesuffix("/healthz")

        def searched(address: str, number: int) -> int:
            headers = {"X-Forwarded-For": f"198.51.100.{number % 2}"}
            url = f"{address}/?q=word{number}"
            return requests.get(url, headers=headers, timeout=300).status_code

        def counted(count: int) -> list[str]:
            figures = requests.get(f"{health}/metrics", timeout=300).text
            name = "neuromirror_catalogue_refused_total"
            return re.findall(rf'^{name}{{kind="search"}} {count}\.0$', figures, re.M)

        assert [searched(up(served), one) for one in range(5)] == [200, 200, 429, 429, 429]
        served.wait(lambda: counted(3))
        os.kill(process_of(served), signal.SIGKILL)
        assert [searched(up(served, 2), one) for one in (0, 2)] == [200, 429]
        served.wait(lambda: counted(4))
        assert served.end(signal.SIGTERM, 30) == 0


def test_readiness_tells_of_a_catalogue_that_is_away_and_stays_ready(copied: Place) -> None:
    slow = f"{HASTY}; c._FIRST = 120.0"
    with serving(copied, *PAGES, "--metrics", "127.0.0.1:0", first=slow) as served:
        health = served.wait_for("health")["message"].removesuffix("/healthz")
        up(served)
        os.kill(process_of(served), signal.SIGKILL)
        assert "again in 120 s" in served.wait_for("catalogue ended")["message"]
        ready = requests.get(f"{health}/readyz", timeout=300)
        assert (ready.status_code, ready.text.splitlines()) == (
            200,
            ["ok", "degraded: the catalogue does not answer; mirroring goes on"],
        )
        figures = requests.get(f"{health}/metrics", timeout=300).text
        assert "\nneuromirror_catalogue_up 0.0\n" in figures
        # a pause of any length is no reason to end late
        assert served.end(signal.SIGTERM, 15) == 0


def test_a_catalogue_that_ended_is_a_failure_on_record_until_it_answers(copied: Place) -> None:
    def failing() -> list[str]:
        with copied.index() as index:
            return [one.task for one in index.failed_tasks()]

    with serving(copied, *PAGES, first=f"{HASTY}; c._FIRST = 3.0") as served:
        up(served)
        assert failing() == []
        os.kill(process_of(served), signal.SIGKILL)
        served.wait(lambda: failing() == ["catalogue"])
        assert command(copied, "status").returncode == 1
        up(served, 2)
        served.wait(lambda: failing() == [])
        assert served.end(signal.SIGTERM, 30) == 0


def test_one_that_hangs_is_ended_and_started_again(copied: Place) -> None:
    impatient = f"{HASTY}; c._SILENT = 10.0"
    with serving(copied, *PAGES, first=impatient) as served:
        address = up(served)
        first = process_of(served)
        os.kill(first, signal.SIGSTOP)
        try:
            assert "no sign of life" in served.wait_for("catalogue ended")["message"]
            served.wait_gone([first])
        finally:
            with suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
        assert up(served, 2) == address
        assert status(address) == 200
        assert served.end(signal.SIGTERM, 30) == 0


@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT")])
def test_it_ends_with_the_service_however_that_ends(
    copied: Place, demo: DemoArchive, first: str, second: str
) -> None:
    with serving(copied, *PAGES, first="pass") as served:
        address = up(served)
        process = process_of(served)
        # somebody who never comes to the end of a question
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\n")
            served.process.send_signal(signal.Signals[first])
            served.wait_for("stopping")
            served.end(signal.Signals[second], 20)
    served.wait_gone([process])
    assert served.other == []


def test_it_ends_with_a_service_that_is_killed(copied: Place) -> None:
    with serving(copied, *PAGES, first=HASTY) as served:
        up(served)
        process = process_of(served)
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
        try:
            served.wait_gone([process])
        finally:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def test_what_is_taken_down_and_an_index_made_anew_show_without_a_restart(copied: Place) -> None:
    with serving(copied, *PAGES, first=HASTY) as served:
        address = up(served)
        process = process_of(served)
        page, clone = f"{address}/dataset/demo:000002", f"{address}/alias/demo--000002/HEAD"
        assert (status(page), status(clone)) == (200, 200)
        done = command(copied, "takedown", "demo:000002", "--reason", "asked by its owner")
        assert done.returncode == 0, done.stderr
        told = requests.get(page, timeout=300)
        assert (told.status_code, "asked by its owner" in told.text) == (410, True)
        assert status(clone) == 404
        assert command(copied, "takedown", "demo:000002", "--undo").returncode == 0
        assert (status(page), status(clone)) == (200, 200)
        assert command(copied, "rebuild-index").returncode == 0
        assert status(page) == 200
        assert status(f"{address}/index.json") == 200
        assert process_of(served) == process
        assert served.end(signal.SIGTERM, 30) == 0
    assert served.other == []


def test_what_is_under_embargo_is_never_shown_nor_is_a_token_known(
    place: Place, demo: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (closed,) = [name for name, one in demo.dandisets.items() if one.embargoed]
    file = place.mirrors / "demo.toml"
    text = file.read_text("utf-8") + 'token_env = "ODD_NAME"\nembargoed = "private"\n'
    file.write_text(text, "utf-8")
    monkeypatch.setenv("ODD_NAME", demo.token)
    monkeypatch.setenv("DANDI_API_KEY", "0123456789")
    private = tmp_path / "private"
    with serving(place, *PAGES, "--private-store", str(private), first=HASTY) as served:
        address = up(served)
        served.wait(lambda: list(private.glob("alias/*")))
        served.wait_for("grouped", outcome="changed")
        assert status(f"{address}/dataset/demo:{closed}") == 404
        names = requests.get(f"{address}/api/v1/datasets?limit=1000", timeout=300).text
        assert "demo:000002" in names
        assert closed not in names
        given = Path("/proc", str(process_of(served)), "environ").read_bytes()
        assert b"NEUROMIRROR_STORE" in given
        assert demo.token.encode() not in given
        assert b"DANDI_API_KEY" not in given
        assert served.end(signal.SIGTERM, 30) == 0


def test_its_log_is_the_services(copied: Place) -> None:
    with serving(copied, *PAGES, first=HASTY) as served:
        address = up(served)
        process = process_of(served)
        index = copied.store.index_path
        away = index.with_name("away")
        index.rename(away)
        # one that is missing would be made again
        index.write_bytes(b"no database" * 1000)
        os.kill(process, signal.SIGKILL)
        failed = served.wait_for("catalogue failed")
        assert failed["level"] == "error"
        assert str(index) in failed["message"]
        assert served.wait(
            lambda: [one for one in served.told("catalogue ended") if "code 1" in one["message"]]
        )
        away.replace(index)
        # as soon as there is an index again there are pages
        assert up(served, 2) == address
        assert status(address) == 200
        assert served.end(signal.SIGTERM, 30) == 0
    assert served.other == []


def test_what_cannot_be_is_refused_before_anything_is_made(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = f"127.0.0.1:{taken.getsockname()[1]}"
        for words, said in (
            (["--catalogue", here, "--once"], "--catalogue is for a service that stays"),
            (["--catalogue", "here"], "'here' is not an address"),
            (["--catalogue-title", "Ours"], "name where they are with --catalogue HOST:PORT"),
            (
                ["--catalogue", here, "--catalogue-address", "mirror.example.org"],
                "'mirror.example.org' is not the address of a site",
            ),
        ):
            done = command(place, "serve", *words)
            assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert not place.folder.exists()
        done = command(place, "serve", "--catalogue", here)
        assert done.returncode == 2
        assert f"the catalogue cannot be served at {here}: Address already in use" in done.stderr


@pytest.mark.parametrize("package", ["datasette", "uvicorn"])
def test_without_its_extra_it_says_what_to_install(place: Place, package: str) -> None:
    program = (
        f"import sys; sys.modules['{package}'] = None; from neuromirror.cli import main; main()"
    )
    for words in (["serve", "--catalogue", "127.0.0.1:0"], ["catalogue"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            env=environment(place),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert "the catalogue needs the extra 'web'" in done.stderr
        assert "pip install 'neuromirror[web]'" in done.stderr
    assert not place.folder.exists()


def test_pages_do_not_wait_for_a_service_that_is_busy(place: Place, demo: DemoArchive) -> None:
    fault = demo.fault("hang", path=r"/dandisets/000002/versions/.*/assets", seconds=3600)
    with serving(place, *PAGES, "--workers", "1", first=HASTY) as served:
        address = up(served)
        served.wait(lambda: fault.struck)
        assert status(address) == 200
        fault.clear()
        assert served.end(signal.SIGTERM, 30) == 0
    assert re.search(r"127\.0\.0\.1:\d+$", address)


def test_whatever_it_prints_or_dies_of_is_an_event(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from neuromirror.service.catalogue import KeptBy\n"
        "from neuromirror.service.logs import logging_to, printing_told\n"
        "with logging_to(as_json=True, mirrors={}), KeptBy(int(sys.argv[1])), printing_told():\n"
        "    print('odd words')\n"
        "    raise ValueError('odder ones')\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [sys.executable, "-c", program, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    printed, failed = map(json.loads, done.stderr.splitlines())
    assert (printed["event"], printed["message"]) == ("printed", "odd words")
    assert (failed["event"], failed["message"]) == ("catalogue failed", "odder ones")
    assert any("ValueError" in line for line in failed["trace"])
