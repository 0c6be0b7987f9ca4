"""The page of what differs, and the form that leads to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from scripted import START, Box, Scripted, Thing, files
from web_site import Running, links, plain, running

from neuromirror.model import DatasetFacts


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two versions that differ in all ways, and two that differ in very many files."""
    source = Scripted()
    box = Box(tmp_path_factory.mktemp("differ"), source)
    source.things["one"] = Thing(files("kept.txt", "gone.txt", "old name.txt", "changed.txt"))
    source.things["many"] = Thing(files("a.txt"))
    source.things["other"] = Thing(files("kept.txt", "elsewhere.txt"))
    box.sync()
    later = START + timedelta(hours=1)
    new = files("kept.txt", "added.txt", modified=later)
    new["new name.txt"] = source.things["one"].files["old name.txt"]
    new["changed.txt"] = files("other", modified=later)["other"]
    source.things["one"] = Thing(new, facts=DatasetFacts(title="Other words"))
    source.things["many"].files |= files(*(f"{number:05}.txt" for number in range(4500)))
    box.sync()
    with running(box.store) as site:
        yield site


def names(shelf: Running, dataset: str) -> list[str]:
    told = shelf.api(f"/datasets/{dataset}/versions")["versions"]
    return [one["name"] for one in told]


def test_every_way_of_differing_is_counted_and_named(shelf: Running) -> None:
    old, new = names(shelf, "box:one")
    told = shelf.text(f"/diff?a={old}&b={new}")
    for words in ("1 added", "1 removed", "1 changed", "1 renamed"):
        assert words in told, words
    assert "renamed new name.txt was old name.txt" in told
    assert "added added.txt" in told
    assert "removed gone.txt" in told
    assert "same bytes, told otherwise kept.txt time" in told
    back = shelf.text(f"/diff?a={new}&b={old}")
    assert "removed added.txt" in back
    assert "Nothing differs" in shelf.text(f"/diff?a={new}&b={new}")


def test_files_that_differ_lead_to_their_pages(shelf: Running) -> None:
    old, new = names(shelf, "box:one")
    page = shelf.page(f"/diff?a={old}&b={new}")
    found = [one for one in links(page) if one.startswith("/file/")]
    assert len(found) == 5
    assert {shelf.get(one).status_code for one in found} == {200}


def test_more_than_a_page_comes_in_pages_and_is_counted_whole(shelf: Running) -> None:
    old, new = names(shelf, "box:many")
    path, seen = f"/diff?a={old}&b={new}", []
    while path:
        page = shelf.page(path)
        assert "4,500 added" in plain(page)
        seen += re.findall(r">(\d{5}\.txt)<", page)
        path = next((one for one in links(page) if f"page={len(seen) // 2000 + 1}" in one), "")
    assert len(seen) == len(set(seen)) == 4500
    assert shelf.get(f"/diff?a={old}&b={new}&page=9").status_code == 400


def test_versions_of_two_datasets_are_compared(shelf: Running) -> None:
    told = shelf.text("/diff?a=box:one@latest&b=box:other@latest")
    assert "added elsewhere.txt" in told
    assert "removed added.txt" in told


def test_the_form_offers_the_versions_of_what_was_named(shelf: Running) -> None:
    assert "Compare two versions" in shelf.text("/diff")
    page = shelf.page("/diff?a=box:one", 400)
    assert "say which versions" in plain(page)
    offered = re.findall(r'<option value="([^"]+)"', page)
    assert offered == list(reversed(names(shelf, "box:one")))
    assert 'value="box:one"' in page


def test_an_id_with_an_at_sign_is_compared_on_the_page_and_by_the_api(
    box: Box, source: Scripted
) -> None:
    source.things["ses@rig"] = Thing(files("a.txt"))
    box.sync()
    source.things["ses@rig"] = Thing(files("b.txt", modified=START + timedelta(hours=1)))
    box.sync()
    with running(box.store) as site:
        old, new = (one.replace("@", "%40") for one in names(site, "box:ses%40rig"))
        assert "b.txt" in site.text(f"/diff?a={old}&b={new}")
        told = site.api(f"/diff?a={old}&b={new}")["changes"]
        assert {one["path"] for one in told} == {"a.txt", "b.txt"}
