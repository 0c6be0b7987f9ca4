"""The JSON, the feeds and the badges."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

from web_site import Running


def test_datasets_come_in_pages_and_all_of_them_come(site: Running) -> None:
    whole = site.api("/datasets")
    assert whole["next"] is None
    names, address = [], "/datasets?limit=2"
    while address:
        page = site.api(address)
        names += [one["name"] for one in page["datasets"]]
        address = page["next"].partition("/api/v1")[2] if page["next"] else ""
    assert names == [one["name"] for one in whole["datasets"]]
    assert len(set(names)) == len(names) >= 5


def test_files_of_a_version_come_in_pages_with_their_checksums(site: Running) -> None:
    whole = site.api("/datasets/demo:000001@draft/files")["files"]
    paths, address = [], "/datasets/demo:000001@draft/files?limit=1"
    while address:
        page = site.api(address)
        paths += [one["path"] for one in page["files"]]
        address = page["next"].partition("/api/v1")[2] if page["next"] else ""
    assert paths == [one["path"] for one in whole]
    sums = site.page("/sums/demo:000001@draft")
    for one in whole:
        assert f"{one['digests']['sha256']}  {one['path']}\n" in sums


def test_a_version_is_told_with_its_ids_and_how_to_clone_it(site: Running) -> None:
    told = site.api("/datasets/demo:000001@draft")
    assert re.fullmatch(r"swh:1:rev:[0-9a-f]{40}", told["swhid"])
    assert told["clone"].startswith(f"ria+{site.address}/#~demo--000001@")
    by_commit = site.api(f"/datasets/demo:000001@{told['commit'][:12]}")
    assert by_commit["name"] == told["name"]


def test_bytes_are_found_by_their_checksum(site: Running) -> None:
    (first, *_) = site.api("/datasets/demo:000001@draft/files")["files"]
    found = site.api(f"/find?checksum=sha256:{first['digests']['sha256']}")["found"]
    assert ("demo:000001", first["path"]) in {(one["dataset"], one["path"]) for one in found}


def test_what_is_wrong_is_told_as_json(site: Running) -> None:
    for path, status in (
        ("/datasets/demo:999999", 404),
        ("/datasets/demo:000001@no", 404),
        ("/datasets?limit=0", 400),
        ("/datasets?limit=100000", 400),
        ("/find", 400),
        ("/nothing", 404),
    ):
        told = site.api(path, status)
        assert told["status"] == "error"
        assert told["message"]


def test_feeds_are_atom_with_ids_that_stay(site: Running) -> None:
    atom = "{http://www.w3.org/2005/Atom}"
    for path in ("/feed.atom", "/feed/demo.atom", "/feed/demo:000001.atom"):
        feed = ElementTree.fromstring(site.page(path))
        assert feed.tag == f"{atom}feed"
        for needed in ("title", "id", "updated"):
            assert feed.findtext(f"{atom}{needed}")
        entries = feed.findall(f"{atom}entry")
        assert entries
        ids = [one.findtext(f"{atom}id") or "" for one in entries]
        assert all(one.startswith("urn:swh:1:rev:") for one in ids)
        assert len(set(ids)) == len(ids)


def test_the_sitemap_names_all_datasets(site: Running) -> None:
    page = site.page("/sitemap.xml")
    for one in site.api("/datasets")["datasets"]:
        assert f"/dataset/{one['name']}<" in page


def test_a_badge_names_the_state(site: Running) -> None:
    told = site.api("/datasets/demo:000001@draft")
    reply = site.get(f"/badge/demo:000001@{told['version']}.svg")
    assert reply.headers["content-type"].startswith("image/svg+xml")
    ElementTree.fromstring(reply.text)
    assert told["state"].removeprefix("sha256:")[:12] in reply.text


def test_search_engines_read_a_dataset(site: Running) -> None:
    page = site.page("/dataset/demo:000001")
    found = re.search(r'<script type="application/ld\+json">(.*?)</script>', page)
    assert found is not None
    told = json.loads(found[1])
    assert (told["@type"], told["name"]) == (
        "Dataset",
        "Hippocampal CA1 activity on a linear track (demo)",
    )
    assert told["creator"]
    assert told["license"]
    assert told["identifier"]


def test_the_tables_can_be_asked_and_only_read(site: Running) -> None:
    rows = site.get("/index.json?sql=select+count(*)+as+n+from+versions&_shape=array").json()
    assert rows[0]["n"] > 5
    assert site.get("/index.json?sql=delete+from+versions").status_code == 400
    assert site.get("/index/newest_versions").status_code == 200
