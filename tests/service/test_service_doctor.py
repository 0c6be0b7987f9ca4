"""The doctor: what is well is ok, and what is not is said with what to do."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time

import pytest
from crawl_place import Place
from service_store import flip

from neuromirror.crawl import recording
from neuromirror.model import EventRaised
from neuromirror.service.doctor import Symptom, examine
from neuromirror.service.rounds import look


def found(place: Place, *, offline: bool = True) -> dict[str, Symptom]:
    return {one.what: one for one in examine(place.mirrors, place.folder, None, offline=offline)}


def wrong(place: Place) -> dict[str, tuple[str, str]]:
    return {
        one.what: (one.level, one.message) for one in found(place).values() if one.level != "ok"
    }


TIME = "2026-01-01T00:00:00.000000Z"
DRAFT = {"version": "draft", "name": "One", "created": TIME, "modified": TIME}
LIST = {
    "count": 1,
    "next": None,
    "previous": None,
    "results": [
        {
            "identifier": "000001",
            "created": TIME,
            "modified": TIME,
            "embargo_status": "OPEN",
            "most_recent_published_version": None,
            "draft_version": {**DRAFT, "asset_count": 1, "size": 1, "status": "Valid"},
        }
    ],
}


@contextmanager
def archive(*, ahead: float = 0.0, status: int = 200, lists: bool = True) -> Iterator[str]:
    """A DANDI archive with a clock of its own, whose base is 404 as the real one's; its address.

    ``lists``: it is one; else it has no page at all.
    """
    content = json.dumps(LIST).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            found = lists and self.path.startswith("/api/dandisets/")
            self.send_response_only(status if found or status != 200 else 404)
            self.send_header("Date", formatdate(time() + ahead, usegmt=True))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)) if found else "0")
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}/api"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def at(tmp_path: Path, *addresses: str) -> Place:
    folder = tmp_path / "mirrors"
    folder.mkdir(exist_ok=True)
    for number, address in enumerate(addresses):
        text = f'source = "dandi"\n[options]\napi = "{address}"\n'
        (folder / f"m{number}.toml").write_text(text)
    return Place(folder, tmp_path / "store")


def test_where_all_is_well_nothing_is_an_error_and_nothing_is_written(still_place: Place) -> None:
    before = still_place.content()
    told = found(still_place, offline=False)
    assert [one for one in told.values() if one.level == "error"] == []
    assert {"git", "git-annex", "sqlite", "store", "index", "mirror demo", "clock"} <= set(told)
    assert told["mirror demo"].level == "ok"
    assert still_place.content() == before


def test_no_store_yet_is_no_fault_and_a_folder_of_other_things_is(
    tmp_path: Path, still_place: Place
) -> None:
    place = Place(still_place.mirrors, tmp_path / "new")
    assert found(place)["store format"].level == "ok"
    assert not place.folder.exists()
    place.folder.mkdir()
    (place.folder / "letter.txt").touch()
    assert wrong(place)["store format"][0] == "error"


def test_missing_programs_are_named_with_what_to_install(
    still_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = wrong(still_place)
    assert told["git"][0] == "error"
    assert "apt-get install git" in told["git"][1]
    for name in ("git-annex", "git-annex-backend-XS3ETAG", "git-annex-remote-neuromirror"):
        assert told[name][0] == "warning"
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\necho git version 2.20.1\n")
    git.chmod(0o755)
    assert wrong(still_place)["git"] == ("error", "git version 2.20.1; install 2.34 or newer")


def test_an_index_that_is_behind_gone_or_damaged_is_told(copied: Place) -> None:
    store = copied.store
    event = EventRaised("demo", "000001", "unavailable", "a test", "2026-01-01T00:00:00+00:00")
    store.append(event)
    assert wrong(copied)["index"][0] == "warning"
    with recording(store, store.index_path):
        pass
    assert "index" not in wrong(copied)
    content = store.journal_path.read_bytes()
    store.journal_path.write_bytes(content[: content.rindex(b"\n", 0, -1) + 1])
    assert "rebuild-index" in wrong(copied)["index"][1]
    store.index_path.write_bytes(b"no database" * 1000)
    assert wrong(copied)["index"][0] == "error"
    store.index_path.unlink()
    assert "rebuild-index" in wrong(copied)["index"][1]


def test_what_the_last_look_found_broken_is_told(copied: Place) -> None:
    store = copied.store
    flip(next((copied.repository("demo:000002") / "objects" / "pack").glob("*.pack")))
    assert "integrity" not in wrong(copied)
    assert [one for one in look(store, store.index_path) if one.status == "error"]
    level, message = wrong(copied)["integrity"]
    assert level == "error"
    assert message.startswith("demo:000002: git fsck: ")


@pytest.mark.parametrize(("ahead", "level"), [(0, "ok"), (-100, "warning"), (86_400, "error")])
def test_a_clock_that_is_off_is_known_by_the_archives(
    tmp_path: Path, ahead: float, level: str
) -> None:
    with archive(ahead=ahead) as one, archive(ahead=ahead) as other, archive() as right:
        told = found(at(tmp_path, one, other, right), offline=False)
    assert told["clock"].level == level
    assert level == "ok" or ("behind" if ahead > 0 else "ahead of") in told["clock"].message


def test_an_archive_that_does_not_answer_or_refuses_is_told_and_the_others_are_asked(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        closed = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
    with archive() as well, archive(status=403) as refusing:
        told = found(at(tmp_path, closed, refusing, well), offline=False)
    assert [told[f"mirror m{number}"].level for number in range(3)] == ["error", "warning", "ok"]
    assert closed.removesuffix("/api").removeprefix("http://") in told["mirror m0"].message


def test_an_address_that_is_404_is_an_error_unless_the_archive_lists_datasets(
    tmp_path: Path,
) -> None:
    with archive() as well, archive(lists=False) as elsewhere:
        told = found(at(tmp_path, well, elsewhere), offline=False)
    assert [told[f"mirror m{number}"].level for number in range(2)] == ["ok", "error"]


def test_a_wrong_mirror_file_is_told_beside_the_right_ones(tmp_path: Path) -> None:
    place = at(tmp_path, "https://api.example.invalid/api")
    (place.mirrors / "wrong.toml").write_text('source = "nothing"\n')
    (place.mirrors / "token.toml").write_text(
        'source = "dandi"\n[options]\napi = "https://b.example.invalid/api"\n'
        'token_env = "NO_SUCH_TOKEN"\n'
    )
    told = wrong(place)
    assert told["mirror wrong"][0] == "error"
    assert "nothing" in told["mirror wrong"][1]
    assert "mirror m0" not in told


def test_a_disk_that_is_nearly_full_is_an_error(still_place: Place, disk_of: object) -> None:
    place = Place(still_place.mirrors, disk_of("4m") / "store")  # type: ignore[operator]
    level, message = wrong(place)["store"]
    assert level == "error"
    assert "make room" in message
