"""The page of a dataset: its versions, its commands, what search engines read of it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from scripted import START, Box, File, Scripted, Thing, Zarr, files
from web_site import Running, commands, links, plain, running

from neuromirror.model import DatasetFacts, Document, NeuromirrorError

SIGNS = "1 < 2 & 3 > 2"
SHOWN = "https://neuroglancer-demo.appspot.com/#!%7B%7D"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Datasets of each sort, which tests only look at."""
    source = Scripted()
    box = Box(tmp_path_factory.mktemp("shelf"), source)
    source.things["raw"] = Thing(files("a.txt"))
    made = DatasetFacts(title="Made", inputs=("elsewhere", "raw"))
    source.things["sorted"] = Thing(files("b.txt"), facts=made)
    kinds = (("boss", "boss://x/y"), ("evil", "javascript:alert(1)"), ("neuroglancer", SHOWN))
    words = (("modality", "ecephys"), ("species", "Mus musculus"), ("subject", "625749"))
    linked = DatasetFacts(title="Linked", links=kinds, attributes=words)
    source.things["linked"] = Thing(files("c.txt"), facts=linked)
    for name, text in (
        ("without", ""),
        ("short", "Short."),
        ("long", "Longer than they take it. " * 300),
    ):
        about = json.dumps({"data_summary": text}).encode()
        described = [Document(b"data_description.json", about)]
        source.things[name] = Thing(files("d.txt"), documents=described)
    source.things["signs"] = Thing(files("e.txt"), facts=DatasetFacts(title=SIGNS))
    box.sync()
    with running(box.store) as site:
        yield site


def linked_data(page: str) -> Any:
    found = re.search(r'<script type="application/ld\+json">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def test_the_timeline_tells_published_from_observed_and_what_latest_means(
    box: Box, source: Scripted
) -> None:
    source.things["one"] = Thing(files("a.txt"), published={"1.0": files("a.txt")})
    box.sync()
    source.things["one"].files = files("a.txt", "b.txt", modified=START + timedelta(hours=1))
    box.sync()
    with running(box.store) as site:
        page = site.page("/dataset/box:one")
        items = re.findall(r'<li class="(published|observed)"(.*?)</li>', page, flags=re.DOTALL)
        kinds = [kind for kind, _ in items]
        assert sorted(set(kinds)) == ["observed", "published"]
        for kind, told in items:
            assert kind in plain(told)
        (latest,) = [kind for kind, told in items if "what “latest” means" in told]
        assert latest == "published"
        newest = plain(items[0][1])
        assert "+ 1 added" in newest
        assert "all by MD5" in newest
        assert "kept by version" in newest
        diff = next(one for one in links(items[0][1]) if one.startswith("/diff?"))
        assert "b.txt" in site.text(diff)
        assert "the first" in plain(items[-1][1])


def test_a_version_in_which_only_a_sub_dataset_differs_says_so(
    tmp_path: Path, source: Scripted
) -> None:
    box = Box(tmp_path / "parts", source, "[zarr]\ninline = 1\n")
    source.zarrs["z"] = Zarr(files(".zgroup", "0/0"))
    source.things["imaged"] = Thing(files("a.txt"), zarrs={"brain.zarr": "z"})
    box.sync()
    source.zarrs["z"].files["0/1"] = File(b"more", START + timedelta(hours=1))
    box.sync()
    with running(box.store) as site:
        told = site.text("/dataset/box:imaged")
        assert "1 sub-dataset differs · compare" in told
        assert "no file differs" not in told


def test_of_hundreds_of_versions_each_is_told_once(box: Box, source: Scripted) -> None:
    past = {
        START + timedelta(minutes=number): {"a.txt": File(b"%d" % number)} for number in range(105)
    }
    source.things["old"] = Thing({"a.txt": File(b"now")}, past=past)
    box.sync(history=True)
    with running(box.store) as site:
        seen: list[str] = []
        path = "/dataset/box:old"
        first = site.page(path)
        assert len(re.findall(r'<li class="observed"', first)) == 20
        while path:
            page = site.page(path)
            shown = re.search(r"<ol class=\"timeline\">.*?</section>", page, flags=re.DOTALL)
            assert shown is not None
            seen += [one for one in links(shown[0]) if one.startswith("/dataset/box:old@")]
            path = next((one for one in links(page) if "older=" in one), "")
        assert len(seen) == len(set(seen)) == 106


def test_the_commands_of_a_page_work_as_pasted(
    site: Running, tmp_path: Path, isolated_home: Path
) -> None:
    found = commands(site.page("/dataset/demo:000001"))
    wanted = ["datalad clone", "datalad get", "(cd ", "neuromirror verify"]
    for beginning in wanted:
        command = next(one for one in found if one.startswith(beginning))
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
    assert any(one.startswith("neuromirror pin demo:000001@") for one in found)
    assert any(one.startswith("neuromirror restore ") for one in found)
    content = tmp_path / "demo--000001" / "README.md"
    assert content.resolve().stat().st_size > 0


def test_a_citation_names_upstream_before_the_state(site: Running) -> None:
    page = site.page("/dataset/demo:000001")
    text = next(one for one in commands(page) if "Retrieved as" in one)
    assert text.index("Doe, Jane") < text.index("DANDI Archive") < text.index("swh:1:rev:")
    for form, says in (("bibtex", "@dataset"), ("csl", '"DOI"'), ("cff", "cff-version")):
        address = next(one for one in links(page) if f"format={form}" in one)
        told = site.page(address)
        assert says in told or form == "csl"
        assert "swh:1:rev:" in told
        assert any(plain(told)[:60] in plain(one) for one in commands(page))


def test_what_was_derived_from_what_is_told_both_ways(shelf: Running) -> None:
    raw, made_of = shelf.page("/dataset/box:raw"), shelf.page("/dataset/box:sorted")
    assert re.search(r"was derived from .*elsewhere \(not mirrored here\)", plain(made_of))
    label = shelf.api("/datasets/box:raw")["newest"]
    assert f"/dataset/box:raw@{label}" in links(made_of)
    assert "It was used to make box:sorted@" in plain(raw)


def test_search_engines_read_what_they_need(site: Running) -> None:
    told = linked_data(site.page("/dataset/demo:000001"))
    assert told["@type"] == "Dataset"
    assert told["name"] == "Hippocampal CA1 activity on a linear track (demo)"
    assert 50 <= len(told["description"]) <= 5000
    assert told["creator"][0] == {
        "@type": "Person",
        "name": "Doe, Jane",
        "givenName": "Jane",
        "familyName": "Doe",
        **({"sameAs": told["creator"][0]["sameAs"]} if "sameAs" in told["creator"][0] else {}),
    }
    assert all(one.startswith("https://") for one in told["license"])
    assert told["isAccessibleForFree"] is True
    assert told["includedInDataCatalog"]["url"] == f"{site.address}/"
    assert told["url"] == f"{site.address}/dataset/demo:000001"
    assert told["sameAs"]
    git, manifest, sums = told["distribution"]
    assert git["encodingFormat"] == "git+http"
    listed = subprocess.run(
        ["git", "ls-remote", git["contentUrl"], "refs/heads/main"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout
    for one in (manifest, sums):
        assert site.get(one["contentUrl"]).status_code == 200


@pytest.mark.parametrize("name", ["without", "short", "long"])
def test_a_description_is_as_long_as_search_engines_take_it(shelf: Running, name: str) -> None:
    page = shelf.page(f"/dataset/box:{name}")
    told = linked_data(page)
    assert 50 <= len(told["description"]) <= 5000
    assert told["name"] == "Scripted"


def test_search_engines_read_species_and_modality(shelf: Running) -> None:
    told = linked_data(shelf.page("/dataset/box:linked"))
    assert told["keywords"] == ["Mus musculus", "ecephys"]
    assert told["measurementTechnique"] == ["ecephys"]


def test_a_title_does_not_end_what_search_engines_read(shelf: Running) -> None:
    page = shelf.page("/dataset/box:signs")
    assert linked_data(page)["name"] == SIGNS
    found = re.search(r'<script type="application/ld\+json">(.*)</script>', page)
    assert found is not None
    assert not set("<>&") & set(found[1])


def test_only_what_a_browser_can_follow_is_a_link(shelf: Running) -> None:
    page = shelf.page("/dataset/box:linked")
    assert SHOWN in links(page)
    assert "boss://x/y" in plain(page)
    assert not any(one.startswith(("boss:", "javascript:")) for one in links(page))
    assert "https://bucket.example.invalid/linked/" in links(page)


def test_a_dataset_that_could_not_be_read_yet_has_a_page(box: Box, source: Scripted) -> None:
    def refuse() -> None:
        raise NeuromirrorError("upstream is on fire")

    source.things["new"] = Thing(files("a.txt"))
    source.on_entries = refuse
    box.sync()
    with running(box.store) as site:
        told = site.text("/dataset/box:new")
        assert "No version is mirrored yet." in told
        assert "failed" in told
        assert "No version is mirrored yet." not in site.text("/")
        assert site.get("/dataset/box:new@latest").status_code == 404


def test_a_dataset_whose_repository_cannot_be_read_still_has_its_pages(
    box: Box, source: Scripted
) -> None:
    source.things["one"] = Thing(files("a.txt"))
    box.sync()
    objects = box.repository("box:one") / "objects"
    objects.rename(objects.with_name("away"))
    with running(box.store) as site:
        for path in ("/dataset/box:one", "/dataset/box:one@latest"):
            told = site.text(path)
            assert "cannot be cited" in told
            assert "datalad clone" in told
        assert site.get("/cite/box:one@latest").status_code == 500
