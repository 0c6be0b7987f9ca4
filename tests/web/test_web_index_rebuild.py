"""An index that is rebuilt or missing while the catalogue runs."""

import threading

import requests

from neuromirror.crawl import rebuild_index
from support.running_catalogue import RunningCatalogue, run_catalogue, visible_text
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness


def test_the_old_index_is_shown_during_a_rebuild(box: ScriptedHarness) -> None:
    for number in range(12):
        box.datasets[f"thing{number}"] = ScriptedDataset({"a.txt": ScriptedFile(b"%d" % number)})
    box.sync()
    with run_catalogue(box.store) as site:
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
        replies: list[tuple[str, int]] = []
        while not done.is_set() or len(replies) < 20:
            for path in ("/", "/dataset/box:thing7", "/checksums/box:thing7@latest"):
                replies.append((path, site.get(path).status_code))
        making.join()
        assert {status for _, status in replies} == {200}, replies


def test_without_an_index_pages_say_so_and_come_back_with_it(box: ScriptedHarness) -> None:
    box.datasets["one"] = ScriptedDataset({"a.txt": ScriptedFile(b"1")})
    box.sync()
    path = box.store.index_path
    away = path.with_suffix(".away")
    with run_catalogue(box.store) as site:
        _each(site, 200)
        path.rename(away)
        for reply in _each(site, 503):
            assert int(reply.headers["retry-after"]) > 0
            assert str(box.folder) not in reply.text
        text = visible_text(site.get("/").text)
        assert "Temporarily unavailable" in text
        assert site.get("/alias/box--one/HEAD").status_code == 200
        away.rename(path)
        _each(site, 200)


def _each(site: RunningCatalogue, status: int) -> list[requests.Response]:
    """Each page many times, so that every thread of the server is asked."""
    paths = ("/", "/dataset/box:one", "/mirrors", "/checksums/box:one@latest", "/api/v1/datasets")
    replies = [site.get(path) for _ in range(4) for path in paths]
    assert {reply.status_code for reply in replies} == {status}, [
        (reply.url, reply.status_code) for reply in replies
    ]
    return replies
