"""A name, an id or an address leads to the one thing that it is of."""

from __future__ import annotations

import pytest
from journal_on_disk import DiskJournal, placed, published

from neuromirror.index import Index, Named

_ASSET = "s3://open-data/ecephys_625749_2022-08-03_15-15-06/"


@pytest.fixture
def two(journal: DiskJournal, index: Index) -> Index:
    """A dandiset with a published version and a draft, and an asset of a bucket."""
    name = "000027"
    journal.mint([placed("a", 1)], name, **published("0.1", doi="10.48324/dandi.000027/0.1"))
    journal.mint([placed("b", 2)], name, label="2024-05-01T000000Z")
    asset = _ASSET.removeprefix("s3://open-data/").rstrip("/")
    journal.mint([placed("c", 3)], asset, mirror="aind", source_uri=_ASSET, label="first")
    journal.mint([placed("d", 4)], "collection/experiment", mirror="boss")
    index.catch_up(journal)
    return index


_DRAFT = Named("dandi:000027", "2024-05-01T000000Z")
_ONE = Named("dandi:000027", "0.1")
_WHOLE = Named("dandi:000027")


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
        (_ASSET, Named("aind:ecephys_625749_2022-08-03_15-15-06")),
        (
            "https://open-data.s3.amazonaws.com/ecephys_625749_2022-08-03_15-15-06/c",
            Named("aind:ecephys_625749_2022-08-03_15-15-06"),
        ),
        ("https://other.s3.amazonaws.com/ecephys_625749_2022-08-03_15-15-06/c", None),
        ("collection/experiment", Named("boss:collection/experiment")),
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
    two: Index, text: str, named: Named | None
) -> None:
    assert two.named(text) == named


def test_the_ids_of_a_version_lead_to_it(two: Index) -> None:
    version = two.resolve("dandi:000027", "0.1")
    for text in (
        version.commit,
        version.commit[:12].upper(),
        f"swh:1:rev:{version.commit}",
        f"swh:1:dir:{version.tree}",
        f"state:{version.state}",
    ):
        assert two.named(text) == _ONE, text
    assert two.named("0" * 40) is None
    assert two.named(version.commit[:6]) is None


def test_the_address_of_a_file_leads_to_its_bytes(two: Index) -> None:
    [file] = two.files(two.resolve("dandi:000027", "0.1"))
    exact, other = two.locations(file.content)
    plain = exact.url.partition("?")[0]
    for url in (exact.url, plain, other.url):
        assert two.named(url) == Named("", key=file.key), url
    assert two.named(f"{plain}?versionId=another") is None


def test_a_name_of_several_is_of_none(journal: DiskJournal, index: Index) -> None:
    doi = "10.48324/dandi.000027/0.1"
    journal.mint([placed("a", 1)], "000027", doi=doi)
    entry = journal.mint([placed("a", 1)], "000027", mirror="ember", doi=doi)
    journal.mint([placed("a", 1)], "000028", commit=entry.commit)
    index.catch_up(journal)
    assert index.named("000027") is None
    assert index.named("ember:000027") == Named("ember:000027")
    assert index.named(entry.commit) is None
    assert index.named(doi) is None
    assert index.named("10.48324/dandi.000027") is None
