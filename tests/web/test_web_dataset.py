"""The page of a dataset: its versions, its commands, what search engines read of it."""

import json
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from neuromirror.model import DatasetFacts, Document
from support.running_catalogue import RunningCatalogue, commands, links, run_catalogue, visible_text
from support.scripted_source import (
    START,
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    files,
)

SIGNS = "1 < 2 & 3 > 2"
SHOWN = "https://neuroglancer-demo.appspot.com/#!%7B%7D"


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCatalogue]:
    """Datasets of each sort, which tests only look at."""
    source = ScriptedSource()
    box = ScriptedHarness(tmp_path_factory.mktemp("shelf"), source)
    source.scripted_datasets["raw"] = ScriptedDataset(files("a.txt"))
    made = DatasetFacts(title="Made", inputs=("elsewhere", "raw"))
    source.scripted_datasets["sorted"] = ScriptedDataset(files("b.txt"), facts=made)
    kinds = (("boss", "boss://x/y"), ("evil", "javascript:alert(1)"), ("neuroglancer", SHOWN))
    attributes = (("modality", "ecephys"), ("species", "Mus musculus"), ("subject", "625749"))
    linked = DatasetFacts(title="Linked", links=kinds, attributes=attributes)
    source.scripted_datasets["linked"] = ScriptedDataset(files("c.txt"), facts=linked)
    for name, text in (
        ("without", ""),
        ("short", "Short."),
        ("long", "Longer than they take it. " * 300),
    ):
        about = json.dumps({"data_summary": text}).encode()
        described = [Document(b"data_description.json", about)]
        source.scripted_datasets[name] = ScriptedDataset(files("d.txt"), documents=described)
    source.scripted_datasets["signs"] = ScriptedDataset(
        files("e.txt"), facts=DatasetFacts(title=SIGNS)
    )
    box.sync()
    with run_catalogue(box.store) as site:
        yield site


def linked_data(page: str) -> Any:
    found = re.search(r'<script type="application/ld\+json">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def test_each_of_hundreds_of_versions_is_listed_once(box: ScriptedHarness) -> None:
    past = {
        START + timedelta(minutes=number): {"a.txt": ScriptedFile(b"%d" % number)}
        for number in range(25)
    }
    box.datasets["old"] = ScriptedDataset({"a.txt": ScriptedFile(b"now")}, earlier_states=past)
    box.sync(history=True)
    with closing(sqlite3.connect(box.store.index_path)) as index, index:
        # 80 more before these
        index.execute("UPDATE versions SET seq = seq + 80")
        index.execute("UPDATE files SET since = since + 80, until = until + 80")
        index.execute("CREATE TEMP TABLE first AS SELECT * FROM versions ORDER BY seq LIMIT 1")
        for seq in range(1, 81):
            index.execute(
                "UPDATE first SET id = NULL, seq = ?, label = ?, commit_id = ?",
                (seq, f"state-{seq:08x}", f"{seq:040x}"),
            )
            index.execute("INSERT INTO versions SELECT * FROM first")
    with run_catalogue(box.store) as site:
        seen: list[str] = []
        path = "/dataset/box:old"
        first = site.page(path)
        assert len(re.findall(r'<li class="observed"', first)) == 20
        while path:
            page = site.page(path)
            shown = re.search(r"<ol class=\"timeline\">.*?</section>", page, flags=re.DOTALL)
            assert shown is not None
            seen += [link for link in links(shown[0]) if link.startswith("/dataset/box:old@")]
            older = re.findall(r'rel="next" href="([^"]+)"', page)
            path = older[0] if older else ""
        assert len(seen) == len(set(seen)) == 106


def test_a_citation_names_upstream_before_the_state(site: RunningCatalogue) -> None:
    page = site.page("/dataset/demo:000001")
    text = next(command for command in commands(page) if "Retrieved as" in command)
    assert text.index("Doe, Jane") < text.index("DANDI Archive") < text.index("swh:1:rev:")
    for form, says in (("bibtex", "@dataset"), ("csl", '"DOI"'), ("cff", "cff-version")):
        address = next(link for link in links(page) if f"format={form}" in link)
        citation = site.page(address)
        assert says in citation or form == "csl"
        assert "swh:1:rev:" in citation
        assert any(visible_text(citation)[:60] in visible_text(one) for one in commands(page))


def test_search_engines_read_what_they_need(site: RunningCatalogue) -> None:
    document = linked_data(site.page("/dataset/demo:000001"))
    assert document["@type"] == "Dataset"
    assert document["name"] == "Hippocampal CA1 activity on a linear track (demo)"
    assert 50 <= len(document["description"]) <= 5000
    creator = {"@type": "Person", "name": "Doe, Jane", "givenName": "Jane", "familyName": "Doe"}
    assert document["creator"][0].items() >= creator.items()
    assert all(one.startswith("https://") for one in document["license"])
    assert document["isAccessibleForFree"] is True
    assert document["includedInDataCatalog"]["url"] == f"{site.address}/"
    assert document["url"] == f"{site.address}/dataset/demo:000001"
    assert document["sameAs"]
    git, manifest, lock, croissant, sums, *downloads = document["distribution"]
    assert git["encodingFormat"] == "git+http"
    listed = subprocess.run(
        ["git", "ls-remote", git["contentUrl"], "refs/heads/main"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout
    for one in (manifest, lock, croissant, sums):
        assert site.get(one["contentUrl"]).status_code == 200
    files = site.api("/datasets/demo:000001@latest/files")["files"]
    assert [(download["name"], download["sha256"]) for download in downloads] == [
        (file["path"], file["digests"]["sha256"]) for file in files
    ]
    reply = site.get(downloads[0]["contentUrl"], allow_redirects=False)
    assert reply.status_code == 302


def test_a_title_cannot_close_the_json_ld_script(catalogue: RunningCatalogue) -> None:
    page = catalogue.page("/dataset/box:signs")
    assert linked_data(page)["name"] == SIGNS
    found = re.search(r'<script type="application/ld\+json">(.*)</script>', page)
    assert found is not None
    assert not set("<>&") & set(found[1])


def test_only_what_a_browser_can_follow_is_a_link(catalogue: RunningCatalogue) -> None:
    page = catalogue.page("/dataset/box:linked")
    assert SHOWN in links(page)
    assert "boss://x/y" in visible_text(page)
    assert not any(link.startswith(("boss:", "javascript:")) for link in links(page))
    # a bucket has no page for the prefix of a dataset
    assert "https://bucket.example.invalid/linked/" in visible_text(page)
    assert "https://bucket.example.invalid/linked/" not in links(page)


def test_a_dataset_whose_repository_cannot_be_read_still_has_its_pages(
    box: ScriptedHarness,
) -> None:
    box.datasets["one"] = ScriptedDataset(files("a.txt"))
    box.sync()
    objects = box.repository("box:one") / "objects"
    objects.rename(objects.with_name("away"))
    with run_catalogue(box.store) as site:
        for path in ("/dataset/box:one", "/dataset/box:one@latest"):
            page = site.page(path)
            assert 'class="citation"' not in page
            assert any("datalad clone" in command for command in commands(page))
        assert site.get("/cite/box:one@latest").status_code == 500


def test_a_draft_with_the_files_of_the_published_version_is_not_called_changed(
    box: ScriptedHarness,
) -> None:
    box.datasets["a"] = ScriptedDataset(
        files("one.bin"), published_versions={"1.0": files("one.bin")}
    )
    for is_changed in (False, True):
        if is_changed:
            box.datasets["a"].files |= files("two.bin")
        box.sync()
        with box.index() as index:
            kinds = [one.kind for one in index.versions.of("box:a")]
        assert kinds == ["published", *["observed"] * (1 + is_changed)]
        with run_catalogue(box.store) as site:
            assert ("has changed since then" in site.text("/dataset/box:a")) is is_changed
