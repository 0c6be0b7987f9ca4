"""Feeds, the sitemap and robots.txt."""

import re
import sqlite3
from datetime import datetime
from xml.etree import ElementTree

import pytest

from neuromirror.model import DatasetFacts
from support.running_catalogue import RunningCatalogue, run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness

_ATOM = "{http://www.w3.org/2005/Atom}"
_MAP = "{http://www.sitemaps.org/schemas/sitemap/0.9}"


def valid(page: str) -> ElementTree.Element:
    """A feed in which everything is that RFC 4287 (4.1.1, 4.1.2) wants, each of it once."""
    feed = ElementTree.fromstring(page)
    assert feed.tag == f"{_ATOM}feed"
    entries = feed.findall(f"{_ATOM}entry")
    for one in (feed, *entries):
        for needed in ("id", "title", "updated"):
            (found,) = one.findall(f"{_ATOM}{needed}")
            assert found.text
            if needed == "updated":
                assert datetime.fromisoformat(found.text).tzinfo is not None
        links = {link.get("rel"): link.get("href") or "" for link in one.findall(f"{_ATOM}link")}
        assert links["alternate"].startswith("http")
    assert links_of(feed)["self"] == feed.findtext(f"{_ATOM}id")
    assert feed.findtext(f"{_ATOM}author/{_ATOM}name")
    ids = [entry.findtext(f"{_ATOM}id") or "" for entry in entries]
    assert len(set(ids)) == len(ids) <= 50
    assert all(re.match(r"urn:(swh:1:rev:[0-9a-f]{40}|uuid:[0-9a-f-]{36})\Z", one) for one in ids)
    times = [entry.findtext(f"{_ATOM}updated") or "" for entry in entries]
    assert times == sorted(times, reverse=True)
    assert not times or feed.findtext(f"{_ATOM}updated") == times[0]
    return feed


def links_of(one: ElementTree.Element) -> dict[str, str]:
    return {link.get("rel", ""): link.get("href", "") for link in one.findall(f"{_ATOM}link")}


@pytest.mark.parametrize(
    "path", ["/feed.atom", "/feed/demo.atom", "/feed/demo:000001.atom", "/feed.atom?q=demo"]
)
def test_a_feed_is_atom_and_every_link_in_it_leads_somewhere(
    site: RunningCatalogue, path: str
) -> None:
    reply = site.get(path)
    assert reply.headers["content-type"].startswith("application/atom+xml")
    feed = valid(reply.text)
    entries = feed.findall(f"{_ATOM}entry")
    assert entries
    for one in (feed, *entries[:5]):
        assert site.get(links_of(one)["alternate"]).status_code == 200
    second = site.get(path, headers={"If-None-Match": reply.headers["etag"]})
    assert (second.status_code, second.text) == (304, "")
    assert site.get(links_of(feed)["self"]).text == reply.text


def test_feed_lists_removals_and_escapes_titles(box: ScriptedHarness) -> None:
    title = "<b>&amp; ]]> \ufffe\uffff\x07\u202e {{ 1 }} \"'"
    for name in ("stays", "goes", "secret"):
        box.datasets[name] = ScriptedDataset(
            {"a.txt": ScriptedFile(b"1")}, facts=DatasetFacts(title=title)
        )
    box.datasets["secret"].facts = DatasetFacts(title="Titled never")
    box.sync()
    del box.datasets["goes"]
    box.sync()
    box.withdraw("box:secret")
    with run_catalogue(box.store) as site:
        for path in ("/feed.atom", "/feed/box.atom", "/feed/box:goes.atom"):
            page = site.page(path)
            entries = valid(page).findall(f"{_ATOM}entry")
            kinds = [term.get("term") for one in entries for term in one.iter(f"{_ATOM}category")]
            assert "tombstone" in kinds, path
            assert "secret" not in page
            assert "Titled never" not in page
            assert any("<b>&amp; ]]>" in (one.findtext(f"{_ATOM}title") or "") for one in entries)
        assert site.get("/feed/box:secret.atom").status_code == 410
        assert "secret" not in site.page("/sitemap.xml")


def test_a_feed_of_a_search_has_an_entry_per_dataset(box: ScriptedHarness) -> None:
    for name, colour in (("one", "blue"), ("two", "red"), ("three", "blue & <grey>")):
        box.datasets[name] = ScriptedDataset(
            {"a.txt": ScriptedFile(b"1")},
            facts=DatasetFacts(title=f"Scripted {name}", attributes=(("colour", colour),)),
        )
    box.sync()

    def entries(query: str) -> dict[str, str]:
        feed = valid(site.page(f"/feed.atom?{query}"))
        return {
            links_of(one)["alternate"].rpartition("/")[2]: one.findtext(f"{_ATOM}id") or ""
            for one in feed.iter(f"{_ATOM}entry")
        }

    with run_catalogue(box.store) as site:
        assert entries("q=scripted").keys() == {"box:one", "box:two", "box:three"}
        assert entries("archive=box&q=one").keys() == {"box:one"}
        assert entries("archive=box&volume=yes") == {}
        (address,) = re.findall(
            r'application/atom[^>]+href="([^"]+)"', site.page("/search?q=scripted")
        )
        assert address == "/feed.atom?q=scripted"
        before = entries("q=two")
        assert entries("q=missing") == {}
        assert site.get("/feed.atom?q=%22").status_code == 400
    box.datasets["two"].files["a.txt"] = ScriptedFile(b"22")
    box.sync()
    with run_catalogue(box.store) as site:
        assert entries("q=two") == before


def test_the_sitemap_names_all_datasets_and_when_they_changed(site: RunningCatalogue) -> None:
    root = ElementTree.fromstring(site.page("/sitemap.xml"))
    assert root.tag == f"{_MAP}urlset"
    found = {one.findtext(f"{_MAP}loc") or "": one.findtext(f"{_MAP}lastmod") or "" for one in root}
    names = [one["name"] for one in site.api("/datasets")["datasets"]]
    assert set(found) == {f"{site.address}/dataset/{name}" for name in names}
    assert all(datetime.fromisoformat(one).tzinfo is not None for one in found.values())
    robots = site.page("/robots.txt")
    assert f"Sitemap: {site.address}/sitemap.xml\n" in robots
    for path in ("/file/", "/cutout/", "/slice/"):
        assert f"Disallow: {path}\n" in robots


def test_more_datasets_than_a_sitemap_holds_are_in_several(box: ScriptedHarness) -> None:
    box.datasets["one"] = ScriptedDataset({"a.txt": ScriptedFile(b"1")})
    box.sync()
    with sqlite3.connect(box.store.index_path) as connection:
        connection.execute(
            "INSERT INTO datasets (mirror, local_id) WITH RECURSIVE n (i) AS "
            "(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50001) SELECT 1, 'made-' || i FROM n"
        )
    connection.close()
    with run_catalogue(box.store) as site:
        root = ElementTree.fromstring(site.page("/sitemap.xml"))
        assert root.tag == f"{_MAP}sitemapindex"
        addresses = [one.findtext(f"{_MAP}loc") or "" for one in root]
        assert len(addresses) == 2
        found: list[str] = []
        for address in addresses:
            part = ElementTree.fromstring(site.page(address))
            assert part.tag == f"{_MAP}urlset"
            found += [one.findtext(f"{_MAP}loc") or "" for one in part]
        assert len(set(found)) == len(found) == 50_002
        assert site.get("/sitemap/3.xml").status_code == 404
        assert site.get("/sitemap/0.xml").status_code == 404
