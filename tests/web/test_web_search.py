"""Searching: what a person types leads to what they meant, or to words that help."""

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

import pytest

from neuromirror.model import DatasetFacts
from support.running_catalogue import RunningCatalogue, links, run_catalogue, visible_text
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, ScriptedSource

_YUTA = "sub-YutaMouse41/sub-YutaMouse41_ses-YutaMouse41-150831_behavior+ecephys.nwb"


@pytest.fixture(scope="module")
def search_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCatalogue]:
    """Datasets of which one has the words in its title, one in an attribute, one in its paths."""
    source = ScriptedSource()
    for name, title, attributes, path in (
        ("titled-1", "Spikes of YutaMouse41", (), "a.nwb"),
        ("titled-2", "Imaging", (("subject", "YutaMouse41"),), "b.nwb"),
        ("within-3", "Third", (), _YUTA),
        ("probe-4", "Fourth", (), "node#Neuropix-PXI-100.ProbeA-AP.zarr/.zattrs"),
    ):
        source.scripted_datasets[name] = ScriptedDataset(
            {path: ScriptedFile(name.encode(), sha256=True)},
            facts=DatasetFacts(title=title, attributes=attributes),
        )
    for number in range(60):
        source.scripted_datasets[f"many{number:02}"] = ScriptedDataset(
            {"x.nwb": ScriptedFile(b"%d" % number)}, facts=DatasetFacts(title="One of many")
        )
    box = ScriptedHarness(tmp_path_factory.mktemp("lab") / "box", source)
    box.sync()
    with run_catalogue(box.store) as site:
        yield site


def test_result_shows_the_match_and_links_the_file(search_site: RunningCatalogue) -> None:
    page = search_site.page("/?q=yutamouse41")
    text = visible_text(page)
    assert "3 datasets" in text
    assert "Spikes of <mark>YutaMouse41</mark>" in page
    assert "subject: YutaMouse41" in text
    assert _YUTA in text
    assert text.index("Third") > max(text.index("Spikes of"), text.index("Imaging"))
    file = next(link for link in links(page) if link.startswith("/file/"))
    assert unquote(file).endswith(f"?path={_YUTA.replace('+', ' ')}") or "%2B" in file
    assert _YUTA.rpartition("/")[2] in search_site.text(file)
    matching = next(link for link in links(page) if "match=" in link)
    assert _YUTA in search_site.text(matching)


def test_terms_may_match_title_and_path(search_site: RunningCatalogue) -> None:
    page = search_site.page("/search?q=third+ecephys")
    assert "<mark>Third</mark>" in page
    assert "with “ecephys” in their paths" in visible_text(page)
    assert "No results" in search_site.text("/?q=imaging+ecephys")


@pytest.mark.parametrize(("query", "count"), [("/?q=many", 60), ("/search?archive=box", 64)])
def test_results_come_in_pages(search_site: RunningCatalogue, query: str, count: int) -> None:
    pages = [search_site.page(query)]
    assert f"{count} datasets" in visible_text(pages[0])
    while more := [link for link in links(pages[-1]) if f"page={len(pages) + 1}" in link]:
        pages.append(search_site.page(more[0]))
    assert [page.count("<li><h2><a") for page in pages[:3]] == [20, 20, 20]
    names = [link for link in links("".join(pages)) if re.fullmatch(r"/dataset/box:[^@?]+", link)]
    assert len(set(names)) == count


def _leads(site: RunningCatalogue, text: str) -> str:
    reply = site.get(f"/?q={quote(text)}", allow_redirects=False)
    assert reply.status_code == 302, (text, reply.status_code)
    there = reply.headers["location"]
    assert site.get(there).status_code == 200, there
    return unquote(there)


def test_a_name_an_id_or_an_address_leads_straight_to_its_page(site: RunningCatalogue) -> None:
    dataset = next(row for row in site.api("/datasets")["datasets"] if row["published"])
    name, local_id = dataset["name"], dataset["name"].rpartition(":")[2]
    versions = site.api(f"/datasets/{name}")["all_versions"]
    one = next(row for row in versions if row["kind"] == "published")
    page = f"/dataset/{one['name']}"
    for text in (one["commit"], one["swhid"], f"swh:1:dir:{one['tree']}", one["commit"][:12]):
        assert _leads(site, text) == page, text
    for text in (one["doi"], f"https://doi.org/{one['doi']}", one["name"]):
        assert _leads(site, text) == page, text
    assert _leads(site, f"DEMO:{local_id}/{one['version']}") == page
    for text in (f" {local_id} ", name, dataset["source"]):
        assert _leads(site, text) == f"/dataset/{name}", text
    file = site.api(f"/datasets/{one['name']}/files")["files"][0]
    for text in (file["key"], file["digests"]["sha256"], f"sha256:{file['digests']['sha256'][:9]}"):
        assert _leads(site, text) == f"/find?checksum={text}"


def test_bytes_are_found_with_all_that_is_known_of_them(site: RunningCatalogue) -> None:
    file = site.api("/datasets/demo:000001@draft/files")["files"][0]
    page = site.page(f"/find?checksum={file['key']}")
    text = visible_text(page)
    assert file["digests"]["sha256"] in text
    assert file["path"] in text
    assert any(link.startswith("/file/demo:000001@") for link in links(page))
    nothing = site.page("/find?checksum=" + "0" * 64)
    assert not any(link.startswith("/file/") for link in links(nothing))
    for one in (nothing, site.page("/find")):
        assert "etag:" in one
    site.page("/find?checksum=xyz", 400)


def test_all_datasets_are_listed_with_facets_that_add_and_remove_a_value(
    site: RunningCatalogue,
) -> None:
    page = site.page("/search")
    total = len([row for row in site.api("/datasets")["datasets"] if not row["is_subdataset"]])
    assert f"{total} datasets" in visible_text(page)
    chosen = next(link for link in links(page) if link == "/search?status=published")
    published = site.page(chosen)
    names = {one["dataset"]["name"] for one in site.api("/search?status=published")["found"]}
    shown = [link for link in links(published) if link.startswith("/dataset/")]
    assert {one.removeprefix("/dataset/") for one in shown} == names != set()
    assert "/search" in links(published)  # removes the value
    both = next(one for one in links(published) if one == "/search?status=published&status=draft")
    assert len([link for link in links(site.page(both)) if link.startswith("/dataset/")]) == total
    assert "aria-current" in published
    assert 'name="status" value="published"' in published  # kept by the form


def test_an_address_of_a_search_is_shareable_and_its_values_have_any_name(
    site: RunningCatalogue,
) -> None:
    page = site.page("/search?species=mouse&sort=title")
    assert "Mus musculus" in visible_text(page)
    found = [link for link in links(page) if link.startswith("/dataset/")]
    answer = site.api("/search?species=Mus+musculus&sort=title")
    assert found == [f"/dataset/{one['dataset']['name']}" for one in answer["found"]]
    assert [one["value"] for one in answer["facets"]["species"] if one["selected"]] == [
        "Mus musculus"
    ]
    assert "there is no order" in site.text("/search?sort=random", 400)
    assert "No dataset has all selected values" in site.text("/search?year=1900")


def test_matches_are_marked_and_escaped(tmp_path_factory: pytest.TempPathFactory) -> None:
    source = ScriptedSource()
    source.scripted_datasets["odd"] = ScriptedDataset(
        {"a.nwb": ScriptedFile(b"a")},
        facts=DatasetFacts(title="<b>Ripples</b> & \x02sleep\x03", attributes=()),
    )
    box = ScriptedHarness(tmp_path_factory.mktemp("odd") / "box", source)
    box.sync()
    with run_catalogue(box.store) as catalogue:
        page = catalogue.page("/search?q=ripples+sleep")
        assert "&lt;b&gt;<mark>Ripples</mark>&lt;/b&gt; &amp; " in page
        assert "<mark>sleep</mark>" in page
        assert "<b>" not in page


def test_a_name_that_only_paths_have_in_another_form_is_found(
    search_site: RunningCatalogue,
) -> None:
    page = search_site.page("/search?q=Neuropixels")
    assert "/dataset/box:probe-4" in links(page)
    assert "/search?q=neuropix" not in links(page)
    assert "No dataset matches" not in visible_text(page)
    assert "with “neuropix” in their paths" in visible_text(page)
