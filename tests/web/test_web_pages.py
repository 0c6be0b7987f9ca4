"""Pages: what a person finds who looks around, with a browser or without."""

import re
from pathlib import Path

import pytest

from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, links, visible_text


def test_search_leads_to_dataset_file_and_back(site: RunningCatalogue) -> None:
    page = site.page("/?q=hippocampal")
    assert "/dataset/demo:000001" in links(page)
    dataset = site.page("/dataset/demo:000001")
    version = next(link for link in links(dataset) if link.startswith("/dataset/demo:000001@"))
    folder = next(link for link in links(site.page(version)) if "under=" in link)
    file = next(link for link in links(site.page(folder)) if link.startswith("/file/"))
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
        if path.startswith("/search") and "&" in path:
            # one of the thousands of combinations of the same filters
            filters = set(re.findall(r"[?&](\w+)=", path))
            kind = f"search by {sorted(filters)}"
        if path.startswith("/at/"):  # the tests of the gateway read its files
            kind = "folder of the gateway"
        if path.startswith("/preview/"):  # each starts a process
            kind = f"preview of a file {Path(path).suffix}"
        if kind in seen or not path.startswith("/"):
            continue
        seen.add(kind)
        reply = site.get(path)
        # the archive no longer has the content of some old versions
        allowed = {200, 502} if path.startswith("/preview/") else {200}
        assert reply.status_code in allowed, (path, reply.status_code)
        if reply.headers["content-type"].startswith("text/html"):
            waiting += links(reply.text)
    assert len(seen) > 20


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


@pytest.mark.parametrize("path", ["/index", "/index/datasets", "/index.json?sql=select+1"])
def test_removed_tables_name_their_replacement(site: RunningCatalogue, path: str) -> None:
    assert "datasette serve --immutable" in site.page(path, 410)
