"""An index that is made anew, or is not there, while the catalogue runs."""

from __future__ import annotations

import threading

import requests
from scripted import Box, File, Scripted, Thing
from web_site import Running, plain, running

from neuromirror.crawl import rebuild_index


def test_an_index_that_is_made_anew_is_shown_without_a_restart(box: Box, source: Scripted) -> None:
    source.things["one"] = Thing({"a.txt": File(b"1")})
    box.sync()
    with running(box.store) as site:
        assert len(site.api("/datasets")["datasets"]) == 1
        source.things["two"] = Thing({"a.txt": File(b"2")})
        box.sync()
        rebuild_index(box.store, box.store.index_path)
        assert len(site.api("/datasets")["datasets"]) == 2
        tables = site.get("/index/datasets.json?_shape=array").json()
        assert {one["local_id"] for one in tables} == {"one", "two"}


def test_while_an_index_is_made_anew_the_old_one_is_shown(box: Box, source: Scripted) -> None:
    for number in range(30):
        source.things[f"thing{number}"] = Thing({"a.txt": File(b"%d" % number)})
    box.sync()
    with running(box.store) as site:
        site.page("/dataset/box:thing7")
        done = threading.Event()

        def rebuild() -> None:
            try:
                for _ in range(3):
                    rebuild_index(box.store, box.store.index_path)
            finally:
                done.set()

        making = threading.Thread(target=rebuild)
        making.start()
        said: list[tuple[str, int]] = []
        while not done.is_set() or len(said) < 20:
            for path in ("/", "/dataset/box:thing7", "/sums/box:thing7@latest", "/index"):
                said.append((path, site.get(path).status_code))
        making.join()
        assert {status for _, status in said} == {200}, said


def test_without_an_index_pages_say_so_and_come_back_with_it(box: Box, source: Scripted) -> None:
    source.things["one"] = Thing({"a.txt": File(b"1")})
    box.sync()
    path = box.store.index_path
    away = path.with_suffix(".away")
    with running(box.store) as site:
        _each(site, 200)
        path.rename(away)
        for reply in _each(site, 503):
            assert int(reply.headers["retry-after"]) > 0
            assert str(box.folder) not in reply.text
        told = plain(site.get("/").text)
        assert "Not just now" in told
        assert "Clones go on working" in told
        assert site.get("/alias/box--one/HEAD").status_code == 200
        away.rename(path)
        _each(site, 200)


def _each(site: Running, status: int) -> list[requests.Response]:
    """Each page many times, so that every thread of the server is asked."""
    paths = ("/", "/dataset/box:one", "/mirrors", "/sums/box:one@latest", "/api/v1/datasets")
    replies = [site.get(path) for _ in range(4) for path in (*paths, "/index")]
    assert {one.status_code for one in replies} == {status}, [
        (one.url, one.status_code) for one in replies
    ]
    return replies
