"""Pages: what a person finds who looks around, with a browser or without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from crawl_place import Place
from scripted import Box, File, Scripted, Thing
from web_site import Running, links, plain, running

from neuromirror.crawl import rebuild_index
from neuromirror.model import DatasetFacts


def test_the_front_page_shows_archives_and_what_is_new(site: Running) -> None:
    page = site.page("/")
    told = plain(page)
    assert "demo" in told
    assert "datasets" in told
    new = [one for one in links(page) if one.startswith("/dataset/demo:")]
    assert len(new) >= 5
    assert len(page.encode()) < 60_000


def test_words_find_a_dataset_and_its_page_leads_to_a_file_and_back(site: Running) -> None:
    page = site.page("/?q=hippocampal")
    assert "/dataset/demo:000001" in links(page)
    dataset = site.page("/dataset/demo:000001")
    version = next(one for one in links(dataset) if one.startswith("/dataset/demo:000001@"))
    folder = next(one for one in links(site.page(version)) if "under=" in one)
    file = next(one for one in links(site.page(folder)) if one.startswith("/file/"))
    told = site.text(file)
    assert "SHA-256" in told
    assert "Where its bytes can be had" in told
    digest = re.search(r"sha256 ([0-9a-f]{64})", told)
    assert digest is not None
    found = site.get(f"/?q={digest[1]}")
    assert "/find?checksum=" in found.url
    assert "demo:000001" in plain(found.text)


def test_every_address_on_every_page_leads_somewhere(site: Running) -> None:
    seen: set[str] = set()
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        kind = re.sub(r"=[^&]*", "", path) if path.startswith(("/?", "/file", "/diff")) else path
        if kind in seen or not path.startswith("/") or path.startswith("/index"):
            continue
        seen.add(kind)
        reply = site.get(path)
        assert reply.status_code == 200, (path, reply.status_code)
        if reply.headers["content-type"].startswith("text/html"):
            waiting += links(reply.text)
    assert len(seen) > 20


def test_the_clone_command_of_a_page_works_as_pasted(
    site: Running, tmp_path: Path, isolated_home: Path
) -> None:
    page = site.page("/dataset/demo:000001")
    commands = re.findall(r"<pre>(.*?)</pre>", page, flags=re.DOTALL)
    command = plain(next(one for one in commands if "datalad clone" in one))
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo--000001" / "dandiset.yaml").is_file()


def test_a_citation_names_upstream_and_the_state(site: Running) -> None:
    version = site.api("/datasets/demo:000001")["all_versions"][-1]
    told = site.text(f"/cite/demo:000001@{version['version']}?format=bibtex")
    assert "@dataset" in told
    assert version["swhid"] in told
    assert site.get("/cite/demo:000001@draft?format=poem").status_code == 400


def test_two_versions_are_compared(site: Running) -> None:
    versions = site.api("/datasets/demo:000002")["all_versions"]
    assert len(versions) >= 2
    a, b = versions[0]["name"], versions[-1]["name"]
    told = site.text(f"/diff?a={a}&b={b}")
    assert a in told
    assert b in told
    assert "Nothing differs" in site.text(f"/diff?a={a}&b={a}")


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/dataset/demo:999999", 404, "no dataset"),
        ("/dataset/nowhere:000001", 404, "no mirror"),
        ("/dataset/demo:000001@9.9.9", 404, "no version"),
        ("/file/demo:000001@draft?path=nothing.nwb", 404, "no file"),
        ("/find?checksum=xyz", 400, "checksum"),
        ("/diff?a=demo:000001", 400, "say which versions"),
        ("/?page=none", 400, "whole number"),
        ("/no/such/page", 404, "no page"),
    ],
)
def test_a_wrong_address_is_a_page_that_helps(
    site: Running, path: str, status: int, says: str
) -> None:
    page = site.page(path, status)
    assert says in plain(page)
    assert 'role="search"' in page


def test_upstream_text_is_shown_and_never_run(box: Box, source: Scripted) -> None:
    title = "<script>alert(1)</script> & \u202e\x07 {{ 1234 * 5678 }} ' onload=x"
    hostile = "a<b>&c 'd' \"e\" %2e%2e ;$(id) {{1234*5678}}.txt"
    source.things["odd"] = Thing({hostile: File(b"content")}, facts=DatasetFacts(title=title))
    box.sync()
    name = "box:odd"
    with running(box.store) as site:
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


def test_an_empty_catalogue_says_how_to_begin(box: Box) -> None:
    box.sync()
    with running(box.store) as site:
        assert "Nothing is mirrored here yet" in site.text("/") or "0 datasets" in site.text("/")
        assert site.api("/datasets") == {"datasets": [], "next": None}
        assert site.get("/feed.atom").status_code == 200


def test_a_held_and_a_vanished_dataset_say_so(box: Box, source: Scripted) -> None:
    files = {f"{number}.txt": File(b"%d" % number) for number in range(40)}
    source.things["held"] = Thing(dict(files))
    source.things["gone"] = Thing(dict(files))
    box.sync()
    source.things["held"] = Thing({})
    del source.things["gone"]
    box.sync()
    with running(box.store) as site:
        assert "Held." in site.text("/dataset/box:held")
        assert "Gone upstream." in site.text("/dataset/box:gone")
        assert "Waiting for an operator" in site.text("/mirrors")
        assert "tombstone" in site.text("/events")


def test_of_a_dataset_that_was_taken_down_only_that_is_shown(box: Box, source: Scripted) -> None:
    source.things["secret"] = Thing(
        {"a-name.txt": File(b"1")}, facts=DatasetFacts(title="Titled never")
    )
    source.things["open"] = Thing({"b.txt": File(b"2")})
    box.sync()
    commit = box.refs()["box--secret refs/heads/main"]
    command = [sys.executable, "-m", "neuromirror", "--store", str(box.folder), "takedown"]
    # no mirror file names the scripted source, so that its super-dataset stays as it was
    subprocess.run([*command, "box:secret", "--reason", "asked by its owner"], check=False)
    with running(box.store) as site:
        told = site.text("/dataset/box:secret", 410)
        assert "asked by its owner" in told
        assert site.api("/datasets/box:secret", 410)["status"] == "error"
        for path in ("/", "/?q=titled", "/events", "/feed.atom", "/sitemap.xml", "/index/files"):
            page = site.page(path)
            assert "a-name.txt" not in page
            assert "Titled never" not in page
        assert site.get("/alias/box--secret/HEAD").status_code == 404
        assert site.get("/tombstones/box--secret.json").json()["dataset"] == "box:secret"
        assert site.get(f"/dataset/box:open@{commit}").status_code == 404


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


def test_a_folder_of_many_files_comes_in_pages(box: Box, source: Scripted) -> None:
    names = [f"deep/{number:04}/x.txt" for number in range(450)]
    source.things["large"] = Thing({name: File(name.encode()) for name in names})
    box.sync()
    name = "box:large"
    with running(box.store) as site:
        path, found = f"/dataset/{name}@latest?under=deep", set()
        for _ in range(3):
            page = site.page(path)
            found |= {plain(one) for one in re.findall(r">(\d{4}/)</a>", page)}
            more = [one for one in links(page) if "start=" in one]
            path = more[0] if more else ""
        assert path == ""
        assert found == {f"{number:04}/" for number in range(450)}


def test_the_store_is_served_and_nothing_beside_it(site: Running, shown: Place) -> None:
    head = site.get("/alias/demo--000001/HEAD")
    assert head.text.startswith("ref: refs/heads/main")
    for path in (
        "/neuromirror/journal.jsonl",
        "/alias/../neuromirror/journal.jsonl",
        "/alias/%2e%2e/neuromirror/store.json",
        "/alias/demo--000001/%2e%2e/%2e%2e/%2e%2e/neuromirror/store.json",
        "/manifests/%2e%2e/neuromirror/store.json",
        "/-/metadata.json",
        "/-/databases.json",
        "/index.db",
    ):
        with_dots = site.get(path)
        assert with_dots.status_code in (403, 404), path
        assert str(shown.folder) not in with_dots.text


def test_replies_carry_the_headers_that_keep_browsers_safe(site: Running) -> None:
    for path in ("/", "/api/v1", "/alias/demo--000001/HEAD", "/index", "/no/such/page"):
        headers = site.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in headers


def test_nothing_can_be_changed(site: Running) -> None:
    for path in ("/", "/index/datasets", "/-/messages"):
        assert requests.post(site.address + path, timeout=30).status_code == 405


def test_who_has_a_page_already_gets_no_second_copy(site: Running) -> None:
    first = site.get("/dataset/demo:000001")
    again = site.get("/dataset/demo:000001", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.text) == (304, "")
