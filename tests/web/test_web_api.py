"""The JSON and the badges."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from support.running_catalogue import RunningCatalogue, run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, at


def pages(site: RunningCatalogue, address: str) -> Iterator[Any]:
    """The pages of a list, each by the ``next`` of the one before."""
    following: str | None = f"/api/v1{address}"
    while following:
        reply = site.get(following)
        assert reply.status_code == 200, reply.text
        page = reply.json()
        following = page["next"]
        assert reply.links.get("next", {}).get("url") == following
        yield page


def test_datasets_come_in_pages_and_all_of_them_come(site: RunningCatalogue) -> None:
    whole = site.api("/datasets")
    assert whole["next"] is None
    names = [one["name"] for page in pages(site, "/datasets?limit=2") for one in page["datasets"]]
    assert names == [one["name"] for one in whole["datasets"]]
    assert len(set(names)) == len(names) >= 5


def test_files_of_a_version_come_in_pages_with_their_checksums(site: RunningCatalogue) -> None:
    address = "/datasets/demo:000001@draft/files"
    whole = site.api(address)["files"]
    assert [one for page in pages(site, f"{address}?limit=1") for one in page["files"]] == whole
    sums = site.page("/checksums/demo:000001@draft")
    for one in whole:
        assert f"{one['digests']['sha256']}  {one['path']}\n" in sums


def test_a_version_is_gone_through_folder_by_folder(site: RunningCatalogue) -> None:
    address = "/datasets/demo:000001@draft"
    waiting, found = [""], []
    while waiting:
        for page in pages(site, f"{address}/folder?limit=1&under={waiting.pop()}"):
            for one in page["entries"]:
                if one["type"] == "folder":
                    waiting.append(one["path"])
                else:
                    found.append(one["path"])
    assert sorted(found) == [one["path"] for one in site.api(f"{address}/files")["files"]]


def test_what_is_added_between_pages_neither_doubles_a_row_nor_hides_one(
    box: ScriptedHarness,
) -> None:
    for name in ("b", "d", "f"):
        box.datasets[name] = ScriptedDataset({f"{one}.txt": ScriptedFile(b"same") for one in "abc"})
    box.sync()
    with run_catalogue(box.store) as site:
        lists = {
            "/datasets?limit=1": ("datasets", "name"),
            "/datasets/box:b/versions?limit=1": ("versions", "version"),
            "/datasets/box:b@latest/files?limit=1": ("files", "path"),
            "/datasets/box:b@latest/folder?limit=1": ("entries", "path"),
            "/events?limit=1": ("events", "id"),
        }
        md5 = site.api("/datasets/box:b@latest/files")["files"][0]["digests"]["md5"]
        lists[f"/find?checksum=md5:{md5}&limit=2"] = ("found", "dataset", "path")  # type: ignore[assignment]
        before, after = {}, {}
        walks = {address: pages(site, address) for address in lists}
        for address, (of, *keys) in lists.items():
            whole = site.api(re.sub(r"limit=\d", "limit=1000", address))[of]
            before[address] = [tuple(one[key] for key in keys) for one in whole]
            after[address] = [next(walks[address])]
        # names that sort before, between and behind; a label that means another version
        for name in ("a", "c", "g"):
            box.datasets[name] = ScriptedDataset({"a.txt": ScriptedFile(b"same")})
        box.datasets["b"] = ScriptedDataset(
            {f"{one}.txt": ScriptedFile(b"same", modified=at(5)) for one in "0abcz"}
        )
        del box.datasets["f"]
        box.sync()
        assert len(site.api("/datasets/box:b")["all_versions"]) == 2
        for address, (of, *keys) in lists.items():
            rows = [
                tuple(one[key] for key in keys)
                for page in [*after[address], *walks[address]]
                for one in page[of]
            ]
            assert len(set(rows)) == len(rows), address
            if "@latest" in address:  # as it was when the first page was asked for
                assert rows == before[address], address
            assert set(rows) >= set(before[address]), address
        assert len(before["/datasets/box:b@latest/files?limit=1"]) == 3


def test_file_lists_locations_history_and_other_occurrences(site: RunningCatalogue) -> None:
    name = "demo:000001@draft"
    (first, *_) = [
        one for one in site.api(f"/datasets/{name}/files")["files"] if one["path"].endswith(".nwb")
    ]
    file = site.api(f"/datasets/{name}/file?path={first['path']}")
    assert {key: file[key] for key in first} == first
    assert file["locations"][0]["url"].startswith("http")
    assert file["history"][-1]["current"]
    assert site.get(file["page"]).status_code == 200


def test_two_versions_are_compared_in_pages(site: RunningCatalogue) -> None:
    names = [one["name"] for one in site.api("/datasets/demo:000002")["all_versions"]]
    address = f"/diff?a={names[0]}&b={names[-1]}"
    whole = site.api(address)
    assert whole["changes"]
    counts = [*whole["files"].values(), *whole["subdatasets"].values()]
    assert sum(counts) == len(whole["changes"])
    found = list(pages(site, f"{address}&limit=1"))
    assert [one for page in found for one in page["changes"]] == whole["changes"]
    assert {page["new"] for page in found} == {whole["new"]}


def test_search_finds_datasets_and_paths(site: RunningCatalogue) -> None:
    found = site.api("/search?q=hippocampal")
    assert "demo:000001" in [one["dataset"]["name"] for one in found["found"]]
    assert found["total"] >= 1
    paths = site.api("/datasets/demo:000001@draft/paths?q=NWB")
    assert paths["files"]
    assert all("nwb" in path["path"].lower() for path in paths["files"])
    assert paths["complete"]


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/datasets/demo:999999", 404, ""),
        ("/datasets/demo:000001@no", 404, ""),
        ("/nothing", 404, ""),
        ("/datasets?limit=0", 400, "whole number"),
        ("/datasets?limit=100000", 400, "whole number"),
        ("/datasets?limit=%D9%A3", 400, "whole number"),
        ("/datasets?limt=5", 400, "q, mirror, limit, after"),
        ("/mirrors?limit=5", 400, "'limit'"),
        ("/datasets?limit=5&limit=6", 400, "2 times"),
        ("/datasets?after=AAAA", 400, "'next'"),
        ("/datasets?after=%C3%A9", 400, "'next'"),
        ("/datasets/demo:000001@draft/citation?format=poem", 400, "text or bibtex"),
        ("/diff?a=demo:000001&b=demo:000002@draft", 400, "<dataset>@<label>"),
        ("/find", 400, "missing"),
        ("/find?checksum=", 400, "empty"),
        ("/datasets/demo:%FF", 400, "not UTF-8"),
        ("/find?checksum=%FF", 400, "not UTF-8"),
    ],
)
def test_errors_are_problem_json(site: RunningCatalogue, path: str, status: int, says: str) -> None:
    problem = site.api(path, status)
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert says in problem["detail"]


def test_a_script_of_another_site_may_read_and_only_read(site: RunningCatalogue) -> None:
    address = f"{site.address}/api/v1/datasets?limit=1"
    origin = {"Origin": "https://lab.example.org"}
    reply = requests.get(address, headers=origin, timeout=300)
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "ETag" in reply.headers["access-control-expose-headers"]
    assert "Link" in reply.headers["access-control-expose-headers"]
    asking = {**origin, "Access-Control-Request-Method": "GET"}
    asking["Access-Control-Request-Headers"] = "if-none-match"
    before = requests.options(address, headers=asking, timeout=300)
    assert (before.status_code, before.text) == (204, "")
    assert before.headers["access-control-allow-methods"] == "GET, HEAD"
    assert before.headers["access-control-allow-headers"] == "If-None-Match"
    refused = requests.put(address, headers=origin, timeout=300)
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET, HEAD, OPTIONS"
    assert "access-control-allow-origin" not in site.get("/").headers
