"""A name, an id or an address leads to the one version or file that it means."""

from typing import Any

import pytest

from neuromirror.index import Index, NameMatch
from support.disk_journal import DiskJournal, placed_file, published_fields

_ASSET = "s3://open-data/ecephys_625749_2022-08-03_15-15-06/"


@pytest.fixture
def two_mirrors(journal: DiskJournal, index: Index) -> Index:
    """A dandiset with a published version and a draft, and an asset of a bucket."""
    name = "000027"
    journal.mint(
        [placed_file("a", 1)], name, **published_fields("0.1", doi="10.48324/dandi.000027/0.1")
    )
    journal.mint([placed_file("b", 2)], name, label="2024-05-01T000000Z")
    asset = _ASSET.removeprefix("s3://open-data/").rstrip("/")
    journal.mint([placed_file("c", 3)], asset, mirror="aind", source_uri=_ASSET, label="first")
    journal.mint([placed_file("d", 4)], "collection/experiment", mirror="boss")
    index.catch_up(journal)
    return index


_DRAFT = NameMatch("dandi:000027", "2024-05-01T000000Z")
_ONE = NameMatch("dandi:000027", "0.1")
_WHOLE = NameMatch("dandi:000027")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("dandi:000027", _WHOLE),
        (" DANDI:000027 ", _WHOLE),
        ("000027", _WHOLE),
        ("000027@0.1", _ONE),
        ("dandi:000027@draft", _DRAFT),
        ("DANDI:000027/0.1", _ONE),
        ("DANDI:000027/draft", _DRAFT),
        ("000027@7.7", None),
        ("000028", None),
        ("other:000027", None),
        ("10.48324/dandi.000027/0.1", _ONE),
        ("https://doi.org/10.48324/DANDI.000027/0.1", _ONE),
        ("doi:10.48324/dandi.000027", _WHOLE),
        ("10.48324/dandi.00002", None),
        ("https://api.example.invalid/dandisets/000027/", _WHOLE),
        ("https://www.example.invalid/dandiset/000027/0.1", _ONE),
        ("https://www.example.invalid/#/dandiset/000027/draft/files", _DRAFT),
        ("https://elsewhere.org/dandiset/000027", None),
        (_ASSET, NameMatch("aind:ecephys_625749_2022-08-03_15-15-06")),
        (
            "https://open-data.s3.amazonaws.com/ecephys_625749_2022-08-03_15-15-06/c",
            NameMatch("aind:ecephys_625749_2022-08-03_15-15-06"),
        ),
        ("https://other.s3.amazonaws.com/ecephys_625749_2022-08-03_15-15-06/c", None),
        ("collection/experiment", NameMatch("boss:collection/experiment")),
        ("collection", None),
        ("experiment", None),
        ("two words", None),
        ("http://[", None),
        ("", None),
        ("@", None),
        (":", None),
        ("/", None),
        ("x" * 5000, None),
    ],
)
def test_a_name_or_an_address_leads_straight_to_what_it_is_of(
    two_mirrors: Index, text: str, named: NameMatch | None
) -> None:
    assert two_mirrors.names.match(text) == named


def test_the_ids_of_a_version_lead_to_it(two_mirrors: Index) -> None:
    version = two_mirrors.versions.resolve("dandi:000027", "0.1")
    for text in (
        version.commit,
        version.commit[:12].upper(),
        f"swh:1:rev:{version.commit}",
        f"swh:1:dir:{version.tree}",
        f"state:{version.state}",
        f"state {version.state}",
        version.state,
    ):
        assert two_mirrors.names.match(text) == _ONE, text
    assert two_mirrors.names.match("0" * 40) is None
    assert two_mirrors.names.match(version.commit[:6]) is None


def test_the_address_of_a_file_leads_to_its_bytes(two_mirrors: Index) -> None:
    [file] = two_mirrors.files.of(two_mirrors.versions.resolve("dandi:000027", "0.1"))
    exact, other = two_mirrors.locations.of(file.content)
    plain = exact.url.partition("?")[0]
    for url in (exact.url, plain, other.url):
        assert two_mirrors.names.match(url) == NameMatch("", key=file.key), url
    assert two_mirrors.names.match(f"{plain}?versionId=another") is None


def test_a_name_of_several_is_of_none(journal: DiskJournal, index: Index) -> None:
    doi = "10.48324/dandi.000027/0.1"
    journal.mint([placed_file("a", 1)], "000027", doi=doi)
    entry = journal.mint([placed_file("a", 1)], "000027", mirror="ember", doi=doi)
    journal.mint([placed_file("a", 1)], "000028", commit=entry.commit)
    index.catch_up(journal)
    assert index.names.match("000027") is None
    assert index.names.match("ember:000027") == NameMatch("ember:000027")
    assert index.names.match(entry.commit) is None
    assert index.names.match(doi) is None
    assert index.names.match("10.48324/dandi.000027") is None


NAME = "dandi:000001"
PUBLISHED: dict[str, Any] = {
    "label": "0.1",
    "upstream": "0.1",
    "kind": "published",
    "title": "As published",
    "license": ["spdx:CC0-1.0"],
    "doi": "10.48324/dandi.000001/0.1",
    "attributes": {"species": ["mouse"]},
}
DRAFT: dict[str, Any] = {"title": "As drafted", "doi": None, "attributes": {"species": ["rat"]}}


def dataset_facts(index: Index) -> tuple[Any, ...]:
    row = index.datasets.get(NAME)
    return row.version, row.time, row.files, row.bytes, row.title, row.license, row.doi


def current_label(index: Index) -> tuple[Any, ...]:
    row = index.versions.resolve(NAME)
    return row.label, row.time, row.files, row.bytes, row.title, row.license, row.doi


def found_by(index: Index, species: str) -> list[str]:
    return [row.name for row in index.datasets.select(where=[("species", species)])]


@pytest.mark.parametrize("draft_first", [True, False])
def test_later_draft_does_not_change_the_published_description(
    journal: DiskJournal, index: Index, draft_first: bool
) -> None:
    files = [placed_file("a", 1), placed_file("b", 2)]
    if draft_first:
        journal.mint(files[:1], **DRAFT)
        index.catch_up(journal)
        assert dataset_facts(index) == current_label(index)
        assert index.datasets.get(NAME).version != "0.1"
        assert found_by(index, "rat") == [NAME]
    journal.mint(files, **PUBLISHED)
    later = journal.mint([*files, placed_file("c", 3)], **DRAFT)
    index.catch_up(journal)
    row = index.datasets.get(NAME)
    assert dataset_facts(index) == current_label(index)
    assert (row.version, row.files, row.title, row.doi) == (
        "0.1",
        2,
        "As published",
        PUBLISHED["doi"],
    )
    assert row.newest == later.label
    assert found_by(index, "mouse") == [NAME]
    assert found_by(index, "rat") == []
    [found] = index.search.datasets("published").rows
    assert (found.dataset.version, found.dataset.files) == ("0.1", 2)
    assert index.search.datasets("drafted").rows == ()
    [status] = index.crawl.mirrors()
    assert (status.files, status.bytes) == (row.files, row.bytes)


def test_next_published_version_replaces_the_last(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed_file("a", 1)], **PUBLISHED)
    journal.mint([placed_file("a", 1), placed_file("b", 2)], **DRAFT)
    changed = {"label": "0.2", "upstream": "0.2", "title": "Once more"}
    journal.mint(
        [placed_file("a", 1), placed_file("b", 2), placed_file("c", 3)], **(PUBLISHED | changed)
    )
    index.catch_up(journal)
    assert dataset_facts(index) == current_label(index)
    row = index.datasets.get(NAME)
    assert (row.version, row.files, row.title) == ("0.2", 3, "Once more")
