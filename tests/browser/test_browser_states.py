"""What is odd, missing, held or gone is shown with sense, and upstream's text never runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser_pages import EVERY_KIND
from browser_site import GONE, HELD, HOSTILE, RELEASED, SECRET, Shown, empty
from browser_walk import Walk, Walker

from neuromirror.crawl import rebuild_index


@pytest.mark.parametrize("name", [one.name for one in EVERY_KIND if one.name.startswith("odd")])
def test_a_script_in_upstreams_text_is_read_and_never_run(
    walk: Walk, site: Shown, name: str
) -> None:
    (kind,) = [one for one in EVERY_KIND if one.name == name]
    walk.page.on("dialog", lambda dialog: walk.wrong.append("a dialog"))
    page = walk.open(kind.path(site))
    assert page.title() != "run"
    assert page.locator("main script:not([type]), main img[src='x']").count() == 0
    for never in ("7006652", "\u202e", "\x07"):
        assert never not in walk.text
        assert never not in page.title()
    if name != "odd-names":
        assert "<script>document.title" in walk.text


def test_each_hostile_name_leads_to_its_file(walk: Walk) -> None:
    address = f"/dataset/{HOSTILE}@latest"
    walk.open(address)
    links = walk.page.locator('main a[href^="/file/"]')
    addresses = [one.get_attribute("href") or "" for one in links.all()]
    assert len(addresses) >= 20
    for path in addresses:
        walk.open(path)
        assert "sha256" in walk.text.lower() or "md5" in walk.text.lower(), path


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        (f"/dataset/{HELD}", 200, "Held"),
        (f"/dataset/{GONE}", 200, "Gone upstream"),
        (f"/dataset/{SECRET}", 410, "asked for by its owner"),
        ("/dataset/demo:999999", 404, "demo:999999"),
        (f"/dataset/{RELEASED}@9.9.9", 404, "9.9.9"),
        ("/no/such/page", 404, "/"),
        ("/find?checksum=xyz", 400, "checksum"),
        ("/events", 200, GONE),
        ("/mirrors", 200, HELD),
    ],
)
def test_what_is_the_matter_stands_on_the_page(
    walk: Walk, path: str, status: int, words: str
) -> None:
    walk.open(path, status)
    assert words in walk.text
    assert walk.heading


def test_from_an_error_one_can_search_on(walk: Walk) -> None:
    walk.open("/dataset/demo:999999", 404)
    assert "neuromirror list" in walk.page.locator("main code").all_inner_texts()
    assert "`" not in walk.text
    search = walk.page.get_by_role("searchbox").first
    search.fill("ripples")
    with walk.page.expect_navigation():
        search.press("Enter")
    assert RELEASED in walk.text


def test_what_was_taken_down_is_found_by_nobody(walk: Walk) -> None:
    for path in ("/?q=sleep+learning", "/?q=secret", "/?mirror=lab"):
        walk.open(path)
        assert "Sleep after learning" not in walk.page.content()
        assert walk.page.locator(f'main a[href^="/dataset/{SECRET}"]').count() == 0


def test_an_empty_catalogue_says_how_to_begin(walker: Walker, empty_site: Shown) -> None:
    walk = walker(empty_site)
    walk.open("/")
    assert "neuromirror" in walk.text
    for path in ("/?q=anything", "/mirrors", "/events"):
        walk.open(path)
        assert walk.heading
        assert "None" not in walk.text


@contextmanager
def rebuilding(at: Shown) -> Iterator[None]:
    """The index is made anew, again and again, until the end of the block."""
    done, made = threading.Event(), list[int]()

    def work() -> None:
        while not done.is_set():
            made.append(rebuild_index(at.place.store, at.place.store.index_path))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert len(made) > 1


def test_while_the_index_is_made_anew_all_is_as_before(walk: Walk, site: Shown) -> None:
    names = ("front", "dataset", "version", "mirrors", "front")
    with rebuilding(site):
        for name in names * 2:
            (kind,) = [one for one in EVERY_KIND if one.name == name]
            walk.open(kind.path(site))
            assert walk.heading


def test_without_an_index_the_page_says_so_and_comes_back(walker: Walker, tmp_path: Path) -> None:
    with empty(tmp_path) as found:
        walk = walker(found)
        path = found.place.store.index_path
        for one in (path, *path.parent.glob(f"{path.name}-*")):
            one.unlink(missing_ok=True)
        walk.open("/mirrors", 503)
        assert "index" in walk.text
        assert str(path.parent) not in walk.text, "paths of the machine are nobody's business"
        rebuild_index(found.place.store, path)
        assert walk.page.reload() is not None
        assert "lab" in walk.text
