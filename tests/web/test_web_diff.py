"""The page of what differs, and the form that leads to it."""

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest

from neuromirror.model import DatasetFacts
from support.running_catalogue import RunningCatalogue, links, run_catalogue, visible_text
from support.scripted_source import START, ScriptedDataset, ScriptedHarness, ScriptedSource, files


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCatalogue]:
    """Two versions that differ in all ways, and two that differ in very many files."""
    source = ScriptedSource()
    box = ScriptedHarness(tmp_path_factory.mktemp("differ"), source)
    source.scripted_datasets["one"] = ScriptedDataset(
        files("kept.txt", "gone.txt", "old name.txt", "changed.txt")
    )
    source.scripted_datasets["many"] = ScriptedDataset(files("a.txt"))
    source.scripted_datasets["other"] = ScriptedDataset(files("kept.txt", "elsewhere.txt"))
    box.sync()
    later = START + timedelta(hours=1)
    new = files("kept.txt", "added.txt", modified=later)
    new["new name.txt"] = source.scripted_datasets["one"].files["old name.txt"]
    new["changed.txt"] = files("other", modified=later)["other"]
    source.scripted_datasets["one"] = ScriptedDataset(new, facts=DatasetFacts(title="Other words"))
    source.scripted_datasets["many"].files |= files(*(f"{number:05}.txt" for number in range(4500)))
    box.sync()
    with run_catalogue(box.store) as site:
        yield site


def names(shelf: RunningCatalogue, dataset: str) -> list[str]:
    versions = shelf.api(f"/datasets/{dataset}/versions")["versions"]
    return [version["name"] for version in versions]


def test_every_kind_of_change_is_counted_and_named(catalogue: RunningCatalogue) -> None:
    old, new = names(catalogue, "box:one")
    page = catalogue.page(f"/diff?a={old}&b={new}")
    page_text = visible_text(page)
    for count in ("1 added", "1 removed", "1 changed", "1 renamed"):
        assert count in page_text, count
    assert "renamed new name.txt was old name.txt" in page_text
    assert "added added.txt" in page_text
    assert "removed gone.txt" in page_text
    assert "same content kept.txt ( old file ) time" in page_text
    kinds = re.findall(r'<tr><td><span class="badge [^"]*">([a-z ]+)</span>', page)
    assert kinds.index("same content") == len(kinds) - 1 > 3
    back = catalogue.text(f"/diff?a={new}&b={old}")
    assert "removed added.txt" in back
    assert "identical" in catalogue.text(f"/diff?a={new}&b={new}")


def test_more_than_a_page_comes_in_pages_and_is_counted_whole(catalogue: RunningCatalogue) -> None:
    old, new = names(catalogue, "box:many")
    path, seen = f"/diff?a={old}&b={new}", []
    while path:
        page = catalogue.page(path)
        assert "4,500 added" in visible_text(page)
        seen += re.findall(r">(\d{5}\.txt)<", page)
        path = next((link for link in links(page) if f"page={len(seen) // 2000 + 1}" in link), "")
    assert len(seen) == len(set(seen)) == 4500
    assert catalogue.get(f"/diff?a={old}&b={new}&page=9").status_code == 400


def test_versions_of_two_datasets_are_compared(catalogue: RunningCatalogue) -> None:
    text = catalogue.text("/diff?a=box:one@latest&b=box:other@latest")
    assert "added elsewhere.txt" in text
    assert "removed added.txt" in text


def test_an_id_with_an_at_sign_is_compared_on_the_page_and_by_the_api(box: ScriptedHarness) -> None:
    box.datasets["ses@rig"] = ScriptedDataset(files("a.txt"))
    box.sync()
    box.datasets["ses@rig"] = ScriptedDataset(files("b.txt", modified=START + timedelta(hours=1)))
    box.sync()
    with run_catalogue(box.store) as site:
        old, new = (name.replace("@", "%40") for name in names(site, "box:ses%40rig"))
        assert "b.txt" in site.text(f"/diff?a={old}&b={new}")
        changes = site.api(f"/diff?a={old}&b={new}")["changes"]
        assert {change["path"] for change in changes} == {"a.txt", "b.txt"}


def test_changed_lines_of_documents_are_shown(site: RunningCatalogue) -> None:
    versions = site.api("/datasets/demo:000002")["all_versions"]
    old, new = (version["name"] for version in versions[:2])
    page = site.page(f"/diff?a={old}&b={new}")
    assert "<ins>+" in page
    assert "<del>-" in page
