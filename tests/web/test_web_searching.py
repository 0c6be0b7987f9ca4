"""Searching: what a person types leads to what they meant, or to words that help."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

import pytest
from crawl_place import Place
from scripted import Box, File, Scripted, Thing
from web_site import Running, links, plain, running

from neuromirror.index import Index
from neuromirror.model import DatasetFacts

_YUTA = "sub-YutaMouse41/sub-YutaMouse41_ses-YutaMouse41-150831_behavior+ecephys.nwb"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Datasets of which one has the words in its title, one in an attribute, one in its paths."""
    source = Scripted()
    for name, title, attributes, path in (
        ("titled-1", "Spikes of YutaMouse41", (), "a.nwb"),
        ("told-2", "Imaging", (("subject", "YutaMouse41"),), "b.nwb"),
        ("within-3", "Third", (), _YUTA),
    ):
        source.things[name] = Thing(
            {path: File(name.encode(), sha256=True)},
            facts=DatasetFacts(title=title, attributes=attributes),
        )
    for number in range(60):
        source.things[f"many{number:02}"] = Thing(
            {"x.nwb": File(b"%d" % number)}, facts=DatasetFacts(title="One of many")
        )
    box = Box(tmp_path_factory.mktemp("lab") / "box", source)
    box.sync()
    with running(box.store) as site:
        yield site


def test_what_matched_is_told_plainly_and_a_path_leads_to_its_file(lab: Running) -> None:
    page = lab.page("/?q=yutamouse41")
    told = plain(page)
    assert "3 datasets with this word" in told
    assert "Found in title" in told
    assert "Found in subject: YutaMouse41" in told
    assert f"In the path of a file: {_YUTA}" in told
    assert told.index("Third") > max(told.index("Spikes of"), told.index("Imaging"))
    file = next(one for one in links(page) if one.startswith("/file/"))
    assert unquote(file).endswith(f"?path={_YUTA.replace('+', ' ')}") or "%2B" in file
    assert _YUTA.rpartition("/")[2] in lab.text(file)
    matching = next(one for one in links(page) if "match=" in one)
    assert _YUTA in lab.text(matching)


def test_several_words_may_be_in_the_title_and_in_a_path(lab: Running) -> None:
    told = lab.text("/?q=third+ecephys")
    assert "Found in title" in told
    assert "with “ecephys” in their path" in told
    assert "Nothing found" in lab.text("/?q=imaging+ecephys")


def test_results_come_in_pages_and_by_archive(lab: Running) -> None:
    first = lab.page("/?q=many")
    assert "60 datasets with this word" in plain(first)
    pages = [first]
    while more := [one for one in links(pages[-1]) if f"page={len(pages) + 1}" in one]:
        pages.append(lab.page(more[0]))
    assert [page.count('<li><h2 class="path">') for page in pages] == [20, 20, 20]
    names = [one for one in links("".join(pages)) if one.startswith("/dataset/box:many")]
    assert len(set(names)) == 60
    assert "60 datasets of box" in lab.text("/?q=many&mirror=box")
    assert "Nothing more" in lab.text("/?q=many&page=9")
    assert "no mirror" in lab.text("/?q=many&mirror=other", 404)


def test_a_mirror_is_listed_by_name_in_pages(lab: Running) -> None:
    first = lab.page("/?mirror=box")
    more = next(one for one in links(first) if "page=2" in one)
    names = [
        one for one in links(first + lab.page(more)) if re.fullmatch(r"/dataset/box:[^@]+", one)
    ]
    assert len(names) == len(set(names)) == 63
    assert "no mirror" in lab.text("/?mirror=other", 404)


def test_nothing_found_is_a_page_that_helps(lab: Running) -> None:
    page = lab.page("/?q=spikse+imaging")
    told = plain(page)
    assert "Nothing found" in told
    assert "Did you mean spikes imaging ?" in told
    assert "imaging alone: 1 dataset" in told
    assert "spikse: none" in told
    assert "sha256:" in told
    assert "/find" in links(page)
    assert 'role="search"' in page


def _leads(site: Running, text: str) -> str:
    reply = site.get(f"/?q={quote(text)}", allow_redirects=False)
    assert reply.status_code == 302, (text, reply.status_code)
    there = reply.headers["location"]
    assert site.get(there).status_code == 200, there
    return unquote(there)


def test_a_name_an_id_or_an_address_leads_straight_to_its_page(site: Running) -> None:
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


def test_bytes_are_found_with_all_that_is_known_of_them(site: Running) -> None:
    file = site.api("/datasets/demo:000001@draft/files")["files"][0]
    page = site.page(f"/find?checksum={file['key']}")
    told = plain(page)
    assert file["digests"]["sha256"] in told
    assert file["path"] in told
    assert any(one.startswith("/file/demo:000001@") for one in links(page))
    nothing = site.text("/find?checksum=" + "0" * 64)
    assert "No mirrored version has them" in nothing
    assert "etag:" in nothing
    assert "A checksum is one of these" in site.text("/find")
    assert "not a checksum" in site.text("/find?checksum=xyz", 400)


def test_the_front_page_tells_what_it_searches_and_how_things_stand(site: Running) -> None:
    reply = site.get("/")
    told = plain(reply.text)
    for word in ("titles", "subjects", "species", "modalities", "projects", "paths", "checksum"):
        assert word in told
    assert "nothing failing and nothing held" in told or "a look:" in told
    assert "/mirrors" in links(reply.text)
    assert "Recorded last" in told
    assert len(gzip.compress(reply.content)) < 60_000
    new = [one for one in links(reply.text) if re.match(r"/dataset/demo:[^@]+@", one)]
    assert len({one.partition("@")[0] for one in new}) == len(new) > 3


def test_the_front_page_says_what_fails_and_what_is_held(box: Box, source: Scripted) -> None:
    files = {f"{number}.txt": File(b"%d" % number) for number in range(40)}
    source.things["held"] = Thing(dict(files))
    box.sync()
    source.things["held"] = Thing({})
    box.sync()
    with running(box.store) as site:
        told = site.text("/")
        assert "1 mirror needs a look: 1 listing waits for an operator" in told
        assert "1 held" in told


@pytest.mark.parametrize(
    "words",
    [
        *('"', '""', "'", "*", "-", "...", "(((", "NEAR(a b)", "a AND", "OR", "NOT x", "title:x"),
        *("x" * 10_000, "ab_" * 160, " ".join(f"w{n}" for n in range(41)), "\0", "a\0b", "%", "_"),
        *("{{7*7}}", "<script>alert(1)</script>", "\u202e", "'; DROP TABLE files;--", "🐁"),
        *("swh:1:rev:", "dandi:", "@", "10.1234/", "https://[", "http://", "s3://", "sha256:"),
    ],
)
def test_no_words_break_the_search(lab: Running, words: str) -> None:
    for more in ("", "&mirror=box", "&page=2"):
        reply = lab.get(f"/?q={quote(words)}{more}")
        assert reply.status_code in (200, 400), (words[:50], reply.status_code)
        assert 'role="search"' in reply.text
        assert "<script>alert" not in reply.text
        assert "\u202e" not in reply.text


def test_bytes_that_are_no_text_break_nothing(lab: Running) -> None:
    assert lab.get("/?q=%ff%fe").status_code in (200, 400)
    assert lab.get("/?q=%ed%a0%80").status_code in (200, 400)


def test_too_long_a_search_is_told_so_beside_the_search(lab: Running) -> None:
    told = lab.text(f"/?q={'x' * 10_000}", 400)
    assert "a search may have 500 characters, not 10000" in told


def test_the_front_page_of_many_versions_names_each_dataset_once(
    box: Box, source: Scripted
) -> None:
    published = {f"0.{number}": {"a": File(b"%d" % number)} for number in range(4)}
    source.things["past"] = Thing({}, published=published)
    source.things["one"] = Thing({"b.txt": File(b"2")})
    box.sync()
    with Index.open_readonly(box.store.index_path) as index:
        versions = len(list(index.versions("box:past")))
    with running(box.store) as site:
        told = site.text("/")
    assert told.count("box:past@") == 1
    assert f"and {versions - 1} other versions of it lately" in told


def test_a_dataset_that_is_not_shown_is_not_led_to(shown: Place, site: Running) -> None:
    with Index.open_readonly(shown.store.index_path) as index:
        parts = [row.name for row in index.datasets() if row.within]
    for name in parts[:1]:
        assert _leads(site, name) == f"/dataset/{name}"
    assert "Nothing found" in site.text("/?q=000099")


def test_a_sign_that_nobody_sees_pasted_with_a_word_hides_nothing(lab: Running) -> None:
    assert "3 datasets with this word" in lab.text("/?q=%E2%80%8Byutamouse41")
