"""Pages: what a person finds who looks around, with a browser or without."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
import requests

from neuromirror.model import DatasetFacts
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, links, run_catalogue, visible_text
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness


def test_the_front_page_shows_archives_and_what_is_new(site: RunningCatalogue) -> None:
    page = site.page("/")
    text = visible_text(page)
    assert "demo" in text
    assert "datasets" in text
    new = [one for one in links(page) if one.startswith("/dataset/demo:")]
    assert len(new) >= 5
    assert len(page.encode()) < 60_000


def test_search_leads_to_dataset_file_and_back(site: RunningCatalogue) -> None:
    page = site.page("/?q=hippocampal")
    assert "/dataset/demo:000001" in links(page)
    dataset = site.page("/dataset/demo:000001")
    version = next(one for one in links(dataset) if one.startswith("/dataset/demo:000001@"))
    folder = next(one for one in links(site.page(version)) if "under=" in one)
    file = next(one for one in links(site.page(folder)) if one.startswith("/file/"))
    text = site.text(file)
    assert "SHA-256" in text
    assert "Locations" in text
    digest = re.search(r"SHA-256 from [^:]*: detects any change ([0-9a-f]{64})", text)
    assert digest is not None
    found = site.get(f"/?q={digest[1]}")
    assert "/find?checksum=" in found.url
    assert "demo:000001" in visible_text(found.text)


def test_every_address_on_every_page_leads_somewhere(site: RunningCatalogue) -> None:
    seen: set[str] = set()
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        kind = re.sub(r"=[^&]*", "", path) if path.startswith(("/?", "/file", "/diff")) else path
        if "add=" in path:  # each page exists with each basket
            kind = f"{path.split('/')[1].partition('?')[0]} with a basket"
        if path.startswith("/search") and path.count("&") > 1:
            # one of the thousands of combinations of the same filters
            filters = set(re.findall(r"[?&](\w+)=", path))
            kind = f"search by {sorted(filters)}"
        if path.startswith("/at/"):  # the tests of the gateway read its files
            kind = "folder of the gateway"
        if kind in seen or not path.startswith("/") or path.startswith("/index"):
            continue
        seen.add(kind)
        reply = site.get(path)
        # the archive no longer has the content of some old versions
        allowed = {200, 502} if path.startswith("/preview/") else {200}
        assert reply.status_code in allowed, (path, reply.status_code)
        if reply.headers["content-type"].startswith("text/html"):
            waiting += links(reply.text)
    assert len(seen) > 20


def test_a_citation_names_upstream_and_the_state(site: RunningCatalogue) -> None:
    version = site.api("/datasets/demo:000001")["all_versions"][-1]
    citation = site.text(f"/cite/demo:000001@{version['version']}?format=bibtex")
    assert "@dataset" in citation
    assert version["swhid"] in citation
    assert site.get("/cite/demo:000001@draft?format=poem").status_code == 400


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/dataset/demo:999999", 404, "demo:999999"),
        ("/dataset/nowhere:000001", 404, "'nowhere'"),
        ("/dataset/demo:000001@9.9.9", 404, "9.9.9"),
        ("/file/demo:000001@draft?path=nothing.nwb", 404, "nothing.nwb"),
        ("/find?checksum=xyz", 400, "checksum"),
        ("/diff?a=demo:999999", 404, "demo:999999"),
        ("/?page=none", 400, "whole number"),
        ("/no/such/page", 404, "page not found"),
    ],
)
def test_a_wrong_address_is_a_page_that_helps(
    site: RunningCatalogue, path: str, status: int, says: str
) -> None:
    page = site.page(path, status)
    assert says in visible_text(page)
    assert 'role="search"' in page


def test_upstream_text_is_shown_and_never_run(box: ScriptedHarness) -> None:
    title = "<script>alert(1)</script> & \u202e\x07 {{ 1234 * 5678 }} ' onload=x"
    hostile = "a<b>&c 'd' \"e\" %2e%2e ;$(id) {{1234*5678}}.txt"
    box.datasets["odd"] = ScriptedDataset(
        {hostile: ScriptedFile(b"content")}, facts=DatasetFacts(title=title)
    )
    box.sync()
    name = "box:odd"
    with run_catalogue(box.store) as site:
        for path in ("/", "/?q=script", f"/dataset/{name}", f"/dataset/{name}@latest"):
            page = site.page(path)
            assert "<script>alert" not in page
            assert "\u202e" not in page
            assert "\x07" not in page
            assert "7006652" not in page
        page = site.page(f"/dataset/{name}@latest")
        file = next(one for one in links(page) if one.startswith("/file/"))
        assert hostile in site.text(file)
        assert site.get(f"/file/{name}@latest?path={quote(hostile)}").status_code == 200
        feed = site.page("/feed.atom")
        assert "<script>alert" not in feed


def test_an_empty_catalogue_lists_no_datasets(box: ScriptedHarness) -> None:
    box.sync()
    with run_catalogue(box.store) as site:
        assert not any(one.startswith("/dataset/") for one in links(site.page("/")))
        assert site.api("/datasets") == {"datasets": [], "next": None}
        assert site.get("/feed.atom").status_code == 200


def test_the_store_is_served_and_nothing_beside_it(
    site: RunningCatalogue, demo_harness: MirrorHarness
) -> None:
    head = site.get("/alias/demo--000001/HEAD")
    assert head.text.startswith("ref: refs/heads/main")
    for path in (
        "/neuromirror/journal.jsonl",
        "/alias/../neuromirror/journal.jsonl",
        "/alias/%2e%2e/neuromirror/store.json",
        "/alias/demo--000001/%2e%2e/%2e%2e/%2e%2e/neuromirror/store.json",
        "/manifests/%2e%2e/neuromirror/store.json",
        "/block-digests/%2e%2e/neuromirror/store.json",
        "/block-digests/00",
        "/-/metadata.json",
        "/-/databases.json",
        "/index.db",
    ):
        with_dots = site.get(path)
        assert with_dots.status_code in (403, 404), path
        assert str(demo_harness.folder) not in with_dots.text


def test_replies_carry_the_headers_that_keep_browsers_safe(site: RunningCatalogue) -> None:
    for path in ("/", "/api/v1", "/alias/demo--000001/HEAD", "/index", "/no/such/page"):
        headers = site.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in headers


def test_nothing_can_be_changed(site: RunningCatalogue) -> None:
    for path in ("/", "/index/datasets", "/-/messages"):
        assert requests.post(site.address + path, timeout=300).status_code == 405


def test_who_has_a_page_already_gets_no_second_copy(site: RunningCatalogue) -> None:
    first = site.get("/dataset/demo:000001")
    second = site.get("/dataset/demo:000001", headers={"If-None-Match": first.headers["etag"]})
    assert (second.status_code, second.text) == (304, "")
