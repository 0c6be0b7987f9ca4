"""A name, an id or an address leads to the one thing that it is of."""

from __future__ import annotations

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
    assert two_mirrors.match_name(text) == named


def test_the_ids_of_a_version_lead_to_it(two_mirrors: Index) -> None:
    version = two_mirrors.resolve("dandi:000027", "0.1")
    for text in (
        version.commit,
        version.commit[:12].upper(),
        f"swh:1:rev:{version.commit}",
        f"swh:1:dir:{version.tree}",
        f"state:{version.state}",
        f"state {version.state}",
        version.state,
    ):
        assert two_mirrors.match_name(text) == _ONE, text
    assert two_mirrors.match_name("0" * 40) is None
    assert two_mirrors.match_name(version.commit[:6]) is None


def test_the_address_of_a_file_leads_to_its_bytes(two_mirrors: Index) -> None:
    [file] = two_mirrors.files(two_mirrors.resolve("dandi:000027", "0.1"))
    exact, other = two_mirrors.locations(file.content)
    plain = exact.url.partition("?")[0]
    for url in (exact.url, plain, other.url):
        assert two_mirrors.match_name(url) == NameMatch("", key=file.key), url
    assert two_mirrors.match_name(f"{plain}?versionId=another") is None


def test_a_name_of_several_is_of_none(journal: DiskJournal, index: Index) -> None:
    doi = "10.48324/dandi.000027/0.1"
    journal.mint([placed_file("a", 1)], "000027", doi=doi)
    entry = journal.mint([placed_file("a", 1)], "000027", mirror="ember", doi=doi)
    journal.mint([placed_file("a", 1)], "000028", commit=entry.commit)
    index.catch_up(journal)
    assert index.match_name("000027") is None
    assert index.match_name("ember:000027") == NameMatch("ember:000027")
    assert index.match_name(entry.commit) is None
    assert index.match_name(doi) is None
    assert index.match_name("10.48324/dandi.000027") is None
